//! What the user, and other parts of the program, change in `trust.yaml`.

use super::{Alias, Document, Trust, TrustError, succeed};
use crate::model::{ModelName, PublisherKey};

/// What a publisher had before they were removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Whether they were listed.
    pub listed: bool,
    /// How many names were theirs.
    pub names: usize,
}

impl Trust {
    /// Where there is no file yet: pins names to those who signed them, as versions did that had no file. Nothing is
    /// written where there are none.
    pub fn take_over(
        &self,
        signed: impl IntoIterator<Item = (ModelName, PublisherKey)>,
    ) -> Result<(), TrustError> {
        let mut signed = signed.into_iter().peekable();
        if self.file.exists() || signed.peek().is_none() {
            return Ok(());
        }
        self.file.change(|document| {
            // Another process may have been first.
            if *document != Document::default() {
                return Ok(());
            }
            signed.try_for_each(|(name, publisher)| document.pin(&name, publisher))
        })
    }

    /// Goes by successions that were checked, each former key with its successor.
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

    /// Puts a publisher on the list, gives them an alias where there is one to give, and gives them names unless these
    /// are others'; all of it or nothing.
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

    /// Takes a publisher off the list and, where `names` says so, lets go of all their names; refused where there is
    /// neither. Tells what they had.
    pub fn remove(&self, key: &PublisherKey, names: bool) -> Result<Removed, TrustError> {
        self.file.change(|document| {
            let owned = document.pins.values().filter(|pin| pin.publisher == *key).count();
            let removed = Removed { listed: document.listed(key).is_some(), names: owned };
            let lets_go = names && owned > 0;
            if !removed.listed && !lets_go {
                return Err(TrustError::NotListed(document.describe(key)));
            }
            document.publishers.retain(|listed| listed.key != *key);
            if names {
                document.pins.retain(|_, pin| pin.publisher != *key);
            }
            Ok(removed)
        })
    }

    /// Lets go of a name: the next publisher accepted for it owns it.
    pub fn unpin(&self, name: &ModelName) -> Result<(), TrustError> {
        self.file.change(|document| match document.pins.remove(name) {
            Some(_) => Ok(()),
            None => Err(TrustError::NotPinned(name.clone())),
        })
    }
}
