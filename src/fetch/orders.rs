//! Orders for the engine: priorities, deadlines of pieces, and requests for blocks.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use super::claim::ClaimLevel;
use crate::model::PieceIndex;
use crate::torrent::Priority;

/// The last order that the engine received for a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ordered {
    /// Some blocks, with a deadline.
    Blocks,
    Normal,
    Ahead,
    Requested,
}

/// The need of one piece: its strongest claim, and the blocks that the engine must fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    pub piece: u32,
    /// The strongest claim.
    pub level: ClaimLevel,
    /// The number of claimed blocks that the engine does not have; none for the whole piece.
    pub blocks: Option<u32>,
}

/// Orders for the engine.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// For `Swarms::set_priority`.
    pub priorities: Vec<(PieceIndex, Priority)>,
    /// For `Swarms::request`, latest deadline first: among equal ones libtorrent prefers the last call.
    pub requests: Vec<(PieceIndex, Duration)>,
    /// For `Swarms::request_blocks`.
    pub blocks: Vec<(PieceIndex, Vec<Range<u32>>, Duration)>,
}

impl Orders {
    pub(super) fn is_empty(&self) -> bool {
        self.priorities.is_empty() && self.requests.is_empty() && self.blocks.is_empty()
    }

    /// Removes all orders for these pieces.
    pub(super) fn drop_pieces(&mut self, pieces: &[PieceIndex]) {
        self.priorities.retain(|(piece, _)| !pieces.contains(piece));
        self.requests.retain(|(piece, _)| !pieces.contains(piece));
        self.blocks.retain(|(piece, _, _)| !pieces.contains(piece));
    }
}

/// Consecutive numbers as ranges.
pub(super) fn runs(blocks: &BTreeSet<u32>) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for &block in blocks {
        match runs.last_mut().filter(|run| run.end == block) {
            Some(run) => run.end += 1,
            None => runs.push(block..block + 1),
        }
    }
    runs
}
