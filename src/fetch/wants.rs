//! The claims on the pieces of one torrent, and the orders that the engine has received for them.
//!
//! Readers, windows and whole-file jobs claim pieces. The order for a piece follows from its strongest claim. It becomes
//! weaker only when no claim is left: taking a deadline back while a weaker claim exists would discard the blocks that
//! are already on their way.
//!
//! A reader claims only the blocks that it waits for. While a piece has only such claims, only their blocks are ordered.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::parts::EngineBlocks;
use crate::model::{InfoHash, PieceIndex};
use crate::torrent::Priority;

/// Names a reader, cursor or job. Unique within one `Fetch`, so that releasing twice does no harm.
pub(super) type ClaimId = u64;

/// A piece of a torrent.
pub(super) type TorrentPiece = (InfoHash, u32);

/// How strongly a piece is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClaimLevel {
    /// Wanted by a whole-file job.
    Bulk,
    /// The tail of a window.
    Ahead,
    /// The first pieces of a window: wanted by a deadline, after pieces that readers wait for.
    Near,
    /// A reader waits.
    Urgent,
}

/// The last order that the engine received for a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ordered {
    /// Some blocks, with a deadline.
    Blocks,
    Normal,
    Ahead,
    Requested,
}

/// The bytes of a piece that a claim needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    /// Blocks of 16 KiB, by their numbers in the piece.
    Blocks(Range<u32>),
}

#[derive(Debug, Clone)]
struct PieceClaim {
    by: ClaimId,
    level: ClaimLevel,
    deadline: Duration,
    extent: Extent,
}

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

/// What a piece needs before it can be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    pub piece: u32,
    /// The strongest claim.
    pub level: ClaimLevel,
    /// The number of claimed blocks that the engine does not have; none for the whole piece.
    pub blocks: Option<u32>,
}

/// A piece that readers wait for, or are expected to read soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReaderClaim {
    pub piece: u32,
    /// The strongest claim.
    pub level: ClaimLevel,
    pub since: Instant,
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

