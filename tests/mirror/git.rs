//! Mirrors of git servers with LFS are equal to the result of `git clone`.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use silmaril::mirror::error::FileProblem;
use silmaril::mirror::{
    DownloadJob, Downloaded, MirrorError, MirrorErrorKind, ProgressBoard, RepositorySource as _, Snapshot,
    download,
};

use super::rig::{SMALL, WEIGHTS, git, job, mirror, repository, run};
use crate::support::fixtures::{minilm, model_dir, noise};
use crate::support::git_server::{GitServer, Hrefs, Login, clone, tree};
use crate::support::net::Net;
use crate::support::repos::{Repo, Repos, What};
use crate::support::web::Site;
use crate::support::web::faults::Fault;
use crate::support::web::log::Log;
use crate::support::web::place::Place;

struct Setting {
    server: GitServer,
    repos: Repos,
    repo: Repo,
    dir: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        Self::with(GitServer::start)
    }

    fn with(start: impl FnOnce(&Place, &Repos) -> GitServer) -> Self {
        let (repos, dir) = (Repos::new(), tempfile::tempdir().unwrap());
        let repo = repository(&repos, dir.path());
        let server = start(&Place::loopback(), &repos);
        Self { server, repos, repo, dir }
    }

    fn get_of(
        &self,
        url: &str,
        reference: Option<&str>,
        depth: u32,
    ) -> Result<(Snapshot, Downloaded), MirrorError> {
        let (staging, board) = (self.dir.path().join("staging"), Arc::<ProgressBoard>::default());
        let source = git(url, reference, depth, &self.dir.path().join("git"), &board);
        run(mirror(&source, job(&staging), &board))
    }

    fn get(&self, reference: Option<&str>) -> Result<(Snapshot, Downloaded), MirrorError> {
        self.get_of(&self.server.url("org/name"), reference, 1)
    }

    /// Mirrors, and compares the result with the original.
    #[track_caller]
    fn gets(&self) -> Snapshot {
        let (snapshot, done) = self.get(None).unwrap();
        self.check(&done);
        snapshot
    }

    /// Number of commits in the local copy.
    fn commits_kept(&self) -> usize {
        let repo = git2::Repository::open_bare(self.dir.path().join("git")).unwrap();
        let mut walk = repo.revwalk().unwrap();
        walk.push_glob("refs/*").unwrap();
        walk.count()
    }

    #[track_caller]
    fn check(&self, done: &Downloaded) {
        assert_eq!(tree(&done.dir), tree(&self.dir.path().join("original")));
    }

    fn weights(&self) -> String {
        let head = self.repo.resolve("main").unwrap();
        match self.repo.entry(&head, WEIGHTS).unwrap().what {
            What::Lfs(pointer) => pointer.sha256,
            other => panic!("{other:?}"),
        }
    }

    fn asked(&self, site: &str) -> usize {
        self.server.log().all().iter().filter(|asked| asked.site == site).count()
    }
}

#[test]
fn mirror_is_equal_to_git_clone() {
    let net = Net::new();
    let (host, repos) = (net.host("server"), Repos::new());
    let repo = repos.create("org/minilm");
    repo.commit(&minilm());
    let remote = GitServer::start(&Place::from(&host), &repos);
    let cloned = clone(&host, &remote.url("org/minilm"), "main", "cloned");
    let setting = Setting::with(|place, _| GitServer::start(place, &repos));
    let (snapshot, done) = setting.get_of(&setting.server.url("org/minilm"), None, 1).unwrap();
    assert_eq!(tree(&done.dir), tree(&cloned));
    assert_eq!(snapshot.commit.to_string(), repo.resolve("main").unwrap());
    let source =
        git(&setting.server.url("org/minilm"), None, 1, &setting.dir.path().join("git"), &Arc::default());
    let described = source.describe(snapshot.commit);
    assert_eq!((described.kind.as_str(), described.url), ("git", Some(setting.server.url("org/minilm"))));
    assert_eq!(source.web_seed(snapshot.commit), None);
}

#[test]
fn depth_limits_the_history() {
    let setting = Setting::new();
    let first = setting.repo.resolve("main").unwrap();
    setting.repo.commit(&model_dir(&setting.dir.path().join("changed"), &[("README.md", b"changed")]));
    let url = setting.server.url("org/name");
    let shallow = setting.dir.path().join("git/shallow");
    setting.get_of(&url, None, 1).unwrap();
    assert!(shallow.exists());
    // A commit that is the head of no branch.
    let (snapshot, done) = setting.get_of(&url, Some(&first), 1).unwrap();
    assert_eq!(snapshot.commit.to_string(), first);
    setting.check(&done);
    // The whole history after a shallow fetch; then with a new commit.
    setting.get_of(&url, None, 1).unwrap();
    setting.get_of(&url, None, 0).unwrap();
    assert!(!shallow.exists());
    assert_eq!(setting.commits_kept(), 2);
    setting.repo.commit(&model_dir(&setting.dir.path().join("again"), &[("README.md", b"again")]));
    setting.get_of(&url, None, 0).unwrap();
    assert_eq!(setting.commits_kept(), 3);
}

