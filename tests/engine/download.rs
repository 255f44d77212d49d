//! Pieces that are reported as verified are right, and readable by any process, at the moment of their event.

use silmaril::torrent::{Event, Swarms};

use super::rig::{Client, SOON, Sample, Stock, content};
use crate::support::private_net::in_private_net;

const FILES: &[(&str, usize)] = &[
    ("a/config.json", 700),
    ("b/empty", 0),
    ("model-1.safetensors", 20_000_000),
    ("model-2.safetensors", 9_000_001),
    ("tokenizer", 16_384),
];

/// Downloads a sample from a stock seed, comparing every piece at its event.
fn compare_at_each_event(sample: &Sample) {
    let seed = sample.stock_seed();
    let here = tempfile::tempdir().unwrap();
    let mut client = Client::new();
    let mut add = sample.add(here.path());
    add.peers = vec![seed.address()];
    let id = client.add(add);
    client.fetch_all(id, sample.pieces(), |piece| {
        let bytes = sample.piece_in(here.path(), piece).expect("a verified piece is readable");
        assert!(bytes == sample.piece(piece), "piece {piece} was reported as verified and is wrong");
    });
}

#[test]
fn verified_pieces_are_readable_immediately() {
    in_private_net(|| compare_at_each_event(&Sample::new(FILES, 16 * 1024, false)));
}

#[test]
fn verified_pieces_of_a_hybrid_torrent_are_readable_at_once() {
    in_private_net(|| compare_at_each_event(&Sample::new(FILES, 64 * 1024, true)));
}

#[test]
fn new_files_do_not_count_as_replaced() {
    in_private_net(|| {
        let names: Vec<String> = (100..400).map(|i| format!("part-{i}")).collect();
        let files: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 64 * 1024)).collect();
        // Several threads write the blocks of a piece, and each finds that the file does not exist yet.
        compare_at_each_event(&Sample::new(&files, 64 * 1024, false));
    });
}

#[test]
fn equal_files_of_a_torrent_each_get_their_hashes() {
    in_private_net(|| {
        let bytes = content(5 * 16 * 1024 + 7, 1);
        let files = ["a", "b", "c"].map(|path| (path.to_owned(), bytes.clone())).to_vec();
        let sample = Sample::of(files, 16 * 1024, false);
        let seed = sample.stock_seed();
        let here = tempfile::tempdir().unwrap();
        let mut client = Client::new();
        let mut add = sample.add(here.path());
        let parsed = silmaril::model::metainfo::parse_metainfo(&sample.metainfo).unwrap();
        add.metainfo = silmaril::model::metainfo::wrap(&parsed.info, None);
        add.peers = vec![seed.address()];
        let id = client.add(add);
        client.fetch_all(id, sample.pieces(), |_| ());
        for file in ["a", "b", "c"] {
            assert!(std::fs::read(here.path().join("sample").join(file)).unwrap() == bytes, "{file}");
        }
    });
}

#[test]
fn metainfo_without_piece_layers_is_enough() {
    in_private_net(|| {
        let sample = Sample::new(FILES, 64 * 1024, false);
        let seed = sample.stock_seed();
        let here = tempfile::tempdir().unwrap();
        let mut client = Client::new();
        let mut add = sample.add(here.path());
        let parsed = silmaril::model::metainfo::parse_metainfo(&sample.metainfo).unwrap();
        add.metainfo = silmaril::model::metainfo::wrap(&parsed.info, None);
        add.peers = vec![seed.address()];
        let id = client.add(add);
        client.session.export_metainfo(id).unwrap();
        let early = client.wait_for("metainfo", SOON, |event| match event {
            Event::Metainfo(i, bytes) if *i == id => Some(bytes.clone()),
            _ => None,
        });
        assert_eq!(early, None, "layers that no peer sent are unknown");
        client.fetch_all(id, sample.pieces(), |_| {});
        for piece in 0..sample.pieces() {
            assert!(sample.piece_in(here.path(), piece).unwrap() == sample.piece(piece), "piece {piece}");
        }
        client.session.export_metainfo(id).unwrap();
        let complete = client.wait_for("metainfo", SOON, |event| match event {
            Event::Metainfo(i, bytes) if *i == id => Some(bytes.clone()),
            _ => None,
        });
        let complete =
            silmaril::model::metainfo::parse_metainfo(&complete.expect("all layers are known")).unwrap();
        assert_eq!(complete.layers, parsed.layers);
        assert_eq!(complete.info_hash, parsed.info_hash);
    });
}

#[test]
fn stock_peer_receives_everything() {
    in_private_net(|| {
        for hybrid in [false, true] {
            let sample = Sample::new(FILES, 64 * 1024, hybrid);
            let mut client = Client::new();
            client.add(sample.add_seed());
            let there = tempfile::tempdir().unwrap();
            assert_eq!(Stock::leech(&sample.torrent_file(), there.path(), client.address.port()), "done");
            for piece in 0..sample.pieces() {
                assert!(
                    sample.piece_in(there.path(), piece).unwrap() == sample.piece(piece),
                    "piece {piece}"
                );
            }
        }
    });
}
