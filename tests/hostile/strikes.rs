//! HASHES, HASH_REQUEST and HASH_REJECT (BEP 52) that no honest peer sends.

use silmaril::model::merkle::Hash;

use super::strike::Strike;
use crate::support::raw_peer_content::{Content, FileTree};
use crate::support::raw_peer_message::{HashRange, Message};

/// Number of hashes in HASHES for a range, at most `most`.
fn count(range: HashRange, most: usize) -> usize {
    let log2 = range.length.max(1).ilog2() as i32;
    let uncles = range.proofs.saturating_sub(log2).saturating_add(1).max(0);
    usize::try_from(range.length.saturating_add(uncles)).unwrap_or(0).min(most)
}

/// The genuine hashes of a range, sent for another range.
pub fn relabelled(file: &FileTree, genuine: HashRange, named: HashRange) -> Message {
    let mut hashes = file.hashes(genuine).unwrap();
    hashes.resize(count(named, 9000), [9; 32]);
    Message::Hashes(named, hashes)
}

/// The leaves of every piece except the first, each sent for a position one block further left. If a victim stored them
/// there, every block would be accepted in place of the previous one.
pub fn shifted_pieces(content: &Content, file: &FileTree) -> Strike {
    let blocks = content.blocks_per_piece();
    let pieces = (1..file.pieces as i32 - 1).map(|piece| {
        let genuine = file.range(0, piece * blocks, blocks);
        relabelled(file, genuine, HashRange { index: genuine.index - 1, ..genuine })
    });
    Strike::new(format!("leaves of {} shifted by a block", file.path), &pieces.collect::<Vec<_>>())
}

/// Every second pair of leaves, shifted by a block.
pub fn shifted_pairs(file: &FileTree) -> Strike {
    let pairs = (2..file.level(0).len() as i32 / 2).step_by(2).map(|pair| {
        let genuine = file.range(0, pair * 2, 2);
        relabelled(file, genuine, HashRange { index: genuine.index - 1, ..genuine })
    });
    Strike::new(format!("pairs of leaves of {} shifted by a block", file.path), &pairs.collect::<Vec<_>>())
}

/// Genuine hashes of every level and several lengths. Each is sent for every neighbouring index, for neighbouring lengths,
/// levels and proofs, and for the roots of the other files, each in its own strike.
pub fn neighbours(content: &Content, file: &FileTree) -> Vec<Strike> {
    let blocks = content.blocks_per_piece();
    let mut strikes = vec![];
    let mut add = |what: String, genuine, named| {
        strikes.push(Strike::new(format!("{} {what}", file.path), &[relabelled(file, genuine, named)]));
    };
    for base in 0..=content.piece_base() + 1 {
        for length in [1, 2, blocks, 2 * blocks] {
            let middle = file.level(base).len() as i32 / 2;
            if middle < length {
                continue;
            }
            let genuine = file.range(base, middle / length * length, length);
            for shift in -blocks..=blocks {
                let index = genuine.index + shift;
                add(
                    format!("level {base} length {length} shifted by {shift}"),
                    genuine,
                    HashRange { index, ..genuine },
                );
            }
            for (what, named) in [
                ("one longer", HashRange { length: length + 1, ..genuine }),
                ("one shorter", HashRange { length: length - 1, ..genuine }),
                ("twice as long", HashRange { length: length * 2, ..genuine }),
                ("a level higher", HashRange { base: base + 1, ..genuine }),
                ("a level lower", HashRange { base: base - 1, ..genuine }),
                ("one proof more", HashRange { proofs: genuine.proofs + 1, ..genuine }),
                ("one proof less", HashRange { proofs: genuine.proofs - 1, ..genuine }),
                ("no proof", HashRange { proofs: 0, ..genuine }),
            ] {
                add(format!("level {base} length {length} {what}"), genuine, named);
            }
            for other in content.files.iter().filter(|other| other.root != file.root) {
                let what = format!("level {base} length {length} for {}", other.path);
                add(what, genuine, HashRange { root: other.root, ..genuine });
            }
        }
    }
    // The last hashes of the piece layer. Only there libtorrent accepts fewer than 512.
    let (base, pieces) = (content.piece_base(), file.pieces as i32);
    for length in [1, 2, 4, 8, 16] {
        let index = (pieces - 1) / length * length;
        for shift in 1..length.max(2) {
            let genuine = file.range(base, index, length);
            let named = HashRange { index: index - shift, ..genuine };
            add(format!("end of the piece layer, length {length}, shifted by {shift}"), genuine, named);
        }
    }
    strikes
}

/// The leaves of several pieces, sent for positions across pieces whose hashes are known.
pub fn straddling(content: &Content, file: &FileTree) -> Vec<Strike> {
    let blocks = content.blocks_per_piece();
    let mut strikes = vec![];
    for length in [blocks, 2 * blocks, 4 * blocks] {
        for shift in [1, 2, blocks - 1, blocks, blocks + 1] {
            let starts = (length..file.level(0).len() as i32 - length).step_by(length as usize);
            let messages: Vec<Message> = (starts.filter(|index| index - shift >= 0))
                .map(|index| {
                    let genuine = file.range(0, index, length);
                    relabelled(file, genuine, HashRange { index: index - shift, ..genuine })
                })
                .collect();
            let what = format!("{} leaves {length} at a time, {shift} to the left", file.path);
            // The first three separately, and all together.
            strikes.extend(
                messages.iter().take(3).map(|message| Strike::new(&what, std::slice::from_ref(message))),
            );
            strikes.push(Strike::new(format!("{what}, all"), &messages));
        }
    }
    strikes
}

