//! The publisher whose model a name means: `trust.yaml`, the policy, and the choice among candidates.
//!
//! A name belongs to one publisher when it is *pinned*: by the first manifest accepted for it, by `--publisher`, or by
//! hand. *Listed* publishers are trusted by the user. The rules:
//!
//! - A pinned name belongs to its publisher only: every other publisher is refused, listed or not.
//! - `security.trust: strict` accepts only listed publishers and this base directory's own key, and nothing unsigned. It
//!   pins as `tofu` does, so that listed publishers cannot take each other's names.
//! - A name without an owner means the model of a listed publisher, else our own, else the only one that exists. Several
//!   publishers with different models are an error that names them.
//! - Several publishers of the same bytes are no conflict, and the name is left unpinned: a publisher that copied a model
//!   must not own its name for having been seen first.
//! - Unsigned manifests own nothing. `tofu` accepts them for names without an owner.
//! - A publisher may replace their key by another, with a record that the former key signs. A pin or listing of the former
//!   key follows, once: the successor that is known first stays, because a leaked key can also sign successions. From then
//!   on, where its successor is pinned or listed, nothing new that the former key signs is accepted, even if the successor
//!   has published nothing: another person may use the former key now. For a name without an owner, a former key counts
//!   like an unknown one, if there is no other candidate; the name is then pinned to the successor.
//!
//! | module | what it owns |
//! |---|---|
//! | `choice` | the rules as a function |
//! | `document` | the content of the file |
//! | `file` | the file: read when it changed, changed under a lock |
//! | `changes` | changes by hand |
//! | `find` | finding the publisher that a user means |
//! | `known` | publishers that the user of this node has chosen |
//! | `rotation` | replacing our own key by a new one |
//! | `witness` | comparing manifests with what a hub lists |
//! | `error` | the errors |
//!
//! All queries are answered from memory, after a check whether the file changed. Only a call that changes the file waits for
//! the disk.

mod bounds;
mod changes;
mod choice;
mod document;
mod error;
mod file;
mod find;
mod known;
mod named;
pub(crate) mod rotation;
#[cfg(test)]
mod tests;
pub(crate) mod witness;

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

pub(crate) use choice::{Choice, Pinning};
pub(crate) use document::{Alias, ListedPublisher, TrustDocument};
use error::NO_PUBLISHER;
pub(crate) use error::TrustError;
pub(crate) use file::TrustLock;
pub(crate) use named::NamedPublisher;
use parking_lot::RwLock;

use bounds::MAX_CHAIN;
use choice::TrustView;
use file::{TrustFile, Watched};
use known::KnownKeys;

use crate::config::TrustPolicy;
use crate::model::keys::PublisherKeypair;
use crate::model::{InfoHash, ModelName, PublisherKey};
use crate::paths::Paths;

/// Returns the key that has replaced a key; none if the key was not replaced. The signature of the former key was checked
/// before.
pub type Successors = Arc<dyn Fn(&PublisherKey) -> Option<PublisherKey> + Send + Sync>;

/// The relation of a publisher to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The name belongs to the publisher.
    Pinned,
    /// The publisher is listed, and the name has no owner.
    Listed,
    /// The publisher is this base directory's own key, and the name has no owner.
    Own,
    /// The publisher is neither pinned nor listed: `tofu` can accept the publisher.
    Unknown,
    /// The publisher is refused: the name has another owner, the key was replaced, or the policy is `strict`.
    Refused,
}

/// Publishers and pins of one base directory. Read from `trust.yaml`, again whenever the file changed; written
/// atomically; safe between processes.
pub struct Trust {
    policy: TrustPolicy,
    file: TrustFile,
    own: Watched<Own>,
    successors: RwLock<Option<Successors>>,
    known: KnownKeys,
}

/// The content of the file with this base directory's own key.
#[derive(Debug, Clone, Copy)]
struct Own {
    key: Option<PublisherKey>,
    /// Whether reading the file again would have the same result.
    lasting: bool,
}

impl Trust {
    /// The trust of a base directory. Reads no file yet. While the file is malformed, all queries fail.
    pub fn open(paths: &Paths, policy: TrustPolicy) -> Self {
        Self {
            policy,
            file: TrustFile::new(paths),
            own: Watched::new(paths.publisher_key()),
            successors: RwLock::default(),
            known: KnownKeys::default(),
        }
    }

    /// The key that has replaced a former key; the same key for every other.
    pub fn present_key(&self, key: &PublisherKey) -> PublisherKey {
        let followed = self.document().map(|document| self.chain(&document, key));
        followed.ok().and_then(|steps| steps.last().copied()).map_or(*key, |(_, now)| now)
    }

    /// Looks up successions with `successors` from now on. It must answer from memory.
    pub fn follow(&self, successors: Successors) {
        *self.successors.write() = Some(successors);
    }

    /// The policy.
    pub fn policy(&self) -> TrustPolicy {
        self.policy
    }

