//! Peers that offer parts of pieces (`cpp/offers.h`), and lie about them, next to an honest seed. Also what a host serves of
//! the parts that it has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use silmaril::model::PieceIndex;
use silmaril::torrent::{Event, Priority, Swarms};

use super::parts::{PIECE, PIECES, Reader, attack, right, sample, wrong};
use crate::engine::rig::{SOON, Sample};
use crate::support::private_net::in_private_net;
use crate::support::raw_peer::{FLAGS, RawPeer};
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_message::{Block, Message};
use crate::support::raw_peer_seed::{Conduct, RawSeed};

/// The number of the extension in messages to silmaril.
const OFFERS: u8 = 24;

const BLOCK: u32 = 16 * 1024;
/// Bytes of a bit field of the granules of a piece.
const BITS: usize = 2;

/// A message that offers these granules of pieces.
fn offer(entries: impl IntoIterator<Item = (u32, [u8; BITS])>) -> Message {
    let bytes = |(piece, bits): (u32, [u8; BITS])| piece.to_be_bytes().into_iter().chain(bits);
    Message::Extended(OFFERS, entries.into_iter().flat_map(bytes).collect())
}

/// A peer that has no piece, and offers every granule of all. A piece has 1 MiB.
pub(super) fn offers_all(pieces: u32) -> Conduct {
    let all = offer((0..pieces).map(|piece| (piece, [0xff; BITS])));
    Conduct::honest().with_opening(vec![Message::HaveNone, Message::Unchoke, all])
}

fn offers_everything() -> Conduct {
    offers_all(PIECES)
}

#[test]
fn offered_parts_are_read_from_a_peer_without_pieces() {
    in_private_net(|| {
        let sample = sample();
        let content = Arc::new(Content::new(sample.info_hash, PIECE, &sample.files));
        let peer = RawSeed::listen_here(&content, offers_everything());
        let mut reader = Reader::new(&sample, vec![peer.address()]);
        for piece in 0..PIECES {
            reader.read(piece, 4..12);
        }
    });
}

#[test]
fn peers_that_offer_parts_and_send_nothing_do_not_stop_reads() {
    attack(|| vec![offers_everything().with_blocks(|_, _| vec![]).with_hashes(|_, _| vec![]); 4]);
}

#[test]
fn peers_that_offer_parts_and_reject_requests_do_not_stop_reads() {
    attack(|| {
        let rejects = offers_everything()
            .with_blocks(|_, block| vec![Message::Reject(block)])
            .with_hashes(|_, range| vec![Message::HashReject(range)]);
        vec![rejects; 4]
    });
}

#[test]
fn peers_that_offer_parts_and_send_wrong_blocks_return_no_wrong_byte() {
    attack(|| vec![offers_everything().with_blocks(|_, block| vec![wrong(block)]); 4]);
}

#[test]
fn wrong_hashes_of_granules_prove_nothing() {
    attack(|| {
        // The hashes of all granules are of height 2.
        let lies = offers_everything().with_hashes(|content, range| {
            let mut hashes = content.hashes(range).unwrap();
            if range.base == 2 {
                hashes[0][0] ^= 1;
            }
            vec![Message::Hashes(range, hashes)]
        });
        vec![lies; 4]
    });
}

#[test]
fn malformed_offers_are_harmless() {
    attack(|| {
        let mut opening = vec![Message::HaveNone, Message::Unchoke];
        for length in 0..200 {
            let body = (0..length * 7).map(|byte| (byte * 31 % 251) as u8).collect();
            opening.push(Message::Extended(OFFERS, body));
        }
        opening.push(offer((0..256).map(|at| (u32::MAX - at, [0xff; BITS]))));
        opening.push(offer((0..20_000).map(|at| (at % (PIECES + 1), [at as u8; BITS]))));
        vec![offers_everything().with_opening(opening); 2]
    });
}

