//! Mirrors of the same commit from different sources are the same torrent, and sharing them reads no file again.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use silmaril::mirror::{DownloadJob, Downloaded, ProgressBoard, RepositorySource as _};
use silmaril::model::Revision;
use silmaril::model::describe::{DescribeError, DescribeOptions, Description, describe};
use silmaril::model::hash::FileHashes;

use super::rig::{WEIGHTS, git, hub, job, mirror, repository, run};
use crate::support::git_server::GitServer;
use crate::support::hub::Hub;
use crate::support::repos::Repos;
use crate::support::web::place::Place;

static NEVER: AtomicBool = AtomicBool::new(false);

/// Describes a mirror, and returns the number of bytes that were read.
fn described(dir: &Path, known: HashMap<String, FileHashes>) -> Result<(Description, u64), DescribeError> {
    let first = AtomicU64::new(u64::MAX);
    let total = AtomicU64::new(0);
    let progress = |done, all| {
        total.store(all, Ordering::Relaxed);
        first.fetch_min(done, Ordering::Relaxed);
    };
    let options = DescribeOptions {
        license_needed: true,
        whole: true,
        hybrid: false,
        license: None,
        piece_length: 1 << 20,
        description: None,
        source: None,
        known,
        follow: Default::default(),
        progress: &progress,
        cancel: &NEVER,
    };
    let description = describe(dir, &"org/name".parse().unwrap(), &Revision::default(), &options)?;
    Ok((description, total.into_inner() - first.into_inner()))
}

#[test]
fn hub_and_git_give_the_same_torrent() {
    let (repos, dir) = (Repos::new(), tempfile::tempdir().unwrap());
    repository(&repos, dir.path());
    let board = Arc::<ProgressBoard>::default();
    let (the_hub, server) =
        (Hub::start(&Place::loopback(), &repos), GitServer::start(&Place::loopback(), &repos));
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let from_hub = hub(the_hub.url(), "org/name", None, &board);
    let (_, from_hub) = run(mirror(&from_hub, job(&a), &board)).unwrap();
    let from_git = git(&server.url("org/name"), None, 1, &dir.path().join("git"), &board);
    let (_, from_git) = run(mirror(&from_git, job(&b), &board)).unwrap();
    let share = |done: Downloaded, name: &str| {
        // The files are moved before they are shared.
        let target = dir.path().join(name);
        std::fs::rename(&done.dir, &target).unwrap();
        let (description, read) = described(&target, done.hashes).unwrap();
        assert_eq!(read, 0, "{name}");
        description.manifest.torrent.info_hash
    };
    let info_hash = share(from_hub, "one");
    assert_eq!(share(from_git, "two"), info_hash);
    let (read_again, read) = described(&dir.path().join("original"), HashMap::new()).unwrap();
    assert_eq!(read_again.manifest.torrent.info_hash, info_hash);
    assert!(read > 3_000_000);
}

#[test]
fn mirror_with_pointers_is_never_shared() {
    let (repos, dir) = (Repos::new(), tempfile::tempdir().unwrap());
    repository(&repos, dir.path());
    let board = Arc::<ProgressBoard>::default();
    let the_hub = Hub::start(&Place::loopback(), &repos);
    let source = hub(the_hub.url(), "org/name", None, &board);
    let staging = dir.path().join("staging");
    let (snapshot, done) =
        run(mirror(&source, DownloadJob { skip_lfs: true, ..job(&staging) }, &board)).unwrap();
    assert_eq!(source.describe(snapshot.commit).kind, "huggingface");
    let error = described(&done.dir, done.hashes).unwrap_err();
    assert!(
        matches!(&error, DescribeError::Pointers(paths) if paths.len() == 1 && paths[0] == WEIGHTS),
        "{error}"
    );
}
