//! Why a publisher is not accepted, or `trust.yaml` cannot be used.

use std::path::PathBuf;

use crate::model::{ModelName, PublisherKey};

/// Why a publisher is not accepted for a name, or the file cannot be used. Publishers are shown as
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
        /// The one who signed, several of them, or `nobody`.
        given: String,
    },
    /// A name is to be given to a publisher by hand, and is another's.
    #[error("{name} belongs to {pinned}, and not to {given}")]
    Pinned {
        /// The name.
        name: ModelName,
        /// Whose it is.
        pinned: String,
        /// To whom it was to be given.
        given: String,
    },
    /// The policy is `strict` and the publisher is not listed.
    #[error("{name} is signed by {given}, whom security.trust: strict does not accept")]
    Untrusted {
        /// The name.
        name: ModelName,
        /// The one who signed, several of them, or `nobody`.
        given: String,
    },
    /// It is signed with a key that its owner has replaced.
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
    #[error("{name} is published by several who differ: {}", candidates.join(", "))]
    Ambiguous {
        /// The name.
        name: ModelName,
        /// The candidates.
        candidates: Vec<String>,
        /// Their keys, in the same order.
        keys: Vec<PublisherKey>,
    },
    /// No candidate is the publisher asked for.
    #[error("{name} is not signed by {wanted}, but by {}", candidates.join(", "))]
    NotOffered {
        /// The name.
        name: ModelName,
        /// The publisher asked for.
        wanted: String,
        /// The candidates, or `nobody`.
        candidates: Vec<String>,
    },
    /// There is nothing to choose from.
    #[error("nobody publishes {0}")]
    Unpublished(ModelName),
    /// What a user typed stands for no publisher known here.
    #[error("no publisher known here is called {0:?}")]
    UnknownPublisher(String),
    /// What a user typed is the beginning of a key, and too short for that.
    #[error(
        "{text:?} is too short to say which publisher is meant; give at least {digits} digits of the key or fingerprint"
    )]
    TooShort {
        /// What was typed.
        text: String,
        /// As many digits are asked for.
        digits: usize,
    },
    /// What a user typed stands for several publishers.
    #[error("{text:?} stands for several publishers: {}", candidates.join(", "))]
    AmbiguousPublisher {
        /// What was typed.
        text: String,
        /// Whom it may stand for.
        candidates: Vec<String>,
    },
    /// The publisher is not listed.
    #[error("{0} is not on the list of trusted publishers")]
    NotListed(String),
    /// The name is not pinned.
    #[error("{0} is not pinned to a publisher")]
    NotPinned(ModelName),
    /// Another publisher has that alias.
    #[error("{publisher} is called {alias} already")]
    AliasTaken {
        /// The alias.
        alias: String,
        /// Who has it.
        publisher: String,
    },
    /// A key that was replaced is to be listed or pinned.
    #[error("{given} is a key that its owner has replaced by {by}")]
    FormerKey {
        /// The former key.
        given: String,
        /// The one that replaces it.
        by: String,
    },
    /// The file holds as many publishers or names as it may.
    #[error(
        "trust.yaml is full: it holds {} names or {} publishers",
        super::document::MAX_PINS,
        super::document::MAX_PUBLISHERS
    )]
    Full,
    /// The file cannot be read, written or understood.
    #[error("{}{}: {reason}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    File {
        /// Which file.
        path: PathBuf,
        /// The line, counted from 1, where there is one.
        line: Option<usize>,
        /// Why.
        reason: String,
    },
}
