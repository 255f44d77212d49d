//! Repositories that git can fetch, with their large files from Git LFS.
//!
//! `fetch` fetches the commit into a bare repository that the caller keeps for later runs, and `tree` lists its files.
//! Ordinary files are blobs of this repository. If a blob is an LFS pointer, [`super::lfs`] fetches the file, or it is
//! copied from the directory of a local remote. libgit2 works on threads for blocking work, and uses the HTTP client of
//! this program (`http`). Dropping a future stops it within a fraction of a second.

mod credentials;
mod fetch;
mod http;
mod tree;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::error::{FileProblem, GitFault};
use super::lfs::LfsClient;
use super::progress::ProgressBoard;
use super::repo::{GitRepository, Reference, Remote};
use super::retry::Retries;
use super::source::{FileBody, OpenedFile, RemoteFile, RepositorySource, Snapshot};
use super::{GitOid, Identity, MirrorError, blocking};
use crate::fsutil;
use crate::http::{HttpClient, Token};
use crate::model::manifest::SourceEntry as ManifestSource;
pub(super) use credentials::Login;

/// Options of a fetch.
pub struct GitOptions {
    /// The branch, tag or commit; none is `HEAD` of the remote.
    pub reference: Option<Reference>,
    /// Number of commits of the history; 0 is all.
    pub depth: u32,
    /// The local bare repository. It is made if it does not exist.
    pub git_dir: PathBuf,
    /// The token for the hub, used only for a repository of the hub.
    pub token: Option<Token>,
    /// Bytes that stay free on the file system of `git_dir`.
    pub min_free: u64,
}

/// A repository that git fetches.
pub struct GitSource {
    client: HttpClient,
    board: Arc<ProgressBoard>,
    work: Arc<GitWork>,
    lfs: OnceLock<Option<LfsClient>>,
}

/// The data that threads of git share.
struct GitWork {
    client: HttpClient,
    repository: GitRepository,
    options: GitOptions,
}

/// The result of a fetch and of listing the commit.
struct Fetched {
    snapshot: Snapshot,
    /// `lfs.url` of `.lfsconfig`.
    lfs_url: Option<String>,
    /// The credential that the server accepted.
    login: Option<Login>,
}

impl GitSource {
    /// A repository to fetch.
    pub fn new(
        client: HttpClient,
        repository: GitRepository,
        options: GitOptions,
        board: Arc<ProgressBoard>,
    ) -> Self {
        let client = match &repository.remote {
            Remote::Http(url) => client.allowing_private(url),
            Remote::Directory(_) => client,
        };
        let work = Arc::new(GitWork { client: client.clone(), repository, options });
        Self { client, board, work, lfs: OnceLock::new() }
    }

    async fn fetch(&self) -> Result<Snapshot, MirrorError> {
        let mut retries = Retries::new(&self.board);
        let fetched = loop {
            let (work, board) = (self.work.clone(), self.board.clone());
            match blocking::run(move |cancel| work.fetch(&board, cancel)).await? {
                Ok(fetched) => break fetched,
                Err(error) => retries.wait(error).await?,
            }
        };
        let Fetched { snapshot, lfs_url, login } = fetched;
        let lfs = LfsClient::new(
            &self.client,
            &self.work.repository,
            lfs_url,
            login,
            &snapshot.files,
            self.board.clone(),
        )?;
        self.lfs.get_or_init(|| lfs);
        Ok(snapshot)
    }

    async fn blob(&self, file: &RemoteFile) -> Result<Vec<u8>, MirrorError> {
        let (work, oid, path) = (self.work.clone(), file.blob, file.path.clone());
        blocking::run(move |_| work.blob(oid).map_err(|e| work.failed(&e, &path))).await?
    }

    async fn send(
        &self,
        file: &RemoteFile,
        from: u64,
        etag: Option<&str>,
    ) -> Result<OpenedFile, MirrorError> {
        let sha256 = match file.identity {
            Identity::Git(_) => {
                let body = FileBody::Whole(Some(Bytes::from(self.blob(file).await?)));
                return Ok(OpenedFile { from: 0, etag: None, body });
            }
            Identity::Lfs(sha256) => sha256,
        };
        // The directories in which git-lfs keeps objects, in a repository with a work tree and in a bare one.
        let hex = sha256.to_string();
        let object = PathBuf::from("lfs/objects").join(&hex[..2]).join(&hex[2..4]).join(&hex);
        let why = match &self.work.repository.remote {
            Remote::Directory(dir) => {
                let paths = [dir.join(".git").join(&object), dir.join(&object)];
                if let Some(path) = paths.into_iter().find(|path| path.is_file()) {
                    let opened = File::open(&path).map_err(MirrorError::io(&path))?;
                    return Ok(OpenedFile { from, etag: None, body: FileBody::local(opened, path, from) });
                }
                format!("{} is not in {}", object.display(), dir.display())
            }
            Remote::Http(_) => "its server is not known".to_owned(),
        };
        match self.lfs.get().and_then(Option::as_ref) {
            Some(lfs) => lfs.open(file, sha256, from, etag).await,
            None => Err(MirrorError::file(&file.path, FileProblem::Gone(why))),
        }
    }
}

