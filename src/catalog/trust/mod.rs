//! Whose model a name stands for: `trust.yaml`, the policy, and the choice among candidates.
//!
//! A name belongs to one publisher once it is *pinned*: by the first manifest accepted for it, by `--publisher`, or by
//! hand. *Listed* publishers are those whom the user trusts. The rules:
//!
//! - A pinned name is its publisher's alone: everybody else is refused, listed or not.
//! - `security.trust: strict` accepts listed publishers and this base directory's own key, nobody else and nothing
//!   unsigned. It pins as `tofu` does, so that listed publishers cannot take each other's names.
//! - A name that nobody owns stands for the model of a listed publisher, else for our own, else for the only one that
//!   there is. Several who differ are an error that names them.
//! - Several who publish the same bytes are no conflict, and the name is left unpinned: whoever copied a model must not
//!   own its name for having been seen first.
//! - Unsigned manifests own nothing and are accepted for names that nobody owns, by `tofu`.
//! - A publisher may replace their key by another (a record that the former key signs). Whoever pinned or listed the
//!   former key follows, once: what is known first of a key stays, since a key that leaked can sign successions, too.
//!   The former key signs nothing new from then on where its successor is pinned or listed, even if nothing of the
//!   successor is there: it may be somebody else's now. For a name that nobody owns, it counts as a stranger's where
//!   nothing else is there; the name is then pinned to the successor.
//!
//! | module | what it owns |
//! |---|---|
//! | `choice` | the rules as a function |
//! | `document` | what the file says |
//! | `file` | the file: read when it changed, changed under a lock |
//! | `changes` | what is changed by hand |
//! | `find` | whom a user means |
//! | `known` | whom somebody here chose to deal with |
//! | `error` | why somebody is not accepted |
//!
//! All questions are answered from memory, after a look at whether the file changed; answers that change the file block
//! for the disk.

mod changes;
mod choice;
mod document;
mod error;
mod file;
mod find;
mod known;
mod named;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

pub use changes::Removed;
pub use choice::{Choice, Pinning};
pub use document::{Alias, AliasError, Document, Listed, Pin, Succession, When};
pub use error::TrustError;
pub(crate) use file::TrustLock;
pub use named::NamedPublisher;
use parking_lot::RwLock;

use choice::View;
use file::{TrustFile, Watched};
use known::KnownKeys;

use crate::config::TrustPolicy;
use crate::keys::PublisherKeypair;
use crate::model::{InfoHash, ModelName, PublisherKey};
use crate::paths::Paths;

/// How many successions are followed from one key.
const MAX_CHAIN: usize = 8;

/// Tells the key by which a publisher has replaced theirs, of which somebody has checked that the former key signs it.
pub type Successors = Arc<dyn Fn(&PublisherKey) -> Option<PublisherKey> + Send + Sync>;

/// What a publisher is to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The name is theirs.
    Pinned,
    /// They are listed, and the name is nobody's.
    Listed,
    /// It is this base directory's own key, and the name is nobody's.
    Own,
    /// Nothing is known against them: under `tofu` they can be accepted.
    Unknown,
    /// They are refused: the name is another's, the key was replaced, or the policy is `strict`.
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

/// What the file of this base directory's own key gave.
#[derive(Debug, Clone, Copy)]
struct Own {
    key: Option<PublisherKey>,
    /// Whether the file would give it again.
    lasting: bool,
}

impl Trust {
    /// The trust of a base directory. Reads nothing yet: a file that cannot be understood fails the questions, until
    /// somebody corrects it.
    pub fn open(paths: &Paths, policy: TrustPolicy) -> Self {
        Self {
            policy,
            file: TrustFile::new(paths),
            own: Watched::new(paths.publisher_key()),
            successors: RwLock::default(),
            known: KnownKeys::default(),
        }
    }

    /// The key that counts instead of one that was replaced; the same for every other.
    pub fn present_key(&self, key: &PublisherKey) -> PublisherKey {
        let followed = self.document().map(|document| self.chain(&document, key));
        followed.ok().and_then(|steps| steps.last().copied()).map_or(*key, |(_, now)| now)
    }

    /// Has successions looked up from now on, by what answers from memory.
    pub fn follow(&self, successors: Successors) {
        *self.successors.write() = Some(successors);
    }

    /// The policy.
    pub fn policy(&self) -> TrustPolicy {
        self.policy
    }

    /// This base directory's own key, where there is one that can be used.
    pub fn own(&self) -> Option<PublisherKey> {
        let load = |path: &Path| match PublisherKeypair::load(path) {
            Ok(pair) => Own { key: Some(pair.public()), lasting: true },
            Err(error) => Own { key: None, lasting: !error.is_temporary() },
        };
        self.own.get(load, |own| own.lasting).key
    }

    /// What the file says now.
    pub fn document(&self) -> Result<Arc<Document>, TrustError> {
        self.file.read()
    }

