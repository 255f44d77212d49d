#![allow(clippy::single_range_in_vec_init)]

use std::ops::Range;

use super::*;
use crate::model::PieceIndex;
use crate::torrent::Priority;

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
    for (level, priority) in [(ClaimLevel::Bulk, Priority::Normal), (ClaimLevel::Ahead, Priority::Ahead)] {
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
