//! The errors of trust.

use std::path::PathBuf;

use crate::fsutil::is_full_or_read_only;
use crate::model::{ModelName, PublisherKey};

/// Errors show this text if there is no publisher.
pub(super) const NO_PUBLISHER: &str = "no publisher";

/// A publisher is not accepted for a name, or `trust.yaml` cannot be used. Publishers are shown as
/// [`Trust::describe`](super::Trust::describe) shows them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The name is pinned to another publisher.
    #[error("{name} is pinned to publisher {pinned}, but this is signed by {given}")]
    OtherPublisher {
        /// The name.
        name: ModelName,
        /// The publisher pinned.
        pinned: String,
        /// The signers, or [`NO_PUBLISHER`].
        given: String,
    },
    /// A name that belongs to another publisher cannot be pinned by hand.
    #[error("{name} belongs to publisher {pinned}, not to {given}")]
    Pinned {
        /// The name.
        name: ModelName,
        /// The owner.
        pinned: String,
        /// The publisher that the user pins the name to.
        given: String,
    },
    /// The policy is `strict` and the publisher is not listed.
    #[error("{name} is signed by {given}; security.trust: strict does not accept that publisher")]
    Untrusted {
        /// The name.
        name: ModelName,
        /// The signers, or [`NO_PUBLISHER`].
        given: String,
    },
    /// The manifest is signed with a key that its owner has replaced.
    #[error("{name} is signed by {given}, a key that its owner has replaced by {by}")]
    Replaced {
        /// The name.
        name: ModelName,
        /// The former key.
        given: String,
        /// The key that replaces it.
        by: String,
    },
    /// Several publishers sign different models under the name.
    #[error("{name} is published by several publishers with different files: {}", candidates.join(", "))]
    Ambiguous {
        /// The name.
        name: ModelName,
        /// The candidates.
        candidates: Vec<String>,
        /// Their keys, in the same order.
        keys: Vec<PublisherKey>,
    },
    /// No candidate is the publisher that the user named.
    #[error("{name} is not signed by {wanted}, but by {}", candidates.join(", "))]
    NotOffered {
        /// The name.
        name: ModelName,
        /// The publisher that the user named.
        wanted: String,
        /// The candidates, or [`NO_PUBLISHER`].
        candidates: Vec<String>,
    },
    /// There is no candidate.
    #[error("no publisher of {0} is known")]
    Unpublished(ModelName),
    /// The text that the user typed matches no known publisher.
    #[error("no known publisher matches {0:?}")]
    UnknownPublisher(String),
    /// The text that the user typed is too short for the beginning of a key.
    #[error("{text:?} is too short for a publisher; give at least {digits} digits of the key or fingerprint")]
    TooShort {
        /// The text.
        text: String,
        /// The digits that are needed.
        digits: usize,
    },
    /// The text that the user typed matches several publishers.
    #[error("{text:?} matches several publishers: {}", candidates.join(", "))]
    AmbiguousPublisher {
        /// The text.
        text: String,
        /// The publishers that match.
        candidates: Vec<String>,
    },
    /// The publisher is not listed.
    #[error("{0} is not on the list of trusted publishers")]
    NotListed(String),
    /// The name is not pinned.
    #[error("{0} is not pinned to a publisher")]
    NotPinned(ModelName),
    /// Another publisher has that alias.
    #[error("publisher {publisher} already has the alias {alias}")]
    AliasTaken {
        /// The alias.
        alias: String,
        /// The publisher with this alias.
        publisher: String,
    },
    /// A replaced key cannot be listed or pinned.
    #[error("{given} is a key that its owner has replaced by {by}")]
    FormerKey {
        /// The former key.
        given: String,
        /// The key that replaces it.
        by: String,
    },
    /// The file has reached its limit of publishers or names.
    #[error(
        "trust.yaml is full: it holds {} names or {} publishers",
        super::bounds::MAX_PINS,
        super::bounds::MAX_PUBLISHERS
    )]
    Full,
    /// The file cannot be read, written or understood.
    #[error("{}{}: {reason}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1, where there is one.
        line: Option<usize>,
        /// The reason.
        reason: String,
        /// The kind of the system's error; none if the content cannot be understood.
        kind: Option<std::io::ErrorKind>,
    },
}

impl TrustError {
    /// Whether the file could not be written because the disk is full or read-only.
    pub(crate) fn is_full_or_read_only(&self) -> bool {
        matches!(self, Self::File { kind: Some(kind), .. } if is_full_or_read_only(*kind))
    }
}
