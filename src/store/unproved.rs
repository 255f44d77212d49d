//! Bytes that are cached but not proved by our own code: what an older version recorded, and what was recorded just
//! before a power cut.
//!
//! They are not readable and not offered to peers. `fetch` reads them piece by piece, when a reader needs them or in the
//! background, and gives them to the engine, which proves or rejects them like bytes from a peer. `verify` does the same
//! with the hashes that it knows. A piece is no longer unproved once it is proved, rejected, evicted or lost.

use std::io;
use std::ops::Range;

use fixedbitset::FixedBitSet;

use super::StoredRevision;
use super::content::{ATTEMPTS, Content, ReadFault};

impl Content {
    /// Number of cached bytes that are not proved.
    pub fn unproved_bytes(&self) -> u64 {
        self.state().unproved.bytes()
    }

    /// Whether all bytes of the range are cached and some of them are not proved.
    pub fn is_unproved(&self, range: &Range<u64>) -> bool {
        let state = self.state();
        let missing = state.map.runs(range, false);
        !missing.is_empty() && missing.iter().all(|run| state.unproved.has(run))
    }

    /// The pieces of `piece_length` bytes that are cached and not proved as a whole.
    pub fn unproved_pieces(&self, piece_length: u64) -> Vec<u32> {
        let len = self.len();
        let runs = self.state().unproved.runs(&(0..len), true);
        let pieces = runs.iter().flat_map(|run| run.start / piece_length..run.end.div_ceil(piece_length));
        let mut pieces: Vec<u64> = pieces.collect();
        pieces.dedup();
        let cached =
            |piece: &u64| self.is_unproved(&(piece * piece_length..((piece + 1) * piece_length).min(len)));
        pieces.into_iter().filter(cached).filter_map(|piece| u32::try_from(piece).ok()).collect()
    }

    /// Reads bytes of which some are not proved, only to prove them. None if some are not cached, or all are proved; a
    /// file that is too short or cannot be read loses the range, and is an error.
    pub fn read_unproved(&self, range: Range<u64>) -> io::Result<Option<Vec<u8>>> {
        let mut attempts = 1..=ATTEMPTS;
        loop {
            if !self.is_unproved(&range) {
                return Ok(None);
            }
            let (home, moves) = {
                let state = self.state();
                (state.home.clone(), state.moves)
            };
            match self.read_at(&home, moves, &range) {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(ReadFault::Lost(lost, error)) => {
                    let lost = self.take_back_lost(moves, lost, &error)?;
                    if lost {
                        tracing::warn!("{}: {error}; what it lacks is fetched again.", self.path().display());
                    }
                    // The file was just being renamed.
                    if lost || attempts.next().is_none() {
                        return Err(error);
                    }
                }
                Err(ReadFault::Other(error)) => return Err(error),
            }
        }
    }

    /// Unproved bytes of the range turned out wrong: they are missing now. Proved ones stay.
    pub fn forget_unproved(&self, range: Range<u64>) -> io::Result<()> {
        let _journal = self.journal();
        if !self.state().unproved.remove(&range) {
            return Ok(());
        }
        self.persist_unproved(&range)
    }
}

impl StoredRevision {
    /// The pieces whose bytes are all cached, and not all proved.
    pub fn unproved_pieces(&self) -> FixedBitSet {
        let mut unproved = FixedBitSet::with_capacity(self.layout.piece_count() as usize);
        let piece_length = u64::from(self.layout.piece_length());
        for (span, content) in self.layout.spans().iter().zip(&self.contents) {
            for piece in content.unproved_pieces(piece_length) {
                unproved.insert((span.first_piece + piece) as usize);
            }
        }
        unproved
    }
}