#[test]
fn failed_fetch_keeps_the_local_history() {
    let setting = Setting::new();
    setting.repo.commit(&model_dir(&setting.dir.path().join("changed"), &[("README.md", b"changed")]));
    setting.get_of(&setting.server.url("org/name"), None, 0).unwrap();
    // The address redirects to a login page, or is refused.
    let other = Site::start(&Place::loopback(), "other", &Log::default(), |_| Router::new());
    for fault in [Fault::Redirect("http://127.0.0.1:1".to_owned()), Fault::Status(451)] {
        other.faults().clear();
        other.faults().always("", fault);
        let error = setting.get_of(&format!("{}/org/name.git", other.url()), None, 0).unwrap_err();
        assert_eq!(error.kind(), MirrorErrorKind::Network, "{error}");
        assert_eq!(setting.commits_kept(), 2, "after {error}");
    }
}

#[test]
fn second_fetch_uses_the_same_credential() {
    let login = Login { user: "u".into(), password: "p".into() };
    let setting = Setting::with(|place, repos| GitServer::private(place, repos, login));
    let first = setting.repo.resolve("main").unwrap();
    setting.repo.commit(&model_dir(&setting.dir.path().join("changed"), &[("README.md", b"changed")]));
    let url = setting.server.url("org/name").replacen("http://", "http://u:p@", 1);
    // An abbreviated commit needs a second fetch, of all branches and tags.
    let (snapshot, done) = setting.get_of(&url, Some(&first[..10]), 1).unwrap();
    assert_eq!((snapshot.commit.to_string(), snapshot.private), (first, Some(true)));
    setting.check(&done);
}

#[test]
fn tags_branches_and_commits_are_found() {
    let setting = Setting::new();
    let first = setting.repo.resolve("main").unwrap();
    setting.repo.tag("v1", &first);
    setting.repo.branch("side/branch", &first);
    setting.repo.commit(&model_dir(&setting.dir.path().join("changed"), &[("README.md", b"changed")]));
    for reference in ["v1", "side/branch", &first, &first[..10]] {
        let (snapshot, done) = setting.get(Some(reference)).unwrap_or_else(|e| panic!("{reference}: {e}"));
        assert_eq!(snapshot.commit.to_string(), first, "{reference}");
        setting.check(&done);
    }
    let error = setting.get(Some("none")).unwrap_err();
    assert!(matches!(&error, MirrorError::NoReference { reference, .. } if reference == "none"), "{error}");
    let error = setting.get_of(&setting.server.url("org/none"), None, 1).unwrap_err();
    assert_eq!(error.kind(), MirrorErrorKind::NotFound, "{error}");
}

#[test]
fn branch_may_move_during_a_mirror() {
    let setting = Setting::new();
    let (staging, board) = (setting.dir.path().join("staging"), Arc::<ProgressBoard>::default());
    let source = git(&setting.server.url("org/name"), None, 1, &setting.dir.path().join("git"), &board);
    let done = run(async {
        let snapshot = source.snapshot().await.unwrap();
        setting.repo.commit(&model_dir(&setting.dir.path().join("changed"), &[("README.md", b"changed")]));
        download(&source, &snapshot, job(&staging), &board).await.unwrap()
    });
    setting.check(&done);
    let progress = board.now();
    let fetched = progress.git.unwrap();
    assert!(
        fetched.objects > 0 && fetched.objects == fetched.total_objects && fetched.bytes > 0,
        "{fetched:?}"
    );
    assert_eq!((progress.done, progress.total), (done.fetched, done.fetched));
}

#[test]
fn private_host_is_read_with_the_credential_of_the_address() {
    let login = Login { user: "gandalf".into(), password: "mell%n:/".into() };
    let setting = Setting::with(|place, repos| GitServer::private(place, repos, login));
    let url = setting.server.url("org/name");
    let with = |login: &str| url.replacen("http://", &format!("http://{login}@"), 1);
    let (snapshot, done) = setting.get_of(&with("gandalf:mell%25n%3A%2F"), None, 1).unwrap();
    setting.check(&done);
    let source =
        git(&with("gandalf:mell%25n%3A%2F"), None, 1, &setting.dir.path().join("git"), &Arc::default());
    assert_eq!(source.describe(snapshot.commit).url, Some(url.clone()), "manifests have no credential");
    for (login, none) in [(url.clone(), true), (with("gandalf:wrong"), false)] {
        std::fs::remove_dir_all(setting.dir.path().join("git")).unwrap();
        let error = setting.get_of(&login, None, 1).unwrap_err();
        assert!(
            matches!(error, MirrorError::Unauthorised { anonymous, .. } if anonymous == none),
            "{error:?}"
        );
        assert!(!format!("{error} {error:?}").contains("gandalf"), "{error:?}");
    }
}

