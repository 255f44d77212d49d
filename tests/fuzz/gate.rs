//! Inputs for the gate and the expected verdicts: hash messages (BEP 52) of a peer, mixed with requests of our engine.
//!
//! An input is a list of frames: one byte (0: our engine requests a range from the peer; otherwise: the peer sends a
//! message), two bytes of length, and the body (a range, or a message without its length). [`run`] passes an input to a
//! gate and compares each verdict with [`Reference`], a second implementation of the rules.

use std::collections::HashSet;
use std::sync::OnceLock;

use silmaril::model::merkle::{self, Hash};
use silmaril::model::{BLOCK_LEN, FileEntry, Manifest, PiecesRoot, Revision};
use silmaril::torrent::try_gate;

use crate::support::raw_peer_message::{HashRange, Message};

/// The gate of one connection to a peer, in the torrent of [`metainfo`].
pub trait Gate {
    /// Our engine requests hashes from the peer.
    fn request(&mut self, range: HashRange);
    /// Whether a message of the peer may pass.
    fn passes(&mut self, message: &[u8]) -> bool;
}

/// Leaves below a node of the piece layer: pieces have four blocks.
pub const PIECE_HEIGHT: i64 = 2;
const PIECE_LENGTH: u32 = 64 * 1024;
const BLOCKS: [usize; 3] = [100, 1, 4096];

/// A file of the torrent: all levels of its tree, leaves first. All leaves of a file are the same invented hash.
struct Tree(Vec<Vec<Hash>>);

impl Tree {
    fn new(blocks: usize, leaf: u8) -> Self {
        let mut level = vec![[leaf; 32]; blocks];
        level.resize(blocks.next_power_of_two(), [0; 32]);
        let mut levels = vec![level];
        while levels[levels.len() - 1].len() > 1 {
            let above = levels[levels.len() - 1].chunks(2).map(|pair| merkle::parent(&pair[0], &pair[1]));
            levels.push(above.collect());
        }
        Self(levels)
    }

    fn root(&self) -> Hash {
        self.0[self.0.len() - 1][0]
    }

    fn height(&self) -> i64 {
        self.0.len() as i64 - 1
    }
}

fn trees() -> &'static [Tree] {
    static TREES: OnceLock<Vec<Tree>> = OnceLock::new();
    TREES.get_or_init(|| (1..).zip(BLOCKS).map(|(leaf, blocks)| Tree::new(blocks, leaf)).collect())
}

fn tree_of(root: Hash) -> Option<&'static Tree> {
    trees().iter().find(|tree| tree.root() == root)
}

/// The metainfo of the torrent.
fn metainfo() -> &'static [u8] {
    static METAINFO: OnceLock<Vec<u8>> = OnceLock::new();
    METAINFO.get_or_init(|| {
        let file = |(tree, blocks): (&Tree, usize)| {
            FileEntry::new(
                format!("{blocks}.bin"),
                blocks as u64 * BLOCK_LEN,
                None,
                Some(PiecesRoot(tree.root())),
            )
        };
        let files: Vec<FileEntry> = trees().iter().zip(BLOCKS).map(file).collect();
        let name = "org/model".parse().unwrap();
        Manifest::new(name, Revision::default(), PIECE_LENGTH, files).unwrap().metainfo(None)
    })
}

/// The engine's gate, called over the bridge.
#[derive(Default)]
struct EngineGate {
    stream: Vec<u8>,
    passed: u32,
}

impl Gate for EngineGate {
    fn request(&mut self, range: HashRange) {
        let mut message = Message::HashRequest(range).encode();
        message[0] |= 0x80;
        self.stream.extend(message);
    }

    fn passes(&mut self, message: &[u8]) -> bool {
        self.stream.extend((message.len() as u32).to_be_bytes());
        self.stream.extend(message);
        let before = std::mem::replace(&mut self.passed, try_gate(metainfo(), &self.stream).unwrap());
        self.passed > before
    }
}

/// The target of the fuzzer.
pub fn target(bytes: &[u8]) -> bool {
    run(&mut EngineGate::default(), bytes)
}

