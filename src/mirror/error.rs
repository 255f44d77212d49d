//! Errors of mirroring, with the details from which a command derives its hints.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::http::{HttpError, TokenError};
use crate::model::files::FilesError;
use crate::model::path::PathError;
use crate::model::text::format_size;

use super::repo::RepositoryError;

/// A repository could not be mirrored. Addresses have no user and no password.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The text of the user does not name a repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The repository does not exist, or it is visible only to users who may read it.
    #[error("{repository} was not found{}", if *.anonymous { ", or is private and needs a token" } else { ", or the token has no access to it" })]
    NotFound {
        /// The address of the repository.
        repository: String,
        /// Whether the request had no credential.
        anonymous: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repository} has no branch, tag or commit {reference}")]
    NoReference {
        /// The address of the repository.
        repository: String,
        /// The requested branch, tag or commit.
        reference: String,
    },
    /// The user must accept conditions first.
    #[error("{page} is gated: accept its conditions there, with the account of your token")]
    Gated {
        /// The page on which the conditions are accepted.
        page: String,
    },
    /// The server requires a credential, or refuses the given one.
    #[error("{repository} refused {}", if *.anonymous { "to answer without a credential" } else { "the credential" })]
    Unauthorised {
        /// The address of the repository.
        repository: String,
        /// Whether the request had no credential.
        anonymous: bool,
    },
    /// HTTP failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The link of a file, which a server has issued, is no longer accepted.
    #[error(transparent)]
    LinkExpired(Box<HttpError>),
    /// Git failed.
    #[error("{repository}: {reason}")]
    Git {
        /// The address of the repository.
        repository: String,
        /// The message of libgit2.
        reason: String,
        /// The side that has the fault.
        fault: GitFault,
    },
    /// One file could not be fetched.
    #[error("{path}: {reason}")]
    File {
        /// The path in the repository.
        path: String,
        /// The reason.
        reason: FileProblem,
    },
    /// The list of the server cannot be a model.
    #[error("{repository} cannot be mirrored: {reason}")]
    Refused {
        /// The address of the repository.
        repository: String,
        /// The reason.
        reason: String,
    },
    /// A path in the repository is not permitted.
    #[error("{repository} cannot be mirrored: {source}")]
    Path {
        /// The address of the repository.
        repository: String,
        /// The path and the reason.
        source: PathError,
    },
    /// The files of the repository exceed the limits of a torrent.
    #[error("{repository} cannot be mirrored: {source}")]
    Files {
        /// The address of the repository.
        repository: String,
        /// The exceeded limit.
        source: FilesError,
    },
    /// The disk has too little free space.
    #[error(
        "{} needs {} more, and has {} free",
        path.display(),
        format_size(*needed),
        format_size(*free)
    )]
    NoSpace {
        /// The directory of the download.
        path: PathBuf,
        /// Bytes that remain to be written.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// The failure of a write; none if the space was missing before the download began.
        source: Option<io::Error>,
    },
    /// A local file or directory could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The token of the user is invalid.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The caller has cancelled the operation.
    #[error("cancelled")]
    Cancelled,
}

/// The side that has the fault when git fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitFault {
    /// The network or the server, temporarily.
    Passing,
    /// The network or the server, permanently.
    Remote,
    /// Probably the local copy of the repository: a new one may work.
    Copy,
}

/// The reason why one file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// The bytes did not match the hash or size in the repository, twice.
    #[error("the data from the server does not match the repository ({0})")]
    Damaged(String),
    /// The LFS server does not have the file.
    #[error("the LFS server does not have it ({0})")]
    Gone(String),
    /// The LFS server refuses to send the file.
    #[error("the LFS server refuses it ({0})")]
    LfsRefused(String),
    /// All attempts failed.
    #[error(transparent)]
    Http(HttpError),
    /// The pointer is not in the form that git-lfs writes, so that only git has its text.
    #[error(
        "its LFS pointer is only in git; mirror it without --skip-lfs, or with --depth 0, which uses git"
    )]
    Pointer,
}

/// The kind of an error, which decides the exit code and the hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorErrorKind {
    /// Wrong usage.
    Usage,
    /// No such repository, reference or file, or no permission to see it.
    NotFound,
    /// The user must accept conditions.
    Gated,
    /// A credential is missing or wrong.
    Unauthorised,
    /// Too many requests.
    RateLimited,
    /// The network or the server failed.
    Network,
    /// A link leads to a host with a private address that is not configured.
    PrivateHost,
    /// The server sent an invalid response or damaged files.
    Damaged,
    /// Refused by a limit or rule of this program.
    Refused,
    /// The disk failed or is full.
    Disk,
    /// Cancelled by the caller.
    Cancelled,
}

impl MirrorError {
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(super) fn file(path: &str, reason: FileProblem) -> Self {
        Self::File { path: path.to_owned(), reason }
    }

    /// The kind of the error.
    pub fn kind(&self) -> MirrorErrorKind {
        use MirrorErrorKind as Kind;
        match self {
            Self::Repository(_) | Self::Token(_) => Kind::Usage,
            Self::NotFound { .. } | Self::NoReference { .. } => Kind::NotFound,
            Self::Gated { .. } => Kind::Gated,
            Self::Unauthorised { .. } => Kind::Unauthorised,
            Self::Http(error) => http_kind(error),
            Self::LinkExpired(error) => http_kind(error),
            Self::Git { .. } => Kind::Network,
            Self::File { reason, .. } => match reason {
                FileProblem::Damaged(_) => Kind::Damaged,
                FileProblem::Gone(_) => Kind::NotFound,
                FileProblem::LfsRefused(_) => Kind::Unauthorised,
                FileProblem::Http(error) => http_kind(error),
                FileProblem::Pointer => Kind::Refused,
            },
            Self::Refused { .. } | Self::Path { .. } | Self::Files { .. } => Kind::Refused,
            Self::NoSpace { .. } | Self::Io { .. } => Kind::Disk,
            Self::Cancelled => Kind::Cancelled,
        }
    }

    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Http(error) => error.is_transient(),
            Self::Git { fault, .. } => *fault == GitFault::Passing,
            Self::LinkExpired(_) => true,
            _ => false,
        }
    }

    /// The pause that the server requests.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Http(error) => error.error_response()?.retry_after,
            _ => None,
        }
    }
}

fn http_kind(error: &HttpError) -> MirrorErrorKind {
    match error.status().map(|status| status.as_u16()) {
        Some(401 | 403) => MirrorErrorKind::Unauthorised,
        Some(404 | 410) => MirrorErrorKind::NotFound,
        Some(429) => MirrorErrorKind::RateLimited,
        _ if error.is_private_host() => MirrorErrorKind::PrivateHost,
        _ => match error {
            HttpError::Address { .. } | HttpError::Downgrade { .. } | HttpError::OtherOrigin { .. } => {
                MirrorErrorKind::Refused
            }
            HttpError::Json { .. } | HttpError::WrongRange { .. } | HttpError::TooLong { .. } => {
                MirrorErrorKind::Damaged
            }
            _ => MirrorErrorKind::Network,
        },
    }
}
