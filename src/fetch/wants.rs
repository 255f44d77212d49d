//! Who wants which piece of one torrent, and what the engine has been told of it.
//!
//! A want is a set of claims, each by a reader, a window or a whole-file job. What the engine is told follows
//! from the strongest claim. It is told less only when nobody claims the piece any more: taking a deadline back
//! while a weaker claim stands would throw away the blocks already on their way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::PieceIndex;
use crate::torrent::Priority;

/// Names a reader, cursor or job. Unique within one `Fetch`, so that releasing twice does no harm.
pub(super) type ClaimId = u64;

/// How strongly a piece is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Wanted by a whole-file job.
    Bulk,
    /// The tail of a window.
    Ahead,
    /// The first pieces of a window: wanted by a deadline, after what readers wait for.
    Near,
    /// A reader waits.
    Urgent,
}

/// What the engine was last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Normal,
    Ahead,
    Requested,
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    by: ClaimId,
    level: Level,
    deadline: Duration,
}

#[derive(Debug, Default)]
struct Want {
    claims: Vec<Claim>,
    told: Option<Told>,
}

/// What is to be said to the engine.
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
    pieces: BTreeMap<u32, Want>,
    changed: BTreeSet<u32>,
}

impl Wants {
    /// Claims a piece; a claim by the same claimant is replaced.
    pub(super) fn claim(&mut self, piece: u32, by: ClaimId, level: Level, deadline: Duration) {
        let want = self.pieces.entry(piece).or_default();
        match want.claims.iter_mut().find(|c| c.by == by) {
            Some(claim) => (claim.level, claim.deadline) = (level, deadline),
            None => want.claims.push(Claim { by, level, deadline }),
        }
        self.changed.insert(piece);
    }

    /// Takes a claim back.
    pub(super) fn release(&mut self, piece: u32, by: ClaimId) {
        if let Some(want) = self.pieces.get_mut(&piece) {
            want.claims.retain(|c| c.by != by);
            self.changed.insert(piece);
        }
    }

    /// The engine has the piece: all claims end, and there is nothing to tell.
    pub(super) fn fulfilled(&mut self, piece: u32) {
        self.pieces.remove(&piece);
        self.changed.remove(&piece);
    }

    /// The bytes came another way: all claims end and the engine is told to stop.
    pub(super) fn cancel(&mut self, piece: u32) {
        if let Some(want) = self.pieces.get_mut(&piece) {
            want.claims.clear();
            self.changed.insert(piece);
        }
    }

    /// Whether anybody claims the piece.
    pub(super) fn is_claimed(&self, piece: u32) -> bool {
        self.pieces.get(&piece).is_some_and(|w| !w.claims.is_empty())
    }

    /// Whether anybody claims any piece.
    pub(super) fn any(&self) -> bool {
        self.pieces.values().any(|w| !w.claims.is_empty())
    }

    /// The engine knows nothing of what it was told: the torrent was added anew.
    pub(super) fn forget_told(&mut self) {
        self.pieces.retain(|_, w| !w.claims.is_empty());
        self.pieces.values_mut().for_each(|w| w.told = None);
        self.changed = self.pieces.keys().copied().collect();
    }

    /// Deadlines have to be said again: the engine lost pieces in flight.
    pub(super) fn forget_requests(&mut self) {
        for (&piece, want) in &mut self.pieces {
            if want.told == Some(Told::Requested) && !want.claims.is_empty() {
                want.told = None;
                self.changed.insert(piece);
            }
        }
    }