/// Receives until the peer offers these granules of a piece.
#[track_caller]
fn wait_for_offer(peer: &mut RawPeer, piece: u32, bits: [u8; BITS]) {
    let entry: Vec<u8> = piece.to_be_bytes().into_iter().chain(bits).collect();
    let offered = |message| {
        let Message::Extended(OFFERS, body) = message else { return None };
        body.chunks(entry.len()).any(|one| one == entry).then_some(())
    };
    peer.receive_until(offered).unwrap();
}

/// A reader that has read a part of piece 3 from an honest seed.
fn reader_of_parts(sample: &Sample) -> (Arc<Content>, RawSeed, Reader<'_>) {
    let content = Arc::new(Content::new(sample.info_hash, PIECE, &sample.files));
    let seed = RawSeed::listen_here(&content, Conduct::honest());
    let mut reader = Reader::new(sample, vec![seed.address()]);
    reader.read(3, 4..12);
    (content, seed, reader)
}

/// A peer that has no piece, and is connected to a reader.
#[track_caller]
fn dial(reader: &Reader, content: &Content) -> RawPeer {
    let extensions = format!("d1:md15:silmaril_offersi{OFFERS}eee");
    let to = reader.client.address;
    let mut peer = RawPeer::dial_as(None, to, &content.info_hash, FLAGS, extensions.as_bytes()).unwrap();
    peer.send(&Message::HaveNone).unwrap();
    peer
}

#[test]
fn only_offered_parts_of_a_piece_are_served_and_only_until_they_are_deleted() {
    in_private_net(|| {
        let sample = sample();
        let (content, _seed, reader) = reader_of_parts(&sample);

        let mut peer = dial(&reader, &content);
        peer.send(&Message::Interested).unwrap();
        // The second and the third granule.
        wait_for_offer(&mut peer, 3, [0x60, 0]);
        let block = |number: u32| Block { piece: 3, begin: number * BLOCK, length: BLOCK };
        let served = |peer: &mut RawPeer, block: Block| {
            peer.send(&Message::Request(block)).unwrap();
            peer.receive_until(|message| match message {
                Message::Piece(piece, begin, data) if (piece, begin) == (block.piece, block.begin) => {
                    assert!(Some(data) == content.block(block, 0), "wrong bytes");
                    Some(true)
                }
                Message::Reject(rejected) if rejected == block => Some(false),
                _ => None,
            })
            .unwrap()
        };
        for number in 0..PIECE / BLOCK {
            assert_eq!(served(&mut peer, block(number)), (4..12).contains(&number), "block {number}");
        }
        let odd = Block { begin: 4 * BLOCK + 100, length: 1000, ..block(0) };
        assert!(served(&mut peer, odd));
        let beyond = Block { begin: 12 * BLOCK - 100, length: 200, ..block(0) };
        assert!(!served(&mut peer, beyond));

        let file = content.file("model.safetensors");
        let per_piece = (PIECE / BLOCK) as i32;
        let proved = |peer: &mut RawPeer, base: i32, index: i32, length: i32| {
            let range = file.range(base, index, length);
            peer.send(&Message::HashRequest(range)).unwrap();
            peer.receive_until(|message| match message {
                Message::Hashes(of, hashes) if of == range => {
                    assert!(Some(hashes) == file.hashes(range), "wrong hashes");
                    Some(true)
                }
                Message::HashReject(of) if of == range => Some(false),
                _ => None,
            })
            .unwrap()
        };
        let first = 3 * per_piece;
        assert!(proved(&mut peer, 0, first + 4, 4) && proved(&mut peer, 0, first + 8, 4));
        assert!(proved(&mut peer, 2, first / 4, per_piece / 4));
        for (base, index, length) in [(0, first, 4), (0, first, 8), (0, first, 16), (0, first + 12, 4)] {
            assert!(!proved(&mut peer, base, index, length), "{length} blocks at {index}");
        }

        reader.client.session.withdraw(reader.id, &[PieceIndex(3)]).unwrap();
        wait_for_offer(&mut peer, 3, [0; BITS]);
        assert!(!served(&mut peer, block(4)));
        assert!(!proved(&mut peer, 0, first + 4, 4));
    });
}

