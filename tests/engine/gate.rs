//! The gate without a connection: which messages pass, for a torrent of one file of 5 pieces and one shorter than a piece.

use silmaril::torrent::try_gate;

use super::rig::{Sample, content};
use crate::support::raw_peer_content::FileTree;
use crate::support::raw_peer_message::{Block, HashRange, Message};

const PIECE: u32 = 64 * 1024;
/// The level of the piece layer: a piece is 4 blocks.
const PIECES: i32 = 2;

struct Lab {
    metainfo: Vec<u8>,
    long: FileTree,
    short: FileTree,
}

impl Lab {
    fn new() -> Self {
        let sample = Sample::new(&[("a", 5 * PIECE as usize - 100), ("b", 20_000)], PIECE, false);
        let [(_, long), (_, short)] = &sample.files[..] else { panic!("two files") };
        Self {
            metainfo: sample.metainfo.clone(),
            long: FileTree::new("a", long.clone(), 0, 5),
            short: FileTree::new("b", short.clone(), 5, 1),
        }
    }

    /// How many of the peer's messages pass, after this node has sent a request.
    fn pass(&self, request: Option<HashRange>, messages: &[Message]) -> u32 {
        let mut stream = Vec::new();
        if let Some(range) = request {
            stream = Message::HashRequest(range).encode();
            stream[0] |= 0x80;
        }
        stream.extend(messages.iter().flat_map(Message::encode));
        try_gate(&self.metainfo, &stream).unwrap()
    }

    fn answer(&self, range: HashRange) -> Message {
        Message::Hashes(range, self.long.hashes(range).unwrap())
    }
}

#[test]
fn answer_to_a_request_passes_once() {
    let lab = Lab::new();
    let layer = lab.long.range(PIECES, 0, 8);
    assert_eq!(lab.pass(Some(layer), &[lab.answer(layer)]), 1);
    assert_eq!(lab.pass(Some(layer), &[lab.answer(layer), lab.answer(layer)]), 1);
    // Part of a layer with a proof, and the blocks of one piece with a proof.
    for range in [lab.long.range(PIECES, 4, 2), lab.long.range(0, 8, 4)] {
        assert_eq!(lab.pass(Some(range), &[lab.answer(range)]), 1, "{range:?}");
    }
    let blocks = lab.short.range(0, 0, 2);
    let answer = Message::Hashes(blocks, lab.short.hashes(blocks).unwrap());
    assert_eq!(lab.pass(Some(blocks), &[answer]), 1);
}

#[test]
fn hashes_without_a_request_are_refused() {
    let lab = Lab::new();
    let layer = lab.long.range(PIECES, 0, 8);
    assert_eq!(lab.pass(None, &[lab.answer(layer)]), 0);
    assert_eq!(lab.pass(None, &[Message::HashReject(layer)]), 0);
    assert_eq!(lab.pass(Some(layer), &[Message::HashReject(layer)]), 1);
    assert_eq!(lab.pass(Some(layer), &[Message::HashReject(layer), lab.answer(layer)]), 1);
}

#[test]
fn right_hashes_under_another_range_are_refused() {
    let lab = Lab::new();
    let asked = lab.long.range(0, 4, 4);
    let hashes = lab.long.hashes(asked).unwrap();
    for index in [-4, -1, 0, 1, 3, 5, 8, 28, 32, i32::MAX] {
        let range = HashRange { index, ..asked };
        assert_eq!(lab.pass(Some(asked), &[Message::Hashes(range, hashes.clone())]), 0, "{range:?}");
        // They pass if this node had requested that range.
        assert_eq!(lab.pass(Some(range), &[Message::Hashes(range, hashes.clone())]), 0, "{range:?}");
    }
    for (base, length, proofs) in [
        (1, 4, 4),
        (0, 2, 4),
        (0, 8, 4),
        (0, 3, 4),
        (0, 0, 4),
        (0, 4, 3),
        (0, 4, 5),
        (-1, 4, 4),
        (0, -4, 4),
        (0, 4, -1),
    ] {
        let range = HashRange { base, length, proofs, ..asked };
        assert_eq!(lab.pass(Some(range), &[Message::Hashes(range, hashes.clone())]), 0, "{range:?}");
    }
    for root in [[0; 32], [7; 32], lab.short.root] {
        let range = HashRange { root, ..asked };
        assert_eq!(lab.pass(Some(range), &[Message::Hashes(range, hashes.clone())]), 0, "{range:?}");
    }
}

