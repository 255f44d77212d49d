//! Inputs for the gate, and what it must answer: hash messages (BEP 52) of a peer, and the requests of our engine between
//! them.
//!
//! An input is a list of frames: one byte (0: our engine asks this peer for a range; otherwise: the peer sends a message),
//! two bytes of length, and the body (a range, or a message without its length). [`run`] passes an input to a gate and
//! compares each verdict with [`Reference`], a second implementation of the rules.

use silmaril::model::merkle::Hash;

use crate::support::raw_peer_message::{HashRange, Message};

/// What is under test: the gate of one connection to a peer, in the torrent of [`FILES`].
pub trait Gate {
    /// Our engine asks the peer for hashes.
    fn asks(&mut self, range: HashRange);
    /// Whether a message of the peer may pass.
    fn passes(&mut self, message: &[u8]) -> bool;
}

/// The files of the torrent: root, and number of blocks. Pieces have four blocks.
pub const FILES: [(Hash, i64); 3] = [([1; 32], 100), ([2; 32], 1), ([3; 32], 4096)];
pub const PIECE_HEIGHT: i64 = 2;

/// The frames of an input. None where it is cut short.
fn frames(mut bytes: &[u8]) -> Option<Vec<(bool, &[u8])>> {
    let mut frames = vec![];
    while let Some((head, rest)) = bytes.split_first_chunk::<3>() {
        let (body, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([head[1], head[2]])))?;
        frames.push((head[0] == 0, body));
        bytes = rest;
    }
    bytes.is_empty().then_some(frames)
}

/// Passes an input to a gate. Returns whether all messages passed; the gate closes the connection at the first that does
/// not. Panics where the verdict is wrong.
pub fn run(gate: &mut impl Gate, bytes: &[u8]) -> bool {
    let Some(frames) = frames(bytes) else { return false };
    let mut reference = Reference::default();
    for (ours, body) in frames {
        if ours {
            // Our engine asks for nothing that does not exist.
            let Message::HashRequest(range) = Message::decode(&[&[21], body].concat()) else { continue };
            if exists(range) {
                gate.asks(range);
                reference.asks(range);
            }
            continue;
        }
        let (found, expected) = (gate.passes(body), reference.passes(body));
        assert_eq!(found, expected, "the verdict on {:?}", Message::decode(body));
        if !found {
            return false;
        }
    }
    true
}

/// Whether a range names hashes of the torrent, in the shape of BEP 52.
fn exists(range: HashRange) -> bool {
    let [base, index, length, proofs] = [range.base, range.index, range.length, range.proofs].map(i64::from);
    let Some((_, blocks)) = FILES.iter().find(|(root, _)| *root == range.root) else { return false };
    let width = (*blocks as u64).next_power_of_two() as i64;
    let height = i64::from(width.trailing_zeros());
    (0..height.max(1)).contains(&base)
        && (1..=8192).contains(&length)
        && (length as u64).is_power_of_two()
        && index >= 0
        && index % length == 0
        && index + length <= width >> base
        && (0..(height - base).max(1)).contains(&proofs)
}

/// Number of hashes in the answer.
fn count(range: HashRange) -> usize {
    let uncles = (range.proofs - range.length.ilog2() as i32 + 1).max(0);
    (range.length + uncles) as usize
}

/// The rules: HASHES and HASH_REJECT only answer a request that is open, and close it; HASH_REQUEST names what exists;
/// each has its exact length. Other messages are not judged.
#[derive(Default)]
pub struct Reference {
    open: Vec<HashRange>,
}

impl Reference {
    fn answers(&mut self, range: HashRange) -> bool {
        let Some(at) = self.open.iter().position(|open| *open == range) else { return false };
        self.open.swap_remove(at);
        true
    }
}

impl Gate for Reference {
    fn asks(&mut self, range: HashRange) {
        self.open.push(range);
    }

    fn passes(&mut self, message: &[u8]) -> bool {
        match Message::decode(message) {
            Message::HashRequest(range) => exists(range),
            Message::Hashes(range, hashes) => self.answers(range) && hashes.len() == count(range),
            Message::HashReject(range) => self.answers(range),
            Message::Other(21..=23, _) => false,
            _ => true,
        }
    }
}