/// The handshake that switches the extension off takes 40 bytes, and everything that a host offers 36 KiB.
#[test]
fn offers_are_not_sent_as_often_as_a_peer_likes() {
    in_private_net(|| {
        let sample = sample();
        let (content, _seed, reader) = reader_of_parts(&sample);
        let handshake = |number: u8| format!("d1:md15:silmaril_offersi{number}eee").into_bytes();
        let (to, on) = (reader.client.address, handshake(OFFERS));
        let mut peer = RawPeer::dial_as(None, to, &content.info_hash, FLAGS, &on).unwrap();
        peer.send(&Message::HaveNone).unwrap();
        wait_for_offer(&mut peer, 3, [0x60, 0]);
        for _ in 0..20 {
            peer.send(&Message::Extended(0, handshake(0))).unwrap();
            peer.send(&Message::Extended(0, on.clone())).unwrap();
        }
        peer.send(&Message::HashRequest(content.any_range())).unwrap();
        let mut offers = 1;
        let is_answer = |message| match message {
            Message::Extended(OFFERS, _) => {
                offers += 1;
                None
            }
            Message::Hashes(..) | Message::HashReject(_) => Some(()),
            _ => None,
        };
        peer.receive_until(is_answer).unwrap();
        assert_eq!(offers, 8, "the same offers were sent {offers} times");
    });
}

/// Two readers of one piece. The first one is connected to this peer alone, and the second one to the first.
fn readers_of_one_piece<'a>(sample: &'a Sample, seed: &RawSeed, piece: u32) -> [Reader<'a>; 2] {
    let mut first = Reader::new(sample, vec![seed.address()]);
    let second = Reader::new(sample, vec![first.client.address]);
    first.client.wait_for("other readers", SOON, |event| {
        matches!(event, Event::Readers(_, readers) if *readers > 0).then_some(())
    });
    for reader in [&first, &second] {
        reader.client.session.request(reader.id, PieceIndex(piece), Duration::ZERO).unwrap();
    }
    [first, second]
}

/// Whether a block is in the first half of its piece.
fn is_early(block: Block) -> bool {
    block.begin < PIECE / 2
}

#[test]
fn parts_of_a_piece_on_its_way_are_passed_on() {
    in_private_net(|| {
        let sample = sample();
        let content = Arc::new(Content::new(sample.info_hash, PIECE, &sample.files));
        let half = Conduct::honest()
            .with_blocks(|content, block| if is_early(block) { vec![right(content, block)] } else { vec![] });
        let seed = RawSeed::listen_here(&content, half);
        let [_first, mut second] = readers_of_one_piece(&sample, &seed, 2);
        second.wait(2, 0..PIECE / BLOCK / 2);
    });
}

#[test]
fn wrong_part_of_a_piece_on_its_way_is_noticed_before_the_piece_is_complete() {
    in_private_net(|| {
        let sample = sample();
        let content = Arc::new(Content::new(sample.info_hash, PIECE, &sample.files));
        let liar = Conduct::honest().with_blocks(|content, block| match block.begin / BLOCK {
            5 => vec![wrong(block)],
            _ if is_early(block) => vec![right(content, block)],
            _ => vec![],
        });
        let liar = RawSeed::listen_here(&content, liar);
        let [mut first, mut second] = readers_of_one_piece(&sample, &liar, 2);
        first.client.wait_for("ban", SOON, |event| {
            matches!(event, Event::PeerDisconnected(_, peer, _) if *peer == liar.address()).then_some(())
        });
        let honest = RawSeed::listen_here(&content, Conduct::honest());
        first.client.session.connect_peer(first.id, honest.address()).unwrap();
        first.wait(2, 0..PIECE / BLOCK);
        second.wait(2, 0..PIECE / BLOCK);
    });
}