    /// The publisher whose model `name` stands for, among candidates `(publisher, info hash)`, by the rules at the top
    /// of this module. `wanted` (`--publisher`: see [`find`](Self::find)) chooses among publishers of a name that is not
    /// another's. Pins nothing: that is for [`accept`](Self::accept), once the manifest is there and checked.
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

    /// Refuses a manifest of `name` signed by `given` (none: unsigned), or accepts it and, where `pinning` says so and
    /// the name is nobody's, gives the name to its publisher.
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
        self.file.change(|document| {
            // Another process may have pinned it meanwhile.
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
        })
    }

    /// Whether a publisher's model may be read by a path that names the publisher, such as `.by/FINGERPRINT/org/name`. Such a
    /// path cannot be mistaken for another publisher's, so the owner of the name does not matter.
    pub fn may_read_by_key(&self, name: &ModelName, publisher: &PublisherKey) -> Result<(), TrustError> {
        let document = self.current(name)?;
        self.view(&document, |view| view.judge_by_key(name, publisher))
    }

    /// Whether a name may be used for what is shared from here, signed by `own` or not at all: not where it is
    /// another's. Whether strangers' manifests would be accepted is no matter.
    pub fn check(&self, name: &ModelName, own: Option<PublisherKey>) -> Result<(), TrustError> {
        let document = self.current(name)?;
        self.view(&document, |view| View { policy: TrustPolicy::Tofu, ..*view }.judge(name, own))
    }

    /// [`check`](Self::check), and takes the name for `own` where it is nobody's.
    pub fn claim(&self, name: &ModelName, own: Option<PublisherKey>) -> Result<(), TrustError> {
        match own {
            Some(_) => self.accept(name, own, Pinning::Pin),
            None => self.check(name, own),
        }
    }

    /// Refuses a model known here unless the publisher that the user asked for (see [`find`](Self::find)) signed it, and
    /// gives the name to them where it is nobody's.
    pub fn insist(
        &self,
        name: &ModelName,
        given: Option<PublisherKey>,
        wanted: &str,
    ) -> Result<(), TrustError> {
        let document = self.current(name)?;
        let shown = || given.map_or_else(|| "nobody".to_owned(), |key| document.describe(&key));
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
            // What is here may be signed by the former key of the publisher whose name it is.
            _ if given.map(owner) != Some(owner(found)) => Err(not_offered(document.describe(&found))),
            Some(_) => Ok(()),
            None => self.accept(name, given, Pinning::Pin),
        }
    }

    /// What a publisher (none: of something unsigned) is to a name. Where the file cannot be read, all are refused.
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

    /// The publisher to whom a name belongs.
    pub fn pinned(&self, name: &ModelName) -> Result<Option<PublisherKey>, TrustError> {
        Ok(self.current(name)?.pinned(name))
    }

    /// Whether what was accepted before may still be used under its name: not where the name has become another's since,
    /// nor where `strict` does not accept its publisher. What the former key of an accepted publisher signed may, and
    /// what nobody signed, which somebody put here by hand.
    pub fn stands(&self, name: &ModelName, given: Option<PublisherKey>) -> Result<(), TrustError> {
        let Some(given) = given else { return Ok(()) };
        let document = self.current(name)?;
        self.view(&document, |view| {
            view.judge(name, Some((view.owner)(&given))).or(view.judge(name, Some(given)))
        })
    }

    /// The file's contents, once everybody who matters for `name` has been followed to their present key.
    fn current(&self, name: &ModelName) -> Result<Arc<Document>, TrustError> {
        let document = self.file.read()?;
        let former = |document: &Document| -> Vec<(PublisherKey, PublisherKey)> {
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

    /// The successions that lead from a key to the one that counts now; none where they lead back. Nobody else says
    /// that our own key was replaced.
    fn chain(&self, document: &Document, key: &PublisherKey) -> Vec<(PublisherKey, PublisherKey)> {
        let successors = self.successors.read().clone();
        let mut steps: Vec<(PublisherKey, PublisherKey)> = Vec::new();
        let mut at = *key;
        let own = self.own();
        while steps.len() < MAX_CHAIN && own != Some(at) {
            let remembered = document.successions.get(&at).map(|known| known.successor);
            let told = || successors.as_ref().and_then(|told| told(&at));
            let Some(next) = remembered.or_else(told) else { break };
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
        document: &Document,
        ask: impl FnOnce(&View<'_>) -> Result<T, TrustError>,
    ) -> Result<T, TrustError> {
        let owner = |key: &PublisherKey| self.chain(document, key).last().map_or(*key, |(_, now)| *now);
        ask(&View { document, policy: self.policy, own: self.own(), owner: &owner })
    }
}

/// Goes by successions, and says what that moved.
fn succeed(document: &mut Document, steps: &[(PublisherKey, PublisherKey)]) {
    for (former, successor) in steps {
        if document.succeed(*former, *successor) {
            tracing::warn!(
                "publisher {} has replaced its key by {}, which is trusted in its place from now on",
                former.fingerprint(),
                successor.fingerprint()
            );
        }
    }
}
