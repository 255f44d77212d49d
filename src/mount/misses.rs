//! Models that were looked up and are not shown, and for how long they are not looked up again.
//!
//! A model that no peer has is not looked up again for [`FIRST`], and after each further failed lookup for twice as long,
//! up to [`LONGEST`]. A record of its name ends that immediately. If the holders of a model cannot be reached, the first
//! time is only [`SHORTEST`], because they may be restarting. A refusal lasts only [`REFUSAL`], because the user may be
//! following the advice of the error message.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::top_path::RequestedModel;
use crate::model::{ModelName, Revision};

/// How long a model that no peer has stays absent without another query, the first time.
pub const FIRST: Duration = Duration::from_secs(60);

/// How long a model whose holders cannot be reached stays absent without another query, the first time.
pub const SHORTEST: Duration = Duration::from_secs(3);

/// The longest time that a model stays absent without another query.
pub const LONGEST: Duration = Duration::from_secs(30 * 60);

/// How long a refused or disputed model is not looked up again.
pub const REFUSAL: Duration = Duration::from_secs(3);

/// How many names are remembered.
const MAX_NAMES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// How many revisions and publishers of one name are remembered.
const MAX_OF_NAME: usize = 16;

/// The reason why a model is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// No peer has it.
    Absent,
    /// No peer that has it can be reached.
    Unreachable,
    /// It may not be shown.
    Refused,
    /// Several publishers dispute its name.
    Disputed,
    /// The hub does not permit the user of this mount to read it.
    Denied,
}

#[derive(Debug, Clone, Copy)]
struct MissEntry {
    miss: Miss,
    until: Instant,
    /// Number of consecutive failed lookups.
    lookups: u32,
}

/// A revision, and the fingerprint of its publisher where the path names one.
type RevisionKey = (Revision, Option<String>);

/// The misses of one mount.
#[derive(Debug)]
pub struct Misses(LruCache<ModelName, HashMap<RevisionKey, MissEntry>>);

impl Default for Misses {
    fn default() -> Self {
        Self(LruCache::new(MAX_NAMES))
    }
}

fn revision_key(requested: &RequestedModel) -> RevisionKey {
    (requested.model.revision.clone(), requested.publisher.clone())
}

impl Misses {
    /// The remembered miss; none if the model must be looked up.
    pub fn of(&mut self, requested: &RequestedModel, now: Instant) -> Option<Miss> {
        let entry = self.0.get(&requested.model.name)?.get(&revision_key(requested))?;
        (now < entry.until).then_some(entry.miss)
    }

    /// Remembers a miss, and returns how long it lasts.
    pub fn add(&mut self, requested: &RequestedModel, miss: Miss, now: Instant) -> Duration {
        let of_name = self.0.get_or_insert_mut(requested.model.name.clone(), HashMap::new);
        if of_name.len() >= MAX_OF_NAME {
            of_name.retain(|_, entry| now < entry.until);
        }
        if of_name.len() >= MAX_OF_NAME {
            of_name.clear();
        }
        let former = of_name.get(&revision_key(requested)).filter(|former| now < former.until + LONGEST);
        let lookups = former.map_or(0, |former| former.lookups);
        let back_off = |first: Duration| (first * 2u32.saturating_pow(lookups.min(16))).min(LONGEST);
        let lasts = match miss {
            Miss::Absent => back_off(FIRST),
            Miss::Unreachable => back_off(SHORTEST),
            Miss::Refused | Miss::Disputed | Miss::Denied => REFUSAL,
        };
        of_name.insert(revision_key(requested), MissEntry { miss, until: now + lasts, lookups: lookups + 1 });
        lasts
    }

    /// Forgets the miss of a model that was found.
    pub fn found(&mut self, requested: &RequestedModel) {
        if let Some(of_name) = self.0.get_mut(&requested.model.name) {
            of_name.remove(&revision_key(requested));
        }
    }

    /// Forgets all misses of a name. Called when a record of the name has arrived.
    pub fn name_appeared(&mut self, name: &ModelName) {
        self.0.pop(name);
    }

    /// Ends all misses, but keeps the back-off: the next miss lasts twice as long. Called for a new peer.
    pub fn peer_appeared(&mut self, now: Instant) {
        for (_, of_name) in self.0.iter_mut() {
            of_name.values_mut().for_each(|entry| entry.until = entry.until.min(now));
        }
    }

    /// Ends the misses of models whose holders could not be reached, but keeps the back-off. Called for a new peer that
    /// may hold them.
    pub fn holder_appeared(&mut self, now: Instant) {
        let entries = self.0.iter_mut().flat_map(|(_, of_name)| of_name.values_mut());
        for entry in entries.filter(|entry| entry.miss == Miss::Unreachable) {
            entry.until = entry.until.min(now);
        }
    }