fn frame(ours: bool, message: &Message) -> Vec<u8> {
    // Without the length; and, of our requests, without the number.
    let body = &message.encode()[if ours { 5 } else { 4 }..];
    [&[u8::from(!ours)], (body.len() as u16).to_be_bytes().as_slice(), body].concat()
}

/// What the corpus begins with, by name.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let layer = HashRange { root: [1; 32], base: PIECE_HEIGHT as i32, index: 0, length: 32, proofs: 0 };
    let blocks = HashRange { base: 0, index: 8, length: 4, proofs: 6, ..layer };
    let other = HashRange { root: [3; 32], index: 512, length: 512, proofs: 9, ..layer };
    let answer = |range: HashRange| Message::Hashes(range, vec![[7; 32]; count(range)]);
    let ask = |range| frame(true, &Message::HashRequest(range));
    let peer = |message: &Message| frame(false, message);
    let named = |range: HashRange| peer(&answer(range));
    vec![
        ("ok-layer", [ask(layer), named(layer)].concat()),
        ("ok-two", [ask(layer), ask(blocks), named(blocks), named(layer)].concat()),
        ("ok-proofs", [ask(other), named(other)].concat()),
        ("ok-reject", [ask(blocks), peer(&Message::HashReject(blocks))].concat()),
        ("ok-requests", [layer, blocks, other].map(|range| peer(&Message::HashRequest(range))).concat()),
        ("ok-others", [peer(&Message::HaveAll), peer(&Message::Unchoke), peer(&Message::Have(3))].concat()),
        ("bad-unasked", named(layer)),
        ("bad-twice", [ask(layer), named(layer), named(layer)].concat()),
        ("bad-shifted", [ask(blocks), named(HashRange { index: 7, ..blocks })].concat()),
        ("bad-base", [ask(blocks), named(HashRange { base: 1, ..blocks })].concat()),
        ("bad-length", [ask(blocks), named(HashRange { length: 2, ..blocks })].concat()),
        ("bad-proofs", [ask(blocks), named(HashRange { proofs: 5, ..blocks })].concat()),
        ("bad-root", [ask(blocks), named(HashRange { root: [3; 32], ..blocks })].concat()),
        ("bad-zero-root", named(HashRange { root: [0; 32], ..layer })),
        ("bad-count", [ask(layer), peer(&Message::Hashes(layer, vec![[7; 32]; 31]))].concat()),
        (
            "bad-rest",
            [ask(layer), peer(&Message::Other(22, [[1; 32].as_slice(), &[0; 17]].concat()))].concat(),
        ),
        ("bad-reject", peer(&Message::HashReject(layer))),
        ("bad-reject-after", [ask(layer), named(layer), peer(&Message::HashReject(layer))].concat()),
        ("bad-request", peer(&Message::HashRequest(HashRange { length: 3, ..layer }))),
        ("bad-request-odd", peer(&Message::HashRequest(HashRange { index: 1, ..layer }))),
        ("bad-request-root", peer(&Message::HashRequest(HashRange { root: [0; 32], ..layer }))),
        ("bad-request-negative", peer(&Message::HashRequest(HashRange { index: -4, length: 4, ..blocks }))),
        ("bad-request-short", peer(&Message::Other(21, vec![1; 47]))),
        ("bad-cut", named(layer)[..40].to_vec()),
    ]
}

#[test]
fn seeds_of_the_gate_are_judged_by_their_names() {
    for (name, bytes) in seeds() {
        assert_eq!(run(&mut Reference::default(), &bytes), name.starts_with("ok-"), "{name}");
    }
}

/// The comparison notices a gate that lets everything pass.
#[test]
fn a_gate_without_rules_fails_on_every_bad_seed() {
    struct Open;
    impl Gate for Open {
        fn asks(&mut self, _: HashRange) {}
        fn passes(&mut self, _: &[u8]) -> bool {
            true
        }
    }
    for (name, bytes) in seeds() {
        let outcome = std::panic::catch_unwind(|| run(&mut Open, &bytes));
        assert_eq!(outcome.is_ok(), name.starts_with("ok-") || name == "bad-cut", "{name}");
    }
}
