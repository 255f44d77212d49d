//! A withheld torrent is read by this node and by no peer.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use silmaril::config::{Encryption, NetworkConfig};
use silmaril::model::metainfo::parse_metainfo;
use silmaril::torrent::{AddTorrent, Event, OverlayEvent, Swarms, TorrentId};

use super::rig::{Client, SOON, Sample, network};
use crate::support::private_net::in_private_net;
use crate::support::wire::{HASHES, PIECE, UNCHOKE, Wire, is_metadata};

const PIECES: u32 = 6;

fn sample() -> Sample {
    Sample::new(&[("a", PIECES as usize * 64 * 1024)], 64 * 1024, false)
}

/// Handshakes in the clear: a raw peer supports no other.
fn plain() -> Client {
    Client::with(NetworkConfig { encryption: Encryption::Off, ..network() })
}

/// A torrent whose first piece is on the disk.
fn with_first_piece(sample: &Sample, dir: &std::path::Path) -> AddTorrent {
    let mut add = sample.add(dir);
    let path = &sample.paths_in(dir)[0];
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, sample.piece(0)).unwrap();
    add.have.insert(0);
    add
}

#[track_caller]
fn wait_until_all_was_read(client: &mut Client) {
    client.wait_for("message of the raw peer", SOON, |event| {
        matches!(event, Event::Overlay(OverlayEvent::Received(..))).then_some(())
    });
}

#[test]
fn withheld_torrent_accepts_no_connection_while_it_reads() {
    in_private_net(|| {
        let sample = sample();
        let dir = tempfile::tempdir().unwrap();
        let (mut seed, mut holder) = (plain(), plain());
        seed.add(sample.add_seed());
        let mut add = with_first_piece(&sample, dir.path());
        add.peers = vec![seed.address];
        add.withheld = true;
        let id = holder.add(add);
        for piece in 1..PIECES {
            let answer = Wire::bytes_for(holder.address, &sample.info_hash).unwrap();
            assert_eq!(answer, b"", "an unknown peer got bytes");
            holder.read(id, piece);
            assert_eq!(sample.piece_in(dir.path(), piece).unwrap(), sample.piece(piece));
        }
        let unknown = silmaril::model::InfoHash([3; 32]);
        assert_eq!(Wire::bytes_for(holder.address, &unknown).unwrap(), b"", "both look the same");
    });
}

/// The messages to a raw peer to which the holder has connected.
fn answers_to_called_peer(withheld: bool) -> Vec<(u8, Vec<u8>)> {
    in_private_net(move || {
        let sample = sample();
        let dir = tempfile::tempdir().unwrap();
        let (mut seed, mut holder) = (plain(), plain());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        seed.add(sample.add_seed());
        let mut add = with_first_piece(&sample, dir.path());
        add.peers = vec![seed.address, listener.local_addr().unwrap()];
        add.withheld = withheld;
        let id = holder.add(add);
        let root = parse_metainfo(&sample.metainfo).unwrap().files[0].pieces_root.unwrap().0;
        let mut wire = Wire::accept(&listener, &sample.info_hash).unwrap();
        wire.ask_for_everything(&root).unwrap();
        wait_until_all_was_read(&mut holder);
        // The disk has had time to answer when it has answered these.
        for piece in 1..PIECES {
            holder.read(id, piece);
        }
        assert!(holder.session.shutdown(SOON));
        wire.messages().unwrap()
    })
}

#[test]
fn withheld_torrent_uploads_nothing_to_peers_it_called() {
    let open = answers_to_called_peer(false);
    let kinds: Vec<u8> = open.iter().map(|(kind, _)| *kind).collect();
    for kind in [UNCHOKE, PIECE, HASHES] {
        assert!(open.iter().any(|message| message.0 == kind), "no {kind} in {kinds:?}");
    }
    assert!(open.iter().any(is_metadata), "no metadata in {kinds:?}");
    for (kind, body) in answers_to_called_peer(true) {
        assert!(kind != PIECE && !is_metadata(&(kind, body)), "message {kind}");
    }
}

#[test]
fn withheld_torrent_answers_no_hash_request() {
    assert!(answers_to_called_peer(true).iter().all(|(kind, _)| *kind != HASHES));
}

fn refuses(address: SocketAddr, sample: &Sample) -> bool {
    Wire::connect(address, &sample.info_hash).is_err()
}

#[test]
fn withholding_a_running_torrent_ends_its_connections() {
    in_private_net(|| {
        let sample = sample();
        let mut seed = plain();
        let id: TorrentId = seed.add(sample.add_seed());
        let wire = Wire::connect(seed.address, &sample.info_hash).unwrap();
        seed.session.set_withheld(id, true).unwrap();
        wire.messages().expect("the connection ends");
        assert!(refuses(seed.address, &sample));
        seed.session.set_withheld(id, false).unwrap();
        assert!(!refuses(seed.address, &sample));
        assert!(seed.session.shutdown(Duration::from_secs(5)));
        assert!(seed.session.set_withheld(id, true).is_err());
    });
}
