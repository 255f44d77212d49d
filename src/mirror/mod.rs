//! Downloads all files of one commit of a repository on a hub or a git server. Files are verified and hashed while they
//! are received.
//!
//! There are two sources behind one trait: the hub's API, and git with Git LFS. These rules always hold:
//! - The commit is fixed before files are listed or fetched, so that a branch may move meanwhile.
//! - A file is in the tree only if it is on the disk and its length and its SHA-256 (LFS) or git object id are those of the
//!   list. Received parts of incomplete files are kept for the next run.
//! - Names, sizes and counts from a server are checked before they are used.
//! - A credential is sent only to its origin, and is never in an error, a log or a manifest.
//!
//! This module prints nothing and does not use the engine.

mod blocking;
pub mod download;
pub mod error;
pub mod git;
pub mod hub;
mod journal;
pub mod lfs;
mod limits;
mod part;
pub mod progress;
pub mod repo;
mod retry;
pub mod source;
pub mod token;

pub use crate::model::{GitOid, Identity};
pub use download::{DownloadJob, Downloaded, LocalCopy, download};
pub use error::{MirrorError, MirrorErrorKind};
pub use git::{GitOptions, GitSource};
pub use hub::{AccessTerms, HubSource};
pub use limits::HubLimits;
pub use progress::{DownloadProgress, FileProgress, ProgressBoard};
pub use repo::{GitRepository, HubRepository, Reference, Remote, Repository};
pub use source::{RemoteFile, RepositorySource, Snapshot};

/// A client with the default configuration.
#[cfg(test)]
fn test_client() -> crate::http::HttpClient {
    let home = tempfile::tempdir().unwrap();
    let options = crate::config::LoadOptions {
        home: Some(home.path().to_owned()),
        ..crate::config::LoadOptions::default()
    };
    crate::http::HttpClient::new(&crate::config::Config::load(&options).unwrap().network).unwrap()
}
