//! Known piece layers survive a restart, so that a node can serve its pieces alone.

use std::path::Path;
use std::time::Duration;

use fixedbitset::FixedBitSet;
use silmaril::model::{PieceIndex, metainfo};
use silmaril::torrent::{AddTorrent, Event, Priority, Swarms, TorrentId};

use super::rig::{Client, SOON, Sample};
use crate::support::private_net::in_private_net;

/// A torrent without piece layers, as made from a manifest.
fn bare(sample: &Sample, dir: &Path) -> AddTorrent {
    let mut add = sample.add(dir);
    add.metainfo = metainfo::wrap(&metainfo::parse_metainfo(&sample.metainfo).unwrap().info, None);
    add
}

fn resume_data(client: &mut Client, id: TorrentId) -> Vec<u8> {
    client.session.save_resume(id).unwrap();
    client.wait_for("resume data", SOON, |event| match event {
        Event::ResumeData(i, bytes) if *i == id => Some(bytes.clone()),
        _ => None,
    })
}

fn want(client: &Client, id: TorrentId, pieces: &[u32]) {
    let pieces: Vec<_> = pieces.iter().map(|p| (PieceIndex(*p), Priority::Ahead)).collect();
    client.session.set_priority(id, &pieces).unwrap();
}

/// Fetches `pieces` from a stock seed with a bare torrent, restarts, and has another bare leech fetch the same pieces
/// from the restarted engine alone.
fn serves_after_restart(sample: &Sample, pieces: &[u32]) {
    let here = tempfile::tempdir().unwrap();
    let mut have = FixedBitSet::with_capacity(sample.pieces() as usize);
    let saved = {
        let seed = sample.stock_seed();
        let mut client = Client::new();
        let mut add = bare(sample, here.path());
        add.peers = vec![seed.address()];
        let id = client.add(add);
        want(&client, id, pieces);
        while have.count_ones(..) < pieces.len() {
            let piece = client.wait_for("piece", SOON, |event| match event {
                Event::PieceVerified(_, piece) => Some(piece.0),
                _ => None,
            });
            have.insert(piece as usize);
        }
        let saved = resume_data(&mut client, id);
        assert!(client.session.shutdown(Duration::from_secs(10)));
        saved
    };
    // 64 bytes a piece at most: its hash, and as much again for the nodes above.
    let bound = 64 * sample.pieces() as usize + 1000;
    assert!(!saved.is_empty() && saved.len() < bound, "{} bytes for {} pieces", saved.len(), sample.pieces());

    let mut restarted = Client::new();
    let mut add = bare(sample, here.path());
    add.have = have.clone();
    add.resume = Some(saved);
    let id = restarted.add(add);
    if pieces.len() == sample.pieces() as usize {
        restarted.session.export_metainfo(id).unwrap();
        let whole = restarted.wait_for("metainfo", SOON, |event| match event {
            Event::Metainfo(_, bytes) => Some(bytes.clone().expect("all layers are known")),
            _ => None,
        });
        let layers = |bytes: &[u8]| metainfo::parse_metainfo(bytes).unwrap().layers;
        assert_eq!(layers(&whole), layers(&sample.metainfo));
    }

    let there = tempfile::tempdir().unwrap();
    let mut leech = Client::new();
    let mut add = bare(sample, there.path());
    add.peers = vec![restarted.address];
    let id = leech.add(add);
    want(&leech, id, pieces);
    let mut left = have;
    leech.wait_for("pieces from the restarted engine", SOON, |event| {
        if let Event::PieceVerified(_, piece) = event {
            left.set(piece.0 as usize, false);
        }
        left.is_clear().then_some(())
    });
    for piece in pieces {
        assert!(sample.piece_in(there.path(), *piece).unwrap() == sample.piece(*piece), "piece {piece}");
    }
}

#[test]
fn complete_torrent_is_served_after_a_restart() {
    in_private_net(|| {
        let sample = Sample::new(&[("a.bin", 3_000_000), ("b.bin", 500_000), ("c", 10)], 64 * 1024, false);
        let all: Vec<u32> = (0..sample.pieces()).collect();
        serves_after_restart(&sample, &all);
    });
}

#[test]
fn part_of_a_torrent_is_served_after_a_restart() {
    in_private_net(|| {
        // More than the 512 pieces whose hashes are requested at a time, so that some layers remain unknown.
        let sample = Sample::new(&[("a.bin", 20_000_000), ("b.bin", 9_000_000)], 16 * 1024, false);
        serves_after_restart(&sample, &[2, 700, 701, 1219]);
    });
}

#[test]
fn damaged_resume_data_is_ignored() {
    in_private_net(|| {
        let sample = Sample::new(&[("a.bin", 3_000_000)], 64 * 1024, false);
        let seed = sample.stock_seed();
        let here = tempfile::tempdir().unwrap();
        let good = {
            let mut client = Client::new();
            let mut add = bare(&sample, here.path());
            add.peers = vec![seed.address()];
            let id = client.add(add);
            client.read(id, 0);
            resume_data(&mut client, id)
        };
        let mut flipped = good.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0xff;
        for bad in [b"not bencoded".to_vec(), b"de".to_vec(), good[..good.len() / 2].to_vec(), flipped] {
            let there = tempfile::tempdir().unwrap();
            let mut client = Client::new();
            let mut add = bare(&sample, there.path());
            add.peers = vec![seed.address()];
            add.resume = Some(bad);
            let id = client.add(add);
            client.read(id, 7);
            assert!(sample.piece_in(there.path(), 7).unwrap() == sample.piece(7));
        }
    });
}
