//! Pieces that are taken back while their torrent runs.

use std::os::unix::fs::FileExt;

use silmaril::model::PieceIndex;
use silmaril::torrent::{Event, Swarms};

use super::rig::{Client, SOON, Sample};
use crate::support::private_net::in_private_net;

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
        // Not the last: a stock seed leaves when this is a seed, too.
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
        // The leech wants all; it is told that one piece is gone, stays connected, and gets the others.
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
        // Another peer that has it is asked for it.
        let dir = tempfile::tempdir().unwrap();
        let original = Sample::new(&[("model.safetensors", 8 * MIB)], MIB as u32, false);
        drop(dir);
        let stock = original.stock_seed();
        client.session.connect_peer(id, stock.address()).unwrap();
        client.wait_verified(id, 5);
        // And the seed gets it back from there.
        seed.session.connect_peer(seeded, stock.address()).unwrap();
        seed.read(seeded, 5);
        assert!(sample.piece_in(sample.dir.path(), 5).unwrap() == sample.piece(5));
    });
}