#[test]
fn expired_links_are_requested_again() {
    for hrefs in [Hrefs::SignedQuery, Hrefs::SignedHeader] {
        let setting = Setting::new();
        setting.server.set_hrefs(hrefs);
        setting.server.object_faults().times(1, "", Fault::ExpiredLink);
        setting.gets();
        assert_eq!((setting.asked("batch"), setting.asked("objects")), (2, 2), "{hrefs:?}");
    }
    // A link is still valid if a body was cut.
    let setting = Setting::new();
    setting.server.set_hrefs(Hrefs::SignedQuery);
    setting.server.object_faults().times(1, "", Fault::Truncated(1_000_000));
    setting.gets();
    assert_eq!((setting.asked("batch"), setting.asked("objects")), (1, 2));
    let setting = Setting::new();
    setting.server.set_hrefs(Hrefs::SignedQuery);
    setting.server.object_faults().always("", Fault::ExpiredLink);
    let error = setting.get(None).unwrap_err();
    assert!(
        matches!(&error, MirrorError::File { path, reason: FileProblem::LfsRefused(_) } if path == WEIGHTS),
        "{error}"
    );
}

#[test]
fn temporary_failures_are_repeated() {
    for fault in [Fault::Status(503), Fault::RetryAfter(1)] {
        let setting = Setting::new();
        setting.server.faults().times(1, "", fault.clone());
        setting.server.object_faults().times(1, "", fault);
        setting.gets();
    }
    let setting = Setting::new();
    setting.server.object_faults().times(1, "", Fault::WrongBytes);
    setting.gets();
    setting.server.object_faults().always("", Fault::WrongBytes);
    std::fs::remove_dir_all(setting.dir.path().join("staging")).unwrap();
    let error = setting.get(None).unwrap_err();
    assert!(
        matches!(&error, MirrorError::File { path, reason: FileProblem::Damaged(_) } if path == WEIGHTS),
        "{error}"
    );
}

#[test]
fn lost_objects_and_refused_batches_are_errors() {
    let setting = Setting::new();
    let object = setting.repo.lfs_object(&setting.weights()).unwrap();
    std::fs::remove_file(object).unwrap();
    let error = setting.get(None).unwrap_err();
    assert!(
        matches!(&error, MirrorError::File { path, reason: FileProblem::Gone(_) } if path == WEIGHTS),
        "{error}"
    );
    assert!(error.to_string().contains("404 Object does not exist"), "{error}");
    setting.server.faults().always("", Fault::Unauthorized);
    let error = setting.get(None).unwrap_err();
    assert!(matches!(error, MirrorError::Unauthorised { anonymous: true, .. }), "{error}");
    setting.server.faults().clear();
    setting.server.faults().always("", Fault::Status(404));
    let error = setting.get(None).unwrap_err();
    assert!(error.to_string().contains("has large files in LFS, but"), "{error}");
}

#[test]
fn many_objects_are_requested_together() {
    let setting = Setting::new();
    let repo = setting.repos.create("org/many");
    let contents: Vec<_> = (0..230u64).map(|i| (format!("part/{i:03}.bin"), noise(i, 100))).collect();
    let mut files: Vec<(&str, &[u8])> =
        contents.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    files.push((".gitattributes", b"*.bin filter=lfs diff=lfs merge=lfs -text\n"));
    let original = model_dir(&setting.dir.path().join("many"), &files);
    repo.commit(&original);
    let (_, done) = setting.get_of(&setting.server.url("org/many"), None, 1).unwrap();
    assert_eq!(tree(&done.dir), tree(&original));
    // Several requests may start before the first response.
    assert!((3..=7).contains(&setting.asked("batch")), "{}", setting.asked("batch"));
}

#[test]
fn pointers_are_equal_to_those_of_the_repository() {
    let setting = Setting::new();
    let (staging, board) = (setting.dir.path().join("staging"), Arc::<ProgressBoard>::default());
    let source = git(&setting.server.url("org/name"), None, 1, &setting.dir.path().join("git"), &board);
    let (snapshot, done) =
        run(mirror(&source, DownloadJob { skip_lfs: true, ..job(&staging) }, &board)).unwrap();
    assert_eq!(
        (done.pointers.as_slice(), done.hashes.len()),
        ([WEIGHTS.to_owned()].as_slice(), SMALL.len() + 1)
    );
    let oid = &setting.repo.entry(&snapshot.commit.to_string(), WEIGHTS).unwrap().oid;
    assert_eq!(std::fs::read(done.dir.join(WEIGHTS)).unwrap(), setting.repo.blob(oid));
    assert_eq!(setting.asked("batch"), 0);
}

