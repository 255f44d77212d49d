//! Tests with local directories as remotes. Tests with servers are in `tests/mirror`.

use std::path::Path;

use git2::{Oid, Repository, Signature};

use super::*;
use crate::mirror::MirrorErrorKind;
use crate::model::{Pointer, Sha256Digest};

const FILE: i32 = 0o100644;

struct Remote {
    dir: tempfile::TempDir,
    repo: Repository,
}

impl Remote {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = git2::RepositoryInitOptions::new();
        options.bare(true).initial_head("main");
        let repo = Repository::init_opts(dir.path(), &options).unwrap();
        Self { dir, repo }
    }

    /// Commits a tree of files to a branch.
    fn commit(&self, branch: &str, files: &[(&str, i32, &[u8])]) -> Oid {
        let mut builder = git2::build::TreeUpdateBuilder::new();
        for (path, mode, bytes) in files {
            let mode = match mode {
                0o100755 => git2::FileMode::BlobExecutable,
                0o120000 => git2::FileMode::Link,
                0o160000 => git2::FileMode::Commit,
                _ => git2::FileMode::Blob,
            };
            let oid = match mode {
                git2::FileMode::Commit => Oid::from_str("0123456789abcdef0123456789abcdef01234567").unwrap(),
                _ => self.repo.blob(bytes).unwrap(),
            };
            builder.upsert(*path, oid, mode);
        }
        let empty = self.repo.find_tree(self.repo.treebuilder(None).unwrap().write().unwrap()).unwrap();
        let tree = self.repo.find_tree(builder.create_updated(&self.repo, &empty).unwrap()).unwrap();
        let name = format!("refs/heads/{branch}");
        let parent = self.repo.find_reference(&name).ok().map(|r| r.peel_to_commit().unwrap());
        let author = Signature::new("a", "a@example", &git2::Time::new(1_700_000_000, 0)).unwrap();
        let parents: Vec<_> = parent.iter().collect();
        self.repo.commit(Some(&name), &author, &author, "x", &tree, &parents).unwrap()
    }

    fn source(&self, git_dir: &Path, reference: Option<&str>) -> GitSource {
        let remote = super::super::Remote::Directory(self.dir.path().to_owned());
        let repository = GitRepository { remote, credential: None, hub: None };
        let reference = reference.map(|r| r.parse().unwrap());
        let options =
            GitOptions { reference, depth: 1, git_dir: git_dir.to_owned(), token: None, min_free: 0 };
        GitSource::new(crate::mirror::test_client(), repository, options, Arc::default())
    }

    async fn snapshot(&self, reference: Option<&str>) -> Result<Snapshot, MirrorError> {
        let git_dir = tempfile::tempdir().unwrap();
        self.source(git_dir.path(), reference).snapshot().await
    }
}

