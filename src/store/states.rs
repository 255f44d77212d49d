//! The newest known state of each publisher of a model, so that a peer cannot replace it by an older one:
//! `registry/.states/[datasets/]org/name/revision.json`.
//!
//! An entry has the signed facts: the time of the manifest, and the sequence and time of the record that
//! announced the manifest. Entries stay when the model is removed, as pins do. They are read when a state is judged, and
//! written before the manifest is stored: after a crash between both, the newer state is known and not yet stored.

use std::collections::BTreeMap;
use std::fs::File;

use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::model::{InfoHash, Manifest, ModelRef, PublisherKey};
use crate::paths::Paths;
use crate::{fsutil, nofollow};

/// Longest file read, in bytes: some thousand publishers.
const MAX_FILE: u64 = 1 << 20;

/// How far ahead of this machine's clock a manifest's time may be, in seconds: one day, as for records.
const MAX_AHEAD: i64 = 24 * 3600;

/// The order and the time of the record of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// Orders the records of one key.
    pub sequence: i64,
    /// When the record was signed, in seconds since 1970.
    pub time: i64,
}

/// One state of a model, as its publisher signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedState {
    /// Its torrent.
    pub info_hash: InfoHash,
    /// The signed time of the manifest, in seconds since 1970. None if the manifest has none, or one in the future,
    /// which would otherwise make every later state look older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<i64>,
    /// The record that announced it; none if only its manifest was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<Announced>,
    /// Whether only a mount has accepted it: such a state does not make its publisher an owner of the name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_read: bool,
}

/// The newest states of one model, by publisher.
pub type Newest = BTreeMap<PublisherKey, SignedState>;

impl SignedState {
    /// The state that a manifest describes; `now` is the clock in seconds since 1970.
    pub fn of(manifest: &Manifest, announced: Option<Announced>, now: i64) -> Self {
        let made = manifest.created_at.as_ref().and_then(|time| time.parse::<jiff::Timestamp>().ok());
        let made = made.map(jiff::Timestamp::as_second);
        Self {
            info_hash: manifest.torrent.info_hash,
            created_at: made.filter(|made| *made <= now.saturating_add(MAX_AHEAD)),
            announced,
            only_read: false,
        }
    }

    /// When its publisher signed it, if that is known, in seconds since 1970.
    pub fn signed_at(&self) -> Option<i64> {
        self.created_at.or(self.announced.map(|announced| announced.time))
    }

    /// Whether it is older than another state of the same publisher, or nothing shows that it is as new. `same_key`: whether one
    /// key signed both, because sequences of different keys cannot be compared.
    ///
    /// Records of one key are in the order of their sequences, since a publisher may announce an earlier manifest again.
    /// All other states are in the order of the signed times.
    pub fn is_older_than(&self, known: &Self, same_key: bool) -> bool {
        if let (true, Some(ours), Some(theirs)) = (same_key, self.announced, known.announced) {
            return ours.sequence < theirs.sequence;
        }
        let Some(known_at) = known.signed_at() else { return false };
        match (self.created_at, self.announced) {
            (_, Some(announced)) if announced.time < known_at => true,
            (Some(made), _) => made < known_at,
            (None, Some(_)) => false,
            (None, None) => self.info_hash != known.info_hash,
        }
    }
}

/// The files of all models.
pub struct SignedStates {
    paths: Paths,
}

/// The lock of all processes that accept states, held until dropped.
pub struct StatesLock {
    _file: File,
}

impl SignedStates {
    /// The files in a base directory. Reads no file yet.
    pub fn new(paths: &Paths) -> Self {
        Self { paths: paths.clone() }
    }

    /// Acquires the lock: no other process accepts a state between the judgement of a state and its entry. Blocks.
    pub fn lock(&self) -> Result<StatesLock, StoreError> {
        let path = self.paths.states_lock();
        Ok(StatesLock { _file: fsutil::lock_file(&path).map_err(|e| StoreError::io(&path, e))? })
    }

    /// The newest known states of a model's publishers. A file that cannot be read is an error: without it an older
    /// state could be accepted as the newest one.
    pub fn of(&self, model: &ModelRef) -> Result<Newest, StoreError> {
        let path = self.paths.states(model);
        let read = fsutil::existing(fsutil::read_capped(&path, MAX_FILE));
        let Some(bytes) = read.map_err(|e| StoreError::io(&path, e))? else { return Ok(Newest::new()) };
        serde_json::from_slice(&bytes).map_err(|e| StoreError::Damaged { path, reason: e.to_string() })
    }