    /// This base directory's own key, if there is a usable one.
    pub fn own(&self) -> Option<PublisherKey> {
        let load = |path: &Path| match PublisherKeypair::load(path) {
            Ok(pair) => Own { key: Some(pair.public()), lasting: true },
            Err(error) => Own { key: None, lasting: !error.is_temporary() },
        };
        self.own.get(load, |own| own.lasting).key
    }

    /// The publishers that are listed or own a name, our own key, and the former keys of all these: nodes that join later
    /// need to learn what has replaced a former key. A caller with many keys should call this once.
    pub fn known_keys(&self) -> Arc<HashSet<PublisherKey>> {
        self.known.collect(self.own(), self.document().ok())
    }

    /// A publisher with its alias; without one if the file cannot be read.
    pub fn named(&self, key: &PublisherKey) -> NamedPublisher {
        self.document().map_or_else(|_| TrustDocument::default().named(key), |document| document.named(key))
    }

    /// How a publisher is shown, everywhere: `alias (fingerprint)`, or the fingerprint alone.
    pub fn describe(&self, key: &PublisherKey) -> String {
        self.named(key).to_string()
    }

    /// The present content of the file.
    pub fn document(&self) -> Result<Arc<TrustDocument>, TrustError> {
        self.file.read()
    }

    /// Chooses the publisher of `name` among candidates `(publisher, info hash)`, by the rules at the top of this module.
    /// `wanted` (`--publisher`: see [`find`](Self::find)) selects a publisher, unless the name belongs to another. Pins
    /// nothing: [`accept`](Self::accept) does, when the manifest is there and checked.
    pub fn choose(
        &self,
        name: &ModelName,
        candidates: &[(PublisherKey, InfoHash)],
        wanted: Option<&str>,
    ) -> Result<Choice, TrustError> {
        let document = self.current(name)?;
        let wanted = match wanted {
            None => None,
            Some(text) => match self.find_in(&document, text, candidates.iter().map(|(key, _)| *key)) {
                Err(TrustError::UnknownPublisher(wanted)) if !candidates.is_empty() => {
                    let offered: BTreeSet<PublisherKey> = candidates.iter().map(|(key, _)| *key).collect();
                    let candidates = offered.iter().map(|key| document.describe(key)).collect();
                    return Err(TrustError::NotOffered { name: name.clone(), wanted, candidates });
                }
                found => Some(found?),
            },
        };
        self.view(&document, |view| view.choose(name, candidates, wanted))
    }

    /// Refuses or accepts a manifest of `name` signed by `given` (none: unsigned). With [`Pinning::Pin`], pins a name
    /// without an owner to the publisher.
    pub fn accept(
        &self,
        name: &ModelName,
        given: Option<PublisherKey>,
        pinning: Pinning,
    ) -> Result<(), TrustError> {
        let document = self.current(name)?;
        self.view(&document, |view| view.judge(name, given))?;
        let nothing_new = document.pinned(name).is_some() || given.is_none() || pinning == Pinning::Leave;
        if nothing_new && self.file.exists() {
            return Ok(());
        }
        let changed = self.file.change(|document| {
            // Another process may have pinned the name in between.
            self.view(document, |view| view.judge(name, given))?;
            match given.filter(|_| pinning == Pinning::Pin) {
                Some(given) => {
                    let steps = self.chain(document, &given);
                    let owner = steps.last().map_or(given, |(_, successor)| *successor);
                    document.pin(name, owner)?;
                    succeed(document, &steps);
                    Ok(())
                }
                None => Ok(()),
            }
        });
        match changed {
            // Without the file, only names that commands have accepted are pinned at the next start.
            Err(error) if nothing_new && error.is_full_or_read_only() => Ok(()),
            changed => changed,
        }
    }

    /// Whether a publisher's model may be read by a path that names the publisher, such as `.by/FINGERPRINT/org/name`. Such a
    /// path cannot be mistaken for another publisher's, so the owner of the name does not matter.
    pub fn may_read_by_key(&self, name: &ModelName, publisher: &PublisherKey) -> Result<(), TrustError> {
        let document = self.current(name)?;
        self.view(&document, |view| view.judge_by_key(name, publisher))
    }

    /// Checks that this node may share a model under a name, signed by `own` or unsigned: the name must not belong to
    /// another publisher. The policy for other publishers' manifests does not matter.
    pub fn check(&self, name: &ModelName, own: Option<PublisherKey>) -> Result<(), TrustError> {
        let document = self.current(name)?;
        self.view(&document, |view| TrustView { policy: TrustPolicy::Tofu, ..*view }.judge(name, own))
    }

    /// [`check`](Self::check), and pins a name without an owner to `own`.
    pub fn claim(&self, name: &ModelName, own: Option<PublisherKey>) -> Result<(), TrustError> {
        match own {
            Some(_) => self.accept(name, own, Pinning::Pin),
            None => self.check(name, own),
        }
    }

