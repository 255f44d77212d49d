//! Hash messages that a victim did not request.

use super::siege::{siege, siege_before_hashes};
use super::strike::Strike;
use super::strikes::{absurd, neighbours, random, shifted_pairs, shifted_pieces, straddling, zeros};
use crate::support::raw_peer_content::Content;

/// The shift that makes a stock engine return wrong bytes.
fn shift(content: &Content) -> Vec<Strike> {
    vec![shifted_pieces(content, content.file("b.bin"))]
}

/// The same shift in TCP segments, and the shift of single pairs.
fn more_shifts(content: &Content) -> Vec<Strike> {
    let file = content.file("b.bin");
    let shifted = shifted_pieces(content, file);
    vec![
        shifted_pairs(file),
        // Segment ends: within the length, between length and number, within the root, the fields and a hash.
        shifted.split(&[2, 2, 1, 20, 16, 6, 6, 6, 40]),
        shifted.split(&[1]),
    ]
}

#[test]
fn shifted_block_hashes_change_no_byte() {
    siege(shift);
}

#[test]
fn shifted_block_hashes_in_segments_change_no_byte() {
    siege(more_shifts);
}

#[test]
fn early_shifted_block_hashes_change_no_byte() {
    siege_before_hashes(shift);
}

#[test]
fn neighbours_of_genuine_hashes_change_no_byte() {
    siege(|content| neighbours(content, content.file("b.bin")));
}

#[test]
fn hashes_of_unknown_roots_and_ranges_are_harmless() {
    siege(absurd);
}

#[test]
fn zero_hashes_do_not_replace_genuine_ones() {
    siege(|content| [zeros(content, content.file("b.bin")), zeros(content, content.file("a.bin"))].concat());
}

#[test]
fn early_zero_hashes_do_not_stop_a_reader() {
    siege_before_hashes(|content| zeros(content, content.file("b.bin")));
}

#[test]
fn hashes_across_known_pieces_are_harmless() {
    siege(|content| {
        [straddling(content, content.file("a.bin")), straddling(content, content.file("b.bin"))].concat()
    });
}

#[test]
fn ten_thousand_random_hash_messages_are_harmless() {
    // Sent in short runs, because a victim may close the connection after the first message.
    siege(|content| {
        let messages = random(content, 9, 10_000);
        messages.chunks(5).enumerate().map(|(i, run)| Strike::new(format!("random run {i}"), run)).collect()
    });
}
