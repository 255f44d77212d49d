//! The claims on the pieces of one torrent, and the orders that the engine has received for them.
//!
//! Readers, windows and whole-file jobs claim pieces. The order for a piece follows from its strongest claim. It becomes
//! weaker only when no claim is left: taking a deadline back while a weaker claim exists would discard the blocks that
//! are already on their way.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{InfoHash, PieceIndex};
use crate::torrent::Priority;

/// Names a reader, cursor or job. Unique within one `Fetch`, so that releasing twice does no harm.
pub(super) type ClaimId = u64;

/// A piece of a torrent.
pub(super) type TorrentPiece = (InfoHash, u32);

/// How strongly a piece is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
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
    Normal,
    Ahead,
    Requested,
}

#[derive(Debug, Clone, Copy)]
struct PieceClaim {
    by: ClaimId,
    level: Level,
    deadline: Duration,
}

#[derive(Debug, Default)]
struct WantedPiece {
    claims: Vec<PieceClaim>,
    ordered: Option<Ordered>,
    /// When the first of the claims was made.
    since: Option<Instant>,
    /// When the first claim stronger than `Level::Bulk` was made.
    read_since: Option<Instant>,
}

impl WantedPiece {
    fn level(&self) -> Option<Level> {
        self.claims.iter().map(|c| c.level).max()
    }
}

/// A piece that readers wait for, or are expected to read soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReaderClaim {
    pub piece: u32,
    /// The strongest claim.
    pub level: Level,
    pub since: Instant,
}

/// Orders for the engine.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// For `Swarms::set_priority`.
    pub priorities: Vec<(PieceIndex, Priority)>,
    /// For `Swarms::request`, latest deadline first: among equal ones libtorrent prefers the last call.
    pub requests: Vec<(PieceIndex, Duration)>,
}

