//! Pieces that are withdrawn while their torrent runs.

use std::os::unix::fs::FileExt;

use silmaril::model::PieceIndex;
use silmaril::torrent::{Event, Swarms};

use super::rig::{Client, SOON, Sample};
use crate::support::private_net::in_private_net;
use crate::support::raw_peer::{FLAGS, RawPeer, is_disconnect};
use crate::support::raw_peer_message::{Block, Message};

const MIB: usize = 1 << 20;

/// Writes zeros over the bytes of a piece, as a hole reads.
fn punch(sample: &Sample, dir: &std::path::Path, piece: u32) {
    let (file, range) = sample.layout.owner(PieceIndex(piece)).unwrap();
    let path = &sample.paths_in(dir)[file];
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&vec![0; (range.end - range.start) as usize], range.start).unwrap();
}

#[test]
fn withdrawn_pieces_are_fetched_again_without_new_connections() {
    in_private_net(|| {
        let sample = Sample::new(&[("model.safetensors", 8 * MIB)], MIB as u32, false);
        let seed = sample.stock_seed();
        let here = tempfile::tempdir().unwrap();
        let mut client = Client::new();
        let mut add = sample.add(here.path());
        add.peers = vec![seed.address()];
        let id = client.add(add);
        // Not the last piece: a stock seed disconnects when this node is a seed too.
        for piece in 0..7 {
            client.read(id, piece);
        }
        for round in 0..3 {
            let gone = [2, 3 + round];
            client.session.withdraw(id, &gone.map(PieceIndex)).unwrap();
            for piece in gone {
                punch(&sample, here.path(), piece);
            }
            for piece in gone {
                client.session.request(id, PieceIndex(piece), std::time::Duration::ZERO).unwrap();
            }
            let mut left = gone.to_vec();
            client.wait_for("both pieces", SOON, |event| {
                match event {
                    Event::PieceVerified(_, piece) => left.retain(|p| *p != piece.0),
                    Event::PeerDisconnected(_, peer, why) => panic!("{peer} left: {why}"),
                    Event::Failed(_, why) => panic!("{why}"),
                    _ => {}
                }
                left.is_empty().then_some(())
            });
            for piece in gone {
                assert!(sample.piece_in(here.path(), piece).unwrap() == sample.piece(piece));
            }
        }
    });
}

#[test]
fn no_byte_of_a_withdrawn_piece_is_sent() {
    in_private_net(|| {
        let sample = Sample::new(&[("model.safetensors", 8 * MIB)], MIB as u32, false);
        let mut seed = Client::new();
        let seeded = seed.add(sample.add_seed());
        let here = tempfile::tempdir().unwrap();
        let mut client = Client::new();
        let mut add = sample.add(here.path());
        add.peers = vec![seed.address];
        let id = client.add(add);
        client.read(id, 0);
        seed.session.withdraw(seeded, &[PieceIndex(5)]).unwrap();
        punch(&sample, sample.dir.path(), 5);
        // The leech wants all; it learns that one piece is withdrawn, remains connected, and receives the rest.
        client.session.request(id, PieceIndex(5), std::time::Duration::ZERO).unwrap();
        for piece in [1, 2, 3, 4, 6, 7] {
            client.session.request(id, PieceIndex(piece), std::time::Duration::ZERO).unwrap();
        }
        let mut left = vec![1, 2, 3, 4, 6, 7];
        client.wait_for("the other pieces", SOON, |event| {
            match event {
                Event::PieceVerified(_, piece) => left.retain(|p| *p != piece.0),
                Event::PieceRejected(_, piece) => panic!("bytes of {piece:?} were wrong"),
                Event::PeerDisconnected(_, peer, why) => panic!("{peer} left: {why}"),
                _ => {}
            }
            left.is_empty().then_some(())
        });
        // The piece is requested of another peer that has it.
        let dir = tempfile::tempdir().unwrap();
        let original = Sample::new(&[("model.safetensors", 8 * MIB)], MIB as u32, false);
        drop(dir);
        let stock = original.stock_seed();
        client.session.connect_peer(id, stock.address()).unwrap();
        client.wait_verified(id, 5);
        // And the seed fetches it from that peer.
        seed.session.connect_peer(seeded, stock.address()).unwrap();
        seed.read(seeded, 5);
        assert!(sample.piece_in(sample.dir.path(), 5).unwrap() == sample.piece(5));
    });
}

/// The number that a hand-made peer gives to `lt_donthave` (BEP 54).
const DONT_HAVE: u8 = 7;

/// The flags of a peer without BEP 6.
const WITHOUT_FAST: [u8; 8] = [0, 0, 0, 0, 0, 0x10, 0, 0x10];

/// The piece that is withdrawn, the last.
const GONE: u32 = 15;

const BLOCK: u32 = 16 * 1024;

