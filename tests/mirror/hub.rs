//! Repositories of the hub are mirrored completely, or refused with a reason.

use std::sync::Arc;

use silmaril::mirror::error::FileProblem;
use silmaril::mirror::{
    Downloaded, GitOid, MirrorError, MirrorErrorKind, ProgressBoard, RepositorySource as _, Snapshot,
    download,
};

use super::rig::{BIG, SMALL, WEIGHTS, hub, job, mirror, repository, run};
use crate::support::fixtures::{minilm, model_dir};
use crate::support::git_server::tree;
use crate::support::hub::{Access, Hub, MEMBER, STRANGER};
use crate::support::repos::{Repo, Repos};
use crate::support::web::faults::Fault;
use crate::support::web::place::Place;

struct Setting {
    hub: Hub,
    repos: Repos,
    repo: Repo,
    dir: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        let (repos, dir) = (Repos::new(), tempfile::tempdir().unwrap());
        let repo = repository(&repos, dir.path());
        let hub = Hub::start(&Place::loopback(), &repos);
        Self { hub, repos, repo, dir }
    }

    fn get(&self, text: &str, token: Option<&str>) -> Result<(Snapshot, Downloaded), MirrorError> {
        let (staging, board) = (self.dir.path().join("staging"), Arc::<ProgressBoard>::default());
        run(mirror(&hub(self.hub.url(), text, token, &board), job(&staging), &board))
    }

    /// Mirrors, and compares the result with the original.
    #[track_caller]
    fn gets(&self) -> (Snapshot, Downloaded) {
        let got = self.get("org/name", None).unwrap();
        self.check(&got.1);
        got
    }

    #[track_caller]
    fn check(&self, done: &Downloaded) {
        assert_eq!(tree(&done.dir), tree(&self.dir.path().join("original")));
        assert!(done.hashes.keys().map(String::as_str).eq_unordered(SMALL.into_iter().chain([WEIGHTS])));
    }

    #[track_caller]
    fn fails(&self, text: &str, token: Option<&str>) -> MirrorError {
        let error = self.get(text, token).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hf_"), "a token is shown: {text}");
        error
    }

    /// Requests to the CDN: statuses and ranges.
    fn weights(&self) -> Vec<(u16, Option<String>)> {
        let asked = self.hub.log().of(WEIGHTS).into_iter().filter(|asked| asked.site == "cdn");
        asked.map(|asked| (asked.status, asked.range)).collect()
    }
}

trait Unordered<'a> {
    fn eq_unordered(self, other: impl Iterator<Item = &'a str>) -> bool;
}

impl<'a, I: Iterator<Item = &'a str>> Unordered<'a> for I {
    fn eq_unordered(self, other: impl Iterator<Item = &'a str>) -> bool {
        self.collect::<std::collections::BTreeSet<_>>() == other.collect()
    }
}

#[test]
fn mirror_is_equal_to_the_commit() {
    let setting = Setting::new();
    setting.hub.set_page_size(2);
    let (snapshot, done) = setting.gets();
    let commit = setting.repo.resolve("main").unwrap();
    assert_eq!(snapshot.commit.to_string(), commit);
    assert_eq!(
        (snapshot.license.as_deref(), snapshot.gated, snapshot.private),
        (Some("mit"), false, Some(false))
    );
    assert!(snapshot.warnings.is_empty() && done.pointers.is_empty());
    assert_eq!(done.fetched, snapshot.files.iter().map(|file| file.size).sum::<u64>());
    assert!(setting.hub.log().of("/tree/").len() > 2, "it was listed in pages");
    let source = hub(setting.hub.url(), "org/name", None, &Arc::default());
    let described = source.describe(snapshot.commit);
    assert_eq!(described.url, Some(format!("{}/org/name", setting.hub.url())));
    assert_eq!((described.kind.as_str(), described.commit.as_ref()), ("huggingface", Some(&commit)));
    let seed = source.web_seed(snapshot.commit).unwrap();
    assert_eq!(seed, format!("{}/org/name/resolve/{commit}/", setting.hub.url()));
    // A second mirror requests no file.
    let before = setting.hub.log().of("/resolve/").len();
    let (_, done) = setting.gets();
    assert_eq!((done.fetched, setting.hub.log().of("/resolve/").len()), (0, before));
}

#[test]
fn dataset_with_the_files_of_a_real_model_is_mirrored() {
    let setting = Setting::new();
    let repo = setting.repos.create("datasets/org/minilm");
    repo.commit(&minilm());
    let (_, done) = setting.get("datasets/org/minilm", None).unwrap();
    assert_eq!(tree(&done.dir), tree(&minilm()));
}

