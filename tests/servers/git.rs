//! Tests of the git host that other tests use, with the real git and git-lfs.

use crate::support::fixtures::{minilm, model_dir, noise};
use crate::support::git_server::{GitServer, Hrefs, Login, clone, tree};
use crate::support::host::Host;
use crate::support::hub::Hub;
use crate::support::net::Net;
use crate::support::process::{Finished, PATIENCE};
use crate::support::repos::{Repo, Repos, What};
use crate::support::web::faults::Fault;
use crate::support::web::place::Place;

const MINILM: &str = "sentence-transformers/all-MiniLM-L6-v2";
const SIZE: usize = 300_000;

struct Setting {
    git: GitServer,
    repo: Repo,
    repos: Repos,
    server: Host,
    user: Host,
    _net: Net,
}

impl Setting {
    /// A repository `org/name` with one object in LFS, on a host made by `start`.
    fn new(start: impl FnOnce(&Place, &Repos) -> GitServer) -> Self {
        let net = Net::new();
        let (server, user) = (net.host("server"), net.host("user"));
        let repos = Repos::new();
        let repo = repos.create("org/name");
        let attributes: &[u8] = b"*.bin filter=lfs diff=lfs merge=lfs -text\n";
        let files: [(&str, &[u8]); 3] = [
            (".gitattributes", attributes),
            ("sub/weights.bin", &noise(1, SIZE)),
            ("README.md", b"---\nlicense: mit\n---\n"),
        ];
        repo.commit(&model_dir(&user.home().join("original"), &files));
        let git = start(&Place::from(&server), &repos);
        Self { git, repo, repos, server, user, _net: net }
    }

    fn original(&self) -> std::path::PathBuf {
        self.user.home().join("original")
    }

    /// Clones, and compares the result with the original.
    #[track_caller]
    fn clones(&self, into: &str) {
        assert_eq!(tree(&clone(&self.user, &self.git.url("org/name"), "main", into)), tree(&self.original()));
    }

    fn sha256(&self) -> String {
        let head = self.repo.resolve("main").unwrap();
        match self.repo.entry(&head, "sub/weights.bin").unwrap().what {
            What::Lfs(pointer) => pointer.sha256,
            other => panic!("{other:?}"),
        }
    }

    fn statuses(&self, site: &str) -> Vec<u16> {
        self.git.log().all().iter().filter(|asked| asked.site == site).map(|asked| asked.status).collect()
    }
}

#[test]
fn clone_with_lfs_is_equal_to_the_commit() {
    let setting = Setting::new(GitServer::start);
    let repo = setting.repos.create(MINILM);
    let commit = repo.commit(&minilm());
    let dir = clone(&setting.user, &setting.git.url(MINILM), &commit, "minilm");
    assert_eq!(tree(&dir), tree(&minilm()));
    let head =
        Finished::of(setting.user.command("git").args(["-C", "minilm", "rev-parse", "HEAD"]), PATIENCE);
    assert_eq!(head.ok().trim(), commit);
    // lighttpd has sent the object.
    let served = setting.git.served();
    let objects: Vec<_> = served.iter().filter(|served| served.path.contains("/lfs/objects/53/")).collect();
    assert_eq!(objects.len(), 1, "{served:#?}");
    assert_eq!(objects[0].sent, 90_868_376);
    assert_eq!(setting.statuses("batch"), [200]);
}

#[test]
fn branches_tags_and_shallow_clones_work() {
    let setting = Setting::new(GitServer::start);
    let first = setting.repo.resolve("main").unwrap();
    setting.repo.tag("v1", &first);
    let changed = model_dir(&setting.user.home().join("changed"), &[("README.md", b"changed")]);
    setting.repo.commit(&changed);
    setting.repo.branch("old", &first);
    let url = setting.git.url("org/name");
    assert_eq!(tree(&clone(&setting.user, &url, "v1", "a")), tree(&setting.original()));
    assert_eq!(tree(&clone(&setting.user, &url, "origin/old", "b")), tree(&setting.original()));
    assert_eq!(tree(&clone(&setting.user, url.strip_suffix(".git").unwrap(), "main", "c")), tree(&changed));
    let git = |args: &[&str]| Finished::of(setting.user.command("git").args(args), PATIENCE).ok();
    git(&["clone", "-q", "--depth", "1", &url, "d"]);
    assert_eq!(git(&["-C", "d", "rev-list", "--count", "HEAD"]).trim(), "1");
}

