//! Any repository that git can fetch, with its large files from Git LFS.
//!
//! `fetch` brings the commit into a bare repository that the caller keeps for later runs, `tree` lists it. Blobs are read
//! from there; those that are LFS pointers stand for files that [`super::lfs`] brings, or the remote's own directory.
//! libgit2 works in threads that may block, and speaks HTTP through our client (`http`); dropping a future here stops it
//! within a fraction of a second.

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
use super::progress::Board;
use super::repo::{GitRepository, Reference, Remote};
use super::retry::Retries;
use super::source::{Body, Opened, RemoteFile, Snapshot, Source};
use super::{GitOid, Identity, MirrorError, blocking};
use crate::fsutil;
use crate::http::{Client, Token};
use crate::model::manifest::SourceEntry as ManifestSource;
pub(super) use credentials::Login;

/// How a repository is fetched.
pub struct GitOptions {
    /// The branch, tag or commit; none is what the remote's `HEAD` is.
    pub reference: Option<Reference>,
    /// How many commits deep; 0 is all.
    pub depth: u32,
    /// The bare repository to fetch into. Made if it is not there.
    pub git_dir: PathBuf,
    /// The hub's token, used where the repository is one of the hub.
    pub token: Option<Token>,
}

/// A repository that git fetches.
pub struct GitSource {
    client: Client,
    board: Arc<Board>,
    work: Arc<Work>,
    lfs: OnceLock<Option<LfsClient>>,
}

/// What threads of git share.
struct Work {
    client: Client,
    repository: GitRepository,
    options: GitOptions,
}

/// What a fetch and a look at the commit gave.
struct Fetched {
    snapshot: Snapshot,
    /// `lfs.url` of `.lfsconfig`.
    lfs_url: Option<String>,
    /// What the server accepted.
    login: Option<Login>,
}

impl GitSource {
    /// A repository to fetch.
    pub fn new(client: Client, repository: GitRepository, options: GitOptions, board: Arc<Board>) -> Self {
        let client = match &repository.remote {
            Remote::Http(url) => client.knowing(url),
            Remote::Directory(_) => client,
        };
        let work = Arc::new(Work { client: client.clone(), repository, options });
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

    async fn send(&self, file: &RemoteFile, from: u64, etag: Option<&str>) -> Result<Opened, MirrorError> {
        let sha256 = match file.identity {
            Identity::Git(_) => {
                let body = Body::Whole(Some(Bytes::from(self.blob(file).await?)));
                return Ok(Opened { from: 0, etag: None, body });
            }
            Identity::Lfs(sha256) => sha256,
        };
        // Where git-lfs keeps the objects of a repository, with a work tree or without.
        let hex = sha256.to_string();
        let object = PathBuf::from("lfs/objects").join(&hex[..2]).join(&hex[2..4]).join(&hex);
        let why = match &self.work.repository.remote {
            Remote::Directory(dir) => {
                let places = [dir.join(".git").join(&object), dir.join(&object)];
                if let Some(path) = places.into_iter().find(|path| path.is_file()) {
                    let opened = File::open(&path).map_err(MirrorError::io(&path))?;
                    return Ok(Opened { from, etag: None, body: Body::local(opened, path, from) });
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

impl Source for GitSource {
    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, MirrorError>> {
        self.fetch().boxed()
    }

    fn open<'a>(
        &'a self,
        file: &'a RemoteFile,
        from: u64,
        etag: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Opened, MirrorError>> {
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
        // Where a directory lies is nobody else's business.
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

impl Work {
    /// Fetches and lists. Where our own repository may be what is broken, as after a power cut, once more into a new one,
    /// which takes its place when it has what is wanted.
    fn fetch(&self, board: &Board, cancel: &Arc<AtomicBool>) -> Result<Fetched, MirrorError> {
        let dir = &self.options.git_dir;
        let [anew, former] = replacements(dir);
        // A kill may have left the one or the other, or stopped the change of places in the middle.
        if !dir.exists() && former.exists() {
            std::fs::rename(&former, dir).map_err(MirrorError::io(dir))?;
        }
        remove_dir(&anew)?;
        remove_dir(&former)?;
        let existed = dir.join("HEAD").exists();
        match self.fetch_into(dir, board, cancel) {
            Err(MirrorError::Git { reason, fault: GitFault::Copy, .. }) if existed => {
                tracing::debug!("{reason}; fetching again, into an empty repository.");
                let fetched = self.fetch_into(&anew, board, cancel);
                if fetched.is_err() {
                    remove_dir(&anew)?;
                    return fetched;
                }
                std::fs::rename(dir, &former).map_err(MirrorError::io(dir))?;
                std::fs::rename(&anew, dir).map_err(MirrorError::io(dir))?;
                remove_dir(&former)?;
                fetched
            }
            done => done,
        }
    }

    fn fetch_into(
        &self,
        git_dir: &Path,
        board: &Board,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Fetched, MirrorError> {
        let (mut warnings, brought) = self.bring(git_dir, board, cancel)?;
        let listed = tree::list(&brought.repo, brought.commit, &self.repository.remote.to_string())?;
        warnings.extend(listed.warnings);
        let snapshot = Snapshot {
            commit: GitOid::from(brought.commit),
            files: listed.files,
            gated: false,
            // What is shown to those alone who log in is not for everybody.
            private: brought.closed.then_some(true),
            license: None,
            warnings,
        };
        Ok(Fetched { snapshot, lfs_url: listed.lfs_url, login: brought.login })
    }

    fn blob(&self, oid: GitOid) -> Result<Vec<u8>, git2::Error> {
        let repo = git2::Repository::open_bare(&self.options.git_dir)?;
        let odb = repo.odb()?;
        let object = odb.read(git2::Oid::from_bytes(&oid.0)?)?;
        Ok(object.data().to_vec())
    }

    fn failed(&self, error: &git2::Error, what: &str) -> MirrorError {
        MirrorError::Git {
            repository: self.repository.remote.to_string(),
            reason: format!("{what}: {}", fetch::said(error)),
            fault: GitFault::Copy,
        }
    }
}

/// What may stand beside our repository for a while: a new one, and the one whose place it took.
pub fn replacements(git_dir: &Path) -> [PathBuf; 2] {
    ["anew", "former"].map(|end| git_dir.with_extension(end))
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