#[test]
fn token_is_sent_only_to_the_hub() {
    let setting = Setting::new();
    setting.hub.set_access("org/name", Access::Private);
    let (snapshot, done) = setting.get("org/name", Some(MEMBER)).unwrap();
    setting.check(&done);
    assert_eq!(snapshot.private, Some(true));
    let all = setting.hub.log().all();
    assert!(all.iter().filter(|asked| asked.site == "hub").all(|asked| asked.authorization.is_some()));
    let cdn: Vec<_> = all.iter().filter(|asked| asked.site == "cdn").collect();
    assert!(!cdn.is_empty() && cdn.iter().all(|asked| asked.authorization.is_none()), "{cdn:#?}");
}

#[test]
fn missing_permissions_are_distinguished() {
    let setting = Setting::new();
    let page = format!("{}/org/name", setting.hub.url());
    setting.hub.set_access("org/name", Access::Gated);
    for token in [None, Some(STRANGER)] {
        let error = setting.fails("org/name", token);
        assert!(matches!(&error, MirrorError::Gated { page: found } if *found == page), "{error}");
        assert_eq!(error.kind(), MirrorErrorKind::Gated);
    }
    let (snapshot, _) = setting.get("org/name", Some(MEMBER)).unwrap();
    assert!(snapshot.gated);
    setting.hub.set_access("org/name", Access::Private);
    for (token, none) in [(None, true), (Some(STRANGER), false)] {
        let error = setting.fails("org/name", token);
        assert!(matches!(error, MirrorError::NotFound { anonymous, .. } if anonymous == none), "{error}");
    }
    let error = setting.fails("org/name", Some("hf_unknown"));
    assert!(matches!(error, MirrorError::Unauthorised { anonymous: false, .. }), "{error}");
}

#[test]
fn absent_repositories_revisions_and_files_are_errors() {
    let setting = Setting::new();
    let error = setting.fails("org/other", Some(MEMBER));
    assert!(matches!(error, MirrorError::NotFound { anonymous: false, .. }), "{error}");
    let error = setting.fails("org/name@v9", None);
    assert!(matches!(&error, MirrorError::NoReference { reference, .. } if reference == "v9"), "{error}");
    setting.hub.faults().always("/resolve/", Fault::NotFound);
    let error = setting.fails("org/name", None);
    assert!(matches!(&error, MirrorError::File { reason: FileProblem::Gone(_), .. }), "{error}");
}

#[test]
fn revisions_and_renamed_repositories_are_followed() {
    let setting = Setting::new();
    let first = setting.repo.resolve("main").unwrap();
    setting.repo.tag("v1", &first);
    setting.repo.branch("refs-like/branch", &first);
    setting.repo.commit(&model_dir(&setting.dir.path().join("changed"), &[("README.md", b"changed")]));
    for revision in ["v1", "refs-like/branch", &first] {
        let (snapshot, done) = setting.get(&format!("org/name@{revision}"), None).unwrap();
        assert_eq!(snapshot.commit.to_string(), first);
        setting.check(&done);
    }
    setting.hub.moved("old/name", "org/name");
    let (snapshot, done) = setting.get("old/name@v1", None).unwrap();
    assert_eq!(snapshot.commit.to_string(), first);
    setting.check(&done);
}

#[test]
fn branch_may_move_during_a_mirror() {
    let setting = Setting::new();
    let (staging, board) = (setting.dir.path().join("staging"), Arc::<ProgressBoard>::default());
    let source = hub(setting.hub.url(), "org/name", None, &board);
    let done = run(async {
        let snapshot = source.snapshot().await.unwrap();
        setting.repo.commit(&model_dir(&setting.dir.path().join("changed"), &[("README.md", b"changed")]));
        download(&source, &snapshot, job(&staging), &board).await.unwrap()
    });
    setting.check(&done);
}

#[test]
fn temporary_failures_are_repeated() {
    for fault in [
        Fault::Status(503),
        Fault::RetryAfter(1),
        Fault::RateLimit(1),
        Fault::ExpiredLink,
        Fault::Truncated(BIG as u64 / 2),
        Fault::WrongBytes,
    ] {
        let setting = Setting::new();
        setting.hub.cdn_faults().times(1, WEIGHTS, fault.clone());
        setting.gets();
        assert_eq!(setting.weights().len(), 2, "{fault:?}: {:?}", setting.weights());
    }
    let setting = Setting::new();
    setting.hub.faults().times(2, "/tree/", Fault::RateLimit(1));
    setting.hub.faults().times(1, "/revision/", Fault::Status(500));
    setting.gets();
}

