//! Repositories as a hub keeps them: bare, made by the real `git` with `git-lfs`, and the entries of their commits.
//!
//! The test hub and the git server serve the same repositories, so object ids are real, and a branch moves for both.
//! Author, dates and messages are fixed: the same files give the same commit id on every machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use git2::{ObjectType, TreeWalkMode, TreeWalkResult};

use super::net::temp_dir;
use super::process::{Finished, PATIENCE};

/// The time of the first commit of each repository, in seconds since 1970. Each other commit is a day after its
/// parent.
const FIRST_COMMIT: i64 = 1_700_000_000;

/// A directory of bare repositories, `org/name.git` and `datasets/org/name.git`. Deleted with its last owner.
#[derive(Clone)]
pub struct Repos(Arc<tempfile::TempDir>);

/// One repository.
#[derive(Clone)]
pub struct Repo {
    id: String,
    git_dir: PathBuf,
    _owner: Repos,
}

/// A path of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path, with slashes.
    pub path: String,
    /// The git object id: of a tree, of a blob, or of the pointer's blob for a file in LFS.
    pub oid: String,
    /// File or directory.
    pub what: What,
}

/// The kind of an [`Entry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A directory.
    Directory,
    /// A file that git itself holds, of this many bytes.
    Blob(u64),
    /// A file in LFS.
    Lfs(Pointer),
}

/// An LFS pointer, which git holds in place of a large file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of the pointer itself.
    pub pointer_size: u64,
}

impl Repos {
    /// Starts without repositories.
    pub fn new() -> Self {
        Self(Arc::new(temp_dir("repos")))
    }

    /// The directory that contains them.
    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    /// Makes an empty repository. Its id is `org/name`, or `datasets/org/name`.
    pub fn create(&self, id: &str) -> Repo {
        let git_dir = self.0.path().join(format!("{id}.git"));
        std::fs::create_dir_all(&git_dir).unwrap();
        let repo = Repo { id: id.to_owned(), git_dir, _owner: self.clone() };
        repo.git(&["init", "-q", "--bare", "-b", "main"], None);
        // Large git hosts allow a commit to be fetched by its id.
        repo.git(&["config", "uploadpack.allowAnySHA1InWant", "true"], None);
        repo
    }

    /// The repository with this id, if there is one.
    pub fn find(&self, id: &str) -> Option<Repo> {
        let git_dir = self.0.path().join(format!("{id}.git"));
        git_dir.is_dir().then(|| Repo { id: id.to_owned(), git_dir, _owner: self.clone() })
    }
}

impl Repo {
    /// `org/name`, or `datasets/org/name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Commits all files of a directory to `main`, and nothing else. Returns the commit id. The files that
    /// `.gitattributes` selects are stored in LFS.
    pub fn commit(&self, files: &Path) -> String {
        self.commit_on("main", files)
    }

    /// [`Self::commit`] on another branch. A new branch starts at `main`.
    pub fn commit_on(&self, branch: &str, files: &Path) -> String {
        let parent = self.resolve(branch).or_else(|| self.resolve("main"));
        self.git(&["read-tree", "--empty"], None);
        self.git(&["add", "--all", "--force", "."], Some(files));
        let tree = self.git(&["write-tree"], None);
        let mut commit = vec!["commit-tree", &tree, "-m", "Upload files"];
        if let Some(parent) = &parent {
            commit.extend(["-p", parent]);
        }
        let date = parent.as_deref().map_or(FIRST_COMMIT, |parent| self.time(parent) + 86_400);
        let commit = self.git_at(date, &commit, None);
        self.branch(branch, &commit);
        commit
    }

    /// Commits the files of `main` again. The message is read from a file.
    pub fn commit_again(&self, message: &Path) {
        let message = message.to_str().unwrap();
        let commit = self.git(&["commit-tree", "main^{tree}", "-p", "main", "-F", message], None);
        self.branch("main", &commit);
    }

    /// Makes a branch or moves it to a commit.
    pub fn branch(&self, name: &str, commit: &str) {
        self.git(&["update-ref", &format!("refs/heads/{name}"), commit], None);
    }

    /// Makes an annotated tag.
    pub fn tag(&self, name: &str, commit: &str) {
        self.git(&["tag", "-a", "-m", name, name, commit], None);
    }

    /// The commit of a branch, a tag, a full ref or a full commit id.
    pub fn resolve(&self, revision: &str) -> Option<String> {
        let repo = self.open();
        if let Ok(id) = git2::Oid::from_str(revision)
            && revision.len() == 40
        {
            return repo.find_commit(id).ok().map(|commit| commit.id().to_string());
        }
        [format!("refs/heads/{revision}"), format!("refs/tags/{revision}"), revision.to_owned()]
            .iter()
            .filter(|name| name.starts_with("refs/"))
            .find_map(|name| repo.find_reference(name).ok()?.peel_to_commit().ok())
            .map(|commit| commit.id().to_string())
    }

    /// The time of a commit, in seconds since 1970.
    pub fn time(&self, commit: &str) -> i64 {
        let repo = self.open();
        repo.find_commit(git2::Oid::from_str(commit).unwrap()).unwrap().time().seconds()
    }

    /// A commit and the ones before it, the newest first.
    pub fn history(&self, commit: &str) -> Vec<String> {
        let repo = self.open();
        let mut walk = repo.revwalk().unwrap();
        walk.push(git2::Oid::from_str(commit).unwrap()).unwrap();
        walk.map(|found| found.unwrap().to_string()).collect()
    }

