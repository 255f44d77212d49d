//! What ends a mirror, with what a command needs to tell the user what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::http::{HttpError, TokenError};
use crate::model::files::FilesError;
use crate::model::path::PathError;
use crate::model::text::format_size;

use super::repo::RepositoryError;

/// Why a repository could not be mirrored.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// What was typed names no repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// No such repository, or one that is shown to those who may read it only.
    #[error("{repository} was not found{}", if *.anonymous { ", or is private and needs a token" } else { ", or the token does not open it" })]
    NotFound {
        /// Its address.
        repository: String,
        /// Whether it was asked for without a credential.
        anonymous: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repository} has no branch, tag or commit {reference}")]
    NoReference {
        /// Its address.
        repository: String,
        /// What was asked for.
        reference: String,
    },
    /// Conditions have to be accepted first.
    #[error("{page} is gated: its conditions must be accepted there, by the account that the token is of")]
    Gated {
        /// Where to accept them.
        page: String,
    },
    /// A credential is needed, or is not accepted.
    #[error("{repository} refused {}", if *.anonymous { "to answer without a credential" } else { "the credential" })]
    Unauthorised {
        /// Its address.
        repository: String,
        /// Whether it was asked without a credential.
        anonymous: bool,
    },
    /// The server wants fewer requests than would be any use.
    #[error("{server} wants no more requests{}", after.map(|after| format!(" for {} s", after.as_secs())).unwrap_or_default())]
    RateLimited {
        /// Which server.
        server: String,
        /// For how long, if it said so.
        after: Option<Duration>,
    },
    /// HTTP failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The address that a server handed out for a file is accepted no more.
    #[error(transparent)]
    LinkExpired(Box<HttpError>),
    /// Git failed.
    #[error("{repository}: {reason}")]
    Git {
        /// The repository's address.
        repository: String,
        /// What git said.
        reason: String,
        /// Where it lies.
        fault: GitFault,
    },
    /// One file could not be had.
    #[error("{path}: {reason}")]
    File {
        /// Its path in the repository.
        path: String,
        /// Why.
        reason: FileProblem,
    },
    /// What the server listed cannot be a model.
    #[error("{repository} cannot be mirrored: {reason}")]
    Refused {
        /// Its address.
        repository: String,
        /// Why.
        reason: String,
    },
    /// A path in it is refused.
    #[error("{repository} cannot be mirrored: {source}")]
    Path {
        /// Its address.
        repository: String,
        /// Which, and why.
        source: PathError,
    },
    /// Its files make no torrent.
    #[error("{repository} cannot be mirrored: {source}")]
    Files {
        /// Its address.
        repository: String,
        /// Why.
        source: FilesError,
    },
    /// The disk is full, or would be.
    #[error(
        "{} needs {} more, and has {} free",
        path.display(),
        format_size(*needed),
        format_size(*free)
    )]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A file or directory of ours could not be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The token found cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The caller wanted no more.
    #[error("cancelled")]
    Cancelled,
}

/// Where a failure of git lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitFault {
    /// With the network or a server, and trying again may help.
    Passing,
    /// With the server or the way to it, for good.
    Remote,
    /// With our copy, for all that is known: one made anew may do.
    Copy,
}

/// What is wrong with one file.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// It came twice with other bytes than the repository says.
    #[error("what the server sends is not what the repository lists ({0})")]
    Damaged(String),
    /// The server of large files has it no more.
    #[error("the LFS server does not have it ({0})")]
    Gone(String),
    /// The server of large files refuses it.
    #[error("the LFS server refuses it ({0})")]
    LfsRefused(String),
    /// Fetching it failed again and again.
    #[error(transparent)]
    Http(HttpError),
    /// Its pointer is not in the form that git-lfs writes, and is to be had from git alone.
    #[error(
        "its LFS pointer cannot be made again; mirror it without --skip-lfs, or with --depth 0, which uses git"
    )]
    Pointer,
    /// It is larger than a file outside LFS may be.
    #[error("it has {} outside LFS, which is more than can be handled", format_size(*.0))]
    TooLarge(u64),
}

/// What sort of error it is: decides exit codes and help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorErrorKind {
    /// Wrong usage.
    Usage,
    /// No such repository, reference or file, or no right to see it.
    NotFound,
    /// Conditions to be accepted.
    Gated,
    /// A credential is missing or wrong.
    Unauthorised,
    /// Too many requests.
    RateLimited,
    /// The network or the server fails.
    Network,
    /// A link leads to a host with a private address that is not configured.
    PrivateHost,
    /// The server's answers make no sense, or its files are damaged.
    Damaged,
    /// Refused by a limit or rule of ours.
    Refused,
    /// The disk.
    Disk,
    /// Ended by the caller.
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

    /// What sort of error it is.
    pub fn kind(&self) -> MirrorErrorKind {
        use MirrorErrorKind as Kind;
        match self {
            Self::Repository(_) | Self::Token(_) => Kind::Usage,
            Self::NotFound { .. } | Self::NoReference { .. } => Kind::NotFound,
            Self::Gated { .. } => Kind::Gated,
            Self::Unauthorised { .. } => Kind::Unauthorised,
            Self::RateLimited { .. } => Kind::RateLimited,
            Self::Http(error) => of_http(error),
            Self::LinkExpired(error) => of_http(error),
            Self::Git { .. } => Kind::Network,
            Self::File { reason, .. } => match reason {
                FileProblem::Damaged(_) => Kind::Damaged,
                FileProblem::Gone(_) => Kind::NotFound,
                FileProblem::LfsRefused(_) => Kind::Unauthorised,
                FileProblem::Http(error) => of_http(error),
                FileProblem::Pointer | FileProblem::TooLarge(_) => Kind::Refused,
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
            Self::RateLimited { .. } | Self::LinkExpired(_) => true,
            _ => false,
        }
    }

    /// How long the server wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Http(error) => error.refusal()?.retry_after,
            Self::RateLimited { after, .. } => *after,
            _ => None,
        }
    }
}

fn of_http(error: &HttpError) -> MirrorErrorKind {
    match error.status().map(|status| status.as_u16()) {
        Some(401 | 403) => MirrorErrorKind::Unauthorised,
        Some(404 | 410) => MirrorErrorKind::NotFound,
        Some(429) => MirrorErrorKind::RateLimited,
        _ if error.is_private_host() => MirrorErrorKind::PrivateHost,
        _ => match error {
            HttpError::Address { .. } | HttpError::Downgrade { .. } => MirrorErrorKind::Refused,
            HttpError::Json { .. } | HttpError::WrongRange { .. } | HttpError::TooLong { .. } => {
                MirrorErrorKind::Damaged
            }
            _ => MirrorErrorKind::Network,
        },
    }
}
