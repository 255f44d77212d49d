//! A torrent without wanted pieces remains ready to be read from a stock seed.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use silmaril::model::PieceIndex;
use silmaril::model::metainfo::{parse_metainfo, wrap};
use silmaril::torrent::{Event, Priority, Swarms, TorrentId};

use super::rig::{Client, SOON, Sample, Stock};
use crate::support::private_net::in_private_net;

/// Much longer than a seed with default settings keeps a peer that declares itself upload-only.
const IDLE: Duration = Duration::from_secs(30);

/// How long a read from a connected peer may take.
const WARM_READ: Duration = Duration::from_secs(1);

fn lazy(client: &mut Client, sample: &Sample, dir: &std::path::Path, seed: &Stock) -> TorrentId {
    let mut add = sample.add(dir);
    add.peers = vec![seed.address()];
    client.add(add)
}

#[test]
fn read_after_30_idle_seconds_takes_under_one() {
    in_private_net(|| {
        let sample = Sample::new(&[("model.safetensors", 40 << 20)], 1 << 20, false);
        let seed = sample.stock_seed();
        let here = tempfile::tempdir().unwrap();
        let mut client = Client::new();
        let id = lazy(&mut client, &sample, here.path(), &seed);
        client.read(id, 3);

        let idle_until = Instant::now() + IDLE;
        while let Some(event) = client.next(idle_until.saturating_duration_since(Instant::now())) {
            match event {
                Event::PeerDisconnected(_, peer, reason) => panic!("{peer} left: {reason}"),
                Event::PieceVerified(_, piece) => panic!("{piece:?} was fetched without a request"),
                _ => {}
            }
        }

        let reads = [30, 4, 17].map(|piece| {
            let asked = Instant::now();
            client.read(id, piece);
            let took = asked.elapsed();
            assert!(sample.piece_in(here.path(), piece).unwrap() == sample.piece(piece));
            took
        });
        assert!(reads.iter().all(|took| *took < WARM_READ), "the reads took {reads:?}");
    });
}

#[test]
fn seed_that_left_while_idle_is_called_again() {
    in_private_net(|| {
        let sample = Sample::new(&[("model.safetensors", 4 << 20)], 1 << 20, false);
        let seed = sample.stock_seed();
        let here = tempfile::tempdir().unwrap();
        let mut client = Client::new();
        let id = lazy(&mut client, &sample, here.path(), &seed);
        client.read(id, 0);

        let port = seed.port;
        drop(seed);
        client.wait_for("goodbye", SOON, |event| matches!(event, Event::PeerDisconnected(..)).then_some(()));
        let _seed = sample.stock_seed_on(port);
        client.read(id, 2);
    });
}

#[test]
fn cancelled_request_is_not_fetched() {
    in_private_net(|| {
        let sample = Sample::new(&[("model.safetensors", 8 << 20)], 1 << 20, false);
        let here = tempfile::tempdir().unwrap();
        let mut client = Client::new();
        let id = client.add(sample.add(here.path()));
        // There is no peer yet to fetch it from.
        client.session.request(id, PieceIndex(5), Duration::ZERO).unwrap();
        client.session.set_priority(id, &[(PieceIndex(5), Priority::None)]).unwrap();

        let seed = sample.stock_seed();
        client.session.connect_peer(id, seed.address()).unwrap();
        let all_but_it: Vec<_> =
            (0..sample.pieces()).filter(|p| *p != 5).map(|p| (PieceIndex(p), Priority::Ahead)).collect();
        client.session.set_priority(id, &all_but_it).unwrap();
        let mut verified = vec![];
        client.wait_for("all other pieces", SOON, |event| {
            if let Event::PieceVerified(_, piece) = event {
                verified.push(piece.0);
            }
            (verified.len() == all_but_it.len()).then_some(())
        });
        assert!(!verified.contains(&5), "an unwanted piece was fetched");
        client.read(id, 5);
    });
}

/// A peer that has all pieces and sends none. It supports extensions (BEP 10), the fast extension (BEP 6) and v2 (BEP 52).
/// Returns after it was asked for hashes of pieces.
fn silent_peer(client: &Client, sample: &Sample) -> TcpStream {
    let mut peer = TcpStream::connect(client.address).unwrap();
    peer.set_read_timeout(Some(SOON)).unwrap();
    let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x14".to_vec();
    hello.extend(&sample.info_hash.0[..20]);
    hello.extend(b"-XX0000-silent peer ");
    let have_all = [0, 0, 0, 1, 14];
    hello.extend(have_all);
    peer.write_all(&hello).unwrap();
    peer.read_exact(&mut [0; 68]).unwrap();
    let hash_request = 21;
    loop {
        let mut length = [0; 4];
        peer.read_exact(&mut length).unwrap();
        let mut message = vec![0; u32::from_be_bytes(length) as usize];
        peer.read_exact(&mut message).unwrap();
        if message.first() == Some(&hash_request) {
            return peer;
        }
    }
}