/// A seed of 16 pieces, and a connection of a hand-made peer with these flags and extensions. The peer has requested all
/// blocks and has received the first one when the last piece is withdrawn; it has not read the later answers.
fn withdraw_during_requests(
    flags: [u8; 8],
    extensions: &'static [u8],
    check: fn(&Sample, RawPeer, &Client, Block),
) {
    in_private_net(move || {
        let sample = Sample::new(&[("model.safetensors", (GONE as usize + 1) * MIB)], MIB as u32, false);
        let mut seed = Client::new();
        let seeded = seed.add(sample.add_seed());
        let mut peer = RawPeer::dial_as(None, seed.address, &sample.info_hash, flags, extensions).unwrap();
        if flags == FLAGS {
            peer.send(&Message::HaveNone).unwrap();
        }
        peer.send(&Message::Interested).unwrap();
        peer.receive_until(|message| (message == Message::Unchoke).then_some(())).unwrap();
        for block in blocks() {
            peer.send(&Message::Request(block)).unwrap();
        }
        // Disk threads may finish in another order.
        let first = peer.receive_until(|message| match message {
            Message::Piece(piece, begin, _) => Some(Block { piece, begin, length: BLOCK }),
            _ => None,
        });
        seed.session.withdraw(seeded, &[PieceIndex(GONE)]).unwrap();
        check(&sample, peer, &seed, first.unwrap());
    });
}

fn blocks() -> Vec<Block> {
    let pieces = 0..=GONE;
    let of = |piece| (0..MIB as u32 / BLOCK).map(move |i| Block { piece, begin: i * BLOCK, length: BLOCK });
    pieces.flat_map(of).collect()
}

/// Receives the answer to each request except the first, and the other messages that the seed sends meanwhile.
fn answers(sample: &Sample, peer: &mut RawPeer, first: Block) -> (Vec<Block>, Vec<Message>) {
    let mut due = blocks();
    due.retain(|block| *block != first);
    let (mut rejected, mut messages) = (vec![], vec![]);
    while !due.is_empty() {
        let answered = match peer.receive().unwrap() {
            Message::Piece(piece, begin, bytes) => {
                let start = begin as usize;
                assert!(bytes == sample.piece(piece)[start..start + bytes.len()], "wrong bytes of {piece}");
                Block { piece, begin, length: bytes.len() as u32 }
            }
            Message::Reject(block) => {
                rejected.push(block);
                block
            }
            other => {
                messages.push(other);
                continue;
            }
        };
        let at = due.iter().position(|block| *block == answered);
        due.swap_remove(at.unwrap_or_else(|| panic!("{answered:?} was not requested")));
    }
    (rejected, messages)
}

fn dont_have() -> Message {
    Message::Extended(DONT_HAVE, GONE.to_be_bytes().to_vec())
}

fn of_the_withdrawn_piece() -> Vec<Block> {
    blocks().into_iter().filter(|block| block.piece == GONE).collect()
}

#[test]
fn requests_for_a_withdrawn_piece_are_rejected() {
    withdraw_during_requests(FLAGS, b"d1:md11:lt_donthavei7eee", |sample, mut peer, _seed, first| {
        let (mut rejected, messages) = answers(sample, &mut peer, first);
        rejected.sort_by_key(|block| block.begin);
        assert_eq!(rejected, of_the_withdrawn_piece());
        assert_eq!(messages.iter().filter(|message| **message == dont_have()).count(), 1, "{messages:?}");
        // A later request is rejected as well, and the connection is kept.
        let late = of_the_withdrawn_piece()[3];
        peer.send(&Message::Request(late)).unwrap();
        peer.receive_until(|message| (message == Message::Reject(late)).then_some(())).unwrap();
        peer.send(&Message::Request(blocks()[0])).unwrap();
        peer.receive_until(|message| matches!(message, Message::Piece(0, 0, _)).then_some(())).unwrap();
    });
}

#[test]
fn peer_without_donthave_gets_rejects() {
    withdraw_during_requests(FLAGS, b"d1:mdee", |sample, mut peer, _seed, first| {
        let (mut rejected, messages) = answers(sample, &mut peer, first);
        rejected.sort_by_key(|block| block.begin);
        assert_eq!(rejected, of_the_withdrawn_piece());
        let extended = |message: &Message| matches!(message, Message::Extended(id, _) if *id != 0);
        assert!(!messages.iter().any(extended), "{messages:?}");
    });
}

#[test]
fn peer_without_bep_6_gets_the_new_bitfield() {
    withdraw_during_requests(WITHOUT_FAST, b"d1:mdee", |sample, mut peer, seed, _first| {
        let end = loop {
            match peer.receive() {
                Ok(Message::Piece(piece, ..)) => assert_ne!(piece, GONE, "a block of the withdrawn piece"),
                Ok(Message::Reject(block)) => panic!("a reject of {block:?} without BEP 6"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(is_disconnect(&end), "{end}");
        let mut again =
            RawPeer::dial_as(None, seed.address, &sample.info_hash, WITHOUT_FAST, b"d1:mdee").unwrap();
        let bits = again.receive_until(|message| match message {
            Message::Bitfield(bits) => Some(bits),
            _ => None,
        });
        assert_eq!(bits.unwrap(), [0xff, 0xfe]);
    });
}
