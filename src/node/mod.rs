//! The running engine of one base directory, and what the commands ask of it.
//!
//! [`Node`] owns the session, the store and the scheduler, and holds `node.lock` while it lives, so that no two
//! processes ever write the same files. [`Library`] is the part that needs no engine: the registry and the store.
//! Other processes reach the node through its control socket ([`control`]).

mod cache;
mod check;
pub mod control;
pub mod get;
mod housekeeping;
pub mod import;
pub mod library;
pub mod lock;
pub mod maintenance;
mod metadata;
pub mod running;
mod seed;
pub mod share;
mod warm;

pub use library::Library;
pub use running::{Node, NodeOptions};

use std::path::PathBuf;

use crate::model::ModelRef;

/// Why the node could not do what was asked. `cli` turns it into a message, hints and an exit code.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Another process holds the base directory.
    #[error("another silmaril (process {pid}) is using {base}", base = base.display())]
    Busy {
        /// The base directory.
        base: PathBuf,
        /// Its process id; `?` where unknown.
        pid: String,
    },
    /// No manifest of that model is here.
    #[error("no such model here: {0}")]
    UnknownModel(ModelRef),
    /// The name belongs to another publisher here.
    #[error("{name} is known here from publisher {known}, but this manifest is signed by {given}")]
    OtherPublisher {
        /// The name.
        name: crate::model::ModelName,
        /// Fingerprint of the publisher known.
        known: String,
        /// Fingerprint of the one who signed the new manifest, or `nobody`.
        given: String,
    },
    /// The trust policy is `strict` and the publisher is not listed.
    #[error("{name} is signed by {given}, whom security.trust: strict does not accept")]
    Untrusted {
        /// The name.
        name: crate::model::ModelName,
        /// Fingerprint of the signer, or `nobody`.
        given: String,
    },
    /// A file or directory could not be used.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The base directory cannot be used.
    #[error(transparent)]
    Paths(#[from] crate::paths::PathsError),
    /// The publisher's key cannot be used.
    #[error(transparent)]
    Key(#[from] crate::keys::KeyError),
    /// The directory cannot be shared.
    #[error(transparent)]
    Describe(#[from] crate::model::describe::DescribeError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] crate::torrent::EngineError),
    /// A manifest, torrent or magnet was refused.
    #[error("{origin}: {reason}")]
    Refused {
        /// The file or link.
        origin: String,
        /// What was wrong with it.
        reason: String,
    },
    /// Fetching failed.
    #[error("{model}: {source}")]
    Fetch {
        /// Which model.
        model: ModelRef,
        /// Why.
        source: crate::fetch::ReadError,
    },
    /// Files do not match the manifest.
    #[error("{model} is damaged here: {}", files.join(", "))]
    Damaged {
        /// Which model.
        model: ModelRef,
        /// Their paths.
        files: Vec<String>,
    },
    /// The request itself makes no sense; the text says what and the remedy.
    #[error("{0}")]
    Request(String),
    /// The control socket answered badly or not at all.
    #[error("the running silmaril does not answer on {socket}: {reason}", socket = socket.display())]
    Control {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        reason: String,
    },
}
