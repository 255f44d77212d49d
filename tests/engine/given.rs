//! Pieces given by the node while peers send parts of them, and torrents without any piece from peers.

use std::time::{Duration, Instant};

use silmaril::config::NetworkConfig;
use silmaril::model::PieceIndex;
use silmaril::torrent::{Event, Mode, Swarms};

use super::rig::{Client, SOON, Sample, Stock, network};
use crate::support::private_net::in_private_net;

const PIECE: u32 = 1 << 20;

/// The last piece of `a` ends in the middle of a block; in a hybrid torrent padding follows it.
fn sample(hybrid: bool) -> Sample {
    Sample::new(&[("a", 2_500_000), ("b", 1_300_000)], PIECE, hybrid)
}

/// A seed that needs ten seconds for a piece.
fn slow_seed(sample: &Sample) -> Client {
    let mut seed = Client::with(NetworkConfig { upload_rate_limit: 100_000, ..network() });
    seed.add(sample.add_seed());
    seed
}

#[test]
fn piece_partly_sent_by_a_slow_peer_is_completed() {
    for hybrid in [false, true] {
        in_private_net(move || {
            let sample = sample(hybrid);
            let seed = slow_seed(&sample);
            let here = tempfile::tempdir().unwrap();
            let mut client = Client::new();
            let mut add = sample.add(here.path());
            add.peers = vec![seed.address];
            let id = client.add(add);
            // Also for the short last piece, which comes from a peer block by block like the rest.
            for piece in [1, 2] {
                client.session.request(id, PieceIndex(piece), Duration::ZERO).unwrap();
                let mut before = None;
                client.wait_for("bytes from the peer", SOON, |event| match event {
                    Event::Stats(_, stats) => {
                        let before = *before.get_or_insert(stats.downloaded);
                        (stats.downloaded >= before + 50_000).then_some(())
                    }
                    Event::PieceVerified(..) => panic!("the seed is not slow"),
                    _ => None,
                });
                let given = Instant::now();
                client.session.give_piece(id, PieceIndex(piece), sample.piece(piece).to_vec()).unwrap();
                client.wait_verified(id, piece);
                assert!(given.elapsed() < Duration::from_secs(3), "{:?}", given.elapsed());
                assert!(sample.piece_in(here.path(), piece).unwrap() == sample.piece(piece));
            }
            // Giving the piece again has no effect, and the peer continues with other pieces.
            client.session.give_piece(id, PieceIndex(1), sample.piece(1).to_vec()).unwrap();
            client.read(id, 4);
            assert!(sample.piece_in(here.path(), 1).unwrap() == sample.piece(1));
        });
    }
}

#[test]
fn torrent_of_given_pieces_is_seeded() {
    for hybrid in [false, true] {
        in_private_net(move || {
            let sample = sample(hybrid);
            let here = tempfile::tempdir().unwrap();
            let mut client = Client::new();
            let id = client.add(sample.add(here.path()));
            // Wanted pieces and unwanted ones: a request over HTTP includes neighbours.
            client.session.request(id, PieceIndex(0), Duration::ZERO).unwrap();
            for piece in 0..sample.pieces() {
                client.session.give_piece(id, PieceIndex(piece), sample.piece(piece).to_vec()).unwrap();
            }
            let mut left = sample.pieces();
            client.wait_for("all pieces", SOON, |event| {
                match event {
                    Event::PieceVerified(..) => left -= 1,
                    Event::PieceRejected(_, piece) => panic!("{piece:?} was refused"),
                    _ => {}
                }
                (left == 0).then_some(())
            });
            for piece in 0..sample.pieces() {
                assert!(sample.piece_in(here.path(), piece).unwrap() == sample.piece(piece), "piece {piece}");
            }
            let there = tempfile::tempdir().unwrap();
            let output = Stock::leech(&sample.torrent_file(), there.path(), client.address.port());
            assert_eq!(output, "done");
            for (path, (_, bytes)) in sample.paths_in(there.path()).iter().zip(&sample.files) {
                assert!(std::fs::read(path).unwrap() == *bytes, "{}", path.display());
            }
        });
    }
}

#[test]
fn given_piece_is_sent_to_the_next_peer() {
    in_private_net(|| {
        let sample = sample(false);
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut first = Client::new();
        let id = first.add(sample.add(here.path()));
        first.session.give_piece(id, PieceIndex(2), sample.piece(2).to_vec()).unwrap();
        first.wait_verified(id, 2);
        let mut second = Client::new();
        let mut add = sample.add(there.path());
        add.peers = vec![first.address];
        add.mode = Mode::Lazy;
        let id = second.add(add);
        second.read(id, 2);
        assert!(sample.piece_in(there.path(), 2).unwrap() == sample.piece(2));
    });
}