async fn bytes(source: &GitSource, file: &RemoteFile) -> Result<Vec<u8>, MirrorError> {
    let mut opened = source.open(file, 0, None).await?;
    let mut all = Vec::new();
    while let Some(bytes) = opened.body.next().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

#[tokio::test]
async fn branches_tags_and_commits_are_found() {
    let remote = Remote::new();
    let first = remote.commit("main", &[("a", FILE, b"1")]);
    let second = remote.commit("main", &[("a", FILE, b"2")]);
    let other = remote.commit("feature/x", &[("b", FILE, b"3")]);
    let object = remote.repo.find_object(first, None).unwrap();
    let author = Signature::new("a", "a@example", &git2::Time::new(1_700_000_000, 0)).unwrap();
    remote.repo.tag("v1", &object, &author, "annotated", false).unwrap();
    remote.repo.tag_lightweight("light", &object, false).unwrap();
    remote.repo.reference("refs/pr/7", other, false, "").unwrap();
    let (full, short) = (first.to_string(), first.to_string()[..9].to_owned());
    for (reference, commit) in [
        (None, second),
        (Some("main"), second),
        (Some("feature/x"), other),
        (Some("v1"), first),
        (Some("light"), first),
        (Some("refs/pr/7"), other),
        (Some("refs/tags/v1"), first),
        (Some(full.as_str()), first),
        (Some(short.as_str()), first),
    ] {
        let snapshot = remote.snapshot(reference).await.unwrap_or_else(|e| panic!("{reference:?}: {e}"));
        assert_eq!(snapshot.commit, GitOid::from(commit), "{reference:?}");
    }
    for reference in ["none", "deadbeef", "0123456789abcdef0123456789abcdef01234567", "refs/heads/none"] {
        let error = remote.snapshot(Some(reference)).await.unwrap_err();
        assert!(matches!(error, MirrorError::NoReference { .. }), "{reference}: {error}");
    }
}

#[tokio::test]
async fn files_links_submodules_and_pointers_are_distinguished() {
    let remote = Remote::new();
    let pointer = Pointer { sha256: Sha256Digest([7; 32]), size: 5_000_000 };
    let text = pointer.to_string();
    remote.commit(
        "main",
        &[
            ("dir/run.sh", 0o100755, b"#!/bin/sh\n"),
            ("empty", FILE, b""),
            ("link", 0o120000, b"../../etc/passwd"),
            ("m.bin", FILE, text.as_bytes()),
            ("vendor/sub", 0o160000, b""),
            (".cache/x", FILE, b"x"),
        ],
    );
    let git_dir = tempfile::tempdir().unwrap();
    let source = remote.source(git_dir.path(), None);
    let snapshot = source.snapshot().await.unwrap();
    let paths: Vec<_> = snapshot.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["dir/run.sh", "empty", "link", "m.bin"]);
    let [script, empty, link, lfs] = snapshot.files.as_slice() else { panic!() };
    assert!(script.executable && !link.executable && !lfs.executable);
    assert_eq!((empty.size, lfs.size, lfs.pointer()), (0, 5_000_000, Some(pointer)));
    assert_eq!(bytes(&source, link).await.unwrap(), b"../../etc/passwd");
    assert_eq!(source.pointer(lfs).await.unwrap().unwrap(), text.as_bytes());
    for part in [".cache/x", "link", "vendor/sub"] {
        assert!(snapshot.warnings.iter().any(|w| w.starts_with(part)), "{:?}", snapshot.warnings);
    }
    let error = bytes(&source, lfs).await.unwrap_err();
    assert!(error.to_string().contains("m.bin") && error.kind() == MirrorErrorKind::NotFound, "{error}");
    // The path at which git-lfs stores the object.
    let hex = pointer.sha256.to_string();
    let object = remote.dir.path().join("lfs/objects").join(&hex[..2]).join(&hex[2..4]).join(&hex);
    std::fs::create_dir_all(object.parent().unwrap()).unwrap();
    std::fs::write(&object, b"object").unwrap();
    assert_eq!(bytes(&source, lfs).await.unwrap(), b"object");
    let described = source.describe(snapshot.commit);
    assert_eq!((described.kind.as_str(), described.url), ("git", None), "the path of a directory is private");
    assert_eq!(source.web_seed(snapshot.commit), None);
}

#[tokio::test]
async fn objects_of_a_directory_precede_its_configured_server() {
    let remote = Remote::new();
    let pointer = Pointer { sha256: Sha256Digest([7; 32]), size: 6 };
    let config = b"[lfs]\n\turl = http://127.0.0.1:1/info/lfs\n";
    remote.commit("main", &[(".lfsconfig", FILE, config), ("m.bin", FILE, pointer.to_string().as_bytes())]);
    let hex = pointer.sha256.to_string();
    let object = remote.dir.path().join("lfs/objects").join(&hex[..2]).join(&hex[2..4]).join(&hex);
    std::fs::create_dir_all(object.parent().unwrap()).unwrap();
    std::fs::write(&object, b"object").unwrap();
    let git_dir = tempfile::tempdir().unwrap();
    let source = remote.source(git_dir.path(), None);
    let snapshot = source.snapshot().await.unwrap();
    let lfs = snapshot.files.iter().find(|file| file.path == "m.bin").unwrap();
    assert_eq!(bytes(&source, lfs).await.unwrap(), b"object");
}

