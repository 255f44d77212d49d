//! Peers that answer the victim's own requests falsely.

use super::lab::{Lab, NAME, READ};
use crate::support::fixtures::hashes;
use crate::support::process::{Proc, until};
use crate::support::raw_peer::{HashRange, Message};
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_seed::{Conduct, RawSeed, Seen};

/// The genuine answer, changed.
fn changed(
    change: impl Fn(&mut HashRange, &mut Vec<[u8; 32]>) + Send + Sync + 'static,
) -> impl Fn(&Content, HashRange) -> Vec<Message> + Send + Sync + 'static {
    move |content, range| {
        let Some(mut hashes) = content.hashes(range) else { return vec![Message::HashReject(range)] };
        let mut named = range;
        change(&mut named, &mut hashes);
        vec![Message::Hashes(named, hashes)]
    }
}

fn genuine(content: &Content, range: HashRange) -> Message {
    content.hashes(range).map_or(Message::HashReject(range), |hashes| Message::Hashes(range, hashes))
}

/// What each hostile peer does with a request for hashes.
fn liars() -> Vec<(&'static str, Conduct)> {
    let honest = Conduct::honest;
    vec![
        ("wrong first hash", honest().with_hashes(changed(|_, hashes| hashes[0][0] ^= 1))),
        ("wrong last hash", honest().with_hashes(changed(|_, hashes| hashes.last_mut().unwrap()[31] ^= 1))),
        ("all hashes wrong", honest().with_hashes(changed(|_, hashes| hashes.fill([0x77; 32])))),
        ("zero hashes", honest().with_hashes(changed(|_, hashes| hashes.fill([0; 32])))),
        (
            "hashes rotated",
            honest().with_hashes(changed(|range, hashes| hashes[..range.length as usize].rotate_left(1))),
        ),
        ("a hash missing", honest().with_hashes(changed(|_, hashes| hashes.truncate(hashes.len() - 1)))),
        ("a hash too many", honest().with_hashes(changed(|_, hashes| hashes.push([1; 32])))),
        ("no hashes", honest().with_hashes(changed(|_, hashes| hashes.clear()))),
        ("another index", honest().with_hashes(changed(|range, _| range.index += range.length))),
        ("index shifted by one", honest().with_hashes(changed(|range, _| range.index -= 1))),
        ("another level", honest().with_hashes(changed(|range, _| range.base -= 1))),
        ("another root", honest().with_hashes(changed(|range, _| range.root[5] ^= 1))),
        ("the zero root", honest().with_hashes(changed(|range, _| range.root = [0; 32]))),
        ("more proofs", honest().with_hashes(changed(|range, _| range.proofs += 1))),
        ("half the length", honest().with_hashes(changed(|range, _| range.length /= 2))),
        (
            "the root of another file",
            honest().with_hashes(|content, range| {
                let other = content.files.iter().find(|file| file.root != range.root).unwrap();
                vec![Message::Hashes(
                    HashRange { root: other.root, ..range },
                    content.hashes(range).unwrap_or_default(),
                )]
            }),
        ),
        ("twice the genuine answer", honest().with_hashes(|content, range| vec![genuine(content, range); 2])),
        (
            "false, then genuine",
            honest().with_hashes(|content, range| {
                let mut hashes = content.hashes(range).unwrap_or_default();
                hashes.reverse();
                vec![Message::Hashes(range, hashes), genuine(content, range)]
            }),
        ),
        (
            "genuine, then false",
            honest().with_hashes(|content, range| {
                let mut hashes = content.hashes(range).unwrap_or_default();
                hashes.reverse();
                vec![genuine(content, range), Message::Hashes(range, hashes)]
            }),
        ),
        ("rejected once", honest().with_hashes(rejected_once())),
        (
            "rejected, then genuine",
            honest().with_hashes(|content, range| vec![Message::HashReject(range), genuine(content, range)]),
        ),
        (
            "genuine, then rejected",
            honest().with_hashes(|content, range| vec![genuine(content, range), Message::HashReject(range)]),
        ),
        (
            "rejected for block hashes",
            honest().with_hashes(|content, range| {
                let blocks = HashRange { base: 0, index: 3, length: 2, ..range };
                vec![Message::HashReject(blocks), genuine(content, range)]
            }),
        ),
        ("never answered", honest().with_hashes(|_, _| vec![])),
        ("the request sent back", honest().with_hashes(|_, range| vec![Message::HashRequest(range)])),
    ]
}

