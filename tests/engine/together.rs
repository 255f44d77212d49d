//! The rules of coordinated reading: which piece is requested next, and which claims count (`cpp/choice.h`,
//! `cpp/claims.h`), and whether readers send enough (`cpp/supply.h`).

use proptest::prelude::*;
use silmaril::torrent::{ChoicePiece, ChosenPeer, ClaimStep, TrialSupply, try_choose, try_claims};

const SEED: ChosenPeer = ChosenPeer { seed: true, untested: false, number: 7, patience: 1000 };
const READER: ChosenPeer = ChosenPeer { seed: false, ..SEED };

fn chosen(choice: ChosenPeer, pieces: &[ChoicePiece]) -> Option<u32> {
    try_choose(choice, pieces).unwrap().map(|at| pieces[at].piece)
}

fn piece(piece: u32) -> ChoicePiece {
    ChoicePiece { piece, ..ChoicePiece::default() }
}

#[test]
fn seed_is_asked_only_for_what_no_reader_has_or_claims() {
    let held = ChoicePiece { holders: 1, ..piece(1) };
    let claimed = ChoicePiece { claimed: true, ..piece(2) };
    let on_its_way = ChoicePiece { requested: true, ..piece(3) };
    assert_eq!(chosen(SEED, &[held, claimed, on_its_way]), None);
    assert_eq!(chosen(SEED, &[held, claimed, on_its_way, piece(4)]), Some(4));
}

#[test]
fn piece_that_a_reader_announces_is_not_continued_at_the_seed() {
    let begun = ChoicePiece { begun: true, ..piece(1) };
    assert_eq!(chosen(SEED, &[piece(0), begun]), Some(1));
    assert_eq!(chosen(SEED, &[ChoicePiece { holders: 1, ..begun }]), None);
}

#[test]
fn read_that_waits_too_long_is_served_by_the_seed() {
    let waits = |overdue| ChoicePiece { holders: 3, claimed: true, overdue: Some(overdue), ..piece(1) };
    assert_eq!(chosen(SEED, &[waits(999)]), None);
    assert_eq!(chosen(SEED, &[waits(1000)]), Some(1));
}

#[test]
fn readers_fetch_first_the_pieces_for_which_they_are_first() {
    let second = ChoicePiece { before: 1, ..piece(1) };
    assert_eq!(chosen(SEED, &[second, piece(2)]), Some(2));
    assert_eq!(chosen(SEED, &[second]), Some(1));
    // Two readers with the same pieces begin with different ones.
    let pieces: Vec<ChoicePiece> = (0..16).map(piece).collect();
    let other = ChosenPeer { number: 8, ..SEED };
    assert_ne!(chosen(SEED, &pieces), chosen(other, &pieces));
}

#[test]
fn claim_that_does_not_count_only_puts_a_piece_last() {
    let hinted = ChoicePiece { hinted: true, ..piece(1) };
    assert_eq!(chosen(SEED, &[hinted, ChoicePiece { before: 9, ..piece(2) }]), Some(2));
    assert_eq!(chosen(SEED, &[hinted]), Some(1));
}

#[test]
fn reader_is_asked_for_the_rarest_piece_unless_a_read_waits() {
    let common = ChoicePiece { holders: 5, ..piece(1) };
    let rare = ChoicePiece { holders: 1, ..piece(2) };
    assert_eq!(chosen(READER, &[common, rare]), Some(2));
    let waits = ChoicePiece { overdue: Some(0), ..common };
    assert_eq!(chosen(READER, &[waits, rare]), Some(1));
}

#[test]
fn untested_peer_gets_no_piece_that_a_read_waits_for() {
    for choice in [SEED, READER] {
        let untested = ChosenPeer { untested: true, ..choice };
        let waits = ChoicePiece { overdue: Some(5000), ..piece(1) };
        assert_eq!(chosen(untested, &[waits]), None);
        assert_eq!(chosen(untested, &[waits, piece(2)]), Some(2));
    }
}

/// The number of the peer, and pieces.
fn message(pieces: &[u32]) -> ClaimStep {
    let pieces = pieces.iter().flat_map(|piece| piece.to_be_bytes());
    ClaimStep::Sends([9, 0, 0, 0, 0, 0, 0, 1].into_iter().chain(pieces).collect())
}

/// No claims.
const NONE: [u32; 0] = [];

/// The claims that count at last.
fn claimed(steps: &[(u64, ClaimStep)]) -> Vec<u32> {
    try_claims(steps).unwrap().pop().unwrap()
}

#[test]
fn message_of_claims_replaces_the_former_one() {
    assert_eq!(claimed(&[(0, message(&[1, 2]))]), [1, 2]);
    assert_eq!(claimed(&[(0, message(&[1, 2])), (1, message(&[2, 3]))]), [2, 3]);
    assert_eq!(claimed(&[(0, message(&[1])), (1, message(&[]))]), NONE);
}