    /// Forgets refusals and disputes. Called when the trusted publishers may have changed.
    pub fn rules_changed(&mut self) {
        for (_, of_name) in self.0.iter_mut() {
            of_name.retain(|_, entry| matches!(entry.miss, Miss::Absent | Miss::Unreachable));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requested(model: &str) -> RequestedModel {
        RequestedModel { model: model.parse().unwrap(), publisher: None }
    }

    #[test]
    fn each_miss_lasts_longer_up_to_a_limit() {
        let (mut misses, mut now) = (Misses::default(), Instant::now());
        let model = requested("acme/m");
        let mut last = Duration::ZERO;
        for _ in 0..40 {
            assert_eq!(misses.of(&model, now), None);
            let lasts = misses.add(&model, Miss::Absent, now);
            assert!(lasts == LONGEST || lasts == FIRST || lasts == last * 2, "{last:?} {lasts:?}");
            assert_eq!(misses.of(&model, now + lasts - Duration::from_secs(1)), Some(Miss::Absent));
            (now, last) = (now + lasts, lasts);
        }
        assert_eq!(last, LONGEST);
        assert_eq!(misses.of(&requested("acme/m@v2"), now), None);
        // The back-off ends if the name was not looked up for a long time.
        assert_eq!(misses.add(&model, Miss::Absent, now + LONGEST * 2), FIRST);
    }

    #[test]
    fn a_record_ends_the_misses_of_all_revisions() {
        let (mut misses, now) = (Misses::default(), Instant::now());
        for model in ["acme/m", "acme/m@v2", "acme/other"] {
            misses.add(&requested(model), Miss::Absent, now);
        }
        misses.name_appeared(&"acme/m".parse().unwrap());
        assert_eq!(misses.of(&requested("acme/m"), now), None);
        assert_eq!(misses.of(&requested("acme/m@v2"), now), None);
        assert_eq!(misses.of(&requested("acme/other"), now), Some(Miss::Absent));
        assert_eq!(misses.add(&requested("acme/m"), Miss::Absent, now), FIRST);
    }

    #[test]
    fn a_new_peer_ends_misses_and_keeps_the_back_off() {
        let (mut misses, now) = (Misses::default(), Instant::now());
        misses.add(&requested("acme/m"), Miss::Absent, now);
        misses.peer_appeared(now);
        assert_eq!(misses.of(&requested("acme/m"), now), None);
        assert_eq!(misses.add(&requested("acme/m"), Miss::Absent, now), FIRST * 2);
    }

    #[test]
    fn models_without_holders_back_off_until_a_peer_comes() {
        let (mut misses, mut now) = (Misses::default(), Instant::now());
        let model = requested("acme/m");
        misses.add(&requested("acme/absent"), Miss::Absent, now);
        for round in 0..4 {
            assert_eq!(misses.of(&model, now), None);
            let lasts = misses.add(&model, Miss::Unreachable, now);
            assert_eq!(lasts, SHORTEST * 2u32.pow(round));
            assert_eq!(misses.of(&model, now + lasts / 2), Some(Miss::Unreachable));
            now += lasts;
        }
        misses.add(&model, Miss::Unreachable, now);
        misses.holder_appeared(now);
        assert_eq!(misses.of(&model, now), None);
        assert_eq!(misses.of(&requested("acme/absent"), now), Some(Miss::Absent));
    }

    #[test]
    fn changed_trust_ends_refusals_only() {
        let (mut misses, now) = (Misses::default(), Instant::now());
        misses.add(&requested("acme/a"), Miss::Absent, now);
        misses.add(&requested("acme/r"), Miss::Refused, now);
        misses.add(&requested("acme/d"), Miss::Disputed, now);
        assert_eq!(misses.of(&requested("acme/d"), now), Some(Miss::Disputed));
        misses.rules_changed();
        assert_eq!(misses.of(&requested("acme/a"), now), Some(Miss::Absent));
        assert_eq!(misses.of(&requested("acme/r"), now), None);
        assert_eq!(misses.of(&requested("acme/d"), now), None);
    }

    #[test]
    fn the_memory_of_misses_is_bounded() {
        let (mut misses, now) = (Misses::default(), Instant::now());
        for n in 0..MAX_NAMES.get() + 10 {
            misses.add(&requested(&format!("acme/m{n}")), Miss::Absent, now);
        }
        for n in 0..100 {
            misses.add(&requested(&format!("acme/last@v{n}")), Miss::Absent, now);
        }
        assert_eq!(misses.0.len(), MAX_NAMES.get());
        assert!(misses.0.iter().all(|(_, of_name)| of_name.len() <= MAX_OF_NAME));
        assert_eq!(misses.of(&requested("acme/m0"), now), None);
        assert_eq!(misses.of(&requested("acme/last@v99"), now), Some(Miss::Absent));
    }
}