/// The frames of an input; none if it is cut.
fn frames(mut bytes: &[u8]) -> Option<Vec<(bool, &[u8])>> {
    let mut frames = vec![];
    while let Some((head, rest)) = bytes.split_first_chunk::<3>() {
        let (body, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([head[1], head[2]])))?;
        frames.push((head[0] == 0, body));
        bytes = rest;
    }
    bytes.is_empty().then_some(frames)
}

/// Passes an input to a gate. Returns whether all messages passed. The gate closes the connection at the first message
/// that does not pass. Panics if a verdict is wrong.
pub fn run(gate: &mut impl Gate, bytes: &[u8]) -> bool {
    let Some(frames) = frames(bytes) else { return false };
    let mut reference = Reference::default();
    for (ours, body) in frames {
        if ours {
            // Our engine requests only ranges that exist.
            let Message::HashRequest(range) = Message::decode(&[&[21], body].concat()) else { continue };
            if exists(range) {
                gate.request(range);
                reference.request(range);
            }
            continue;
        }
        let found = !body.is_empty() && gate.passes(body);
        if matches!(body.first(), Some(21..=23)) {
            assert_eq!(found, reference.passes(body), "the verdict on {:?}", Message::decode(body));
        }
        if !found {
            return false;
        }
    }
    true
}

/// Whether a range exists in the torrent and has a shape that BEP 52 permits.
fn exists(range: HashRange) -> bool {
    let [base, index, length, proofs] = [range.base, range.index, range.length, range.proofs].map(i64::from);
    let Some(tree) = tree_of(range.root) else { return false };
    let height = tree.height();
    (0..=height).contains(&base)
        && (1..=8192).contains(&length)
        && (length as u64).is_power_of_two()
        && index >= 0
        && index % length == 0
        && index + length <= 1 << (height - base)
        && (0..=height).contains(&proofs)
        && base + log2(range) + uncles(range) <= height
}

fn log2(range: HashRange) -> i64 {
    i64::from(range.length.max(1).ilog2())
}

/// Number of hashes in the proof.
fn uncles(range: HashRange) -> i64 {
    (i64::from(range.proofs) + 1 - log2(range)).max(0)
}

/// A node of a tree: root of the tree, height, index.
type Node = (Hash, i64, i64);

/// Calls `visit` with the nodes that an answer contains or makes computable. Returns the topmost one.
fn each_node(range: HashRange, mut visit: impl FnMut(Node)) -> Node {
    let (mut first, mut count, mut height) =
        (i64::from(range.index), i64::from(range.length), i64::from(range.base));
    let mut uncles = uncles(range);
    loop {
        (first..first + count).for_each(|index| visit((range.root, height, index)));
        if count == 1 {
            if uncles == 0 {
                return (range.root, height, first);
            }
            uncles -= 1;
            visit((range.root, height, first ^ 1));
        }
        (first, count, height) = (first / 2, (count + 1) / 2, height + 1);
    }
}

/// The hashes of the genuine answer.
fn hashes(range: HashRange) -> Vec<Hash> {
    let tree = tree_of(range.root).expect("a file of the torrent");
    let (index, length) = (range.index as usize, range.length as usize);
    let mut hashes = tree.0[range.base as usize][index..index + length].to_vec();
    let (mut height, mut node) = (range.base as usize + log2(range) as usize, index / length);
    for _ in 0..uncles(range) {
        hashes.push(tree.0[height][node ^ 1]);
        (height, node) = (height + 1, node / 2);
    }
    hashes
}

/// The rules. HASHES and HASH_REJECT must answer an open request, and close it. HASHES must be genuine, and their proof
/// must end at a proved node. HASH_REQUEST must name an existing range. Each message must have its exact length. Other
/// messages are not checked.
#[derive(Default)]
pub struct Reference {
    open: Vec<HashRange>,
    proved: HashSet<Node>,
}

impl Reference {
    fn answers(&mut self, range: HashRange) -> bool {
        let Some(at) = self.open.iter().position(|open| *open == range) else { return false };
        self.open.swap_remove(at);
        true
    }

