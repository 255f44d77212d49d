//! What a git server may send: the number of objects, the size of files outside LFS, and the bytes that fit on the disk.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use sha1::{Digest as _, Sha1};
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

/// The start of a pack: its header with the number of objects.
fn pack_of(objects: u32) -> Vec<u8> {
    [b"PACK\0\0\0\x02".as_slice(), &objects.to_be_bytes()].concat()
}

/// Starts a git server whose pack announces this many objects. It contains one of them.
fn announcing(objects: u32) -> Site {
    // An empty blob: type and size, and an empty stream of zlib.
    let blob = [0x30, 0x78, 0x9c, 0x03, 0, 0, 0, 0, 1];
    serving([pack_of(objects), blob.to_vec()].concat())
}

/// Starts a git server that answers each fetch with this pack.
fn serving(pack: Vec<u8>) -> Site {
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

/// A number in git's form: 7 bits in each byte, the lowest first.
fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let more = value > 0x7f;
        bytes.push((value & 0x7f) as u8 | if more { 0x80 } else { 0 });
        value >>= 7;
        if !more {
            return bytes;
        }
    }
}

/// The header of an object in a pack: 4 bits of its size are in the first byte.
fn object_header(kind: u8, size: usize) -> Vec<u8> {
    let first = kind << 4 | (size & 0xf) as u8;
    if size < 16 { vec![first] } else { [vec![first | 0x80], number(size >> 4)].concat() }
}

/// A stream of zlib without compression.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let blocks = bytes.chunks(65_535);
    let last = blocks.len() - 1;
    for (at, block) in blocks.enumerate() {
        let length = block.len() as u16;
        stream.push(u8::from(at == last));
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(block);
    }
    let (mut low, mut high) = (1u32, 0u32);
    for byte in bytes {
        low = (low + u32::from(*byte)) % 65_521;
        high = (high + low) % 65_521;
    }
    stream.extend((high << 16 | low).to_be_bytes());
    stream
}

/// A pack of a blob of 64 KiB and of a delta that repeats it.
fn repeating(times: usize) -> Vec<u8> {
    const BLOB: u8 = 3;
    const DELTA_OF_OFFSET: u8 = 6;
    let base = [object_header(BLOB, 0x1_0000), stored(&[7; 0x1_0000])].concat();
    // A copy without offset and size bytes copies the first 64 KiB of the base.
    let delta = [number(0x1_0000), number(0x1_0000 * times), vec![0x80; times]].concat();
    // The distance from the delta to its base: three bytes, in each of which 1 is subtracted from the higher bits.
    let mut distance = base.len();
    let mut offset = vec![(distance & 0x7f) as u8];
    while distance > 0x7f {
        distance = (distance >> 7) - 1;
        offset.insert(0, 0x80 | (distance & 0x7f) as u8);
    }
    let mut pack =
        [pack_of(2), base, object_header(DELTA_OF_OFFSET, delta.len()), offset, stored(&delta)].concat();
    pack.extend(Sha1::digest(&pack));
    pack
}

#[test]
fn small_delta_cannot_make_a_huge_object() {
    let dir = tempfile::tempdir().unwrap();
    let fetched = |mib: usize| {
        let site = serving(repeating(mib * 16));
        list(&format!("{}/org/name.git", site.url()), &dir.path().join("git"), 0)
    };
    assert_refused(fetched(257), MirrorErrorKind::Refused, "git needs more than 256 MiB");
    // libgit2 itself refuses 2 GiB.
    assert_refused(fetched(2_047), MirrorErrorKind::Refused, "git needs more than 256 MiB");
    // A smaller object is accepted, but the pack does not contain the commit.
    let error = fetched(255).map(|_| ()).unwrap_err();
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
fn too_large_commit_is_refused_as_such() {
    let (repos, dir) = (Repos::new(), tempfile::tempdir().unwrap());
    let repo = repos.create("org/name");
    repo.commit(&model_dir(&dir.path().join("original"), &[("a.bin", b"a")]));
    let message = dir.path().join("message");
    std::fs::write(&message, vec![b'x'; 257 << 20]).unwrap();
    repo.commit_again(&message);
    let server = GitServer::start(&Place::loopback(), &repos);
    let listed = list(&server.url("org/name"), &dir.path().join("git"), 0);
    assert_refused(listed, MirrorErrorKind::Refused, "git needs more than 256 MiB");
}

#[test]
fn fetch_ends_when_the_disk_has_too_little_space() {
    // The free space is looked at every 16 MiB.
    let (server, dir) = repository(&[("a.bin", &noise(1, 20 << 20))]);
    let listed = list(&server.url("org/name"), &dir.path().join("git"), u64::MAX);
    assert_refused(listed, MirrorErrorKind::Disk, "needs 16.0 MiB more");
    list(&server.url("org/name"), &dir.path().join("again"), 0).unwrap();
}
