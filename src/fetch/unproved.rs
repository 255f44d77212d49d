//! Cached bytes that our own code has not proved: an older version recorded them (see `store::unproved`).
//!
//! A claimed piece of them is read from the cache and handed to the engine, which proves or rejects it; peers and the
//! web are asked for it only if it is rejected or cannot be read. While no reader waits, the other pieces follow one at
//! a time, so that they can be uploaded. A piece whose hash is not known stays as it is until a peer sends
//! the hash.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fixedbitset::FixedBitSet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Fetch;
use super::handed::Source;
use super::state::{Command, State};
use super::transfer::Transfer;
use super::wants::Level;
use crate::model::{BLOCK_LEN, InfoHash, PieceIndex};
use crate::store::Content;
use crate::torrent::TorrentId;

/// Pieces of one torrent that are proved at a time; twice as many where a reader waits.
const AT_A_TIME: usize = 4;

/// Files that are read at a time, for all torrents.
pub(super) const READS_AT_A_TIME: usize = 2;

/// The pause between two pieces that no reader wants: at 4 MiB a piece, 14 GiB an hour.
const PAUSE: Duration = Duration::from_secs(1);

/// The unproved pieces of one torrent while it is in the engine.
#[derive(Debug, Default)]
pub(super) struct Unproved {
    /// Neither proved nor rejected.
    pieces: FixedBitSet,
    left: usize,
    /// Being read, or handed to the engine.
    busy: BTreeSet<u32>,
    /// Handed to the engine, which lacks their hashes.
    stuck: BTreeSet<u32>,
    /// Where the background pass goes on.
    next: u32,
}

impl Unproved {
    pub(super) fn new(pieces: FixedBitSet) -> Self {
        Self { left: pieces.count_ones(..), pieces, ..Self::default() }
    }

    /// Whether any piece is still to be proved.
    pub(super) fn any(&self) -> bool {
        self.left > 0
    }

    /// Whether a piece is still to be proved. Peers are not asked for it before.
    pub(super) fn holds(&self, piece: u32) -> bool {
        self.left > 0 && self.pieces.contains(piece as usize)
    }

    /// A piece is proved, rejected or lost. Returns whether it was still to be proved.
    pub(super) fn done(&mut self, piece: u32) -> bool {
        let held = self.holds(piece);
        if held {
            self.pieces.set(piece as usize, false);
            self.left -= 1;
            self.busy.remove(&piece);
            self.stuck.remove(&piece);
        }
        held
    }

    /// The engine lost what it was given. Nothing more is given unless it is wanted.
    pub(super) fn engine_lost_pieces(&mut self) {
        self.busy.clear();
        self.next = u32::MAX;
    }

    /// A peer is here, which may know hashes.
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
    ih: InfoHash,
    id: TorrentId,
    piece: u32,
    content: Arc<Content>,
    range: Range<u64>,
    /// Bounds the bytes in memory, in blocks.
    memory: Arc<Semaphore>,
    /// Bounds the reads.
    reads: Arc<Semaphore>,
}

/// Reads a piece, and hands it to the engine.
pub(super) async fn run(fetch: Weak<Fetch>, proof: Proof) {
    let Proof { ih, id, piece, content, range, memory, reads } = proof;
    let blocks = u32::try_from((range.end - range.start).div_ceil(BLOCK_LEN)).unwrap_or(u32::MAX);
    // Neither semaphore is ever closed. What holds the memory has a deadline.
    let Ok(memory) = memory.acquire_many_owned(blocks).await else { return };
    let Ok(reading) = reads.acquire_owned().await else { return };
    let path = content.path();
    let read = tokio::task::spawn_blocking(move || content.read_unproved(range)).await;
    drop(reading);
    let bytes = match read {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            tracing::warn!(path = %path.display(), %error, "Cached bytes could not be read.");
            None
        }
        // A panic in there was reported.
        Err(_) => None,
    };
    if let Some(fetch) = fetch.upgrade() {
        fetch.with(|state, now| state.unproved_was_read(ih, id, piece, bytes, memory, now));
    }
}

impl Transfer {
    /// The wanted piece to prove next: first those that readers wait for.
    fn next_wanted_unproved(&self) -> Option<u32> {
        let Self { unproved, wants, .. } = self;
        let busy = unproved.busy.len();
        if unproved.left == 0 || busy >= 2 * AT_A_TIME {
            return None;
        }
        let waits = wants.readings().filter(|r| unproved.is_idle(r.piece));
        match waits.max_by_key(|r| (r.level, std::cmp::Reverse(r.piece))) {
            Some(reading) if reading.level == Level::Urgent || busy < AT_A_TIME => Some(reading.piece),
            _ if busy >= AT_A_TIME => None,
            _ => {
                let pieces = unproved.pieces.ones().filter_map(|piece| u32::try_from(piece).ok());
                pieces.into_iter().find(|&piece| unproved.is_idle(piece) && wants.is_claimed(piece))
            }
        }
    }
}