    fn proves(&mut self, range: HashRange, answer: &[Hash]) -> bool {
        if answer != hashes(range) {
            return false;
        }
        let height = tree_of(range.root).expect("a file of the torrent").height();
        let top = each_node(range, |_| ());
        if top.1 != height && !self.proved.contains(&top) {
            return false;
        }
        let proved = &mut self.proved;
        // Nodes below the piece layer are not stored.
        each_node(range, |node| {
            if node.1 >= PIECE_HEIGHT.min(height) {
                proved.insert(node);
            }
        });
        true
    }
}

impl Gate for Reference {
    fn request(&mut self, range: HashRange) {
        self.open.push(range);
    }

    fn passes(&mut self, message: &[u8]) -> bool {
        match Message::decode(message) {
            Message::HashRequest(range) => exists(range),
            Message::Hashes(range, hashes) => self.answers(range) && self.proves(range, &hashes),
            Message::HashReject(range) => self.answers(range),
            Message::Other(21..=23, _) => false,
            _ => true,
        }
    }
}

fn frame(ours: bool, message: &Message) -> Vec<u8> {
    // Without the length, and for our requests also without the message number.
    let body = &message.encode()[if ours { 5 } else { 4 }..];
    [&[u8::from(!ours)], (body.len() as u16).to_be_bytes().as_slice(), body].concat()
}

/// The first inputs of the corpus, by name.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let [long, _, other] = [0, 1, 2].map(|file| trees()[file].root());
    let layer = HashRange { root: long, base: PIECE_HEIGHT as i32, index: 0, length: 32, proofs: 0 };
    let blocks = HashRange { base: 0, index: 8, length: 4, proofs: 6, ..layer };
    let other = HashRange { root: other, index: 512, length: 512, proofs: 9, ..layer };
    let answer = |range: HashRange| {
        Message::Hashes(range, if exists(range) { hashes(range) } else { vec![[7; 32]; 8] })
    };
    let ask = |range| frame(true, &Message::HashRequest(range));
    let peer = |message: &Message| frame(false, message);
    let named = |range: HashRange| peer(&answer(range));
    vec![
        ("ok-layer", [ask(layer), named(layer)].concat()),
        ("ok-two", [ask(layer), ask(blocks), named(blocks), named(layer)].concat()),
        ("ok-proofs", [ask(other), named(other)].concat()),
        ("ok-reject", [ask(blocks), peer(&Message::HashReject(blocks))].concat()),
        ("ok-requests", [layer, blocks, other].map(|range| peer(&Message::HashRequest(range))).concat()),
        (
            "ok-other-messages",
            [peer(&Message::HaveAll), peer(&Message::Unchoke), peer(&Message::Have(3))].concat(),
        ),
        ("bad-unasked", named(layer)),
        ("bad-twice", [ask(layer), named(layer), named(layer)].concat()),
        ("bad-shifted", [ask(blocks), named(HashRange { index: 7, ..blocks })].concat()),
        ("bad-base", [ask(blocks), named(HashRange { base: 1, ..blocks })].concat()),
        ("bad-length", [ask(blocks), named(HashRange { length: 2, ..blocks })].concat()),
        ("bad-proofs", [ask(blocks), named(HashRange { proofs: 5, ..blocks })].concat()),
        ("bad-root", [ask(blocks), named(HashRange { root: other.root, ..blocks })].concat()),
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
fn the_verdict_on_each_seed_matches_its_name() {
    for (name, bytes) in seeds() {
        assert_eq!(run(&mut Reference::default(), &bytes), name.starts_with("ok-"), "{name}");
        assert_eq!(target(&bytes), name.starts_with("ok-"), "{name}");
    }
}

/// The comparison detects a gate that accepts every message.
#[test]
fn a_gate_without_rules_fails_on_every_bad_seed() {
    struct OpenGate;
    impl Gate for OpenGate {
        fn request(&mut self, _: HashRange) {}
        fn passes(&mut self, _: &[u8]) -> bool {
            true
        }
    }
    for (name, bytes) in seeds() {
        let outcome = std::panic::catch_unwind(|| run(&mut OpenGate, &bytes));
        assert_eq!(outcome.is_ok(), name.starts_with("ok-") || name == "bad-cut", "{name}");
    }
}
