//! Peers that answer the victim's own requests falsely.

use super::lab::{Lab, NAME, READ};
use crate::support::process::{Proc, until};
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_message::{HashRange, Message};
use crate::support::raw_peer_seed::{Conduct, RawSeed, Seen};

/// Answers with the genuine hashes after a change.
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

pub(super) type Peers = Vec<(&'static str, Conduct)>;

/// Peers whose answers have the right shape and wrong hashes.
pub(super) fn wrong_hashes() -> Peers {
    let with = |what, change: fn(&mut HashRange, &mut Vec<[u8; 32]>)| {
        (what, Conduct::honest().with_hashes(changed(change)))
    };
    vec![
        with("a wrong first hash", |_, hashes| hashes[0][0] ^= 1),
        with("a wrong last hash", |_, hashes| hashes.last_mut().unwrap()[31] ^= 1),
        with("all hashes wrong", |_, hashes| hashes.fill([0x77; 32])),
        with("zero hashes", |_, hashes| hashes.fill([0; 32])),
        with("rotated hashes", |range, hashes| hashes[..range.length as usize].rotate_left(1)),
        with("a hash missing", |_, hashes| hashes.truncate(hashes.len() - 1)),
        with("a hash too many", |_, hashes| hashes.push([1; 32])),
        with("no hashes", |_, hashes| hashes.clear()),
    ]
}

/// Peers that send the right hashes for a range that was not requested.
pub(super) fn other_ranges() -> Peers {
    let with = |what, change: fn(&mut HashRange, &mut Vec<[u8; 32]>)| {
        (what, Conduct::honest().with_hashes(changed(change)))
    };
    vec![
        with("another index", |range, _| range.index += range.length),
        with("an index shifted by one", |range, _| range.index -= 1),
        with("another level", |range, _| range.base -= 1),
        with("an unknown root", |range, _| range.root[5] ^= 1),
        with("the zero root", |range, _| range.root = [0; 32]),
        with("more proofs", |range, _| range.proofs += 1),
        with("half the length", |range, _| range.length /= 2),
        (
            "the root of another file",
            Conduct::honest().with_hashes(|content, range| {
                let other = content.files.iter().find(|file| file.root != range.root).unwrap();
                let named = HashRange { root: other.root, ..range };
                vec![Message::Hashes(named, content.hashes(range).unwrap_or_default())]
            }),
        ),
    ]
}

/// Peers that send more than one answer, or none.
pub(super) fn out_of_turn() -> Peers {
    fn reversed(content: &Content, range: HashRange) -> Message {
        let mut hashes = content.hashes(range).unwrap_or_default();
        hashes.reverse();
        Message::Hashes(range, hashes)
    }
    let with =
        |what, answer: fn(&Content, HashRange) -> Vec<Message>| (what, Conduct::honest().with_hashes(answer));
    vec![
        with("two genuine answers", |content, range| vec![genuine(content, range); 2]),
        with("a false and a genuine answer", |content, range| {
            vec![reversed(content, range), genuine(content, range)]
        }),
        with("a genuine and a false answer", |content, range| {
            vec![genuine(content, range), reversed(content, range)]
        }),
        with("a reject and a genuine answer", |content, range| {
            vec![Message::HashReject(range), genuine(content, range)]
        }),
        with("a genuine answer and a reject", |content, range| {
            vec![genuine(content, range), Message::HashReject(range)]
        }),
        with("a reject of block hashes", |content, range| {
            let blocks = HashRange { base: 0, index: 3, length: 2, ..range };
            vec![Message::HashReject(blocks), genuine(content, range)]
        }),
        with("no answer", |_, _| vec![]),
        with("the request sent back", |_, range| vec![Message::HashRequest(range)]),
        ("a reject of the first request", Conduct::honest().with_hashes(rejected_once())),
    ]
}

/// Peers that send wrong blocks. After the first wrong block an engine requests the hashes of the piece's blocks, and
/// these peers answer that falsely too.
pub(super) fn wrong_blocks_and_block_hashes() -> Peers {
    let with = |what, answer: fn(&Content, HashRange) -> Vec<Message>| {
        let conduct = wrong(|_, _, data| data[0] ^= 1).with_hashes(move |content, range| {
            if range.base == 0 { answer(content, range) } else { vec![genuine(content, range)] }
        });
        (what, conduct)
    };
    vec![
        with("rejected block hashes", |_, range| vec![Message::HashReject(range)]),
        with("zero block hashes", |_, range| {
            vec![Message::Hashes(range, vec![[0; 32]; range.length as usize])]
        }),
        with("reversed block hashes", |content, range| {
            let mut hashes = content.hashes(range).unwrap_or_default();
            hashes.reverse();
            vec![Message::Hashes(range, hashes)]
        }),
        with("shifted block hashes", |content, range| {
            let named = HashRange { index: range.index - 1, ..range };
            vec![Message::Hashes(named, content.hashes(range).unwrap_or_default())]
        }),
        with("genuine block hashes", |content, range| vec![genuine(content, range)]),
        with("no block hashes", |_, _| vec![]),
    ]
}

/// Rejects only the first request for each range, on any connection. If every request were rejected, the exchange would
/// never end.
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

/// A peer that is honest except for its blocks.
fn wrong(change: impl Fn(&mut u32, &mut u32, &mut Vec<u8>) + Send + Sync + 'static) -> Conduct {
    Conduct::honest().with_blocks(move |content, block| {
        let Some(mut data) = content.block(block, 0) else { return vec![Message::Reject(block)] };
        let (mut piece, mut begin) = (block.piece, block.begin);
        change(&mut piece, &mut begin, &mut data);
        vec![Message::Piece(piece, begin, data)]
    })
}

/// Peers that answer a request for a block falsely.
pub(super) fn wrong_blocks() -> Peers {
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

/// An honest seed and all these peers serve a mount and `get`. Fails if a reader gets wrong bytes, or if the honest seed
/// is disconnected. The honest seed may answer every request for hashes, so there are several attempts.
fn assert_harmless(liars: Peers) {
    assert!((0..4).any(|_| liars_are_asked(liars.clone())), "no victim asked for hashes");
}

/// One attempt of [`assert_harmless`]. Returns whether some of these peers was asked for hashes.
fn liars_are_asked(liars: Peers) -> bool {
    let lab = Lab::new();
    lab.start_honest();
    let seeds: Vec<(&str, RawSeed)> = (liars.into_iter().zip(7001..))
        .map(|((what, conduct), port)| (what, RawSeed::listen(&lab.evil, port, &lab.content, conduct)))
        .collect();
    let peers: Vec<String> = seeds.iter().map(|(_, seed)| seed.peer()).chain([lab.honest_peer()]).collect();
    let mounted = lab.mount(&peers);
    lab.join(&mounted);
    until("the honest seed is connected", READ, || !lab.honest_connections(&lab.reader).is_empty());
    let before = lab.honest_connections(&lab.reader);
    lab.assert_reads(&mounted);
    lab.assert_still_connected(&lab.reader, &before);
    lab.assert_hashes_are_genuine(&lab.reader);
    lab.assert_got(lab.get(&peers, &[]));
    for (what, seed) in &seeds {
        assert!(Seen::count(&seed.seen().connections) > 0, "no victim connected to the peer with {what}");
    }
    seeds.iter().any(|(_, seed)| Seen::count(&seed.seen().hashes) > 0)
}

/// The false answers arrive before any genuine one.
fn assert_harmless_first(liars: Peers) {
    let lab = Lab::new();
    let seeds: Vec<RawSeed> = (liars.into_iter().zip(7001..))
        .map(|((_, conduct), port)| {
            // These peers send no blocks, so that only the honest seed can serve the reader.
            let conduct = conduct.with_blocks(|_, _| vec![]);
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
    assert_eq!(sum.split(' ').next(), Some(&*lab.expected["b.bin"]), "the mount returned wrong bytes");
    lab.assert_hashes_are_genuine(&lab.reader);
}

#[test]
fn answers_with_wrong_hashes_are_harmless() {
    assert_harmless(wrong_hashes());
}

#[test]
fn answers_for_other_ranges_are_harmless() {
    assert_harmless(other_ranges());
}

#[test]
fn answers_out_of_turn_are_harmless() {
    assert_harmless(out_of_turn());
}

#[test]
fn wrong_answers_before_genuine_ones_are_harmless() {
    assert_harmless_first(wrong_hashes());
}

#[test]
fn early_answers_for_other_ranges_are_harmless() {
    assert_harmless_first(other_ranges());
}

/// All pieces of a file together prove each other. The seed sends the data and answers no request for hashes.
#[test]
fn files_from_a_seed_without_hashes_are_readable() {
    let lab = Lab::new();
    let seed = RawSeed::listen(&lab.evil, 7001, &lab.content, Conduct::honest().with_hashes(|_, _| vec![]));
    lab.assert_got(lab.get(&[seed.peer()], &[]));
}

/// Peers that immediately reject each request for hashes do not prevent the answers of other peers.
#[test]
fn peers_that_reject_hash_requests_delay_no_reader() {
    let lab = Lab::new();
    let reject = |_: &Content, range| vec![Message::HashReject(range)];
    let seeds: Vec<RawSeed> = (7001..7006)
        .map(|port| RawSeed::listen(&lab.evil, port, &lab.content, Conduct::honest().with_hashes(reject)))
        .collect();
    lab.start_honest();
    let peers: Vec<String> = seeds.iter().map(RawSeed::peer).chain([lab.honest_peer()]).collect();
    let mounted = lab.mount(&peers);
    lab.assert_reads_middle(&mounted);
}

#[test]
fn wrong_blocks_are_never_returned() {
    assert_harmless(wrong_blocks());
}

#[test]
fn wrong_blocks_with_false_block_hashes_are_never_returned() {
    assert_harmless(wrong_blocks_and_block_hashes());
}