#[test]
fn one_false_hash_in_an_answer_is_refused() {
    let lab = Lab::new();
    for range in [lab.long.range(PIECES, 0, 8), lab.long.range(PIECES, 2, 2), lab.long.range(0, 8, 4)] {
        let hashes = lab.long.hashes(range).unwrap();
        for i in 0..hashes.len() {
            for falsify in [|hash: &mut [u8; 32]| hash[31] ^= 1, |hash: &mut [u8; 32]| *hash = [0; 32]] {
                let mut false_hashes = hashes.clone();
                falsify(&mut false_hashes[i]);
                if false_hashes[i] == hashes[i] {
                    continue;
                }
                let answer = Message::Hashes(range, false_hashes);
                assert_eq!(lab.pass(Some(range), &[answer]), 0, "hash {i} of {range:?}");
            }
        }
        for short_or_long in [&hashes[1..], &[hashes.as_slice(), &[[1; 32]]].concat()] {
            assert_eq!(lab.pass(Some(range), &[Message::Hashes(range, short_or_long.to_vec())]), 0);
        }
    }
}

#[test]
fn hash_requests_whose_answers_are_not_read_end() {
    let lab = Lab::new();
    let layer = lab.long.range(PIECES, 0, 8);
    let passed = lab.pass(None, &vec![Message::HashRequest(layer); 8000]);
    assert!((64..=512).contains(&passed), "{passed} requests passed");
    // Requests that fit no tree are rejected, and count as well.
    let misfit = HashRange { index: 1, ..layer };
    let honest = vec![Message::Interested];
    assert_eq!(lab.pass(None, &[vec![Message::HashRequest(misfit)], honest].concat()), 1);
}

#[test]
fn messages_of_the_wrong_length_are_refused() {
    let lab = Lab::new();
    for (number, length) in [
        (0, 1),
        (1, 4),
        (4, 3),
        (4, 5),
        (6, 11),
        (6, 13),
        (8, 0),
        (9, 3),
        (13, 0),
        (14, 1),
        (16, 4),
        (17, 8),
        (20, 0),
        (21, 47),
        (21, 49),
        (22, 47),
        (22, 49),
        (23, 52),
    ] {
        let message = Message::Other(number, content(length, 1));
        assert_eq!(lab.pass(None, &[message]), 0, "message {number} of {length} bytes");
    }
    assert_eq!(lab.pass(None, &[Message::Have(0), Message::HaveAll, Message::Interested]), 3);
}

/// A message of this node.
fn ours(message: &Message) -> Vec<u8> {
    let mut bytes = message.encode();
    bytes[0] |= 0x80;
    bytes
}

fn request(block: u32) -> Message {
    Message::Request(Block { piece: block / 4, begin: block % 4 * 16384, length: 16384 })
}

fn piece(block: u32) -> Message {
    Message::Piece(block / 4, block % 4 * 16384, vec![0; 16384])
}

#[test]
fn blocks_pass_once_for_each_request() {
    let lab = Lab::new();
    let pass = |messages: &[Vec<u8>]| try_gate(&lab.metainfo, &messages.concat()).unwrap();
    assert_eq!(pass(&[piece(1).encode()]), 0, "a block that was not requested");
    assert_eq!(pass(&[ours(&request(1)), piece(2).encode()]), 0, "another block");
    assert_eq!(pass(&[ours(&request(1)), piece(1).encode(), piece(1).encode()]), 1);
    let twice = ours(&request(1)).repeat(2);
    assert_eq!(pass(&[twice, piece(1).encode(), piece(1).encode(), piece(1).encode()]), 2);
    let Message::Request(block) = request(1) else { unreachable!() };
    let reject = Message::Reject(block).encode();
    assert_eq!(pass(&[ours(&request(1)), reject.clone(), piece(1).encode()]), 1, "a block that was rejected");
    // After so many unanswered requests that the gate forgets some, all blocks pass.
    let many: Vec<u8> = std::iter::repeat_n(ours(&request(1)), 32 * 1024 + 1).flatten().collect();
    assert_eq!(pass(&[many, piece(2).encode()]), 1);
}

#[test]
fn peer_that_rejects_hash_requests_is_soon_ignored() {
    let lab = Lab::new();
    let range = lab.long.range(PIECES, 0, 8);
    let turn = [ours(&Message::HashRequest(range)), Message::HashReject(range).encode()].concat();
    assert_eq!(try_gate(&lab.metainfo, &turn.repeat(8)).unwrap(), 8);
    // The request remains open in libtorrent, which then asks another peer; the connection is kept.
    let rest = [ours(&Message::HashRequest(range)), lab.answer(range).encode()].concat();
    assert_eq!(try_gate(&lab.metainfo, &[turn.repeat(20), rest].concat()).unwrap(), 9);
}
