//! The effects of a change of the fetch state: commands for the engine, and the next run of the timer.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

use tokio::time::Instant;

use super::claim::ClaimId;
use super::orders::Orders;
use super::unproved::Proof;
use super::web::PieceDownload;
use crate::model::{InfoHash, PieceIndex};
use crate::torrent::TorrentId;

/// A call of the engine, or a task to start. Issued without the lock of the state, in order.
#[derive(Debug)]
pub(super) enum EngineCommand {
    /// Add the torrent if it is still queued.
    Add(InfoHash),
    Remove(TorrentId),
    /// These pieces are no longer on the disk.
    Withdraw(TorrentId, Vec<PieceIndex>),
    Orders(TorrentId, Orders),
    /// Upload nothing until the torrent is added again.
    Withhold(TorrentId),
    Reannounce(TorrentId),
    /// Call the peers that are known and not connected.
    Redial(TorrentId),
    Connect(TorrentId, SocketAddr),
    SaveResume(TorrentId),
    ExportMetainfo(TorrentId),
    /// Start a request over HTTP.
    Download(Box<PieceDownload>),
    /// Read a cached piece that is not proved, and give it to the engine.
    Prove(Box<Proof>),
    /// Give the engine a piece that did not come from a peer.
    Give(TorrentId, PieceIndex, Vec<u8>),
}

/// Collected under the lock of the state, used after it is released.
#[derive(Debug)]
pub(super) struct Effects {
    /// The time of the present change.
    pub now: Instant,
    commands: VecDeque<EngineCommand>,
    changed: BTreeSet<InfoHash>,
    /// The earliest time requested since the timer last ran.
    wake_at: Option<Instant>,
    /// When the timer runs next.
    timer_at: Instant,
    last_id: ClaimId,
}

impl Effects {
    pub(super) fn new(now: Instant) -> Self {
        let (commands, changed) = (VecDeque::new(), BTreeSet::new());
        Self { now, commands, changed, wake_at: None, timer_at: now, last_id: 0 }
    }

    /// A new name for a waiter, a cursor or a request.
    pub(super) fn new_id(&mut self) -> ClaimId {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn send(&mut self, command: EngineCommand) {
        self.commands.push_back(command);
    }

    /// Removes queued orders for pieces that the engine is about to forget.
    pub(super) fn drop_orders(&mut self, id: TorrentId, pieces: &[PieceIndex]) {
        for command in &mut self.commands {
            if let EngineCommand::Orders(of, orders) = command
                && *of == id
            {
                orders.drop_pieces(pieces);
            }
        }
    }

    pub(super) fn next_command(&mut self) -> Option<EngineCommand> {
        self.commands.pop_front()
    }

    pub(super) fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// The claims of a transfer changed, or pieces of it are no longer held back.
    pub(super) fn mark_changed(&mut self, info_hash: InfoHash) {
        self.changed.insert(info_hash);
    }

    /// The transfers marked since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<InfoHash> {
        std::mem::take(&mut self.changed)
    }

    /// Makes the timer run at `when` or earlier.
    pub(super) fn wake_by(&mut self, when: Instant) {
        self.wake_at = Some(self.wake_at.map_or(when, |at| at.min(when)));
    }

    /// The timer runs now, and then at `next`.
    pub(super) fn timer_runs(&mut self, next: Instant) {
        self.wake_at = None;
        self.timer_at = next;
    }

    /// Whether the timer has to run earlier than planned. True once per change of the plan.
    pub(super) fn take_earlier_wake(&mut self) -> bool {
        match self.wake_at.take().filter(|&at| at < self.timer_at) {
            Some(at) => {
                self.timer_at = at;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timer_is_woken_once_for_each_earlier_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut effects = Effects::new(start);
        effects.timer_runs(at(10));
        effects.wake_by(at(20));
        assert!(!effects.take_earlier_wake());
        effects.wake_by(at(8));
        effects.wake_by(at(5));
        assert!(effects.take_earlier_wake());
        effects.wake_by(at(6));
        assert!(!effects.take_earlier_wake());
    }
}
