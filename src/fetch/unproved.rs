//! Cached bytes that an older version recorded and that this node has not proved (see `store::unproved`).
//!
//! A claimed piece of them is read from the cache and given to the engine, which proves or rejects it; peers and the web are
//! asked for it only if it is rejected or cannot be read. While no reader waits, the other pieces follow one at a time, so
//! that they can be uploaded. A piece whose hash is not known remains unproved until a peer sends the hash.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fixedbitset::FixedBitSet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Fetch;
use super::claim::ClaimLevel;
use super::effects::{Effects, EngineCommand};
use super::handed::HandedFrom;
use super::transfer::Transfer;
use super::transfers::AllTransfers;
use crate::model::{BLOCK_LEN, InfoHash, PieceIndex};
use crate::store::Content;
use crate::torrent::TorrentId;

/// Pieces of one torrent that are proved at a time; twice as many where a reader waits.
const AT_A_TIME: usize = 4;

/// Files that are read at a time, for all torrents.
const READS_AT_A_TIME: usize = 2;

/// The pause between two pieces that no reader wants: at 4 MiB a piece, 14 GiB an hour.
const PAUSE: Duration = Duration::from_secs(1);

/// The unproved pieces of one torrent while it is in the engine.
#[derive(Debug, Default)]
pub(super) struct Unproved {
    /// Neither proved nor rejected.
    pieces: FixedBitSet,
    left: usize,
    /// Being read, or given to the engine.
    busy: BTreeSet<u32>,
    /// Given to the engine, which lacks their hashes.
    stuck: BTreeSet<u32>,
    /// The first piece of the background pass.
    next: u32,
}

impl Unproved {
    pub(super) fn new(pieces: FixedBitSet) -> Self {
        Self { left: pieces.count_ones(..), pieces, ..Self::default() }
    }

    /// Whether any piece is unproved.
    pub(super) fn any(&self) -> bool {
        self.left > 0
    }

    /// Whether a piece is unproved. Peers are not asked for it before.
    pub(super) fn holds(&self, piece: u32) -> bool {
        self.left > 0 && self.pieces.contains(piece as usize)
    }

    /// A piece is proved, rejected or lost.
    pub(super) fn done(&mut self, piece: u32) {
        if self.holds(piece) {
            self.pieces.set(piece as usize, false);
            self.left -= 1;
            self.busy.remove(&piece);
            self.stuck.remove(&piece);
        }
    }

    /// The engine lost the pieces that it was given. From now on it is given claimed pieces only.
    pub(super) fn engine_lost_pieces(&mut self) {
        self.busy.clear();
        self.next = u32::MAX;
    }

    /// A peer is connected, which may send hashes.
    pub(super) fn peer_came(&mut self) {
        self.next = 0;
    }

    fn is_idle(&self, piece: u32) -> bool {
        self.holds(piece) && !self.busy.contains(&piece) && !self.stuck.contains(&piece)
    }

    /// The next piece of the background pass.
    fn next_in_background(&self) -> Option<u32> {
        let rest = self.pieces.ones().filter_map(|piece| u32::try_from(piece).ok());
        rest.skip_while(|&piece| piece < self.next).find(|&piece| self.is_idle(piece))
    }
}

/// One piece to read.
#[derive(Debug)]
pub(super) struct Proof {
    info_hash: InfoHash,
    id: TorrentId,
    piece: u32,
    content: Arc<Content>,
    range: Range<u64>,
    /// Bounds the bytes in memory, in blocks.
    memory: Arc<Semaphore>,
    /// Bounds the reads.
    reads: Arc<Semaphore>,
}

/// Reads a piece, and gives it to the engine.
pub(super) async fn run(fetch: Weak<Fetch>, proof: Proof) {
    let Proof { info_hash, id, piece, content, range, memory, reads } = proof;
    let blocks = u32::try_from((range.end - range.start).div_ceil(BLOCK_LEN)).unwrap_or(u32::MAX);
    // Neither semaphore is ever closed. Each holder of memory has a deadline.
    let Ok(memory) = memory.acquire_many_owned(blocks).await else { return };
    let Ok(reading) = reads.acquire_owned().await else { return };
    let path = content.path();
    let read = tokio::task::spawn_blocking(move || content.read_unproved(range)).await;
    drop(reading);
    let bytes = match read {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            tracing::warn!(path = %path.display(), %error, "could not read cached bytes");
            None
        }
        // The panic was reported.
        Err(_) => None,
    };
    if let Some(fetch) = fetch.upgrade() {
        fetch.with(|state| state.transfers.cached_piece_read(info_hash, id, piece, bytes, memory));
    }
}

/// The proofs of all torrents.
pub(super) struct Proofs {
    /// Bounds the bytes in memory, in blocks.
    memory: Arc<Semaphore>,
    /// Bounds the reads.
    reads: Arc<Semaphore>,
    /// When the background pass proves the next piece.
    next: Option<Instant>,
}

impl Proofs {
    pub(super) fn new(memory: Arc<Semaphore>) -> Self {
        Self { memory, reads: Arc::new(Semaphore::new(READS_AT_A_TIME)), next: None }
    }

    /// When the background pass proves the next piece.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Schedules the background pass: a torrent has unproved pieces.
    pub(super) fn expect(&mut self, effects: &mut Effects) {
        effects.wake_by(*self.next.get_or_insert(effects.now + PAUSE));
    }

    /// Begins to prove claimed pieces.
    pub(super) fn prove_wanted(&self, transfer: &mut Transfer, effects: &mut Effects) {
        while let Some(piece) = transfer.next_wanted_unproved() {
            self.prove(transfer, piece, effects);
        }
    }

    /// Proves one piece if no reader waits and no other proof runs.
    pub(super) fn prove_in_background(&mut self, transfers: &mut AllTransfers, no_reader: bool) {
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
    fn cached_piece_read(
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
    pub(super) fn unproved_bytes(&self, piece: u32) -> Option<(Arc<Content>, Range<u64>)> {
        let (file, range) = self.revision.layout.owner(PieceIndex(piece))?;
        self.unproved.holds(piece).then(|| (self.revision.contents[file].clone(), range))
    }

    /// Gives up pieces that the engine has not verified in time: it lacks their hashes, or those of the whole file.
    pub(super) fn end_overdue_verifications(&mut self, now: Instant) {
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
