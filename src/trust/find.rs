//! From what a user types to a publisher.

use std::collections::BTreeSet;

use super::{Document, Listed, Trust, TrustError};
use crate::model::PublisherKey;

/// Digits of a key or fingerprint that name a publisher who is known here, at least.
const MIN_PREFIX: usize = 8;
/// The same for others: as many as a fingerprint has. Of fewer, a stranger could make a key that begins so.
const MIN_PREFIX_OF_OTHERS: usize = 16;

impl Trust {
    /// The publisher that a user means by a hex key, a fingerprint or an alias; anything but a whole key is looked for
    /// among those known here (listed, with a name, our own), of whom eight digits of the beginning do, and then among
    /// `others`, of whom it takes a fingerprint or sixteen digits of the key.
    pub fn find(
        &self,
        text: &str,
        others: impl IntoIterator<Item = PublisherKey>,
    ) -> Result<PublisherKey, TrustError> {
        self.find_in(&*self.document()?, text, others)
    }

    pub(super) fn find_in(
        &self,
        document: &Document,
        text: &str,
        others: impl IntoIterator<Item = PublisherKey>,
    ) -> Result<PublisherKey, TrustError> {
        if let Ok(key) = text.parse() {
            return Ok(key);
        }
        // First, since nobody else chooses these.
        let called = |listed: &&Listed| listed.alias.as_ref().is_some_and(|alias| alias.is(text));
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
        if found.is_empty() || given.len() >= MIN_PREFIX_OF_OTHERS {
            needed = if found.is_empty() { MIN_PREFIX_OF_OTHERS } else { MIN_PREFIX };
            found.extend(others.into_iter().filter(begins));
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
