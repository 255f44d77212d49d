//! Parts of pieces: the blocks that a read needs, and the blocks that the engine has of incomplete pieces.

use std::collections::BTreeMap;
use std::ops::Range;

use fixedbitset::FixedBitSet;

use super::claim::Extent;
use crate::model::{BLOCK_LEN, GRANULE_LEN, PieceIndex};
use crate::store::{Content, StoredRevision};

/// The blocks that the engine believes to be on the disk, of pieces that it does not have.
#[derive(Debug, Default)]
pub(super) struct EngineBlocks(BTreeMap<u32, FixedBitSet>);

impl EngineBlocks {
    /// The verified blocks of a revision, of pieces that are not wholly verified.
    pub(super) fn of(revision: &StoredRevision) -> Self {
        let mut blocks = Self::default();
        let piece_length = u64::from(revision.layout.piece_length());
        for (span, content) in revision.layout.spans().iter().zip(&revision.contents) {
            if content.is_placed() || content.is_complete() {
                continue;
            }
            for run in content.verified_ranges(0..span.len) {
                for at in run.start / piece_length..run.end.div_ceil(piece_length) {
                    let piece = at * piece_length..((at + 1) * piece_length).min(span.len);
                    let part = run.start.max(piece.start)..run.end.min(piece.end);
                    if part != piece {
                        blocks.insert(span.first_piece + at as u32, &numbers(&piece, &part));
                    }
                }
            }
        }
        blocks
    }

    pub(super) fn insert(&mut self, piece: u32, blocks: &Range<u32>) {
        let set = self.0.entry(piece).or_default();
        set.grow(blocks.end as usize);
        set.insert_range(blocks.start as usize..blocks.end as usize);
    }

    pub(super) fn remove(&mut self, piece: u32) {
        self.0.remove(&piece);
    }

    /// Whether the engine has this block.
    pub(super) fn has(&self, piece: u32, block: u32) -> bool {
        self.0.get(&piece).is_some_and(|set| set.contains(block as usize))
    }

    /// Whether the engine has some of these blocks.
    pub(super) fn has_some(&self, piece: u32, blocks: &Range<u32>) -> bool {
        blocks.clone().any(|block| self.has(piece, block))
    }

    /// Whether the engine has all of these blocks.
    pub(super) fn has_all(&self, piece: u32, blocks: &Range<u32>) -> bool {
        blocks.clone().all(|block| self.has(piece, block))
    }

    /// How many blocks of this piece the engine has.
    pub(super) fn count(&self, piece: u32) -> u32 {
        self.0.get(&piece).map_or(0, |set| set.count_ones(..) as u32)
    }

    /// For [`AddTorrent::blocks`](crate::torrent::AddTorrent).
    pub(super) fn ranges(&self) -> Vec<(PieceIndex, Range<u32>)> {
        let runs = |(&piece, set): (&u32, &FixedBitSet)| {
            let mut runs: Vec<Range<u32>> = Vec::new();
            for block in set.ones().map(|block| block as u32) {
                match runs.last_mut().filter(|run| run.end == block) {
                    Some(run) => run.end += 1,
                    None => runs.push(block..block + 1),
                }
            }
            runs.into_iter().map(move |run| (PieceIndex(piece), run)).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(runs).collect()
    }
}

/// The blocks of a piece that the bytes `part` touch; both are ranges of the same file.
pub(super) fn numbers(piece: &Range<u64>, part: &Range<u64>) -> Range<u32> {
    let number = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    number((part.start - piece.start) / BLOCK_LEN)..number((part.end - piece.start).div_ceil(BLOCK_LEN))
}

/// The part of a piece that a read of `read` waits for: the granules with missing bytes. The whole piece if they are at least
/// half of it. `piece` and `read` are ranges of the content.
pub(super) fn extent_of(content: &Content, piece: &Range<u64>, read: &Range<u64>) -> Extent {
    let inside = read.start.max(piece.start)..read.end.min(piece.end);
    let missing = content.missing_ranges(inside.start..inside.end.max(inside.start));
    let (Some(first), Some(last)) = (missing.first(), missing.last()) else { return Extent::Whole };
    let start = piece.start + (first.start.max(piece.start) - piece.start) / GRANULE_LEN * GRANULE_LEN;
    let end = piece.start + (last.end.min(piece.end) - piece.start).div_ceil(GRANULE_LEN) * GRANULE_LEN;
    let part = start..end.min(piece.end);
    if 2 * (part.end - part.start) >= piece.end - piece.start {
        return Extent::Whole;
    }
    Extent::Blocks(numbers(piece, &part))
}
