//! The errors of the node. `error_kinds` has the kind of each, which crosses the control socket.

use std::path::PathBuf;

use super::ErrorKind;
use super::request_errors::{EndpointError, GetError, ShareError, WarmError};
use crate::catalog::CatalogError;
use crate::catalog::query::QueryError;
use crate::fetch::{NotReleased, ReadError};
use crate::model::ModelRef;
use crate::store::StoreError;
use crate::trust::TrustError;

/// The reason why a job or a request failed. `cli` turns it into a message, hints and an exit code.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Another process holds the base directory.
    #[error("another silmaril (process {pid}) is using {base}", base = base.display())]
    Busy {
        /// The base directory.
        base: PathBuf,
        /// Its process id; `?` if unknown.
        pid: String,
    },
    /// The model is in the models directory, and the user put it there.
    #[error("{model} is not shared; its files in {dir} are yours", dir = dir.display())]
    Unshared {
        /// The model.
        model: ModelRef,
        /// Its directory.
        dir: PathBuf,
    },
    /// No manifest of that model is known.
    #[error("no such model is known: {0}")]
    UnknownModel(ModelRef),
    /// The hub shows the model only to certain users, and other users may read this mount.
    #[error("{0} is gated or private: a mount with --allow-other does not show it")]
    Restricted(ModelRef),
    /// The publisher is not accepted, or `trust.yaml` cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The publisher's key cannot be replaced.
    #[error(transparent)]
    Rotation(#[from] crate::trust::rotation::RotationError),
    /// No peer knows the name, or the catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The search pattern has a mistake.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The machine has no network, which this needs.
    #[error("cannot {doing}: no network: no interface of this machine is up but loopback")]
    NoNetwork {
        /// The action, such as `get org/name`.
        doing: String,
    },
    /// The catalog could not be opened; the log has the reason.
    #[error("this node runs without a catalog, which could not be opened")]
    NoCatalog,
    /// A state is older than the one known of the same publisher.
    #[error("{model}: {}", older(*given, *known))]
    Older {
        /// The model.
        model: ModelRef,
        /// When the refused state was signed, in seconds since 1970; none if unknown.
        given: Option<i64>,
        /// When the known state was signed, in seconds since 1970.
        known: Option<i64>,
    },
    /// A file or directory could not be used.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The base directory cannot be used.
    #[error(transparent)]
    Paths(#[from] crate::paths::PathsError),
    /// The publisher's key cannot be used.
    #[error(transparent)]
    Key(#[from] crate::model::keys::KeyError),
    /// The directory cannot be shared.
    #[error(transparent)]
    Describe(#[from] crate::model::describe::DescribeError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// HTTP cannot be used.
    #[error(transparent)]
    Http(#[from] crate::http::HttpError),
    /// The repository could not be mirrored.
    #[error(transparent)]
    Mirror(#[from] crate::mirror::MirrorError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] crate::torrent::EngineError),
    /// A manifest, torrent or magnet was refused.
    #[error("{origin}: {reason}")]
    Refused {
        /// The file or link.
        origin: String,
        /// The fault.
        reason: String,
    },
    /// A manifest contradicts the hub.
    #[error("{model}: the manifest of {difference}")]
    Refuted {
        /// The model.
        model: ModelRef,
        /// Who signed it, and what the manifest and the hub have different: [`NodeError::refuted`].
        difference: String,
    },
    /// Fetching failed.
    #[error("{model}: {source}")]
    Fetch {
        /// The model.
        model: ModelRef,
        /// The reason.
        source: crate::fetch::ReadError,
    },
    /// A file system has too little space.
    #[error("{}: too little space: {} needed, {} available{}", path.display(), text(*need), text(*free), limit)]
    Space {
        /// A directory on it.
        path: PathBuf,
        /// Bytes that are needed.
        need: u64,
        /// Bytes that can be used.
        free: u64,
        /// A further limit, appended to the message; empty if only the disk limits.
        limit: String,
    },
    /// Files do not match the manifest.
    #[error("the local files of {model} are damaged: {}", files.join(", "))]
    Damaged {
        /// The model.
        model: ModelRef,
        /// Their paths.
        files: Vec<String>,
    },
    /// A fault of silmaril, or of the system below it.
    #[error("{0}")]
    Internal(String),
    /// The command line has a mistake that only the node can find.
    #[error("{0}")]
    Usage(String),
    /// The files of a `get` cannot be chosen.
    #[error(transparent)]
    Get(#[from] GetError),
    /// The directory cannot be shared with these options.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The path cannot be fetched.
    #[error(transparent)]
    Warm(#[from] WarmError),
    /// The work was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The control socket sends no valid response.
    #[error("the running silmaril does not answer on {socket}: {reason}", socket = socket.display())]
    Control {
        /// The socket.
        socket: PathBuf,
        /// The reason.
        reason: String,
    },
    /// No bytes of the model are stored.
    #[error("no bytes of {0} are stored on this host")]
    NothingHere(ModelRef),
    /// The model is withheld.
    #[error("{model} is not shared: {}", why.reason())]
    Withheld {
        /// The model.
        model: ModelRef,
        /// The reason.
        why: super::withheld::WithheldReason,
    },
    /// Another job has the model.
    #[error(
        "{0} is being fetched or verified by another command; wait until that command has ended, or end it"
    )]
    InUse(ModelRef),
    /// The base directory belongs to another user.
    #[error("{base} belongs to another user (uid {uid})", base = base.display())]
    OtherUser {
        /// The base directory.
        base: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// The running node has another version of the protocol.
    #[error("the running silmaril (process {pid}) is version {theirs}, this is {ours}", ours = env!("CARGO_PKG_VERSION"))]
    OtherVersion {
        /// Its process id.
        pid: u32,
        /// Its version.
        theirs: String,
    },
    /// The node has ended before the work was complete.
    #[error("the silmaril daemon has ended")]
    HostLost,
    /// The user has stopped the node before the work was complete.
    #[error("the silmaril daemon was stopped before this was done")]
    Stopped,
    /// A directory cannot be mounted on, or unmounted.
    #[error(transparent)]
    Mount(#[from] crate::mount::MountError),
    /// The endpoint cannot be served.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The base directory is on a network file system.
    #[error("{base} is on a network file system ({kind}), where a base directory cannot be", base = base.display())]
    NetworkDisk {
        /// The base directory.
        base: PathBuf,
        /// The type of the file system.
        kind: String,
    },
    /// An error of another node, from its socket.
    #[error("{message}")]
    Remote {
        /// Its kind.
        kind: ErrorKind,
        /// The error with its causes.
        message: String,
    },
}

/// A thread panicked.
impl From<tokio::task::JoinError> for NodeError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Internal(format!("the work was interrupted: {error}"))
    }
}

impl From<NotReleased> for NodeError {
    fn from(error: NotReleased) -> Self {
        Self::Internal(error.to_string())
    }
}

impl NodeError {
    /// A fault of silmaril: an operation failed that must not fail.
    pub(super) fn internal(error: impl ToString) -> Self {
        Self::Internal(error.to_string())
    }

    /// A manifest of a publisher that contradicts the hub.
    pub(super) fn refuted(model: ModelRef, publisher: &str, difference: &str) -> Self {
        Self::Refuted { model, difference: format!("{publisher} contradicts the hub: {difference}") }
    }

    /// Whether the awaited model was replaced or removed, or its files have moved.
    pub(super) fn is_left(&self) -> bool {
        matches!(self, Self::Fetch { source: ReadError::Left, .. })
    }

    /// Whether a complete file is incomplete now: the only copy of its bytes was replaced or is damaged.
    pub(super) fn is_incomplete(&self) -> bool {
        matches!(self, Self::Store(StoreError::Incomplete { .. }))
    }
}

/// Bytes as text for messages.
pub(super) fn text(bytes: u64) -> String {
    crate::model::text::format_size(bytes)
}

fn older(given: Option<i64>, known: Option<i64>) -> String {
    let text = |seconds| match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.to_string(),
        Err(_) => format!("at second {seconds}"),
    };
    let known = known.map_or_else(String::new, |time| format!(" (signed {})", text(time)));
    match given.map(text) {
        Some(time) => {
            format!("the state signed {time} is older than the known state of the same publisher{known}")
        }
        None => format!(
            "the state has no signed time before now, and a state of the same publisher is known{known}"
        ),
    }
}

/// An error and its causes as one line. A cause whose text is contained already is left out.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