/// Consecutive numbers as ranges.
fn runs(blocks: &BTreeSet<u32>) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for &block in blocks {
        match runs.last_mut().filter(|run| run.end == block) {
            Some(run) => run.end += 1,
            None => runs.push(block..block + 1),
        }
    }
    runs
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;
    static NONE: std::sync::LazyLock<EngineBlocks> = std::sync::LazyLock::new(EngineBlocks::default);

    fn at() -> Instant {
        Instant::now()
    }

    fn none_held(_: Need) -> bool {
        false
    }

    impl Wants {
        fn whole(&mut self, piece: u32, by: ClaimId, level: ClaimLevel, deadline: Duration, now: Instant) {
            self.claim(piece, by, level, deadline, Extent::Whole, now);
        }
    }

    fn requests(orders: &Orders) -> Vec<u32> {
        orders.requests.iter().map(|(p, _)| p.0).collect()
    }

    #[test]
    fn two_readers_of_a_piece_make_one_request() {
        let mut wants = Wants::default();
        wants.whole(3, 1, ClaimLevel::Urgent, NOW, at());
        assert_eq!(requests(&wants.orders(&NONE, none_held)), [3]);
        wants.whole(3, 2, ClaimLevel::Urgent, NOW, at());
        assert!(wants.orders(&NONE, none_held).is_empty());
        wants.release(3, 1);
        assert!(wants.orders(&NONE, none_held).is_empty());
        wants.release(3, 2);
        assert_eq!(wants.orders(&NONE, none_held).priorities, [(PieceIndex(3), Priority::None)]);
        assert!(!wants.any());
    }

    #[test]
    fn a_reader_who_leaves_does_not_take_the_windows_piece_back() {
        let mut wants = Wants::default();
        wants.whole(3, 1, ClaimLevel::Urgent, NOW, at());
        wants.whole(3, 2, ClaimLevel::Ahead, NOW, at());
        wants.orders(&NONE, none_held);
        wants.release(3, 1);
        assert!(wants.orders(&NONE, none_held).is_empty());
    }

    #[test]
    fn stronger_claim_is_ordered_and_weaker_one_is_not() {
        let mut wants = Wants::default();
        wants.whole(1, 1, ClaimLevel::Bulk, NOW, at());
        assert_eq!(wants.orders(&NONE, none_held).priorities, [(PieceIndex(1), Priority::Normal)]);
        wants.whole(1, 2, ClaimLevel::Ahead, NOW, at());
        assert_eq!(wants.orders(&NONE, none_held).priorities, [(PieceIndex(1), Priority::Ahead)]);
        wants.whole(1, 2, ClaimLevel::Near, NOW, at());
        assert_eq!(requests(&wants.orders(&NONE, none_held)), [1]);
        wants.whole(1, 2, ClaimLevel::Ahead, NOW, at());
        assert!(wants.orders(&NONE, none_held).is_empty());
    }

    #[test]
    fn claim_released_before_the_orders_causes_none() {
        let mut wants = Wants::default();
        wants.whole(1, 1, ClaimLevel::Urgent, NOW, at());
        wants.release(1, 1);
        assert!(wants.orders(&NONE, none_held).is_empty());
    }

    #[test]
    fn cancelled_piece_is_ordered_off_and_fulfilled_one_is_not() {
        let mut wants = Wants::default();
        wants.whole(1, 1, ClaimLevel::Urgent, NOW, at());
        wants.whole(2, 1, ClaimLevel::Urgent, NOW, at());
        wants.orders(&NONE, none_held);
        wants.fulfilled(1);
        wants.cancel(2);
        assert_eq!(wants.orders(&NONE, none_held).priorities, [(PieceIndex(2), Priority::None)]);
        wants.release(1, 1);
        assert!(wants.orders(&NONE, none_held).is_empty());
    }

    #[test]
    fn all_orders_are_repeated_for_a_torrent_added_again() {
        let mut wants = Wants::default();
        wants.whole(1, 1, ClaimLevel::Urgent, NOW, at());
        wants.whole(2, 1, ClaimLevel::Bulk, NOW, at());
        wants.whole(3, 1, ClaimLevel::Bulk, NOW, at());
        wants.orders(&NONE, none_held);
        wants.release(3, 1);
        wants.forget_orders();
        let orders = wants.orders(&NONE, none_held);
        assert_eq!(requests(&orders), [1]);
        assert_eq!(orders.priorities, [(PieceIndex(2), Priority::Normal)]);
    }

    #[test]
    fn held_piece_is_ordered_when_it_is_released() {
        let mut wants = Wants::default();
        wants.whole(1, 1, ClaimLevel::Urgent, NOW, at());
        wants.whole(2, 1, ClaimLevel::Urgent, NOW, at());
        assert_eq!(requests(&wants.orders(&NONE, |need| need.piece == 1)), [2]);
        wants.mark_changed(1);
        wants.mark_changed(7);
        assert_eq!(requests(&wants.orders(&NONE, none_held)), [1]);
        // A piece that is released while it is held back is never ordered.
        wants.whole(3, 1, ClaimLevel::Urgent, NOW, at());
        assert!(wants.orders(&NONE, |_| true).is_empty());
        wants.release(3, 1);
        assert!(wants.orders(&NONE, |_| true).is_empty());
    }

    #[test]
    fn earliest_deadline_is_ordered_last() {
        let mut wants = Wants::default();
        wants.whole(5, 1, ClaimLevel::Urgent, NOW, at());
        wants.whole(6, 2, ClaimLevel::Near, Duration::from_secs(1), at());
        wants.whole(7, 2, ClaimLevel::Near, Duration::from_secs(2), at());
        wants.whole(4, 1, ClaimLevel::Urgent, NOW, at());
        assert_eq!(requests(&wants.orders(&NONE, none_held)), [7, 6, 5, 4]);
    }

    #[test]
    fn claims_record_their_first_time_and_readers() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut wants = Wants::default();
        wants.whole(1, 1, ClaimLevel::Bulk, NOW, start);
        wants.whole(1, 2, ClaimLevel::Ahead, NOW, start + second);
        wants.whole(1, 3, ClaimLevel::Urgent, NOW, start + 2 * second);
        let reading = ReaderClaim { piece: 1, level: ClaimLevel::Urgent, since: start + second };
        assert_eq!((wants.since(1), wants.readings().collect::<Vec<_>>()), (Some(start), vec![reading]));
        wants.release(1, 2);
        wants.release(1, 3);
        assert_eq!((wants.since(1), wants.reading(1), wants.readings().count()), (Some(start), None, 0));
        wants.whole(1, 3, ClaimLevel::Near, NOW, start + 3 * second);
        assert_eq!(wants.reading(1).map(|r| r.since), Some(start + 3 * second));
        wants.cancel(1);
        assert_eq!((wants.since(1), wants.next_claimed(0), wants.readings().count()), (None, None, 0));
        wants.whole(7, 1, ClaimLevel::Bulk, NOW, start);
        assert_eq!((wants.next_claimed(2), wants.next_claimed(8)), (Some(7), None));
    }

    fn blocks(range: Range<u32>) -> Extent {
        Extent::Blocks(range)
    }

    #[test]
    fn only_the_claimed_blocks_are_ordered() {
        let mut wants = Wants::default();
        wants.claim(3, 1, ClaimLevel::Urgent, NOW, blocks(4..8), at());
        assert_eq!(wants.orders(&NONE, none_held).blocks, [(PieceIndex(3), vec![4..8], NOW)]);
        wants.claim(3, 2, ClaimLevel::Urgent, NOW, blocks(4..8), at());
        assert!(wants.orders(&NONE, none_held).is_empty(), "they are ordered");
        wants.claim(3, 3, ClaimLevel::Urgent, NOW, blocks(12..16), at());
        assert_eq!(wants.orders(&NONE, none_held).blocks, [(PieceIndex(3), vec![4..8, 12..16], NOW)]);
        for by in 1..=3 {
            wants.release(3, by);
        }
        assert_eq!(wants.orders(&NONE, none_held).priorities, [(PieceIndex(3), Priority::None)]);
    }

    #[test]
    fn claim_on_the_whole_piece_ends_the_restriction() {
        for (level, priority) in [(ClaimLevel::Bulk, Priority::Normal), (ClaimLevel::Ahead, Priority::Ahead)]
        {
            let mut wants = Wants::default();
            wants.claim(3, 1, ClaimLevel::Urgent, NOW, blocks(4..8), at());
            wants.orders(&NONE, none_held);
            wants.whole(3, 2, level, NOW, at());
            let orders = wants.orders(&NONE, none_held);
            assert_eq!(
                (requests(&orders), orders.priorities.len()),
                (vec![3], 0),
                "{priority:?}: a reader waits"
            );
            wants.release(3, 1);
            wants.claim(3, 4, ClaimLevel::Urgent, NOW, blocks(8..12), at());
            assert!(wants.orders(&NONE, none_held).is_empty(), "the whole piece is ordered");
        }
    }

    #[test]
    fn held_blocks_need_their_own_space_only() {
        let mut wants = Wants::default();
        wants.claim(3, 1, ClaimLevel::Urgent, NOW, blocks(4..8), at());
        let mut needs = Vec::new();
        wants.orders(&NONE, |need| {
            needs.push(need);
            true
        });
        wants.whole(3, 2, ClaimLevel::Ahead, NOW, at());
        wants.orders(&NONE, |need| {
            needs.push(need);
            true
        });
        let need = |blocks| Need { piece: 3, level: ClaimLevel::Urgent, blocks };
        assert_eq!(needs, [need(Some(4)), need(None)]);
    }

    #[test]
    fn withdrawn_piece_is_ordered_again() {
        let mut wants = Wants::default();
        wants.whole(1, 1, ClaimLevel::Urgent, NOW, at());
        wants.orders(&NONE, none_held);
        wants.forget_order(1);
        assert_eq!(requests(&wants.orders(&NONE, none_held)), [1]);
    }
    #[test]
    fn claims_on_blocks_that_came_end() {
        let mut wants = Wants::default();
        let mut engine_has = EngineBlocks::default();
        wants.claim(3, 1, ClaimLevel::Urgent, NOW, blocks(4..8), at());
        wants.claim(3, 2, ClaimLevel::Urgent, NOW, blocks(4..12), at());
        wants.orders(&engine_has, none_held);
        engine_has.insert(3, &(4..8));
        wants.blocks_came(3, &engine_has);
        let mut needs = Vec::new();
        wants.orders(&engine_has, |need| {
            needs.push(need);
            false
        });
        assert_eq!(needs, [Need { piece: 3, level: ClaimLevel::Urgent, blocks: Some(4) }]);
        engine_has.insert(3, &(8..12));
        wants.blocks_came(3, &engine_has);
        assert!(!wants.any());
        assert_eq!(wants.orders(&engine_has, none_held).priorities, [(PieceIndex(3), Priority::None)]);
    }
}