#[test]
fn configured_lfs_server_gets_no_credential() {
    let login = Login { user: "u".into(), password: "p".into() };
    let setting = Setting::new();
    // A second host serves git; its `.lfsconfig` names the first host for LFS.
    let original = setting.dir.path().join("original");
    let config = format!("[lfs]\n\turl = {}/info/lfs\n", setting.server.url("org/name"));
    std::fs::write(original.join(".lfsconfig"), config).unwrap();
    setting.repo.commit(&original);
    let private = GitServer::private(&Place::loopback(), &setting.repos, login);
    let url = private.url("org/name").replacen("http://", "http://u:p@", 1);
    let (_, done) = setting.get_of(&url, None, 1).unwrap();
    setting.check(&done);
    let batches: Vec<_> =
        setting.server.log().all().into_iter().filter(|asked| asked.site == "batch").collect();
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].authorization, None);
    assert!(private.log().all().is_empty());
}

#[test]
fn redirect_to_another_origin_gets_no_credential() {
    let setting = Setting::new();
    let other_log = Log::default();
    let real = setting.server.url("org/name");
    // The other origin redirects git to the real server.
    let other = Site::start(&Place::loopback(), "other", &other_log, |_| {
        Router::new().fallback(async move |asked: Request| {
            let query = asked.uri().query().unwrap_or_default();
            (StatusCode::FOUND, [("location", format!("{real}/info/refs?{query}"))])
        })
    });
    let to = other.url().to_owned();
    let first = Site::start(&Place::loopback(), "first", &Log::default(), |_| {
        Router::new().fallback(async move |asked: Request| {
            let to = format!("{to}{}", asked.uri());
            if asked.headers().contains_key("authorization") {
                (StatusCode::FOUND, [("location", to)]).into_response()
            } else {
                (StatusCode::UNAUTHORIZED, [("www-authenticate", "Basic")]).into_response()
            }
        })
    });
    let url = format!("{}/org/name.git", first.url()).replacen("http://", "http://u:p@", 1);
    let source = git(&url, None, 1, &setting.dir.path().join("git"), &Arc::default());
    let snapshot = run(source.snapshot()).unwrap();
    assert_eq!(snapshot.commit.to_string(), setting.repo.resolve("main").unwrap());
    assert_eq!(snapshot.private, Some(true), "the first server required a password");
    let asked = other_log.all();
    assert!(!asked.is_empty() && asked.iter().all(|asked| asked.authorization.is_none()), "{asked:?}");
}

#[test]
fn another_origin_that_requires_a_password_gets_none() {
    let setting = Setting::new();
    let other_log = Log::default();
    let other = Site::start(&Place::loopback(), "other", &other_log, |_| {
        Router::new().fallback(async || (StatusCode::UNAUTHORIZED, [("www-authenticate", "Basic")]))
    });
    let first = Site::start(&Place::loopback(), "first", &Log::default(), |_| Router::new());
    first.faults().always("", Fault::Redirect(other.url().to_owned()));
    let url = format!("{}/org/name.git", first.url()).replacen("http://", "http://u:p@", 1);
    let error = setting.get_of(&url, None, 1).unwrap_err();
    assert!(matches!(error, MirrorError::Unauthorised { anonymous: true, .. }), "{error:?}");
    let asked = other_log.all();
    assert_eq!(asked.iter().map(|asked| &asked.authorization).collect::<Vec<_>>(), [&None], "{asked:?}");
}

#[test]
fn server_without_git_is_an_error() {
    let setting = Setting::new();
    let page = Site::start(&Place::loopback(), "page", &Log::default(), |_| {
        Router::new().fallback(async || "<html>a page of login</html>")
    });
    let error = setting.get_of(&format!("{}/org/name.git", page.url()), None, 1).unwrap_err();
    assert!(error.to_string().contains("does not support git's smart protocol"), "{error}");
}

#[test]
fn dropped_fetch_ends_while_the_server_is_silent() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Arc::<ProgressBoard>::default());
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/org/name.git", silent.local_addr().unwrap());
    let source = git(&url, None, 1, &dir.path().join("git"), &board);
    let start = std::time::Instant::now();
    run(async {
        let gave_up = tokio::time::timeout(std::time::Duration::from_millis(500), source.snapshot()).await;
        assert!(gave_up.is_err(), "{gave_up:?}");
    });
    // The runtime waits at most 10 s for threads with blocking work.
    assert!(start.elapsed() < std::time::Duration::from_secs(8), "{:?}", start.elapsed());
}
