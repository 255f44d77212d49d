//! Changes of `trust.yaml` by the user and by other parts of the program.

use super::{Alias, Trust, TrustDocument, TrustError, succeed};
use crate::model::{ModelName, PublisherKey};

/// The entries of a publisher that was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Whether the publisher was listed.
    pub listed: bool,
    /// How many names the publisher owned.
    pub names: usize,
}

impl Trust {
    /// If there is no file yet: pins names to their signers, for registries of versions without this file. Without names,
    /// nothing is written.
    pub fn import_pins(
        &self,
        signed: impl IntoIterator<Item = (ModelName, PublisherKey)>,
    ) -> Result<(), TrustError> {
        let mut signed = signed.into_iter().peekable();
        if self.file.exists() || signed.peek().is_none() {
            return Ok(());
        }
        self.file.change(|document| {
            // Another process may have written the file in between.
            if *document != TrustDocument::default() {
                return Ok(());
            }
            signed.try_for_each(|(name, publisher)| document.pin(&name, publisher))
        })
    }

    /// Follows successions, each a former key and its successor. Their signatures were checked before.
    pub fn succeed(&self, steps: &[(PublisherKey, PublisherKey)]) -> Result<(), TrustError> {
        let document = self.document()?;
        if steps.iter().all(|(former, _)| document.successions.contains_key(former)) {
            return Ok(());
        }
        self.file.change(|document| {
            succeed(document, steps);
            Ok(())
        })
    }

    /// Lists a publisher, with an alias if there is one, and pins names to them. If another publisher owns one of the
    /// names, nothing is changed.
    pub fn add(
        &self,
        key: PublisherKey,
        alias: Option<Alias>,
        names: &[ModelName],
    ) -> Result<(), TrustError> {
        self.file.change(|document| {
            document.list(key, alias)?;
            names.iter().try_for_each(|name| match document.pinned(name) {
                Some(pinned) if pinned != key => Err(TrustError::Pinned {
                    name: name.clone(),
                    pinned: document.describe(&pinned),
                    given: document.describe(&key),
                }),
                _ => document.pin(name, key),
            })
        })
    }

    /// Removes a publisher from the list and, with `names`, unpins all their names. Fails if there is nothing to remove.
    /// Returns the entries removed.
    pub fn remove(&self, key: &PublisherKey, names: bool) -> Result<Removed, TrustError> {
        self.file.change(|document| {
            let owned = document.pins.values().filter(|pin| pin.publisher == *key).count();
            let removed = Removed { listed: document.listed(key).is_some(), names: owned };
            if !(removed.listed || names && owned > 0) {
                return Err(TrustError::NotListed(document.describe(key)));
            }
            document.publishers.retain(|listed| listed.key != *key);
            if names {
                document.pins.retain(|_, pin| pin.publisher != *key);
            }
            Ok(removed)
        })
    }

    /// Unpins a name: the next publisher accepted for the name owns it.
    pub fn unpin(&self, name: &ModelName) -> Result<(), TrustError> {
        self.file.change(|document| match document.pins.remove(name) {
            Some(_) => Ok(()),
            None => Err(TrustError::NotPinned(name.clone())),
        })
    }
}