/// Blocks of an earlier run are right. The peer that sends the rest of their piece sends a wrong block.
#[test]
fn wrong_block_next_to_verified_ones_is_not_taken_for_damage() {
    in_private_net(|| {
        let sample = sample();
        let (content, _seed, first) = reader_of_parts(&sample);
        // It has the hashes of all granules.
        let mut peer = dial(&first, &content);
        wait_for_offer(&mut peer, 3, [0x60, 0]);
        let mut reader = first.again(vec![(PieceIndex(3), 4..12)]);
        let liar = Conduct::honest().with_blocks(|content, block| {
            vec![if block.begin / BLOCK == 20 { wrong(block) } else { right(content, block) }]
        });
        let liar = RawSeed::listen_here(&content, liar);
        reader.client.session.connect_peer(reader.id, liar.address()).unwrap();
        reader.client.session.request(reader.id, PieceIndex(3), Duration::ZERO).unwrap();
        reader.client.wait_for("ban", SOON, |event| match event {
            Event::PeerDisconnected(_, peer, _) if *peer == liar.address() => Some(()),
            Event::PieceDamaged(..) => panic!("verified blocks count as damaged"),
            _ => None,
        });
        let honest = RawSeed::listen_here(&content, Conduct::honest());
        reader.client.session.connect_peer(reader.id, honest.address()).unwrap();
        reader.wait(3, 0..PIECE / BLOCK);
    });
}

/// A wrong block may be the last one of the last piece: then the piece is hashed twice, and the torrent is complete after the
/// first time.
#[test]
#[ignore = "in about one of a hundred rounds a reader gets no further block: not mended yet"]
fn readers_of_whole_pieces_survive_wrong_blocks_and_blame_no_honest_peer() {
    in_private_net(|| {
        let sample = sample();
        let content = Arc::new(Content::new(sample.info_hash, PIECE, &sample.files));
        let lies = |conduct: Conduct, share: u32| {
            conduct.with_blocks(move |content, block| {
                let lies = (block.piece + block.begin / BLOCK).is_multiple_of(share);
                vec![if lies { wrong(block) } else { right(content, block) }]
            })
        };
        for round in 0..16 {
            let hashes = |conduct: Conduct| match round % 2 {
                0 => conduct,
                _ => conduct.with_hashes(|_, range| vec![Message::HashReject(range)]),
            };
            let liars = [(true, 3), (true, 17), (false, 5), (false, 31)].map(|(offers, share)| {
                let conduct = if offers { offers_everything() } else { Conduct::honest() };
                RawSeed::listen_here(&content, lies(hashes(conduct), share))
            });
            let honest = RawSeed::listen_here(&content, Conduct::honest());
            let peers: Vec<_> = liars.iter().chain([&honest]).map(RawSeed::address).collect();
            let mut first = Reader::new(&sample, peers.clone());
            let mut second = Reader::new(&sample, [peers, vec![first.client.address]].concat());
            let all: Vec<_> = (0..PIECES).map(|piece| (PieceIndex(piece), Priority::Normal)).collect();
            for reader in [&first, &second] {
                reader.client.session.set_priority(reader.id, &all).unwrap();
            }
            let fair = [honest.address(), first.client.address, second.client.address];
            for reader in [&mut first, &mut second] {
                let mut left: BTreeSet<u32> = (0..PIECES).collect();
                reader.client.wait_for("all pieces", 3 * SOON, |event| {
                    match event {
                        Event::PieceVerified(_, piece) => {
                            left.remove(&piece.0);
                        }
                        Event::PeerDisconnected(_, peer, why) if fair.contains(peer) => {
                            assert!(!why.contains("corrupt"), "an honest peer was disconnected: {why}");
                        }
                        _ => {}
                    }
                    left.is_empty().then_some(())
                });
                reader.assert_complete();
            }
        }
    });
}