/// One zero hash for each block, and zeros for longer ranges and for the piece layer.
pub fn zeros(content: &Content, file: &FileTree) -> Vec<Strike> {
    let zero = |base, index, length, proofs| {
        let range = HashRange { root: file.root, base, index, length, proofs };
        Message::Hashes(range, vec![[0; 32]; count(range, 9000)])
    };
    let blocks = file.bytes.len().div_ceil(16384) as i32;
    let every_block: Vec<Message> = (0..blocks).map(|block| zero(0, block, 1, 0)).collect();
    let (base, pieces, width) =
        (content.piece_base(), file.pieces as i32, file.level(content.piece_base()).len() as i32);
    let last: Vec<Message> = (0..pieces).map(|piece| zero(base, piece, 1, 0)).collect();
    vec![
        Strike::new(format!("a zero hash for every block of {}", file.path), &every_block),
        Strike::new(
            "pairs of zero hashes",
            &(0..blocks / 2).map(|i| zero(0, 2 * i, 2, 0)).collect::<Vec<_>>(),
        ),
        Strike::new("a piece layer of zeros", &[zero(base, 0, width, 0)]),
        Strike::new("a zero hash for every piece", &last),
        Strike::new("zeros with zero proofs", &[zero(0, 0, 2, file.height() - 1)]),
    ]
}

/// Messages of all three kinds for roots and ranges that do not exist, each in its own strike.
pub fn absurd(content: &Content) -> Vec<Strike> {
    let big = &content.files[0];
    let roots: Vec<(&str, Hash)> = [("zero", [0; 32]), ("unknown", [0xab; 32])]
        .into_iter()
        .chain(content.files.iter().map(|file| (file.path.as_str(), file.root)))
        .collect();
    let mut ranges = vec![];
    for (name, root) in roots {
        let sound = HashRange { root, proofs: 0, ..big.range(0, 0, 2) };
        let mut add = |what: &str, range| ranges.push((format!("root {name}, {what}"), range));
        add("pair of leaves", sound);
        add("one leaf", HashRange { length: 1, ..sound });
        add("piece layer", HashRange { base: content.piece_base(), length: 64, ..sound });
        for bad in [-1, i32::MIN, i32::MAX, 31, 1 << 20] {
            add(&format!("base {bad}"), HashRange { base: bad, ..sound });
            add(&format!("index {bad}"), HashRange { index: bad, ..sound });
            add(&format!("length {bad}"), HashRange { length: bad, ..sound });
            add(&format!("proofs {bad}"), HashRange { proofs: bad, ..sound });
        }
        for length in [0, 3, 511, 513, 8192, 8193] {
            add(&format!("length {length}"), HashRange { length, ..sound });
            add(&format!("index {length}, same length"), HashRange { index: length, length, ..sound });
        }
        for index in [1, 255, 256, 257] {
            add(&format!("index {index}"), HashRange { index, ..sound });
        }
    }
    let kinds = |(what, range): (String, HashRange)| {
        [
            Strike::new(format!("HASH_REQUEST of {what}"), &[Message::HashRequest(range)]),
            Strike::new(
                format!("HASHES of {what}"),
                &[Message::Hashes(range, vec![[5; 32]; count(range, 600)])],
            ),
            Strike::new(format!("empty HASHES of {what}"), &[Message::Hashes(range, vec![])]),
            Strike::new(format!("HASH_REJECT of {what}"), &[Message::HashReject(range)]),
        ]
    };
    ranges.into_iter().flat_map(kinds).collect()
}

/// A fixed sequence of random messages of the three kinds. Half of them have a range that exists. In the rest one field is
/// wrong and the hashes are genuine.
pub fn random(content: &Content, seed: u64, messages: usize) -> Vec<Message> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..messages).map(|_| one_random(content, &mut random)).collect()
}

fn one_random(content: &Content, random: &mut fastrand::Rng) -> Message {
    let file = &content.files[random.usize(..content.files.len())];
    let base = if random.bool() { 0 } else { random.i32(0..=file.height()).min(content.piece_base()) };
    let width = file.level(base).len() as i32;
    let length = 1 << random.i32(0..=width.ilog2().min(9) as i32);
    let sound = file.range(base, random.i32(0..width / length) * length, length);
    let mut named = sound;
    let wrong = |random: &mut fastrand::Rng, sound: i32| match random.u32(..6) {
        0 => random.i32(..),
        1 => -sound,
        2 => random.i32(0..600),
        _ => sound.wrapping_add(random.i32(-4..=4)),
    };
    match random.u32(..12) {
        0 => named.base = wrong(random, sound.base),
        1 | 2 => named.index = wrong(random, sound.index),
        3 => named.length = wrong(random, sound.length),
        4 => named.proofs = wrong(random, sound.proofs),
        // Pad files have this root, and few hashes.
        5 => named = HashRange { root: [0; 32], base: 0, index: 0, length: 1 << random.i32(0..3), proofs: 0 },
        6 => named.root[random.usize(..32)] ^= 1,
        _ => {}
    }
    match random.u32(..4) {
        0 => return Message::HashRequest(named),
        1 => return Message::HashReject(named),
        _ => {}
    }
    let mut hashes = file.hashes(sound).unwrap_or_default();
    hashes.resize(count(named, 600), [0; 32]);
    match random.u32(..8) {
        0 => hashes.fill([0; 32]),
        1 => hashes.truncate(random.usize(..=hashes.len())),
        2 if !hashes.is_empty() => {
            let at = random.usize(..hashes.len());
            hashes[at][3] ^= 1;
        }
        _ => {}
    }
    Message::Hashes(named, hashes)
}