impl State {
    /// Begins to prove claimed pieces.
    pub(super) fn prove_wanted(&mut self, ih: InfoHash) {
        while let Some(piece) = self.transfers.get(&ih).and_then(Transfer::next_wanted_unproved) {
            self.prove(ih, piece);
        }
    }

    /// Proves one piece if no reader waits for anything and no other proof runs.
    pub(super) fn prove_in_background(&mut self, now: Instant) {
        if self.stopped || self.next_proof.is_some_and(|at| at > now) {
            return;
        }
        self.next_proof = None;
        let idle =
            self.waiters().next().is_none() && self.transfers.values().all(|t| t.unproved.busy.is_empty());
        let candidates = self.transfers.iter().filter(|(_, t)| t.running().is_some());
        let mut candidates = candidates.filter_map(|(ih, t)| Some((*ih, t.unproved.next_in_background()?)));
        let Some((ih, piece)) = candidates.next() else { return };
        self.next_proof = Some(now + PAUSE);
        if idle {
            self.prove(ih, piece);
        }
    }

    /// Unproved pieces are there: has them proved soon.
    pub(super) fn expect_proofs(&mut self, now: Instant) {
        let at = *self.next_proof.get_or_insert(now + PAUSE);
        self.look_at(at);
    }

    fn prove(&mut self, ih: InfoHash, piece: u32) {
        let (memory, reads) = (self.web.memory.clone(), self.proofs.clone());
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        let owner = transfer.revision.layout.owner(PieceIndex(piece));
        let (Some(id), Some((file, range))) = (transfer.running(), owner) else {
            transfer.unproved.done(piece);
            return;
        };
        let content = transfer.revision.contents[file].clone();
        transfer.unproved.busy.insert(piece);
        let proof = Proof { ih, id, piece, content, range, memory, reads };
        self.outbox.push_back(Command::Prove(Box::new(proof)));
    }

    fn unproved_was_read(
        &mut self,
        ih: InfoHash,
        id: TorrentId,
        piece: u32,
        bytes: Option<Vec<u8>>,
        memory: OwnedSemaphorePermit,
        now: Instant,
    ) {
        let Some(transfer) = self.transfers.get_mut(&ih).filter(|t| t.running() == Some(id)) else { return };
        if !transfer.unproved.busy.contains(&piece) {
            return;
        }
        match bytes {
            Some(bytes) => {
                let until = transfer.handed.insert(piece, Source::Cache, memory, now);
                self.outbox.push_back(Command::Give(id, PieceIndex(piece), bytes));
                self.look_at(until);
            }
            // The engine has to fetch it, unless it came another way.
            None => self.unproved_is_done(ih, piece),
        }
    }

    /// A piece is no longer to be proved. If it is claimed and missing, peers are asked for it.
    fn unproved_is_done(&mut self, ih: InfoHash, piece: u32) {
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        transfer.unproved.done(piece);
        transfer.wants.say_again(piece);
        self.touched.insert(ih);
    }

    /// The engine rejected a piece. Returns the cached bytes that were wrong, where it came from the cache.
    pub(super) fn unproved_was_rejected(
        &mut self,
        ih: InfoHash,
        piece: u32,
    ) -> Option<(Arc<Content>, Range<u64>)> {
        let transfer = self.transfers.get(&ih).filter(|t| t.unproved.holds(piece))?;
        let (file, range) = transfer.revision.layout.owner(PieceIndex(piece))?;
        let content = transfer.revision.contents[file].clone();
        self.unproved_is_done(ih, piece);
        Some((content, range))
    }

    /// The engine has not judged pieces in time: it lacks their hashes, or those of the whole file.
    pub(super) fn end_overdue_proofs(&mut self, now: Instant) {
        for transfer in self.transfers.values_mut() {
            for (piece, source) in transfer.handed.take_overdue(now) {
                match source {
                    Source::Web => {
                        if let Some(web) = &mut transfer.web {
                            web.was_not_judged();
                        }
                    }
                    Source::Cache => {
                        let unproved = &mut transfer.unproved;
                        unproved.busy.remove(&piece);
                        unproved.stuck.insert(piece);
                        let owner = transfer.revision.layout.owner(PieceIndex(piece));
                        let span = owner.map(|(file, _)| transfer.revision.layout.spans()[file]);
                        let end = span.map_or(piece + 1, |span| span.first_piece + span.pieces);
                        unproved.next = unproved.next.max(end);
                    }
                }
            }
        }
    }
}
