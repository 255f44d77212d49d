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

pub mod error;
pub mod identity;
pub mod repo;
pub mod source;
pub mod token;

pub use error::{MirrorError, MirrorErrorKind};
pub use identity::{GitOid, Identity};
pub use repo::{
    Credential, GitRepository, HubRepository, Named, Reference, Remote, Repository, RepositoryError,
};
pub use source::{Body, Opened, RemoteFile, Snapshot, Source};
mod stub;
pub use stub::*;
