//! Which peers waste upload, and how long a host that sent wrong data waits, without connections.

use std::net::IpAddr;

use silmaril::torrent::Upload::{self, CancelledLate, Sent};
use silmaril::torrent::{try_lies, try_waste};

/// Blocks of a torrent of 64 MiB.
const BLOCKS: u32 = 4096;

const NONE: [usize; 0] = [];

fn wastes(uploads: &[Upload]) -> Vec<usize> {
    try_waste(BLOCKS, uploads)
}

fn sent(blocks: impl IntoIterator<Item = u32>) -> Vec<Upload> {
    blocks.into_iter().map(Sent).collect()
}

#[test]
fn each_block_once_is_no_waste() {
    assert_eq!(wastes(&sent(0..BLOCKS)), NONE);
    assert_eq!(wastes(&sent((0..BLOCKS).rev())), NONE);
}

#[test]
fn one_block_again_and_again_is_waste() {
    let found = wastes(&sent([7; 1000]));
    assert!(found[0] < 100, "found after {} blocks", found[0]);
    // The peer is found again after each penalty.
    assert!(found.len() > 10, "found {} times", found.len());
}

#[test]
fn same_few_blocks_again_and_again_are_waste() {
    for few in [16, 64, 128] {
        let found = wastes(&sent((0..1000).map(|number| number % few)));
        assert!(!found.is_empty(), "the same {few} blocks");
    }
}

#[test]
fn whole_model_again_and_again_is_waste() {
    let found = wastes(&sent((0..3).flat_map(|_| 0..BLOCKS)));
    let after = 2 * BLOCKS as usize..3 * BLOCKS as usize;
    assert!(found.first().is_some_and(|first| after.contains(first)), "found after {found:?}");
}

/// A model of 64 GiB, of which a part that an attacker chooses is repeated.
#[test]
fn repetition_in_a_large_model_is_waste() {
    for stride in [1, 4096, 16 * 1024, 64 * 1024] {
        let part: Vec<u32> = (0..1000).map(|number| number * stride % (1 << 22)).collect();
        let found = try_waste(1 << 22, &sent((0..6).flat_map(|_| part.clone())));
        assert!(!found.is_empty(), "every block that is a multiple of {stride}");
    }
}

#[test]
fn large_model_read_once_is_no_waste() {
    assert_eq!(try_waste(1 << 18, &sent(0..1 << 18)), NONE);
}

/// Other peers sent wrong blocks of each piece, so all blocks of the pieces are fetched again: each piece immediately, or all pieces
/// at the end.
#[test]
fn reader_whose_pieces_were_all_wrong_once_wastes_nothing() {
    let piece = |number: u32| number * 64..(number + 1) * 64;
    assert_eq!(wastes(&sent((0..64).flat_map(|number| piece(number).chain(piece(number))))), NONE);
    assert_eq!(wastes(&sent((0..BLOCKS).chain(0..BLOCKS))), NONE);
}

#[test]
fn requests_after_timeouts_are_no_waste() {
    // A quarter of the blocks arrives too late and is requested again.
    let uploads = (0..BLOCKS).flat_map(|block| vec![block; if block % 4 == 0 { 2 } else { 1 }]);
    assert_eq!(wastes(&sent(uploads)), NONE);
}

#[test]
fn blocks_cancelled_on_their_way_are_waste() {
    let uploads: Vec<Upload> = (0..200).flat_map(|block| [Sent(block), CancelledLate]).collect();
    assert!(!wastes(&uploads).is_empty());
}

#[test]
fn few_late_cancels_are_no_waste() {
    // At the end of a download a block is requested from two peers.
    let uploads: Vec<Upload> = (0..BLOCKS)
        .flat_map(|block| if block % 3 == 0 { vec![Sent(block), CancelledLate] } else { vec![Sent(block)] })
        .collect();
    assert_eq!(wastes(&uploads), NONE);
    assert_eq!(wastes(&[CancelledLate; 60]), NONE);
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn host_that_sent_wrong_data_waits_longer_each_time() {
    let stranger = address("198.51.100.1");
    let waits = try_lies(stranger, &[0, 1, 3, 7, 15, 31, 63, 127, 191]).unwrap();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    // Ten minutes without wrong data.
    assert_eq!(try_lies(stranger, &[0, 1, 601, 1202]).unwrap(), [1, 2, 4, 1]);
}

#[test]
fn local_host_that_sent_wrong_data_does_not_wait() {
    for local in ["127.0.0.1", "192.168.1.2", "10.1.1.1", "fd00::1", "::1"] {
        assert_eq!(try_lies(address(local), &[0, 1, 2]).unwrap(), [0; 3], "{local}");
    }
}