impl RepositorySource for GitSource {
    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, MirrorError>> {
        self.fetch().boxed()
    }

    fn open<'a>(
        &'a self,
        file: &'a RemoteFile,
        from: u64,
        etag: Option<&'a str>,
    ) -> BoxFuture<'a, Result<OpenedFile, MirrorError>> {
        self.send(file, from, etag).boxed()
    }

    fn pointer<'a>(&'a self, file: &'a RemoteFile) -> BoxFuture<'a, Result<Option<Vec<u8>>, MirrorError>> {
        async { self.blob(file).await.map(Some) }.boxed()
    }

    fn describe(&self, commit: GitOid) -> ManifestSource {
        let repository = &self.work.repository;
        if let Some(hub) = &repository.hub {
            return hub.source(commit);
        }
        // The path of a local directory is private.
        let url = match &repository.remote {
            Remote::Http(_) => Some(repository.remote.to_string()),
            Remote::Directory(_) => None,
        };
        let commit = Some(commit.to_string());
        ManifestSource { kind: "git".to_owned(), url, commit, other: Default::default() }
    }

    fn web_seed(&self, commit: GitOid) -> Option<String> {
        self.work.repository.hub.as_ref().map(|hub| hub.web_seed(&commit.to_string()).into())
    }
}

impl GitWork {
    /// Fetches and lists. If the local copy may be damaged, as after a power cut, fetches once more into a new repository,
    /// which replaces the damaged one if it has the commit.
    fn fetch(&self, board: &ProgressBoard, cancel: &Arc<AtomicBool>) -> Result<Fetched, MirrorError> {
        let dir = &self.options.git_dir;
        let [fresh, former] = replacements(dir);
        // If the process was killed, these directories may exist, and `dir` may be missing between the two renames.
        if !dir.exists() && former.exists() {
            std::fs::rename(&former, dir).map_err(MirrorError::io(dir))?;
        }
        remove_dir(&fresh)?;
        remove_dir(&former)?;
        let existed = dir.join("HEAD").exists();
        match self.fetch_into(dir, board, cancel) {
            Err(MirrorError::Git { reason, fault: GitFault::Copy, .. }) if existed => {
                tracing::debug!(%reason, "fetching again, into an empty repository");
                let fetched = self.fetch_into(&fresh, board, cancel);
                if fetched.is_err() {
                    remove_dir(&fresh)?;
                    return fetched;
                }
                std::fs::rename(dir, &former).map_err(MirrorError::io(dir))?;
                std::fs::rename(&fresh, dir).map_err(MirrorError::io(dir))?;
                remove_dir(&former)?;
                fetched
            }
            done => done,
        }
    }

    fn fetch_into(
        &self,
        git_dir: &Path,
        board: &ProgressBoard,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Fetched, MirrorError> {
        let (mut warnings, fetched) = fetch::fetch_commit(self, git_dir, board, cancel)?;
        let listed = tree::list(&fetched.repo, fetched.commit, &self.repository.remote.to_string())?;
        warnings.extend(listed.warnings);
        let snapshot = Snapshot {
            commit: GitOid::from(fetched.commit),
            files: listed.files,
            gated: false,
            // A repository that requires a login is not public.
            private: fetched.closed.then_some(true),
            license: None,
            warnings,
        };
        Ok(Fetched { snapshot, lfs_url: listed.lfs_url, login: fetched.login })
    }

    fn blob(&self, oid: GitOid) -> Result<Vec<u8>, git2::Error> {
        let repo = git2::Repository::open_bare(&self.options.git_dir)?;
        let odb = repo.odb()?;
        let object = odb.read(git2::Oid::from_bytes(&oid.0)?)?;
        Ok(object.data().to_vec())
    }

    /// The error for a failure of the local copy. `context` is the failed operation or the path of a file.
    fn failed(&self, error: &git2::Error, context: &str) -> MirrorError {
        let repository = self.repository.remote.to_string();
        fetch::too_large(error, &repository).unwrap_or_else(|| MirrorError::Git {
            repository,
            reason: format!("{context}: {}", fetch::error_text(error)),
            fault: GitFault::Copy,
        })
    }
}

/// The paths of a new repository and of the former one while the former is replaced.
pub fn replacements(git_dir: &Path) -> [PathBuf; 2] {
    ["new", "former"].map(|end| git_dir.with_extension(end))
}

fn remove_dir(dir: &Path) -> Result<(), MirrorError> {
    fsutil::remove_dir_if_there(dir).map_err(MirrorError::io(dir))
}

impl From<git2::Oid> for GitOid {
    fn from(oid: git2::Oid) -> Self {
        let mut bytes = [0; 20];
        bytes.copy_from_slice(&oid.as_bytes()[..20]);
        Self(bytes)
    }
}

#[cfg(test)]
mod tests;
