//! A publisher as shown to people and programs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::TrustDocument;
use crate::model::PublisherKey;

/// A publisher's key and its name for the user. Shown as `alias (fingerprint)`, or as the fingerprint alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPublisher {
    /// The key.
    pub publisher: PublisherKey,
    /// The fingerprint of the key, for people to compare.
    pub fingerprint: String,
    /// The alias that the user of this node has given.
    pub alias: Option<String>,
}

impl fmt::Display for NamedPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.alias {
            Some(alias) => write!(f, "{alias} ({})", self.fingerprint),
            None => f.write_str(&self.fingerprint),
        }
    }
}

impl TrustDocument {
    /// A publisher with the alias that this document has.
    pub fn named(&self, key: &PublisherKey) -> NamedPublisher {
        let alias = self.alias(key).map(ToString::to_string);
        NamedPublisher { publisher: *key, fingerprint: key.fingerprint(), alias }
    }

    /// How a publisher is shown: `alias (fingerprint)`, or the fingerprint alone.
    pub fn describe(&self, key: &PublisherKey) -> String {
        self.named(key).to_string()
    }
}
