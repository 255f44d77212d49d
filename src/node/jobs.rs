//! Jobs that move or reread the same files run one after another.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// How often the work on a model is repeated when the model is replaced by another one each time.
pub(super) const MAX_CHANGES: usize = 10;

/// One lock for each torrent or model that has a job. The value in the lock lasts as long as a job has or awaits it.
#[derive(Debug)]
pub(super) struct Jobs<K, V = ()> {
    turns: Mutex<HashMap<K, Weak<tokio::sync::Mutex<V>>>>,
}

impl<K, V> Default for Jobs<K, V> {
    fn default() -> Self {
        Self { turns: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash, V: Default> Jobs<K, V> {
    /// Waits for the turn. It ends when the guard is dropped.
    pub async fn turn(&self, about: &K) -> OwnedMutexGuard<V> {
        self.of(about).lock_owned().await
    }

    /// Takes the turn if it is free.
    pub fn try_turn(&self, about: &K) -> Option<OwnedMutexGuard<V>> {
        self.of(about).try_lock_owned().ok()
    }

    fn of(&self, about: &K) -> Arc<tokio::sync::Mutex<V>> {
        let mut turns = self.turns.lock();
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(about).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(about.clone(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::InfoHash;

    #[tokio::test]
    async fn jobs_wait_only_for_jobs_on_the_same_torrent() {
        let jobs: Jobs<InfoHash> = Jobs::default();
        let held = jobs.turn(&InfoHash([1; 32])).await;
        assert!(jobs.try_turn(&InfoHash([1; 32])).is_none());
        assert!(jobs.try_turn(&InfoHash([2; 32])).is_some());
        drop(held);
        assert!(jobs.try_turn(&InfoHash([1; 32])).is_some());
        assert!(jobs.turns.lock().len() <= 1, "unused turns are removed");
    }
}