impl Orders {
    pub(super) fn is_empty(&self) -> bool {
        self.priorities.is_empty() && self.requests.is_empty()
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
    /// Claims a piece; a claim by the same claimant is replaced.
    pub(super) fn claim(&mut self, piece: u32, by: ClaimId, level: Level, deadline: Duration, now: Instant) {
        let want = self.pieces.entry(piece).or_default();
        match want.claims.iter_mut().find(|c| c.by == by) {
            Some(claim) => (claim.level, claim.deadline) = (level, deadline),
            None => want.claims.push(PieceClaim { by, level, deadline }),
        }
        want.since.get_or_insert(now);
        if level > Level::Bulk {
            want.read_since.get_or_insert(now);
            self.read.insert(piece);
        }
        self.changed.insert(piece);
    }

    /// Ends a claim.
    pub(super) fn release(&mut self, piece: u32, by: ClaimId) {
        if let Some(want) = self.pieces.get_mut(&piece) {
            want.claims.retain(|c| c.by != by);
            if want.claims.is_empty() {
                want.since = None;
            }
            if want.level().is_none_or(|level| level == Level::Bulk) {
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

    /// The torrent is added again: the engine has no orders.
    pub(super) fn forget_orders(&mut self) {
        self.pieces.retain(|_, w| !w.claims.is_empty());
        self.pieces.values_mut().for_each(|w| w.ordered = None);
        self.changed = self.pieces.keys().copied().collect();
    }

    /// The engine lost pieces in flight: the next orders repeat the deadlines.
    pub(super) fn forget_requests(&mut self) {
        for (&piece, want) in &mut self.pieces {
            if want.ordered == Some(Ordered::Requested) && !want.claims.is_empty() {
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
    /// [`Wants::mark_changed`]. `is_held` is called for the strongest claims first.
    pub(super) fn orders(&mut self, mut is_held: impl FnMut(u32, Level) -> bool) -> Orders {
        let mut orders = Orders::default();
        let mut changed: Vec<u32> = std::mem::take(&mut self.changed).into_iter().collect();
        changed.sort_by_key(|piece| Reverse(self.pieces.get(piece).and_then(WantedPiece::level)));
        for piece in changed {
            let Some(want) = self.pieces.get_mut(&piece) else { continue };
            if want.level().is_some_and(|level| is_held(piece, level)) {
                continue;
            }
            let Some(best) = want.claims.iter().max_by_key(|c| (c.level, Reverse(c.deadline))) else {
                if want.ordered.is_some() {
                    orders.priorities.push((PieceIndex(piece), Priority::None));
                }
                self.pieces.remove(&piece);
                continue;
            };
            let order = match best.level {
                Level::Bulk => Ordered::Normal,
                Level::Ahead => Ordered::Ahead,
                Level::Near | Level::Urgent => Ordered::Requested,
            };
            if want.ordered >= Some(order) {
                continue;
            }
            want.ordered = Some(order);
            match order {
                Ordered::Normal => orders.priorities.push((PieceIndex(piece), Priority::Normal)),
                Ordered::Ahead => orders.priorities.push((PieceIndex(piece), Priority::Ahead)),
                Ordered::Requested => orders.requests.push((PieceIndex(piece), best.deadline)),
            }
        }
        orders.priorities.sort_by_key(|&(piece, _)| piece);
        orders.requests.sort_by_key(|&(piece, deadline)| Reverse((deadline, piece)));
        orders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn at() -> Instant {
        Instant::now()
    }

    fn none_held(_: u32, _: Level) -> bool {
        false
    }

    fn requests(orders: &Orders) -> Vec<u32> {
        orders.requests.iter().map(|(p, _)| p.0).collect()
    }

    #[test]
    fn two_readers_of_a_piece_make_one_request() {
        let mut wants = Wants::default();
        wants.claim(3, 1, Level::Urgent, NOW, at());
        assert_eq!(requests(&wants.orders(none_held)), [3]);
        wants.claim(3, 2, Level::Urgent, NOW, at());
        assert!(wants.orders(none_held).is_empty());
        wants.release(3, 1);
        assert!(wants.orders(none_held).is_empty());
        wants.release(3, 2);
        assert_eq!(wants.orders(none_held).priorities, [(PieceIndex(3), Priority::None)]);
        assert!(!wants.any());
    }

    #[test]
    fn a_reader_who_leaves_does_not_take_the_windows_piece_back() {
        let mut wants = Wants::default();
        wants.claim(3, 1, Level::Urgent, NOW, at());
        wants.claim(3, 2, Level::Ahead, NOW, at());
        wants.orders(none_held);
        wants.release(3, 1);
        assert!(wants.orders(none_held).is_empty());
    }

    #[test]
    fn stronger_claim_is_ordered_and_weaker_one_is_not() {
        let mut wants = Wants::default();
        wants.claim(1, 1, Level::Bulk, NOW, at());
        assert_eq!(wants.orders(none_held).priorities, [(PieceIndex(1), Priority::Normal)]);
        wants.claim(1, 2, Level::Ahead, NOW, at());
        assert_eq!(wants.orders(none_held).priorities, [(PieceIndex(1), Priority::Ahead)]);
        wants.claim(1, 2, Level::Near, NOW, at());
        assert_eq!(requests(&wants.orders(none_held)), [1]);
        wants.claim(1, 2, Level::Ahead, NOW, at());
        assert!(wants.orders(none_held).is_empty());
    }

    #[test]
    fn claim_released_before_the_orders_causes_none() {
        let mut wants = Wants::default();
        wants.claim(1, 1, Level::Urgent, NOW, at());
        wants.release(1, 1);
        assert!(wants.orders(none_held).is_empty());
    }

    #[test]
    fn cancelled_piece_is_ordered_off_and_fulfilled_one_is_not() {
        let mut wants = Wants::default();
        wants.claim(1, 1, Level::Urgent, NOW, at());
        wants.claim(2, 1, Level::Urgent, NOW, at());
        wants.orders(none_held);
        wants.fulfilled(1);
        wants.cancel(2);
        assert_eq!(wants.orders(none_held).priorities, [(PieceIndex(2), Priority::None)]);
        wants.release(1, 1);
        assert!(wants.orders(none_held).is_empty());
    }

    #[test]
    fn all_orders_are_repeated_for_a_torrent_added_again() {
        let mut wants = Wants::default();
        wants.claim(1, 1, Level::Urgent, NOW, at());
        wants.claim(2, 1, Level::Bulk, NOW, at());
        wants.claim(3, 1, Level::Bulk, NOW, at());
        wants.orders(none_held);
        wants.release(3, 1);
        wants.forget_orders();
        let orders = wants.orders(none_held);
        assert_eq!(requests(&orders), [1]);
        assert_eq!(orders.priorities, [(PieceIndex(2), Priority::Normal)]);
    }

    #[test]
    fn held_piece_is_ordered_when_it_is_released() {
        let mut wants = Wants::default();
        wants.claim(1, 1, Level::Urgent, NOW, at());
        wants.claim(2, 1, Level::Urgent, NOW, at());
        assert_eq!(requests(&wants.orders(|piece, _| piece == 1)), [2]);
        wants.mark_changed(1);
        wants.mark_changed(7);
        assert_eq!(requests(&wants.orders(none_held)), [1]);
        // A piece that is released while it is held back is never ordered.
        wants.claim(3, 1, Level::Urgent, NOW, at());
        assert!(wants.orders(|_, _| true).is_empty());
        wants.release(3, 1);
        assert!(wants.orders(|_, _| true).is_empty());
    }

    #[test]
    fn earliest_deadline_is_ordered_last() {
        let mut wants = Wants::default();
        wants.claim(5, 1, Level::Urgent, NOW, at());
        wants.claim(6, 2, Level::Near, Duration::from_secs(1), at());
        wants.claim(7, 2, Level::Near, Duration::from_secs(2), at());
        wants.claim(4, 1, Level::Urgent, NOW, at());
        assert_eq!(requests(&wants.orders(none_held)), [7, 6, 5, 4]);
    }

    #[test]
    fn claims_record_their_first_time_and_readers() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut wants = Wants::default();
        wants.claim(1, 1, Level::Bulk, NOW, start);
        wants.claim(1, 2, Level::Ahead, NOW, start + second);
        wants.claim(1, 3, Level::Urgent, NOW, start + 2 * second);
        let reading = ReaderClaim { piece: 1, level: Level::Urgent, since: start + second };
        assert_eq!((wants.since(1), wants.readings().collect::<Vec<_>>()), (Some(start), vec![reading]));
        wants.release(1, 2);
        wants.release(1, 3);
        assert_eq!((wants.since(1), wants.reading(1), wants.readings().count()), (Some(start), None, 0));
        wants.claim(1, 3, Level::Near, NOW, start + 3 * second);
        assert_eq!(wants.reading(1).map(|r| r.since), Some(start + 3 * second));
        wants.cancel(1);
        assert_eq!((wants.since(1), wants.next_claimed(0), wants.readings().count()), (None, None, 0));
        wants.claim(7, 1, Level::Bulk, NOW, start);
        assert_eq!((wants.next_claimed(2), wants.next_claimed(8)), (Some(7), None));
    }
}
