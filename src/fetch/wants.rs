//! The claims on the pieces of one torrent, and the orders that the engine has received for them.
//!
//! Readers, windows and whole-file jobs claim pieces. The order for a piece follows from its strongest claim. It becomes
//! weaker only when no claim is left: taking a deadline back while a weaker claim exists would discard the blocks that
//! are already on their way.
//!
//! A reader claims only the blocks that it waits for. While a piece has only such claims, only their blocks are ordered.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::claim::{ClaimId, ClaimLevel, Extent, PieceClaim, ReaderClaim};
use super::orders::{Need, Ordered, Orders, runs};
use super::parts::EngineBlocks;
use crate::model::PieceIndex;
use crate::torrent::Priority;

#[derive(Debug, Default)]
struct WantedPiece {
    claims: Vec<PieceClaim>,
    ordered: Option<Ordered>,
    /// The blocks of the last order for blocks.
    blocks: BTreeSet<u32>,
    /// When the first of the claims was made.
    since: Option<Instant>,
    /// When the first claim stronger than `ClaimLevel::Bulk` was made.
    read_since: Option<Instant>,
}

impl WantedPiece {
    fn level(&self) -> Option<ClaimLevel> {
        self.claims.iter().map(|c| c.level).max()
    }

    /// The claimed blocks; none if the whole piece is claimed.
    fn claimed_blocks(&self) -> Option<BTreeSet<u32>> {
        let mut blocks = BTreeSet::new();
        for claim in &self.claims {
            match &claim.extent {
                Extent::Whole => return None,
                Extent::Blocks(range) => blocks.extend(range.clone()),
            }
        }
        Some(blocks)
    }
}

/// The wants of one torrent.
#[derive(Debug, Default)]
pub(super) struct Wants {
    pieces: BTreeMap<u32, WantedPiece>,
    changed: BTreeSet<u32>,
    /// The pieces claimed for readers.
    read: BTreeSet<u32>,
}

impl Wants {
    /// Claims a piece or a part of it; a claim by the same claimant is replaced.
    pub(super) fn claim(
        &mut self,
        piece: u32,
        by: ClaimId,
        level: ClaimLevel,
        deadline: Duration,
        extent: Extent,
        now: Instant,
    ) {
        let want = self.pieces.entry(piece).or_default();
        want.claims.retain(|claim| claim.by != by);
        want.claims.push(PieceClaim { by, level, deadline, extent });
        want.since.get_or_insert(now);
        if level > ClaimLevel::Bulk {
            want.read_since.get_or_insert(now);
            self.read.insert(piece);
        }
        self.changed.insert(piece);
    }

    /// Ends a claim.
    pub(super) fn release(&mut self, piece: u32, by: ClaimId) {
        self.retain(piece, |claim| claim.by != by);
    }

    /// Blocks of a piece came: claims on nothing else end. They would reserve space for these blocks again, and no block
    /// would end that reservation.
    pub(super) fn blocks_came(&mut self, piece: u32, engine_has: &EngineBlocks) {
        self.retain(piece, |claim| match &claim.extent {
            Extent::Whole => true,
            Extent::Blocks(blocks) => !engine_has.has_all(piece, blocks),
        });
    }

    fn retain(&mut self, piece: u32, stays: impl FnMut(&PieceClaim) -> bool) {
        if let Some(want) = self.pieces.get_mut(&piece) {
            want.claims.retain(stays);
            if want.claims.is_empty() {
                want.since = None;
            }
            if want.level().is_none_or(|level| level == ClaimLevel::Bulk) {
                want.read_since = None;
                self.read.remove(&piece);
            }
            self.changed.insert(piece);
        }
    }

    /// The engine has the piece: all claims end, without an order.
    pub(super) fn fulfilled(&mut self, piece: u32) {
        self.pieces.remove(&piece);
        self.read.remove(&piece);
        self.changed.remove(&piece);
    }

    /// The bytes came another way: all claims end, and the next orders cancel the piece.
    pub(super) fn cancel(&mut self, piece: u32) {
        if let Some(want) = self.pieces.get_mut(&piece) {
            want.claims.clear();
            (want.since, want.read_since) = (None, None);
            self.read.remove(&piece);
            self.changed.insert(piece);
        }
    }

    /// Whether the piece is claimed.
    pub(super) fn is_claimed(&self, piece: u32) -> bool {
        self.pieces.get(&piece).is_some_and(|w| !w.claims.is_empty())
    }

    /// Whether any piece is claimed.
    pub(super) fn any(&self) -> bool {
        self.pieces.values().any(|w| !w.claims.is_empty())
    }

    /// Since when a piece has been claimed.
    pub(super) fn since(&self, piece: u32) -> Option<Instant> {
        self.pieces.get(&piece)?.since
    }

    /// The first claimed piece from `from` on.
    pub(super) fn next_claimed(&self, from: u32) -> Option<u32> {
        self.pieces.range(from..).find(|(_, w)| !w.claims.is_empty()).map(|(&piece, _)| piece)
    }

