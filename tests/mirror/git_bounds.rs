//! What a git server may send: the number of objects, the size of files outside LFS, and the bytes that fit on the disk.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use silmaril::mirror::{
    GitOptions, GitSource, MirrorError, MirrorErrorKind, Repository, RepositorySource as _, Snapshot,
};

use super::rig::{client, run};
use crate::support::fixtures::{model_dir, noise};
use crate::support::git_server::GitServer;
use crate::support::repos::Repos;
use crate::support::web::Site;
use crate::support::web::log::Log;
use crate::support::web::place::Place;

/// Lists the newest commit with its whole history.
fn list(url: &str, git_dir: &Path, min_free: u64) -> Result<Snapshot, MirrorError> {
    let named = Repository::parse(url, &"https://hub.invalid".parse().unwrap()).unwrap();
    let Repository::Git(repository) = named.repository else { panic!("{url} is of the hub") };
    let options =
        GitOptions { reference: None, depth: 0, git_dir: git_dir.to_owned(), token: None, min_free };
    run(GitSource::new(client(), repository, options, Arc::default()).snapshot())
}

#[track_caller]
fn assert_refused(listed: Result<Snapshot, MirrorError>, kind: MirrorErrorKind, reason: &str) {
    let error = listed.map(|snapshot| snapshot.files.len()).expect_err("the repository is accepted");
    assert!(error.kind() == kind && error.to_string().contains(reason), "{error}");
}

/// A line of git's protocol: its length in four hexadecimal digits, and its text.
fn line(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}

/// Starts a git server whose pack announces this many objects. It contains one of them.
fn announcing(objects: u32) -> Site {
    let mut pack = [b"PACK\0\0\0\x02".as_slice(), &objects.to_be_bytes()].concat();
    // An empty blob: type and size, and an empty stream of zlib.
    pack.extend([0x30, 0x78, 0x9c, 0x03, 0, 0, 0, 0, 1]);
    let pack = [line("NAK\n").into_bytes(), pack].concat();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let references = [
        line("# service=git-upload-pack\n"),
        "0000".to_owned(),
        line(&format!("{commit} HEAD\0agent=x\n")),
        line(&format!("{commit} refs/heads/main\n")),
        "0000".to_owned(),
    ];
    let references = references.concat().into_bytes();
    Site::start(&Place::loopback(), "git", &Log::default(), |_| {
        Router::new().fallback(async move |request: Request| {
            let is_list = request.uri().path().ends_with("/info/refs");
            let (kind, body) =
                if is_list { ("advertisement", references.clone()) } else { ("result", pack.clone()) };
            ([(CONTENT_TYPE, format!("application/x-git-upload-pack-{kind}"))], body)
        })
    })
}

#[test]
fn pack_of_too_many_objects_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let site = announcing(1_000_001);
    let listed = list(&format!("{}/org/name.git", site.url()), dir.path(), 0);
    assert_refused(listed, MirrorErrorKind::Refused, "1000001 git objects");
    // With fewer, libgit2 waits for the rest of the pack.
    let site = announcing(1_000_000);
    let error = list(&format!("{}/org/name.git", site.url()), dir.path(), 0).map(|_| ()).unwrap_err();
    assert_ne!(error.kind(), MirrorErrorKind::Refused, "{error}");
}

fn repository(files: &[(&str, &[u8])]) -> (GitServer, tempfile::TempDir) {
    let (repos, dir) = (Repos::new(), tempfile::tempdir().unwrap());
    repos.create("org/name").commit(&model_dir(&dir.path().join("original"), files));
    (GitServer::start(&Place::loopback(), &repos), dir)
}

#[test]
fn large_file_outside_lfs_is_refused() {
    const LIMIT: usize = 256 << 20;
    let (server, dir) = repository(&[("a.bin", &vec![0; LIMIT])]);
    list(&server.url("org/name"), &dir.path().join("git"), 0).unwrap();
    let (server, dir) = repository(&[("a.bin", &vec![0; LIMIT + 1])]);
    let listed = list(&server.url("org/name"), &dir.path().join("git"), 0);
    assert_refused(listed, MirrorErrorKind::Refused, "a.bin");
}

#[test]
fn fetch_ends_when_the_disk_has_too_little_space() {
    // The free space is looked at every 16 MiB.
    let (server, dir) = repository(&[("a.bin", &noise(1, 20 << 20))]);
    let listed = list(&server.url("org/name"), &dir.path().join("git"), u64::MAX);
    assert_refused(listed, MirrorErrorKind::Disk, "needs 16.0 MiB more");
    list(&server.url("org/name"), &dir.path().join("again"), 0).unwrap();
}