#[test]
fn cut_body_is_resumed() {
    let setting = Setting::new();
    setting.hub.cdn_faults().times(1, WEIGHTS, Fault::Truncated(1_000_000));
    setting.gets();
    let asked = setting.hub.log().of(WEIGHTS);
    let resumed = asked.iter().rfind(|asked| asked.site == "cdn").unwrap();
    assert_eq!(resumed.status, 206);
    assert!(resumed.if_range.as_ref().is_some_and(|tag| tag.starts_with('"')), "{resumed:?}");
    // Bytes that were in transit when the connection broke may be sent twice.
    assert!(resumed.sent < BIG as u64 - 500_000, "{resumed:?}");
    // A server that cannot resume sends the whole file.
    for (fault, statuses) in [(Fault::IgnoresRange, vec![200, 200]), (Fault::OtherRange, vec![200, 206, 200])]
    {
        let setting = Setting::new();
        setting.hub.cdn_faults().times(1, WEIGHTS, Fault::Truncated(1_000_000));
        setting.hub.cdn_faults().always(WEIGHTS, fault.clone());
        setting.gets();
        let found: Vec<u16> = setting.weights().into_iter().map(|(status, _)| status).collect();
        assert_eq!(found, statuses, "{fault:?}");
    }
}

#[test]
fn wrong_bytes_are_never_a_file() {
    let setting = Setting::new();
    setting.hub.cdn_faults().always(WEIGHTS, Fault::WrongBytes);
    let error = setting.fails("org/name", None);
    assert!(
        matches!(&error, MirrorError::File { path, reason: FileProblem::Damaged(_) } if path == WEIGHTS),
        "{error}"
    );
    assert_eq!((error.kind(), setting.weights().len()), (MirrorErrorKind::Damaged, 2));
    assert!(!setting.dir.path().join("staging/tree").join(WEIGHTS).exists());
    setting.hub.cdn_faults().clear();
    std::fs::remove_dir_all(setting.dir.path().join("staging")).unwrap();
    setting.hub.faults().always("config.json", Fault::WrongBytes);
    let error = setting.fails("org/name", None);
    assert!(matches!(&error, MirrorError::File { path, .. } if path == "config.json"), "{error}");
}

#[test]
fn redirect_to_another_host_gets_no_token() {
    let setting = Setting::new();
    let other = Hub::start(&Place::loopback(), &setting.repos);
    setting.hub.faults().always("/resolve/", Fault::Redirect(other.url().to_owned()));
    let (_, done) = setting.get("org/name", Some(MEMBER)).unwrap();
    setting.check(&done);
    let asked = other.log().all();
    assert!(!asked.is_empty() && asked.iter().all(|asked| asked.authorization.is_none()), "{asked:#?}");
}

#[test]
fn too_long_requested_pause_is_an_error() {
    let setting = Setting::new();
    setting.hub.cdn_faults().always(WEIGHTS, Fault::RetryAfter(3600));
    let error = setting.fails("org/name", None);
    assert_eq!(error.kind(), MirrorErrorKind::RateLimited, "{error}");
}

#[test]
fn stalled_body_is_requested_again() {
    let setting = Setting::new();
    setting.hub.cdn_faults().times(1, WEIGHTS, Fault::Stalled(500_000));
    setting.gets();
    let ranges: Vec<_> = setting.weights().into_iter().map(|(_, range)| range).collect();
    assert!(matches!(ranges.as_slice(), [None, Some(range)] if range.starts_with("bytes=5")), "{ranges:?}");
}

#[test]
fn pointers_of_the_hub_are_equal_to_those_of_git() {
    let setting = Setting::new();
    let (staging, board) = (setting.dir.path().join("staging"), Arc::<ProgressBoard>::default());
    let source = hub(setting.hub.url(), "org/name", None, &board);
    let skipping = silmaril::mirror::DownloadJob { skip_lfs: true, ..job(&staging) };
    let (snapshot, done) = run(mirror(&source, skipping, &board)).unwrap();
    assert_eq!(done.pointers, [WEIGHTS]);
    let oid = &setting.repo.entry(&snapshot.commit.to_string(), WEIGHTS).unwrap().oid;
    let written = std::fs::read(done.dir.join(WEIGHTS)).unwrap();
    assert_eq!((GitOid::of_blob(&written).to_string(), written), (oid.clone(), setting.repo.blob(oid)));
    assert!(setting.weights().is_empty());
}
