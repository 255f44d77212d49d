//! Cached bytes that an older version recorded and that this node has not proved (see `store::unproved`).
//!
//! A claimed piece of them is read from the cache and given to the engine, which proves or rejects it; peers and the web are
//! asked for it only if it is rejected or cannot be read. While no reader waits, the other pieces follow one at a time, so
//! that they can be uploaded. A piece whose hash is not known remains unproved until a peer sends the hash.

mod proofs;
mod run;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use tokio::sync::Semaphore;

use crate::model::InfoHash;
use crate::store::Content;
use crate::torrent::TorrentId;
pub(super) use proofs::Proofs;
pub(super) use run::run;

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
