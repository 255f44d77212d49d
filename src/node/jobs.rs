//! Jobs that move or reread the files of a torrent: one at a time for each, whichever command asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use crate::model::InfoHash;

type Turn = tokio::sync::Mutex<()>;

/// Whose turn it is, by torrent.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    turns: Mutex<HashMap<InfoHash, Weak<Turn>>>,
}

impl Jobs {
    /// Waits for the torrent's turn. It ends when the guard is dropped.
    pub async fn turn(&self, info_hash: &InfoHash) -> OwnedMutexGuard<()> {
        self.of(info_hash).lock_owned().await
    }

    /// Takes the turn if nobody has it.
    pub fn try_turn(&self, info_hash: &InfoHash) -> Option<OwnedMutexGuard<()>> {
        self.of(info_hash).try_lock_owned().ok()
    }

    fn of(&self, info_hash: &InfoHash) -> Arc<Turn> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(info_hash).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Turn::default());
        turns.insert(*info_hash, Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_on_one_torrent_take_turns_and_those_on_others_do_not_wait() {
        let jobs = Jobs::default();
        let held = jobs.turn(&InfoHash([1; 32])).await;
        assert!(jobs.try_turn(&InfoHash([1; 32])).is_none());
        assert!(jobs.try_turn(&InfoHash([2; 32])).is_some());
        drop(held);
        assert!(jobs.try_turn(&InfoHash([1; 32])).is_some());
        assert!(jobs.turns.lock().unwrap().len() <= 1, "turns that nobody has are forgotten");
    }
}
