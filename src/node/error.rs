//! Why a node could not do what was asked, and what stays the same of an error when it crosses the control socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::catalog::CatalogError;
use crate::catalog::TrustError;
use crate::catalog::query::QueryError;
use crate::fetch::ReadError;
use crate::mirror::MirrorErrorKind;
use crate::model::describe::DescribeError;
use crate::model::files::FilesError;
use crate::model::scan::ScanError;
use crate::model::{ManifestError, ModelRef};
use crate::store::StoreError;
use crate::torrent::EngineError;

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
    /// The process that holds the base directory serves a mount, and cannot let go of it.
    #[error("{base} is already mounted at {at} by process {pid}", base = base.display(), at = at.display())]
    Mounted {
        /// The base directory.
        base: PathBuf,
        /// Where it is mounted.
        at: PathBuf,
        /// By which process.
        pid: u32,
    },
    /// The model is in the models directory, and the user put it there.
    #[error("{model} is not shared; its files in {dir} are yours", dir = dir.display())]
    Unshared {
        /// Which model.
        model: ModelRef,
        /// Its directory.
        dir: PathBuf,
    },
    /// No manifest of that model is here.
    #[error("no such model here: {0}")]
    UnknownModel(ModelRef),
    /// The publisher is not accepted, or `trust.yaml` cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The publisher's key cannot be replaced.
    #[error(transparent)]
    Rotation(#[from] crate::catalog::rotation::RotationError),
    /// The network does not know the name, or the catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// What to search for makes no sense.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The machine has no network, which this needs.
    #[error("cannot {doing}: no network: no interface of this machine is up but loopback")]
    NoNetwork {
        /// What cannot be done, such as `get org/name`.
        doing: String,
    },
    /// The catalog could not be opened; the log says why.
    #[error("this node runs without a catalog, which could not be opened")]
    NoCatalog,
    /// A state is older than the one known of the same publisher.
    #[error("{model}: {}", older(*given, *known))]
    Older {
        /// Which model.
        model: ModelRef,
        /// When the refused state was signed, in seconds since 1970; none where that is not known.
        given: Option<i64>,
        /// When the known state was signed, in seconds since 1970.
        known: Option<i64>,
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
    /// A file system has too little space.
    #[error("{}: too little space: {} needed, {} available{}", path.display(), text(*need), text(*free), limit)]
    Space {
        /// A directory of it.
        path: PathBuf,
        /// Bytes that are needed.
        need: u64,
        /// Bytes that can be used.
        free: u64,
        /// What else limits them, to be appended; empty where the disk alone does.
        limit: String,
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
    /// Something of this model is needed, and nothing is here.
    #[error("nothing of {0} is here")]
    NothingHere(ModelRef),
    /// The model is here and not to be shared.
    #[error("{model} is not shared: {}", why.reason())]
    Withheld {
        /// Which model.
        model: ModelRef,
        /// Why.
        why: super::sharing::Withheld,
    },
    /// Another job has the model.
    #[error("{0} is being fetched or verified by another command; wait until that has ended, or end it")]
    InUse(ModelRef),
    /// The socket belongs to somebody else.
    #[error("the silmaril on {socket} is that of another user (uid {uid})", socket = socket.display())]
    OtherUser {
        /// The socket.
        socket: PathBuf,
        /// Who owns it.
        uid: u32,
    },
    /// The running node is of a version that speaks differently.
    #[error("the running silmaril (process {pid}) is version {theirs}, this is {ours}", ours = env!("CARGO_PKG_VERSION"))]
    OtherVersion {
        /// Its process id.
        pid: u32,
        /// Its version.
        theirs: String,
    },
    /// The node that did the work went away before it was done.
    #[error("the running silmaril has ended")]
    HostLost,
    /// What another node's error was, from its socket.
    #[error("{message}")]
    Remote {
        /// What sort of error.
        kind: ErrorKind,
        /// The error with its causes.
        message: String,
    },
}

/// What decides the exit code and the help for an error; the same on both sides of the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Another process holds the base directory.
    Busy,
    /// The base directory is mounted elsewhere.
    Mounted,
    /// No such model.
    UnknownModel,
    /// The name is another publisher's.
    OtherPublisher,
    /// The publisher is not trusted.
    Untrusted,
    /// The state is older than the known one of its publisher.
    Older,
    /// Several publishers sign different models under the name.
    Ambiguous,
    /// What was typed stands for no publisher, or for several.
    UnknownPublisher,
    /// The network does not know the name.
    NotFound,
    /// The machine has no network.
    NoNetwork,
    /// What to search for makes no sense.
    Query,
    /// The catalog could not be opened.
    NoCatalog,
    /// The port is taken.
    Listen,
    /// The configuration is wrong.
    Setting,
    /// Files do not match their manifest.
    Damaged,
    /// Nothing came in time.
    TimedOut,
    /// Nothing of the model is here.
    NothingHere,
    /// The model is here and not to be shared.
    Withheld,
    /// A link leads out of a directory that is to be shared.
    OutsideLink,
    /// The model is the user's own directory, which no command deletes.
    Unshared,
    /// A directory that is to be shared has unfinished downloads.
    Unfinished,
    /// The licence of a model that is to be shared is not known.
    NoLicence,
    /// Files of a model that is to be shared are cut or missing.
    Incomplete,
    /// A file system has too little space.
    Space,
    /// A hybrid torrent cannot hold a file of this name.
    Padding,
    /// Another user can write where files would be collected.
    Staging,
    /// What was typed names no repository.
    Repository,
    /// A repository wants its conditions accepted first.
    Gated,
    /// A repository wants a credential, or another one.
    Unauthorised,
    /// A repository's server fails, or wants no more requests now.
    Interrupted,
    /// A link leads to a host with a private address that is not configured.
    PrivateHost,
    /// The control socket fails.
    Control,
    /// The socket is another user's.
    OtherUser,
    /// The node is of another version.
    OtherVersion,
    /// The node is stopping, or gone.
    HostLost,
    /// A fault of silmaril.
    Internal,
    /// Anything else: not found, refused, or the network failed.
    #[serde(other)]
    Failed,
}

impl NodeError {
    /// Whether the model that was waited for is another one here now, or is held in another way, or not at all.
    pub(super) fn is_left(&self) -> bool {
        matches!(self, Self::Fetch { source: ReadError::Left, .. })
    }

    /// Whether a file that was complete is not any more: the only copy of its bytes was replaced, or turned out damaged.
    pub(super) fn is_incomplete(&self) -> bool {
        matches!(self, Self::Store(StoreError::Incomplete { .. }))
    }

    /// What sort of error it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Busy { .. } => ErrorKind::Busy,
            Self::Mounted { .. } => ErrorKind::Mounted,
            Self::UnknownModel(_) => ErrorKind::UnknownModel,
            Self::Unshared { .. } => ErrorKind::Unshared,
            Self::Trust(TrustError::OtherPublisher { .. } | TrustError::Pinned { .. }) => {
                ErrorKind::OtherPublisher
            }
            Self::Trust(TrustError::Untrusted { .. }) => ErrorKind::Untrusted,
            Self::Older { .. } => ErrorKind::Older,
            Self::Trust(TrustError::Ambiguous { .. }) => ErrorKind::Ambiguous,
            Self::Trust(
                TrustError::UnknownPublisher(_)
                | TrustError::AmbiguousPublisher { .. }
                | TrustError::TooShort { .. },
            ) => ErrorKind::UnknownPublisher,
            Self::Trust(
                TrustError::Replaced { .. }
                | TrustError::NotOffered { .. }
                | TrustError::Unpublished(_)
                | TrustError::NotListed(_)
                | TrustError::NotPinned(_)
                | TrustError::AliasTaken { .. }
                | TrustError::FormerKey { .. }
                | TrustError::Full
                | TrustError::File { .. },
            ) => ErrorKind::Failed,
            Self::Catalog(CatalogError::NotFound(_)) => ErrorKind::NotFound,
            Self::Catalog(CatalogError::NoManifest { .. }) => ErrorKind::TimedOut,
            Self::Catalog(CatalogError::Stopped) => ErrorKind::HostLost,
            Self::Catalog(CatalogError::Store(_)) => ErrorKind::Failed,
            Self::Query(_) => ErrorKind::Query,
            Self::NoNetwork { .. } => ErrorKind::NoNetwork,
            Self::NoCatalog => ErrorKind::NoCatalog,
            Self::Engine(EngineError::Listen { .. }) => ErrorKind::Listen,
            Self::Engine(EngineError::Setting(_)) => ErrorKind::Setting,
            Self::Engine(EngineError::BadTorrent(_) | EngineError::BadItem(_)) => ErrorKind::Failed,
            Self::Engine(
                EngineError::UnknownTorrent
                | EngineError::MessageTooLong(_)
                | EngineError::Busy
                | EngineError::Internal(_),
            ) => ErrorKind::Internal,
            Self::Fetch { source: ReadError::TimedOut(_), .. } => ErrorKind::TimedOut,
            Self::Fetch { source: ReadError::Stopped, .. } => ErrorKind::HostLost,
            Self::Fetch { source: ReadError::NoSpace, .. } => ErrorKind::Space,
            Self::Fetch { source: ReadError::Left | ReadError::Disk(_) | ReadError::Broken(_), .. } => {
                ErrorKind::Failed
            }
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::NothingHere(_) => ErrorKind::NothingHere,
            Self::Withheld { .. } => ErrorKind::Withheld,
            Self::Mirror(error) => match error.kind() {
                MirrorErrorKind::Usage => ErrorKind::Repository,
                MirrorErrorKind::Gated => ErrorKind::Gated,
                MirrorErrorKind::Unauthorised => ErrorKind::Unauthorised,
                MirrorErrorKind::RateLimited | MirrorErrorKind::Network => ErrorKind::Interrupted,
                MirrorErrorKind::PrivateHost => ErrorKind::PrivateHost,
                MirrorErrorKind::NotFound
                | MirrorErrorKind::Damaged
                | MirrorErrorKind::Refused
                | MirrorErrorKind::Disk
                | MirrorErrorKind::Cancelled => ErrorKind::Failed,
            },
            Self::Describe(DescribeError::Scan(ScanError::Outside { .. })) => ErrorKind::OutsideLink,
            Self::Describe(DescribeError::Scan(ScanError::Unfinished { .. })) => ErrorKind::Unfinished,
            Self::Describe(DescribeError::NoLicense(_)) => ErrorKind::NoLicence,
            Self::Describe(DescribeError::Incomplete(_)) => ErrorKind::Incomplete,
            Self::Describe(DescribeError::Manifest(ManifestError::Files(FilesError::Padding(_)))) => {
                ErrorKind::Padding
            }
            Self::Store(StoreError::Staging { .. }) => ErrorKind::Staging,
            Self::Http(error) if error.is_private_host() => ErrorKind::PrivateHost,
            Self::Control { .. } => ErrorKind::Control,
            Self::OtherUser { .. } => ErrorKind::OtherUser,
            Self::OtherVersion { .. } => ErrorKind::OtherVersion,
            Self::HostLost => ErrorKind::HostLost,
            Self::Remote { kind, .. } => *kind,
            Self::Io { .. }
            | Self::Paths(_)
            | Self::Key(_)
            | Self::Rotation(_)
            | Self::Describe(_)
            | Self::Store(_)
            | Self::Http(_)
            | Self::Refused { .. }
            | Self::InUse(_)
            | Self::Request(_) => ErrorKind::Failed,
            Self::Space { .. } => ErrorKind::Space,
        }
    }
}

/// Bytes for people.
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

/// An error and its causes as one line; what an error says already is not said twice.
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