    /// Records a state as the newest one of its publisher.
    pub fn enter(
        &self,
        model: &ModelRef,
        publisher: PublisherKey,
        state: SignedState,
        _lock: &StatesLock,
    ) -> Result<(), StoreError> {
        let mut newest = self.of(model)?;
        if newest.insert(publisher, state) == Some(state) {
            return Ok(());
        }
        self.write(model, &newest)
    }

    /// Forgets the state of a publisher.
    pub fn forget(
        &self,
        model: &ModelRef,
        publisher: &PublisherKey,
        _lock: &StatesLock,
    ) -> Result<(), StoreError> {
        let mut newest = self.of(model)?;
        if newest.remove(publisher).is_none() {
            return Ok(());
        }
        if !newest.is_empty() {
            return self.write(model, &newest);
        }
        let path = self.paths.states(model);
        fsutil::remove_if_there(&path).map_err(|e| StoreError::io(&path, e))?;
        nofollow::remove_empty_parents(&path, &self.paths.registry());
        Ok(())
    }

    fn write(&self, model: &ModelRef, newest: &Newest) -> Result<(), StoreError> {
        let path = self.paths.states(model);
        let json = serde_json::to_vec_pretty(newest).map_err(|e| StoreError::io(&path, e.into()))?;
        fsutil::write_atomic(&path, &json, fsutil::MODE_PRIVATE).map_err(|e| StoreError::io(&path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::home;

    fn state(hash: u8, created_at: Option<i64>, announced: Option<(i64, i64)>) -> SignedState {
        let announced = announced.map(|(sequence, time)| Announced { sequence, time });
        SignedState { info_hash: InfoHash([hash; 32]), created_at, announced, only_read: false }
    }

    #[test]
    fn records_of_one_key_are_ordered_by_sequence() {
        let (old, new) = (state(1, Some(50), Some((1, 60))), state(2, Some(40), Some((2, 70))));
        assert!(old.is_older_than(&new, true));
        assert!(!new.is_older_than(&old, true), "a publisher may announce an earlier manifest again");
        assert!(!new.is_older_than(&new, true));
    }

    #[test]
    fn states_without_sequences_are_ordered_by_signed_time() {
        let known = state(1, Some(50), Some((9, 60)));
        // Received without a record, or signed by the key that replaced the former one.
        assert!(state(2, Some(49), None).is_older_than(&known, true));
        assert!(!state(2, Some(51), None).is_older_than(&known, true));
        assert!(state(2, Some(49), Some((99, 80))).is_older_than(&known, false));
        assert!(!state(2, Some(51), Some((1, 80))).is_older_than(&known, false));
        // A record that was signed before the known manifest was made.
        assert!(state(2, None, Some((1, 40))).is_older_than(&state(1, Some(50), None), true));
    }

    #[test]
    fn a_state_without_time_does_not_replace_one_that_has_it() {
        let (known, unknown) = (state(1, Some(50), None), state(2, None, None));
        assert!(unknown.is_older_than(&known, true));
        assert!(!state(1, None, None).is_older_than(&known, true), "the same files");
        assert!(!unknown.is_older_than(&state(1, None, None), true), "the order is not known");
        assert!(state(2, Some(50), None).is_older_than(&state(1, None, Some((1, 60))), true));
    }

    #[test]
    fn a_manifest_from_the_future_does_not_block_later_states() {
        let home = home();
        let mut manifest = (*crate::store::tests::manifest("o/m", &[("a", b"x")])).clone();
        manifest.created_at = Some("2099-01-01T00:00:00Z".to_owned());
        assert_eq!(SignedState::of(&manifest, None, 1_000_000_000).created_at, None);
        manifest.created_at = Some("2001-09-09T01:46:40Z".to_owned());
        assert_eq!(SignedState::of(&manifest, None, 1_000_000_000).created_at, Some(1_000_000_000));
        drop(home);
    }

    #[test]
    fn states_survive_a_restart_and_damage_is_an_error() {
        let home = home();
        let states = SignedStates::new(&home.paths);
        crate::store::Registry::open(&home.paths).unwrap();
        std::fs::create_dir_all(home.paths.registry()).unwrap();
        let model = "datasets/o/m@v1".parse().unwrap();
        let (one, other) = (PublisherKey([1; 32]), PublisherKey([2; 32]));
        let lock = states.lock().unwrap();
        states.enter(&model, one, state(1, Some(5), Some((6, 7))), &lock).unwrap();
        states.enter(&model, other, state(2, None, None), &lock).unwrap();
        drop(lock);
        let again = SignedStates::new(&home.paths).of(&model).unwrap();
        assert_eq!(again[&one], state(1, Some(5), Some((6, 7))));
        assert_eq!(again.len(), 2);
        std::fs::write(home.paths.states(&model), "{").unwrap();
        assert!(matches!(states.of(&model), Err(StoreError::Damaged { .. })));
    }
}