#[test]
fn claim_ends_when_its_piece_is_announced() {
    assert_eq!(claimed(&[(0, message(&[1, 2])), (1, ClaimStep::Gets(1))]), [2]);
}

#[test]
fn claim_expires_after_twice_the_time_of_a_piece() {
    let again = |at| [(0, message(&[1])), (at, message(&[1]))];
    assert_eq!(claimed(&again(1999)), [1]);
    assert_eq!(claimed(&again(2000)), NONE, "a repeated claim lasts no longer");
    // The peer took 100 ms, then a claim lasts at least 250 ms.
    let quick = [(0, message(&[1])), (100, ClaimStep::Gets(1)), (100, message(&[2]))];
    let later = |at| [&quick[..], &[(at, message(&[2]))]].concat();
    assert_eq!(claimed(&later(349)), [2]);
    assert_eq!(claimed(&later(350)), NONE);
}

#[test]
fn peer_that_keeps_no_claim_is_ignored() {
    let steps: Vec<_> = (0..4).map(|n| (n * 10, message(&[n as u32]))).collect();
    assert_eq!(claimed(&steps), [3]);
    let then = |at| [&steps[..], &[(40, message(&[4])), (at, message(&[5]))]].concat();
    assert_eq!(claimed(&then(50)), NONE, "four claims were given up");
    assert_eq!(claimed(&then(30_100)), [5]);
}

#[test]
fn malformed_messages_of_claims_are_ignored() {
    let after = |bytes: Vec<u8>| claimed(&[(0, message(&[1])), (1, ClaimStep::Sends(bytes))]);
    let number = [9, 0, 0, 0, 0, 0, 0, 1];
    for bytes in [vec![], number[..7].to_vec(), [&number[..], &[0, 0, 0]].concat(), vec![9; 8 + 5 * 4]] {
        assert_eq!(after(bytes.clone()), [1], "{bytes:?}");
    }
    assert_eq!(after([[8; 8], [0; 8]].concat()), [1], "the number of a peer does not change");
}

#[test]
fn flood_of_claims_is_ignored() {
    let flood = (0..200).map(|n| (0, message(&[n / 100]))).chain([(0, message(&[9]))]);
    assert_eq!(claimed(&flood.collect::<Vec<_>>()), [1]);
}

/// Whether readers suffice after each of these seconds, in which readers and seeds are asked and send so many bytes. `None`:
/// the seeds are not asked.
fn readers_suffice(seconds: &[(u64, Option<u64>)]) -> Vec<bool> {
    let mut supply = TrialSupply::new().unwrap();
    let after = |&(readers, seeds): &(u64, Option<u64>)| {
        supply.tick((readers, seeds.unwrap_or(0)), (true, seeds.is_some())).unwrap();
        supply.readers_suffice().unwrap()
    };
    seconds.iter().map(after).collect()
}

#[test]
fn readers_suffice_if_they_send_two_thirds_of_what_seeds_send() {
    // Nothing is known after the first second.
    assert_eq!(readers_suffice(&[(200, Some(300)), (200, Some(300)), (199, Some(300))]), [true, true, false]);
    // What a seed sent when it was asked counts while it is not asked.
    assert_eq!(
        readers_suffice(&[(0, Some(300)), (199, None), (199, None), (200, None)]),
        [true, false, false, true]
    );
    // A seed that has become slower is compared with what it sends now.
    let slower = [&[(100, Some(300)); 2][..], &[(100, Some(100)); 4]].concat();
    assert_eq!(readers_suffice(&slower), [true, false, false, false, true, true]);
}

#[test]
fn seeds_that_are_not_asked_are_measured_now_and_then() {
    let measured = readers_suffice(&[(100, None); 80]);
    let seconds: Vec<usize> = (0..80).filter(|at| !measured[*at]).collect();
    assert_eq!(seconds, [4, 12, 28, 60]);
}

proptest! {
    #[test]
    fn choice_is_a_piece_that_may_be_chosen(
        seed: bool,
        untested: bool,
        number: u64,
        pieces in prop::collection::vec(
            (any::<bool>(), any::<bool>(), any::<bool>(), 0u32..3, 0u32..3, prop::option::of(0u32..2000)), 0..20),
    ) {
        let choice = ChosenPeer { seed, untested, number, patience: 1000 };
        let pieces: Vec<ChoicePiece> = (0..).zip(pieces).map(|(piece, (begun, requested, claimed, holders, before, overdue))| {
            ChoicePiece { piece, begun, requested, claimed, hinted: false, holders, before, overdue }
        }).collect();
        let Some(at) = try_choose(choice, &pieces).unwrap() else { return Ok(()) };
        let one = pieces[at];
        prop_assert!(!untested || one.overdue.is_none());
        let is_late = one.overdue.is_some_and(|overdue| overdue >= 1000);
        prop_assert!(!seed || is_late || (one.holders == 0 && !one.claimed));
    }
}