#[tokio::test]
async fn later_run_uses_the_repository_of_the_first() {
    let remote = Remote::new();
    let git_dir = tempfile::tempdir().unwrap();
    remote.commit("main", &[("a", FILE, b"1")]);
    remote.source(git_dir.path(), None).snapshot().await.unwrap();
    let second = remote.commit("main", &[("a", FILE, b"2")]);
    let source = remote.source(git_dir.path(), None);
    let snapshot = source.snapshot().await.unwrap();
    assert_eq!(snapshot.commit, GitOid::from(second));
    // The branch moves; this source keeps its commit.
    remote.commit("main", &[("a", FILE, b"3")]);
    assert_eq!(bytes(&source, &snapshot.files[0]).await.unwrap(), b"2");
    let ours = Repository::open_bare(git_dir.path()).unwrap();
    assert_eq!(ours.references_glob("refs/silmaril/*").unwrap().count(), 1, "one commit is kept");
    // A repository that a crash has damaged is replaced.
    drop((source, ours));
    for broken in ["HEAD", "config", "objects"] {
        let broken = git_dir.path().join(broken);
        if broken.is_dir() {
            std::fs::remove_dir_all(&broken).unwrap()
        } else {
            std::fs::write(&broken, b"[").unwrap()
        }
        remote
            .source(git_dir.path(), None)
            .snapshot()
            .await
            .unwrap_or_else(|e| panic!("{}: {e}", broken.display()));
    }
}

#[tokio::test]
async fn kill_during_replacement_keeps_the_repository() {
    let remote = Remote::new();
    remote.commit("main", &[("a", FILE, b"1")]);
    let dir = tempfile::tempdir().unwrap();
    let git_dir = dir.path().join("m.git");
    remote.source(&git_dir, None).snapshot().await.unwrap();
    std::fs::write(git_dir.join("mark"), b"").unwrap();
    // Killed between the two renames; and before the first rename, while the new repository was fetched.
    let [fresh, former] = replacements(&git_dir);
    std::fs::rename(&git_dir, &former).unwrap();
    std::fs::create_dir(&fresh).unwrap();
    for _ in 0..2 {
        remote.source(&git_dir, None).snapshot().await.unwrap();
        assert!(git_dir.join("mark").exists(), "the repository is lost");
        assert!(!former.exists() && !fresh.exists());
        std::fs::create_dir(&fresh).unwrap();
    }
}

#[tokio::test]
async fn empty_and_damaged_repositories_are_errors() {
    let remote = Remote::new();
    let error = remote.snapshot(None).await.unwrap_err();
    assert!(matches!(&error, MirrorError::NoReference { reference, .. } if reference == "HEAD"), "{error}");
    std::fs::remove_dir_all(remote.dir.path().join("objects")).unwrap();
    let error = remote.snapshot(None).await.unwrap_err();
    assert!(matches!(error, MirrorError::Git { .. }), "{error:?}");
}

#[tokio::test]
async fn trees_with_too_many_directories_are_refused() {
    let remote = Remote::new();
    // Ten directories on each of twenty levels: 10^20 directories made of twenty objects.
    let mut tree = remote.repo.treebuilder(None).unwrap().write().unwrap();
    for _ in 0..20 {
        let mut builder = remote.repo.treebuilder(None).unwrap();
        for name in "abcdefghij".split("").filter(|name| !name.is_empty()) {
            builder.insert(name, tree, 0o040000).unwrap();
        }
        tree = builder.write().unwrap();
    }
    let author = Signature::new("a", "a@example", &git2::Time::new(0, 0)).unwrap();
    let tree = remote.repo.find_tree(tree).unwrap();
    remote.repo.commit(Some("refs/heads/main"), &author, &author, "x", &tree, &[]).unwrap();
    let error = remote.snapshot(None).await.unwrap_err();
    assert!(error.to_string().contains("directories"), "{error}");
}
