//! Finding the publisher that a user means.

use std::collections::BTreeSet;

use super::{ListedPublisher, Trust, TrustDocument, TrustError};
use crate::model::PublisherKey;

/// The least digits of a key or fingerprint that identify a known publisher.
const MIN_PREFIX: usize = 8;
/// The same for unknown publishers: the digits of a fingerprint. With fewer, an attacker could make a key that begins so.
const MIN_PREFIX_OF_UNKNOWN: usize = 16;

impl Trust {
    /// The publisher that a user means by a hex key, a fingerprint or an alias. Anything but a whole key is searched for
    /// among known publishers (listed, owner of a name, our own), where the first eight digits are enough, and then among
    /// `candidates`, where a fingerprint or sixteen digits of the key are needed.
    pub fn find(
        &self,
        text: &str,
        candidates: impl IntoIterator<Item = PublisherKey>,
    ) -> Result<PublisherKey, TrustError> {
        self.find_in(&*self.document()?, text, candidates)
    }

    pub(super) fn find_in(
        &self,
        document: &TrustDocument,
        text: &str,
        candidates: impl IntoIterator<Item = PublisherKey>,
    ) -> Result<PublisherKey, TrustError> {
        if let Ok(key) = text.parse() {
            return Ok(key);
        }
        // Aliases come first, since only the user chooses them.
        let called = |listed: &&ListedPublisher| listed.alias.as_ref().is_some_and(|alias| alias.is(text));
        if let Some(listed) = document.publishers.iter().find(called) {
            return Ok(listed.key);
        }
        let digits = |text: &str| text.replace('-', "").to_ascii_lowercase();
        let given = digits(text);
        let begins = |key: &PublisherKey| {
            key.to_string().starts_with(&given) || digits(&key.fingerprint()).starts_with(&given)
        };
        let listed = document.publishers.iter().map(|listed| listed.key);
        let pinned = document.pins.values().map(|pin| pin.publisher);
        let known = listed.chain(pinned).chain(self.own());
        let mut found: BTreeSet<PublisherKey> = known.filter(begins).collect();
        let mut needed = MIN_PREFIX;
        if found.is_empty() || given.len() >= MIN_PREFIX_OF_UNKNOWN {
            needed = if found.is_empty() { MIN_PREFIX_OF_UNKNOWN } else { MIN_PREFIX };
            found.extend(candidates.into_iter().filter(begins));
        }
        if given.is_empty() {
            found.clear();
        }
        if !found.is_empty() && given.len() < needed {
            return Err(TrustError::TooShort { text: text.to_owned(), digits: needed });
        }
        let mut found = found.into_iter();
        match (found.next(), found.len()) {
            (Some(key), 0) => Ok(key),
            (Some(key), _) => Err(TrustError::AmbiguousPublisher {
                text: text.to_owned(),
                candidates: std::iter::once(key).chain(found).map(|key| document.describe(&key)).collect(),
            }),
            (None, _) => Err(TrustError::UnknownPublisher(text.to_owned())),
        }
    }
}
