//! The errors of texts that do not name a repository.

use std::path::PathBuf;

use crate::model::text::clean;

/// The error for a text that does not name a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryError {
    /// The text is neither a name nor an address nor a path.
    #[error(
        "{0:?} is not a repository; give org/name or datasets/org/name for a repository of the hub, an https:// address, or \
         the path of a git repository, such as ./name"
    )]
    Shape(String),
    /// The URL is invalid.
    #[error("invalid address: {0}")]
    Address(url::ParseError),
    /// The protocol is not supported.
    #[error("{scheme} is not supported; use https{}", instead.as_ref().map(|url| format!(", such as {url}")).unwrap_or_default())]
    Protocol {
        /// The name of the protocol.
        scheme: String,
        /// An https address that may work.
        instead: Option<String>,
    },
    /// An address of the hub that is neither a model nor a dataset.
    #[error("{0} is neither a model nor a dataset of the hub")]
    NotOfTheHub(String),
    /// The address has a query or a fragment.
    #[error("{0} is followed by '?' or '#', which the address of a repository cannot have")]
    Extra(String),
    /// The directory does not exist.
    #[error("there is no directory {}", .0.display())]
    NoDirectory(PathBuf),
    /// The text cannot be the name of a branch, tag or commit.
    #[error("{0:?} cannot be the name of a branch, tag or commit")]
    Reference(String),
}

pub(super) fn short(text: &str) -> String {
    clean(text).chars().take(120).collect()
}