#[test]
fn hub_and_git_serve_the_same_commits() {
    let setting = Setting::new(GitServer::start);
    let hub = Hub::start(&Place::from(&setting.server), &setting.repos);
    let url = format!("{}/api/models/org/name", hub.url());
    let script = "import json, sys, urllib.request\n\
        print(json.load(urllib.request.urlopen(sys.argv[1]))['sha'])";
    let mut ask = setting.user.command("/usr/bin/python3");
    let sha = Finished::of(ask.args(["-c", script, &url]), PATIENCE).ok();
    let mut remote = setting.user.command("git");
    let refs = Finished::of(remote.args(["ls-remote", &setting.git.url("org/name"), "main"]), PATIENCE).ok();
    assert_eq!(refs, format!("{}\trefs/heads/main\n", sha.trim()));
}

#[test]
fn private_host_requires_a_login_for_git_and_lfs() {
    let login = Login { user: "reader".into(), password: "secret".into() };
    let setting = Setting::new(|place, repos| GitServer::private(place, repos, login));
    let url = setting.git.url("org/name");
    let mut anonymous = setting.user.command("git");
    anonymous.env("GIT_TERMINAL_PROMPT", "0").args(["clone", "-q", &url, "no"]);
    let refused = Finished::of(&mut anonymous, PATIENCE);
    assert!(!refused.status.success());

    let with_login = url.replacen("http://", "http://reader:secret@", 1);
    assert_eq!(tree(&clone(&setting.user, &with_login, "main", "yes")), tree(&setting.original()));
    let log = setting.git.log().all();
    let object = log.iter().find(|asked| asked.site == "objects").unwrap();
    assert!(object.authorization.as_ref().unwrap().starts_with("RemoteAuth "), "{object:?}");
    let batch = log.iter().rfind(|asked| asked.site == "batch").unwrap();
    // `printf reader:secret | base64`
    assert_eq!(batch.authorization.as_deref(), Some("Basic cmVhZGVyOnNlY3JldA=="));
}

#[test]
fn every_kind_of_object_link_works() {
    let setting = Setting::new(GitServer::start);
    for (into, hrefs) in [("a", Hrefs::Static), ("b", Hrefs::SignedQuery), ("c", Hrefs::SignedHeader)] {
        setting.git.set_hrefs(hrefs);
        setting.clones(into);
    }
    assert_eq!(setting.statuses("objects"), [200, 200]);
}

#[test]
fn faults_of_objects_fail_a_clone_until_they_are_cleared() {
    let setting = Setting::new(GitServer::start);
    let (git, sha256) = (&setting.git, setting.sha256());
    let attempt = |into: &str| {
        let mut command = setting.user.command("git");
        command.env("GIT_TERMINAL_PROMPT", "0");
        for setting in ["lfs.transfer.maxretries=1", "lfs.concurrenttransfers=1"] {
            command.args(["-c", setting]);
        }
        command.args(["clone", "-q", &git.url("org/name"), into]);
        Finished::of(&mut command, PATIENCE)
    };
    setting.clones("before");
    for (into, fault) in [
        ("missing", Fault::NotFound),
        ("wrong", Fault::WrongBytes),
        ("refused", Fault::Status(500)),
        ("cut", Fault::Truncated(1000)),
        ("expired", Fault::ExpiredLink),
    ] {
        git.object_faults().always(&sha256, fault);
        assert!(!attempt(into).status.success(), "{into}");
        git.object_faults().clear();
        setting.clones(&format!("{into}-cleared"));
    }
    git.faults().always("batch", Fault::Status(503));
    assert!(!attempt("no-batch").status.success());
    git.faults().clear();

    // An expired link is refused for every client; a new link from the batch endpoint works.
    git.set_hrefs(Hrefs::SignedQuery);
    setting.clones("signed");
    let asked = git.log().all();
    let link = asked.iter().rfind(|asked| asked.site == "objects").unwrap();
    git.expire_links();
    let href = format!("{}{}?{}", git.objects_url(), link.path, link.query);
    let script = "import sys, urllib.request, urllib.error\n\
        try: urllib.request.urlopen(sys.argv[1])\n\
        except urllib.error.HTTPError as e: print(e.code)";
    let mut old = setting.user.command("/usr/bin/python3");
    assert_eq!(Finished::of(old.args(["-c", script, &href]), PATIENCE).ok(), "403\n");
    setting.clones("signed-again");

    // An object that the host has lost.
    std::fs::remove_file(setting.repo.lfs_object(&sha256).unwrap()).unwrap();
    assert!(attempt("lost").stderr.contains("Object does not exist"));
}