/// Rejects the first request for each range on any connection; answering with rejects alone is an endless conversation.
fn rejected_once() -> impl Fn(&Content, HashRange) -> Vec<Message> + Send + Sync + 'static {
    let seen = std::sync::Mutex::new(Vec::new());
    move |content, range| {
        let mut seen = seen.lock().unwrap();
        if seen.contains(&range) {
            return vec![genuine(content, range)];
        }
        seen.push(range);
        vec![Message::HashReject(range)]
    }
}

/// What each hostile peer does with a request for a block.
fn wrong_blocks() -> Vec<(&'static str, Conduct)> {
    fn wrong(change: impl Fn(&mut u32, &mut u32, &mut Vec<u8>) + Send + Sync + 'static) -> Conduct {
        Conduct::honest().with_blocks(move |content, block| {
            let Some(mut data) = content.block(block, 0) else { return vec![Message::Reject(block)] };
            let (mut piece, mut begin) = (block.piece, block.begin);
            change(&mut piece, &mut begin, &mut data);
            vec![Message::Piece(piece, begin, data)]
        })
    }
    vec![
        ("the first bit wrong", wrong(|_, _, data| data[0] ^= 1)),
        ("the last bit wrong", wrong(|_, _, data| *data.last_mut().unwrap() ^= 0x80)),
        ("zeros", wrong(|_, _, data| data.fill(0))),
        ("a byte short", wrong(|_, _, data| data.truncate(data.len() - 1))),
        ("a byte long", wrong(|_, _, data| data.push(0))),
        ("another piece", wrong(|piece, _, _| *piece += 1)),
        ("a piece that does not exist", wrong(|piece, _, _| *piece = u32::MAX)),
        ("an offset past the piece", wrong(|_, begin, _| *begin = u32::MAX - 16383)),
        ("an odd offset", wrong(|_, begin, _| *begin += 1)),
    ]
}

/// An honest seed and all these peers serve a mount and `get`.
fn assert_harmless(liars: Vec<(&'static str, Conduct)>) {
    let lab = Lab::new();
    lab.start_honest();
    let seeds: Vec<(&str, RawSeed)> = (liars.into_iter().zip(7001..))
        .map(|((what, conduct), port)| (what, RawSeed::listen(&lab.evil, port, &lab.content, conduct)))
        .collect();
    let peers: Vec<String> = seeds.iter().map(|(_, seed)| seed.peer()).chain([lab.honest_peer()]).collect();
    let mounted = lab.mount(&peers);
    lab.join(&mounted);
    until("the honest seed is connected", READ, || !lab.bonds(&lab.reader).is_empty());
    let bonds = lab.bonds(&lab.reader);
    assert_eq!(hashes(&mounted.path(NAME), READ), lab.expected, "the mount returned wrong bytes");
    lab.assert_bound(&lab.reader, &bonds);
    lab.assert_got(lab.get(&peers, &[]));
    for (what, seed) in &seeds {
        assert!(Seen::count(&seed.seen().connections) > 0, "no victim connected to the peer with {what}");
    }
    assert!(seeds.iter().any(|(_, seed)| Seen::count(&seed.seen().hashes) > 0), "no victim asked for hashes");
}

#[test]
fn false_answers_to_hash_requests_are_harmless() {
    assert_harmless(liars());
}

#[test]
fn wrong_blocks_are_never_returned() {
    assert_harmless(wrong_blocks());
}

/// The false answer arrives alone: no honest peer can answer faster.
#[test]
fn a_false_answer_before_any_genuine_one_is_harmless() {
    let lab = Lab::new();
    let seeds: Vec<RawSeed> = (liars().into_iter().zip(7001..))
        .map(|((_, conduct), port)| {
            // These peers have no data, so that only the honest seed can serve the reader.
            let conduct = conduct.with_blocks(|_, block| vec![Message::Reject(block)]);
            RawSeed::listen(&lab.evil, port, &lab.content, conduct)
        })
        .collect();
    let peers: Vec<String> = seeds.iter().map(RawSeed::peer).chain([lab.honest_peer()]).collect();
    let mounted = lab.mount(&peers);
    let mut read = lab.reader.command("sha256sum");
    let reading = Proc::spawn(read.arg(mounted.path(NAME).join("b.bin")));
    until("hashes were asked for", READ, || seeds.iter().any(|seed| Seen::count(&seed.seen().hashes) > 0));
    lab.start_honest();
    let sum = reading.finish(READ).ok();
    assert_eq!(sum.split(' ').next(), Some(lab.expected["b.bin"].as_str()), "the mount returned wrong bytes");
}
