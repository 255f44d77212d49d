//! Repositories of a hub or a git server, downloaded whole: every file of one commit, verified, and hashed as it comes.
//!
//! Two sources behind one trait: the hub's API, and git with Git LFS. What always holds:
//! - The 40-hex commit is fixed before anything is listed or fetched, so a branch that moves changes nothing.
//! - A file stands in the tree only when its length and its SHA-256 (LFS) or git object id are those that the source
//!   listed, and it is on the disk. What came of others is kept for the next run.
//! - Names, sizes and counts from a server are checked before anything is made of them.
//! - A credential goes to the origin it is for; none is in an error, a log or a manifest.
//!
//! Nothing here prints, or knows of the engine.

mod blocking;
pub mod download;
pub mod error;
pub mod git;
pub mod hub;
pub mod identity;
mod journal;
pub mod lfs;
mod part;
pub mod progress;
pub mod repo;
mod retry;
pub mod source;
pub mod token;

pub use download::{Downloaded, Job, Local, download};
pub use error::{MirrorError, MirrorErrorKind};
pub use git::{GitOptions, GitSource};
pub use hub::{HubSource, Terms};
pub use identity::{GitOid, Identity};
pub use progress::{Board, FileProgress, GitProgress, Progress, Waiting};
pub use repo::{
    Credential, GitRepository, HubRepository, Named, Reference, Remote, Repository, RepositoryError,
};
pub use source::{Body, Opened, RemoteFile, Snapshot, Source};

/// A client with the configuration that a new user has.
#[cfg(test)]
fn test_client() -> crate::http::Client {
    let home = tempfile::tempdir().unwrap();
    let options = crate::config::LoadOptions {
        home: Some(home.path().to_owned()),
        ..crate::config::LoadOptions::default()
    };
    crate::http::Client::new(&crate::config::Config::load(&options).unwrap().network).unwrap()
}
