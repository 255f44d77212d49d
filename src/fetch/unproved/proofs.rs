//! Chooses the pieces to prove, for all torrents.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Proof;
use crate::fetch::claim::ClaimLevel;
use crate::fetch::effects::{Effects, EngineCommand};
use crate::fetch::handed::HandedFrom;
use crate::fetch::transfer::Transfer;
use crate::fetch::transfers::AllTransfers;
use crate::model::{InfoHash, PieceIndex};
use crate::store::Content;
use crate::torrent::TorrentId;

/// Pieces of one torrent that are proved at a time; twice as many where a reader waits.
const AT_A_TIME: usize = 4;

/// Files that are read at a time, for all torrents.
const READS_AT_A_TIME: usize = 2;

/// The pause between two pieces that no reader wants: at 4 MiB a piece, 14 GiB an hour.
const PAUSE: Duration = Duration::from_secs(1);

/// The proofs of all torrents.
pub(in crate::fetch) struct Proofs {
    /// Bounds the bytes in memory, in blocks.
    memory: Arc<Semaphore>,
    /// Bounds the reads.
    reads: Arc<Semaphore>,
    /// When the background pass proves the next piece.
    next: Option<Instant>,
}

impl Proofs {
    pub(in crate::fetch) fn new(memory: Arc<Semaphore>) -> Self {
        Self { memory, reads: Arc::new(Semaphore::new(READS_AT_A_TIME)), next: None }
    }

    /// When the background pass proves the next piece.
    pub(in crate::fetch) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Schedules the background pass: a torrent has unproved pieces.
    pub(in crate::fetch) fn expect(&mut self, effects: &mut Effects) {
        effects.wake_by(*self.next.get_or_insert(effects.now + PAUSE));
    }

    /// Begins to prove claimed pieces.
    pub(in crate::fetch) fn prove_wanted(&self, transfer: &mut Transfer, effects: &mut Effects) {
        while let Some(piece) = transfer.next_wanted_unproved() {
            self.prove(transfer, piece, effects);
        }
    }

    /// Proves one piece if no reader waits and no other proof runs.
    pub(in crate::fetch) fn prove_in_background(&mut self, transfers: &mut AllTransfers, no_reader: bool) {
        let now = transfers.effects.now;
        if self.next.is_some_and(|at| at > now) {
            return;
        }
        self.next = None;
        let idle = no_reader && transfers.all.values().all(|t| t.unproved.busy.is_empty());
        let mut running = transfers.all.values_mut().filter(|t| t.running().is_some());
        let next = running.find_map(|t| t.unproved.next_in_background().map(|piece| (t, piece)));
        let Some((transfer, piece)) = next else { return };
        self.next = Some(now + PAUSE);
        if idle {
            self.prove(transfer, piece, &mut transfers.effects);
        }
    }

    fn prove(&self, transfer: &mut Transfer, piece: u32, effects: &mut Effects) {
        let owner = transfer.revision.layout.owner(PieceIndex(piece));
        let (Some(id), Some((file, range))) = (transfer.running(), owner) else {
            return transfer.unproved.done(piece);
        };
        transfer.unproved.busy.insert(piece);
        effects.send(EngineCommand::Prove(Box::new(Proof {
            info_hash: transfer.info_hash(),
            id,
            piece,
            content: transfer.revision.contents[file].clone(),
            range,
            memory: self.memory.clone(),
            reads: self.reads.clone(),
        })));
    }
}

impl AllTransfers {
    pub(super) fn cached_piece_read(
        &mut self,
        info_hash: InfoHash,
        id: TorrentId,
        piece: u32,
        bytes: Option<Vec<u8>>,
        memory: OwnedSemaphorePermit,
    ) {
        let now = self.effects.now;
        let transfer = self.all.get_mut(&info_hash).filter(|t| t.running() == Some(id));
        let Some(transfer) = transfer.filter(|t| t.unproved.busy.contains(&piece)) else { return };
        match bytes {
            Some(bytes) => {
                let until = transfer.handed.insert(piece, HandedFrom::Cache, memory, now);
                self.effects.send(EngineCommand::Give(id, PieceIndex(piece), bytes));
                self.effects.wake_by(until);
            }
            // The engine has to fetch it, unless it came another way.
            None => {
                transfer.unproved.done(piece);
                self.reconsider(info_hash, [piece]);
            }
        }
    }
}

impl Transfer {
    /// The wanted piece to prove next: first pieces that readers wait for.
    fn next_wanted_unproved(&self) -> Option<u32> {
        let Self { unproved, wants, .. } = self;
        let busy = unproved.busy.len();
        if unproved.left == 0 || busy >= 2 * AT_A_TIME {
            return None;
        }
        let waits = wants.readings().filter(|r| unproved.is_idle(r.piece));
        match waits.max_by_key(|r| (r.level, std::cmp::Reverse(r.piece))) {
            Some(reading) if reading.level == ClaimLevel::Urgent || busy < AT_A_TIME => Some(reading.piece),
            _ if busy >= AT_A_TIME => None,
            _ => {
                let mut pieces = unproved.pieces.ones().filter_map(|piece| u32::try_from(piece).ok());
                pieces.find(|&piece| unproved.is_idle(piece) && wants.is_claimed(piece))
            }
        }
    }

    /// The cached bytes of an unproved piece.
    pub(in crate::fetch) fn unproved_bytes(&self, piece: u32) -> Option<(Arc<Content>, Range<u64>)> {
        let (file, range) = self.revision.layout.owner(PieceIndex(piece))?;
        self.unproved.holds(piece).then(|| (self.revision.contents[file].clone(), range))
    }

    /// Gives up pieces that the engine has not verified in time: it lacks their hashes, or those of the whole file.
    pub(in crate::fetch) fn end_overdue_verifications(&mut self, now: Instant) {
        for (piece, origin) in self.handed.take_overdue(now) {
            match origin {
                HandedFrom::Web => {
                    if let Some(web) = &mut self.web {
                        web.was_not_verified();
                    }
                }
                HandedFrom::Cache => {
                    self.unproved.busy.remove(&piece);
                    self.unproved.stuck.insert(piece);
                    let owner = self.revision.layout.owner(PieceIndex(piece));
                    let span = owner.map(|(file, _)| self.revision.layout.spans()[file]);
                    let end = span.map_or(piece + 1, |span| span.first_piece + span.pieces);
                    self.unproved.next = self.unproved.next.max(end);
                }
            }
        }
    }
}