    /// All directories and files of a commit, each directory before its entries.
    pub fn entries(&self, commit: &str) -> Vec<Entry> {
        let repo = self.open();
        let tree = repo.find_commit(git2::Oid::from_str(commit).unwrap()).unwrap().tree().unwrap();
        let mut entries = Vec::new();
        tree.walk(TreeWalkMode::PreOrder, |parent, entry| {
            let what = match entry.kind() {
                Some(ObjectType::Tree) => What::Directory,
                _ => {
                    let blob = repo.find_blob(entry.id()).unwrap();
                    Pointer::parse(blob.content()).map_or(What::Blob(blob.size() as u64), What::Lfs)
                }
            };
            let path = format!("{parent}{}", entry.name().unwrap());
            entries.push(Entry { path, oid: entry.id().to_string(), what });
            TreeWalkResult::Ok
        })
        .unwrap();
        entries
    }

    /// The entry at a path of a commit.
    pub fn entry(&self, commit: &str, path: &str) -> Option<Entry> {
        self.entries(commit).into_iter().find(|entry| entry.path == path)
    }

    /// The content of a blob.
    pub fn blob(&self, oid: &str) -> Vec<u8> {
        self.open().find_blob(git2::Oid::from_str(oid).unwrap()).unwrap().content().to_owned()
    }

    /// The file of an LFS object, if the repository has the object. After this file is deleted, no server has the
    /// object.
    pub fn lfs_object(&self, sha256: &str) -> Option<PathBuf> {
        let path = self.git_dir.join("lfs/objects").join(lfs_path(sha256)?);
        path.is_file().then_some(path)
    }

    fn open(&self) -> git2::Repository {
        git2::Repository::open_bare(&self.git_dir).unwrap()
    }

    fn git(&self, args: &[&str], work_tree: Option<&Path>) -> String {
        self.git_at(FIRST_COMMIT, args, work_tree)
    }

    /// Runs git on the repository without any configuration of this machine. Returns the first line of its output.
    fn git_at(&self, date: i64, args: &[&str], work_tree: Option<&Path>) -> String {
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(&self.git_dir);
        if let Some(dir) = work_tree {
            git.arg("--work-tree").arg(dir).current_dir(dir);
        }
        for setting in [
            "filter.lfs.clean=git-lfs clean -- %f",
            "filter.lfs.process=git-lfs filter-process",
            "filter.lfs.required=true",
            "core.autocrlf=false",
            "core.fileMode=false",
            "gc.auto=0",
        ] {
            git.args(["-c", setting]);
        }
        git.args(args).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "Test").env(format!("GIT_{who}_EMAIL"), "test@example.org");
            git.env(format!("GIT_{who}_DATE"), format!("{date} +0000"));
        }
        Finished::of(&mut git, PATIENCE).ok().lines().next().unwrap_or_default().to_owned()
    }
}

impl Pointer {
    /// Parses a pointer (the LFS specification, version 1). `None` for any other blob.
    pub fn parse(blob: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(blob).ok().filter(|text| text.len() < 1024)?;
        let rest = text.strip_prefix("version https://git-lfs.github.com/spec/v1\noid sha256:")?;
        let (sha256, rest) = rest.split_once("\nsize ")?;
        let size = rest.strip_suffix('\n')?.parse().ok()?;
        lfs_path(sha256)?;
        Some(Self { sha256: sha256.to_owned(), size, pointer_size: blob.len() as u64 })
    }
}

/// The path of an object below `lfs/objects`. `None` if the text is no SHA-256 in hexadecimal digits.
pub fn lfs_path(sha256: &str) -> Option<String> {
    let is_hex = sha256.len() == 64 && sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| format!("{}/{}/{sha256}", &sha256[..2], &sha256[2..4]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::fixtures::model_dir;

    #[test]
    fn equal_files_give_equal_commits_and_large_files_are_in_lfs() {
        let dir = tempfile::tempdir().unwrap();
        let attributes: &[u8] = b"*.bin filter=lfs diff=lfs merge=lfs -text\n";
        let files = model_dir(
            &dir.path().join("a"),
            &[(".gitattributes", attributes), ("sub/w.bin", b"weights\r\n"), ("README.md", b"hello\n")],
        );
        let make = || {
            let repo = Repos::new().create("org/name");
            let first = repo.commit(&files);
            repo.tag("v1", &first);
            std::fs::write(files.join("README.md"), "changed\n").unwrap();
            let second = repo.commit(&files);
            std::fs::write(files.join("README.md"), "hello\n").unwrap();
            (repo, first, second)
        };
        let (repo, first, second) = make();
        let (_other, again, _) = make();
        assert_eq!(first, again);
        assert_ne!(first, second);
        assert_eq!(repo.resolve("v1").as_ref(), Some(&first));
        assert_eq!(repo.resolve("main").as_ref(), Some(&second));
        assert_eq!(repo.resolve(&first[..8]), None);
        assert_eq!(repo.time(&second) - repo.time(&first), 86_400);

        let paths: Vec<String> = repo.entries(&first).into_iter().map(|entry| entry.path).collect();
        assert_eq!(paths, [".gitattributes", "README.md", "sub", "sub/w.bin"]);
        // `printf 'hello\n' | git hash-object --stdin`
        assert_eq!(repo.entry(&first, "README.md").unwrap().oid, "ce013625030ba8dba906f756967f9e9ca394464a");
        let What::Lfs(pointer) = repo.entry(&first, "sub/w.bin").unwrap().what else {
            panic!("not in LFS");
        };
        assert_eq!(std::fs::read(repo.lfs_object(&pointer.sha256).unwrap()).unwrap(), b"weights\r\n");
    }
}
