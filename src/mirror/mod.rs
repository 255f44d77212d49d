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
pub(crate) mod git;
pub mod hub;
mod journal;
pub mod lfs;
mod limits;
mod part;
pub(crate) mod progress;
pub(crate) mod repo;
mod retry;
pub(crate) mod source;
pub(crate) mod token;

pub use crate::model::GitOid;
pub(crate) use crate::model::Identity;
pub(crate) use download::LocalCopy;
pub use download::{DownloadJob, Downloaded, download};
pub use error::{MirrorError, MirrorErrorKind};
pub use git::{GitOptions, GitSource};
pub(crate) use hub::AccessTerms;
pub use hub::HubSource;
pub(crate) use limits::HubLimits;
pub use progress::ProgressBoard;
pub(crate) use progress::{DownloadProgress, FileProgress};
pub use repo::Repository;
pub(crate) use repo::{GitRepository, HubRepository, Reference, Remote};
pub(crate) use source::RemoteFile;
pub use source::{RepositorySource, Snapshot};

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
