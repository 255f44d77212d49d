//! Whose model a name stands for: `trust.yaml`, the policy, and the choice among candidates.

use std::path::PathBuf;

use crate::config::TrustPolicy;
use crate::model::{ModelName, PublisherKey};
use crate::paths::Paths;

/// Why a publisher is not accepted for a name, or the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The name is pinned to another publisher.
    #[error("{name} is pinned to publisher {pinned}, but this one is signed by {given}")]
    OtherPublisher {
        /// The name.
        name: ModelName,
        /// Alias or fingerprint of the publisher pinned.
        pinned: String,
        /// Of the one who signed, or `nobody`.
        given: String,
    },
    /// The policy is `strict` and the publisher is not listed.
    #[error("{name} is signed by {given}, whom security.trust: strict does not accept")]
    Untrusted {
        /// The name.
        name: ModelName,
        /// Fingerprint of the signer, or `nobody`.
        given: String,
    },
    /// Several publishers sign different models under the name.
    #[error("{name} is published by several: {}", candidates.join(", "))]
    Ambiguous {
        /// The name.
        name: ModelName,
        /// Fingerprints (and aliases) of the candidates.
        candidates: Vec<String>,
    },
    /// No candidate is the publisher asked for.
    #[error("{name} is not published by {wanted}, but by {}", candidates.join(", "))]
    NotOffered {
        /// The name.
        name: ModelName,
        /// The publisher as asked for.
        wanted: String,
        /// Fingerprints of the candidates.
        candidates: Vec<String>,
    },
    /// The file cannot be read, written or understood.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why, with the line where there is one.
        reason: String,
    },
}

/// Publishers and pins of one base directory. Read from `trust.yaml`, again whenever the file changed; written
/// atomically; safe between processes.
pub struct Trust {}

impl Trust {
    /// Reads the file; none is an empty one. `own` is this base directory's key, which is always accepted.
    pub fn open(paths: &Paths, policy: TrustPolicy, own: Option<PublisherKey>) -> Result<Self, TrustError> {
        todo!()
    }

    /// The publisher whose model `name` stands for, among candidates `(publisher, info hash)`: the pinned one, then a
    /// listed one, then the only one. `wanted` (`--publisher`: key, fingerprint or alias) overrides the last two.
    pub fn choose(
        &self,
        name: &ModelName,
        candidates: &[(PublisherKey, crate::model::InfoHash)],
        wanted: Option<&str>,
    ) -> Result<PublisherKey, TrustError> {
        todo!()
    }

    /// Refuses a manifest of `name` signed by `given` (none: unsigned), or accepts it and, under `tofu`, pins its
    /// publisher to the name where none is pinned yet.
    pub fn accept(&self, name: &ModelName, given: Option<PublisherKey>) -> Result<(), TrustError> {
        todo!()
    }
}