    /// What is to be said to the engine for everything that changed since the last call.
    pub(super) fn orders(&mut self) -> Orders {
        let mut orders = Orders::default();
        for piece in std::mem::take(&mut self.changed) {
            let Some(want) = self.pieces.get_mut(&piece) else { continue };
            let Some(best) = want.claims.iter().max_by_key(|c| (c.level, std::cmp::Reverse(c.deadline)))
            else {
                if want.told.is_some() {
                    orders.priorities.push((PieceIndex(piece), Priority::None));
                }
                self.pieces.remove(&piece);
                continue;
            };
            let tell = match best.level {
                Level::Bulk => Told::Normal,
                Level::Ahead => Told::Ahead,
                Level::Near | Level::Urgent => Told::Requested,
            };
            if want.told >= Some(tell) {
                continue;
            }
            want.told = Some(tell);
            match tell {
                Told::Normal => orders.priorities.push((PieceIndex(piece), Priority::Normal)),
                Told::Ahead => orders.priorities.push((PieceIndex(piece), Priority::Ahead)),
                Told::Requested => orders.requests.push((PieceIndex(piece), best.deadline)),
            }
        }
        orders.requests.sort_by_key(|&(piece, deadline)| std::cmp::Reverse((deadline, piece)));
        orders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn requests(orders: &Orders) -> Vec<u32> {
        orders.requests.iter().map(|(p, _)| p.0).collect()
    }

    #[test]
    fn two_readers_of_a_piece_make_one_request() {
        let mut wants = Wants::default();
        wants.claim(3, 1, Level::Urgent, NOW);
        assert_eq!(requests(&wants.orders()), [3]);
        wants.claim(3, 2, Level::Urgent, NOW);
        assert!(wants.orders().is_empty());
        wants.release(3, 1);
        assert!(wants.orders().is_empty());
        wants.release(3, 2);
        assert_eq!(wants.orders().priorities, [(PieceIndex(3), Priority::None)]);
        assert!(!wants.any());
    }

    #[test]
    fn a_reader_who_leaves_does_not_take_the_windows_piece_back() {
        let mut wants = Wants::default();
        wants.claim(3, 1, Level::Urgent, NOW);
        wants.claim(3, 2, Level::Ahead, NOW);
        wants.orders();
        wants.release(3, 1);
        assert!(wants.orders().is_empty());
    }

    #[test]
    fn a_stronger_claim_is_told_and_a_weaker_one_is_not() {
        let mut wants = Wants::default();
        wants.claim(1, 1, Level::Bulk, NOW);
        assert_eq!(wants.orders().priorities, [(PieceIndex(1), Priority::Normal)]);
        wants.claim(1, 2, Level::Ahead, NOW);
        assert_eq!(wants.orders().priorities, [(PieceIndex(1), Priority::Ahead)]);
        wants.claim(1, 2, Level::Near, NOW);
        assert_eq!(requests(&wants.orders()), [1]);
        wants.claim(1, 2, Level::Ahead, NOW);
        assert!(wants.orders().is_empty());
    }

    #[test]
    fn a_claim_that_comes_and_goes_unseen_is_never_told() {
        let mut wants = Wants::default();
        wants.claim(1, 1, Level::Urgent, NOW);
        wants.release(1, 1);
        assert!(wants.orders().is_empty());
    }

    #[test]
    fn fulfilled_is_silent_and_cancel_is_told() {
        let mut wants = Wants::default();
        wants.claim(1, 1, Level::Urgent, NOW);
        wants.claim(2, 1, Level::Urgent, NOW);
        wants.orders();
        wants.fulfilled(1);
        wants.cancel(2);
        assert_eq!(wants.orders().priorities, [(PieceIndex(2), Priority::None)]);
        wants.release(1, 1);
        assert!(wants.orders().is_empty());
    }

    #[test]
    fn a_new_torrent_is_told_all_again() {
        let mut wants = Wants::default();
        wants.claim(1, 1, Level::Urgent, NOW);
        wants.claim(2, 1, Level::Bulk, NOW);
        wants.claim(3, 1, Level::Bulk, NOW);
        wants.orders();
        wants.release(3, 1);
        wants.forget_told();
        let orders = wants.orders();
        assert_eq!(requests(&orders), [1]);
        assert_eq!(orders.priorities, [(PieceIndex(2), Priority::Normal)]);
    }

    #[test]
    fn the_earliest_deadline_is_said_last() {
        let mut wants = Wants::default();
        wants.claim(5, 1, Level::Urgent, NOW);
        wants.claim(6, 2, Level::Near, Duration::from_secs(1));
        wants.claim(7, 2, Level::Near, Duration::from_secs(2));
        wants.claim(4, 1, Level::Urgent, NOW);
        assert_eq!(requests(&wants.orders()), [7, 6, 5, 4]);
    }
}