/// A client without hashes of pieces: they come from peers.
fn without_hashes(sample: &Sample, dir: &std::path::Path) -> (Client, TorrentId) {
    let mut client = Client::new();
    let mut add = sample.add(dir);
    let parsed = parse_metainfo(&sample.metainfo).unwrap();
    add.metainfo = wrap(&parsed.info, None);
    let id = client.add(add);
    (client, id)
}

/// A client that waits for a piece.
fn waiting(sample: &Sample, dir: &std::path::Path) -> (Client, TorrentId) {
    let (client, id) = without_hashes(sample, dir);
    client.session.request(id, PieceIndex(2), Duration::ZERO).unwrap();
    (client, id)
}

#[test]
fn hashes_of_a_lost_peer_are_requested_again() {
    in_private_net(|| {
        let sample = Sample::new(&[("model.safetensors", 4 << 20)], 1 << 20, false);
        let here = tempfile::tempdir().unwrap();
        let (mut client, id) = waiting(&sample, here.path());
        drop(silent_peer(&client, &sample));
        client.wait_for("goodbye", SOON, |event| matches!(event, Event::PeerDisconnected(..)).then_some(()));
        let seed = sample.stock_seed();
        client.session.connect_peer(id, seed.address()).unwrap();
        client.wait_verified(id, 2);
    });
}

#[test]
fn hashes_of_a_lost_peer_are_requested_of_silent_ones() {
    in_private_net(|| {
        let sample = Sample::new(&[("model.safetensors", 4 << 20)], 1 << 20, false);
        let here = tempfile::tempdir().unwrap();
        let (mut client, id) = waiting(&sample, here.path());
        let silent = silent_peer(&client, &sample);
        let seed = sample.stock_seed();
        client.session.connect_peer(id, seed.address()).unwrap();
        let piece = 1 << 20;
        // On a slow machine, the hashes are requested again of the seed before the statistics come.
        let verified = client.wait_for("all bytes", SOON, |event| match event {
            Event::Stats(_, stats) if stats.downloaded >= piece => Some(false),
            Event::PieceVerified(_, PieceIndex(2)) => Some(true),
            _ => None,
        });
        drop(silent);
        if !verified {
            client.wait_verified(id, 2);
        }
    });
}

#[test]
fn hashes_that_do_not_come_are_requested_again() {
    in_private_net(|| {
        let sample = Sample::new(&[("model.safetensors", 4 << 20)], 1 << 20, false);
        let here = tempfile::tempdir().unwrap();
        let (mut client, id) = waiting(&sample, here.path());
        let _silent = silent_peer(&client, &sample);
        // It sends the bytes immediately, and nothing else of its own accord.
        let seed = sample.stock_seed();
        client.session.connect_peer(id, seed.address()).unwrap();
        client.wait_verified(id, 2);
    });
}

#[test]
fn no_bytes_are_requested_only_to_get_hashes() {
    in_private_net(|| {
        let sample = Sample::new(&[("model.safetensors", 4 << 20)], 1 << 20, false);
        let here = tempfile::tempdir().unwrap();
        let (mut client, _) = without_hashes(&sample, here.path());
        let mut silent = silent_peer(&client, &sample);
        let unchoke = [0, 0, 0, 1, 1];
        silent.write_all(&unchoke).unwrap();
        let mut seconds = 0;
        client.wait_for("ten seconds with a peer", SOON, |event| {
            seconds += u32::from(matches!(event, Event::Stats(_, stats) if stats.peers == 1));
            (seconds == 10).then_some(())
        });
        drop(client);
        let request = 6;
        // Everything that was sent has arrived. The end of the connection may be missing: a process that another test starts
        // inherits the engine's socket.
        silent.set_nonblocking(true).unwrap();
        let mut sent = vec![];
        if let Err(error) = silent.read_to_end(&mut sent) {
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
        }
        let mut rest = &sent[..];
        while let Some((length, after)) = rest.split_first_chunk() {
            let (message, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            assert_ne!(message.first(), Some(&request));
            rest = after;
        }
    });
}