    /// Refuses a known model unless the publisher that the user asked for (see [`find`](Self::find)) signed it. Pins a
    /// name without an owner to that publisher.
    pub fn insist(
        &self,
        name: &ModelName,
        given: Option<PublisherKey>,
        wanted: &str,
    ) -> Result<(), TrustError> {
        let document = self.current(name)?;
        let shown = || given.map_or_else(|| NO_PUBLISHER.to_owned(), |key| document.describe(&key));
        let not_offered =
            |wanted| TrustError::NotOffered { name: name.clone(), wanted, candidates: vec![shown()] };
        let found = match self.find_in(&document, wanted, given) {
            Err(TrustError::UnknownPublisher(text)) => return Err(not_offered(text)),
            found => found?,
        };
        let owner = |key: PublisherKey| self.chain(&document, &key).last().map_or(key, |(_, now)| *now);
        match document.pinned(name) {
            Some(pinned) if pinned != owner(found) => Err(TrustError::OtherPublisher {
                name: name.clone(),
                pinned: document.describe(&pinned),
                given: document.describe(&found),
            }),
            // The known model may be signed by the former key of the owner.
            _ if given.map(owner) != Some(owner(found)) => Err(not_offered(document.describe(&found))),
            Some(_) => Ok(()),
            None => self.accept(name, given, Pinning::Pin),
        }
    }

    /// The relation of a publisher (none: unsigned) to a name. If the file cannot be read, all are refused.
    pub fn standing(&self, name: &ModelName, publisher: Option<&PublisherKey>) -> Standing {
        let Ok(document) = self.current(name) else { return Standing::Refused };
        if self.view(&document, |view| view.judge(name, publisher.copied())).is_err() {
            return Standing::Refused;
        }
        match publisher {
            Some(key) if document.pinned(name) == Some(*key) => Standing::Pinned,
            Some(key) if document.listed(key).is_some() => Standing::Listed,
            Some(key) if self.own() == Some(*key) => Standing::Own,
            _ => Standing::Unknown,
        }
    }

    /// The publisher that owns a name.
    pub fn pinned(&self, name: &ModelName) -> Result<Option<PublisherKey>, TrustError> {
        Ok(self.current(name)?.pinned(name))
    }

    /// Checks that a model that was accepted before may still be used under its name: not if the name has another owner
    /// now, nor if `strict` does not accept its publisher. Models signed by the former key of an accepted publisher may be
    /// used, and unsigned ones, which the user imported by hand.
    pub fn still_accepts(&self, name: &ModelName, given: Option<PublisherKey>) -> Result<(), TrustError> {
        let Some(given) = given else { return Ok(()) };
        let document = self.current(name)?;
        self.view(&document, |view| {
            view.judge(name, Some((view.owner)(&given))).or(view.judge(name, Some(given)))
        })
    }

    /// The file's content, after every listed publisher and the owner of `name` were followed to their present keys.
    fn current(&self, name: &ModelName) -> Result<Arc<TrustDocument>, TrustError> {
        let document = self.file.read()?;
        let former = |document: &TrustDocument| -> Vec<(PublisherKey, PublisherKey)> {
            let keys = document.publishers.iter().map(|listed| listed.key).chain(document.pinned(name));
            keys.flat_map(|key| self.chain(document, &key)).collect()
        };
        if former(&document).is_empty() {
            return Ok(document);
        }
        self.file.change(|document| {
            let steps = former(document);
            succeed(document, &steps);
            Ok(())
        })?;
        self.file.read()
    }

    /// The successions that lead from a key to its present key; none if they form a circle. Records of other nodes never
    /// replace our own key.
    fn chain(&self, document: &TrustDocument, key: &PublisherKey) -> Vec<(PublisherKey, PublisherKey)> {
        let successors = self.successors.read().clone();
        let mut steps: Vec<(PublisherKey, PublisherKey)> = Vec::new();
        let mut at = *key;
        let own = self.own();
        while steps.len() < MAX_CHAIN && own != Some(at) {
            let remembered = document.successions.get(&at).map(|known| known.successor);
            let announced = || successors.as_ref().and_then(|successor_of| successor_of(&at));
            let Some(next) = remembered.or_else(announced) else { break };
            if next == at || steps.iter().any(|(former, _)| *former == next) {
                return Vec::new();
            }
            steps.push((at, next));
            at = next;
        }
        steps
    }

    fn view<T>(
        &self,
        document: &TrustDocument,
        ask: impl FnOnce(&TrustView<'_>) -> Result<T, TrustError>,
    ) -> Result<T, TrustError> {
        let owner = |key: &PublisherKey| self.chain(document, key).last().map_or(*key, |(_, now)| *now);
        ask(&TrustView { document, policy: self.policy, own: self.own(), owner: &owner })
    }
}

/// Follows successions, and logs the new ones.
fn succeed(document: &mut TrustDocument, steps: &[(PublisherKey, PublisherKey)]) {
    for (former, successor) in steps {
        if document.succeed(*former, *successor) {
            tracing::warn!(
                former = former.fingerprint(),
                successor = successor.fingerprint(),
                "a publisher has replaced its key; the successor is trusted from now on"
            );
        }
    }
}
