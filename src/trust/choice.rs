//! The policy as a function: chooses the publisher of a name. It uses no file and no clock.

use std::collections::BTreeMap;

use super::error::NO_PUBLISHER;
use super::{TrustDocument, TrustError};
use crate::config::TrustPolicy;
use crate::model::{InfoHash, ModelName, PublisherKey};

/// Whether accepting a publisher pins the name to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinning {
    /// The name is pinned if it has no owner yet.
    Pin,
    /// The name is not pinned: several publishers have the same bytes, and a copier must not own the name for being first.
    Leave,
}

/// The publisher chosen for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The publisher.
    pub publisher: PublisherKey,
    /// Whether [`Trust::accept`](super::Trust::accept) pins the name when the manifest was received.
    pub pinning: Pinning,
}

/// The facts from which a query is answered.
pub(super) struct TrustView<'a> {
    pub document: &'a TrustDocument,
    pub policy: TrustPolicy,
    /// This base directory's own key.
    pub own: Option<PublisherKey>,
    /// The key that has replaced a former key; the same key for every other.
    pub owner: &'a dyn Fn(&PublisherKey) -> PublisherKey,
}

impl TrustView<'_> {
    fn is_listed(&self, key: &PublisherKey) -> bool {
        self.document.listed(key).is_some()
    }

    /// Whether the policy accepts the publisher.
    fn is_trusted(&self, key: &PublisherKey) -> bool {
        self.policy == TrustPolicy::Tofu || self.own == Some(*key) || self.is_listed(key)
    }

    /// Checks that models of a publisher may be read by a path that names the publisher. Only `strict` refuses that; the
    /// owner of the name does not matter.
    pub fn judge_by_key(&self, name: &ModelName, given: &PublisherKey) -> Result<(), TrustError> {
        if self.is_trusted(given) || self.is_trusted(&(self.owner)(given)) {
            return Ok(());
        }
        Err(TrustError::Untrusted { name: name.clone(), given: self.document.describe(given) })
    }

    fn replaced(&self, name: &ModelName, given: &PublisherKey) -> TrustError {
        TrustError::Replaced {
            name: name.clone(),
            given: given.fingerprint(),
            by: self.document.describe(&(self.owner)(given)),
        }
    }

    fn other(&self, name: &ModelName, pinned: &PublisherKey, given: String) -> TrustError {
        TrustError::OtherPublisher { name: name.clone(), pinned: self.document.describe(pinned), given }
    }

    fn describe_all<'k>(&self, keys: impl IntoIterator<Item = &'k PublisherKey>) -> Vec<String> {
        keys.into_iter().map(|key| self.document.describe(key)).collect()
    }

    /// Checks that a manifest of `name` signed by `given` (none: unsigned) may be accepted.
    pub fn judge(&self, name: &ModelName, given: Option<PublisherKey>) -> Result<(), TrustError> {
        let shown = || given.map_or_else(|| NO_PUBLISHER.to_owned(), |key| self.document.describe(&key));
        let owner = given.map(|key| (self.owner)(&key));
        if let (Some(pinned), true) = (self.document.pinned(name), given != self.document.pinned(name)) {
            return Err(match given {
                Some(given) if owner == Some(pinned) => self.replaced(name, &given),
                _ => self.other(name, &pinned, shown()),
            });
        }
        match (given, owner) {
            (None, _) if self.policy == TrustPolicy::Tofu => Ok(()),
            (Some(given), _) if self.is_trusted(&given) => Ok(()),
            (Some(given), Some(owner)) if self.is_trusted(&owner) => Err(self.replaced(name, &given)),
            _ => Err(TrustError::Untrusted { name: name.clone(), given: shown() }),
        }
    }

    /// See [`Trust::choose`](super::Trust::choose).
    pub fn choose(
        &self,
        name: &ModelName,
        candidates: &[(PublisherKey, InfoHash)],
        wanted: Option<PublisherKey>,
    ) -> Result<Choice, TrustError> {
        let mut offered: BTreeMap<PublisherKey, Vec<InfoHash>> = BTreeMap::new();
        for (publisher, info_hash) in candidates {
            offered.entry(*publisher).or_default().push(*info_hash);
        }
        if let Some(wanted) = wanted {
            return self.choose_wanted(name, &offered, wanted);
        }
        if offered.is_empty() {
            return Err(TrustError::Unpublished(name.clone()));
        }
        if let Some(pinned) = self.document.pinned(name) {
            return self.choose_pinned(name, &offered, pinned);
        }
        self.choose_free(name, offered)
    }

    /// Chooses the publisher that the user asked for, by its present or a former key.
    fn choose_wanted(
        &self,
        name: &ModelName,
        offered: &BTreeMap<PublisherKey, Vec<InfoHash>>,
        wanted: PublisherKey,
    ) -> Result<Choice, TrustError> {
        let owner = (self.owner)(&wanted);
        let pinned = self.document.pinned(name);
        if let Some(pinned) = pinned.filter(|pinned| *pinned != owner) {
            return Err(self.other(name, &pinned, self.document.describe(&wanted)));
        }
        let former = || offered.keys().find(|key| (self.owner)(key) == owner);
        if offered.contains_key(&owner) {
            self.judge(name, Some(owner))?;
            Ok(Choice { publisher: owner, pinning: Pinning::Pin })
        } else if owner != wanted && offered.contains_key(&wanted) {
            self.judge(name, Some(wanted))?;
            Ok(Choice { publisher: wanted, pinning: Pinning::Pin })
        } else if let Some(former) = former() {
            Err(self.replaced(name, former))
        } else {
            let mut candidates = self.describe_all(offered.keys());
            if candidates.is_empty() {
                candidates.push(NO_PUBLISHER.to_owned());
            }
            Err(TrustError::NotOffered {
                name: name.clone(),
                wanted: self.document.describe(&wanted),
                candidates,
            })
        }
    }

    fn choose_pinned(
        &self,
        name: &ModelName,
        offered: &BTreeMap<PublisherKey, Vec<InfoHash>>,
        pinned: PublisherKey,
    ) -> Result<Choice, TrustError> {
        if offered.contains_key(&pinned) {
            self.judge(name, Some(pinned))?;
            return Ok(Choice { publisher: pinned, pinning: Pinning::Pin });
        }
        Err(match offered.keys().find(|key| (self.owner)(key) == pinned) {
            Some(former) => self.replaced(name, former),
            None => self.other(name, &pinned, self.describe_all(offered.keys()).join(", ")),
        })
    }

    /// Chooses for a name without an owner.
    fn choose_free(
        &self,
        name: &ModelName,
        offered: BTreeMap<PublisherKey, Vec<InfoHash>>,
    ) -> Result<Choice, TrustError> {
        // A replaced key counts only if there is no other candidate, and then like an unknown key.
        let (mut pool, former): (BTreeMap<_, _>, BTreeMap<_, _>) =
            offered.into_iter().partition(|(key, _)| (self.owner)(key) == *key);
        if pool.is_empty() {
            pool.clone_from(&former);
        }
        let all: Vec<PublisherKey> = pool.keys().copied().collect();
        pool.retain(|key, _| self.is_trusted(key));
        if pool.is_empty() {
            let owned = former.keys().find(|key| self.is_trusted(&(self.owner)(key)));
            return Err(match owned {
                Some(former) => self.replaced(name, former),
                None => {
                    TrustError::Untrusted { name: name.clone(), given: self.describe_all(&all).join(", ") }
                }
            });
        }
        let identical = pool.len() > 1 && same(pool.values());
        let of = |chosen: &dyn Fn(&PublisherKey) -> bool| -> Vec<PublisherKey> {
            pool.keys().filter(|key| chosen(key)).copied().collect()
        };
        let ranks = [of(&|key| self.is_listed(key)), of(&|key| self.own == Some(*key)), all];
        let best = ranks.into_iter().find(|rank| !rank.is_empty()).unwrap_or_default();
        match best.as_slice() {
            [publisher] if !identical => Ok(Choice { publisher: *publisher, pinning: Pinning::Pin }),
            [publisher, ..] if same(best.iter().map(|key| &pool[key])) => {
                Ok(Choice { publisher: *publisher, pinning: Pinning::Leave })
            }
            _ => Err(TrustError::Ambiguous {
                name: name.clone(),
                candidates: self.describe_all(pool.keys()),
                keys: pool.keys().copied().collect(),
            }),
        }
    }
}

/// Whether all offers are the same torrent.
fn same<'a>(offers: impl Iterator<Item = &'a Vec<InfoHash>>) -> bool {
    let mut hashes = offers.flatten();
    let first = hashes.next();
    hashes.all(|hash| Some(hash) == first)
}