    /// The claim of readers on a piece, waiting or to come.
    pub(super) fn reading(&self, piece: u32) -> Option<ReaderClaim> {
        let want = self.pieces.get(&piece)?;
        Some(ReaderClaim { piece, level: want.level()?, since: want.read_since? })
    }

    /// All pieces claimed for readers.
    pub(super) fn readings(&self) -> impl Iterator<Item = ReaderClaim> {
        self.read.iter().filter_map(|&piece| self.reading(piece))
    }

    /// The engine has withdrawn a piece: the next orders repeat its order.
    pub(super) fn forget_order(&mut self, piece: u32) {
        if let Some(want) = self.pieces.get_mut(&piece) {
            want.ordered = None;
            self.changed.insert(piece);
        }
    }

    /// Whether only blocks of the piece are ordered.
    pub(super) fn is_ordered_in_blocks(&self, piece: u32) -> bool {
        self.pieces.get(&piece).is_some_and(|want| want.ordered == Some(Ordered::Blocks))
    }

    /// The engine has ended a request for blocks.
    pub(super) fn forget_blocks(&mut self, piece: u32) {
        if self.is_ordered_in_blocks(piece) {
            self.forget_order(piece);
        }
    }

    /// The torrent is added again: the engine has no orders.
    pub(super) fn forget_orders(&mut self) {
        self.pieces.retain(|_, w| !w.claims.is_empty());
        self.pieces.values_mut().for_each(|w| w.ordered = None);
        self.changed = self.pieces.keys().copied().collect();
    }

    /// The engine lost pieces in flight: the next orders repeat the deadlines.
    pub(super) fn forget_requests(&mut self) {
        for (&piece, want) in &mut self.pieces {
            let requested = matches!(want.ordered, Some(Ordered::Requested | Ordered::Blocks));
            if requested && !want.claims.is_empty() {
                want.ordered = None;
                self.changed.insert(piece);
            }
        }
    }

    /// A piece is no longer held back: the next orders contain it if it is claimed.
    pub(super) fn mark_changed(&mut self, piece: u32) {
        if self.pieces.contains_key(&piece) {
            self.changed.insert(piece);
        }
    }

    /// The orders for everything that changed since the last call. Claimed pieces that `is_held` holds back get none, until
    /// [`Wants::mark_changed`]. `is_held` is called for the strongest claims first. Single blocks that the engine has are
    /// not ordered.
    pub(super) fn orders(
        &mut self,
        engine_has: &EngineBlocks,
        mut is_held: impl FnMut(Need) -> bool,
    ) -> Orders {
        let mut orders = Orders::default();
        let mut changed: Vec<u32> = std::mem::take(&mut self.changed).into_iter().collect();
        changed.sort_by_key(|piece| Reverse(self.pieces.get(piece).and_then(WantedPiece::level)));
        for piece in changed {
            let Some(want) = self.pieces.get_mut(&piece) else { continue };
            let Some(best) = want.claims.iter().max_by_key(|c| (c.level, Reverse(c.deadline))) else {
                if want.ordered.is_some() {
                    orders.priorities.push((PieceIndex(piece), Priority::None));
                }
                self.pieces.remove(&piece);
                continue;
            };
            let (level, deadline) = (best.level, best.deadline);
            let mut blocks = want.claimed_blocks();
            if let Some(blocks) = &mut blocks {
                blocks.retain(|&block| !engine_has.has(piece, block));
                if blocks.is_empty() {
                    continue;
                }
            }
            if is_held(Need { piece, level, blocks: blocks.as_ref().map(|blocks| blocks.len() as u32) }) {
                continue;
            }
            if let Some(blocks) = blocks {
                let repeats = want.ordered == Some(Ordered::Blocks) && blocks.is_subset(&want.blocks);
                if want.ordered > Some(Ordered::Blocks) || repeats {
                    continue;
                }
                want.ordered = Some(Ordered::Blocks);
                orders.blocks.push((PieceIndex(piece), runs(&blocks), deadline));
                want.blocks = blocks;
                continue;
            }
            let order = match level {
                ClaimLevel::Bulk => Ordered::Normal,
                ClaimLevel::Ahead => Ordered::Ahead,
                ClaimLevel::Near | ClaimLevel::Urgent => Ordered::Requested,
            };
            if want.ordered >= Some(order) {
                continue;
            }
            want.ordered = Some(order);
            match order {
                Ordered::Normal => orders.priorities.push((PieceIndex(piece), Priority::Normal)),
                Ordered::Ahead => orders.priorities.push((PieceIndex(piece), Priority::Ahead)),
                Ordered::Requested | Ordered::Blocks => orders.requests.push((PieceIndex(piece), deadline)),
            }
        }
        orders.priorities.sort_by_key(|&(piece, _)| piece);
        orders.requests.sort_by_key(|&(piece, deadline)| Reverse((deadline, piece)));
        orders
    }
}

#[cfg(test)]
mod tests;
