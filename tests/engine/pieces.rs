//! Wrong pieces, pieces given by the node, and invalid torrents.

use std::time::Duration;

use sha1::{Digest as _, Sha1};
use silmaril::model::{InfoHash, PieceIndex};
use silmaril::torrent::{EngineError, Event, Priority, Swarms};

use super::rig::{Client, SOON, Sample, content};
use crate::support::private_net::in_private_net;

fn sample() -> Sample {
    Sample::new(&[("config.json", 300), ("model.safetensors", 1_000_000)], 64 * 1024, false)
}

#[test]
fn wrong_piece_is_fetched_from_another_peer() {
    in_private_net(|| {
        let sample = sample();
        // Our engine trusts the list of verified pieces, so it can be made to send wrong bytes.
        let lies = tempfile::tempdir().unwrap();
        for ((_, bytes), path) in sample.files.iter().zip(sample.paths_in(lies.path())) {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut bytes = bytes.clone();
            if bytes.len() > 400_000 {
                bytes[400_000] ^= 1;
            }
            std::fs::write(path, bytes).unwrap();
        }
        let bad = 1 + 400_000 / (64 * 1024);
        let mut liar = Client::new();
        let mut add = sample.add_seed();
        add.file_paths = sample.paths_in(lies.path());
        liar.add(add);

        let here = tempfile::tempdir().unwrap();
        let mut client = Client::new();
        let mut add = sample.add(here.path());
        add.peers = vec![liar.address];
        let id = client.add(add);
        client.session.request(id, PieceIndex(bad), Duration::ZERO).unwrap();
        client.wait_for("rejected piece", SOON, |event| match event {
            Event::PieceRejected(i, piece) => {
                assert_eq!((*i, piece.0), (id, bad));
                Some(())
            }
            Event::PieceVerified(_, piece) => panic!("{piece:?} was reported as verified"),
            _ => None,
        });

        let honest = sample.stock_seed();
        client.session.connect_peer(id, honest.address()).unwrap();
        client.wait_verified(id, bad);
        assert!(sample.piece_in(here.path(), bad).unwrap() == sample.piece(bad));
    });
}

#[test]
fn given_piece_is_verified_like_any_other() {
    for hybrid in [false, true] {
        in_private_net(move || {
            let sample = Sample::new(&[("a", 100_000), ("b", 70_000)], 64 * 1024, hybrid);
            let here = tempfile::tempdir().unwrap();
            let mut client = Client::new();
            let id = client.add(sample.add(here.path()));
            // Piece 1 is the short end of a file, with padding behind it in a hybrid torrent.
            let wrong = content(sample.piece(1).len(), 99);
            client.session.give_piece(id, PieceIndex(1), wrong).unwrap();
            client.wait_for("rejected piece", SOON, |event| {
                assert!(!matches!(event, Event::PieceVerified(..)));
                matches!(event, Event::PieceRejected(i, PieceIndex(1)) if *i == id).then_some(())
            });
            for piece in [1, 0, 3, 2] {
                client.session.give_piece(id, PieceIndex(piece), sample.piece(piece).to_vec()).unwrap();
                client.wait_verified(id, piece);
                assert!(sample.piece_in(here.path(), piece).unwrap() == sample.piece(piece));
            }
            let short = client.session.give_piece(id, PieceIndex(0), vec![0; 100]);
            assert!(matches!(short, Err(EngineError::Internal(_))), "{short:?}");
        });
    }
}

#[test]
fn invalid_torrents_are_refused() {
    in_private_net(|| {
        let sample = sample();
        let here = tempfile::tempdir().unwrap();
        let mut client = Client::new();
        let refused = |change: &dyn Fn(&mut silmaril::torrent::AddTorrent)| {
            let mut add = sample.add(here.path());
            change(&mut add);
            match client.session.add(add) {
                Err(EngineError::BadTorrent(reason)) => reason,
                other => panic!("{other:?}"),
            }
        };
        assert!(refused(&|add| add.info_hash = InfoHash([7; 32])).contains("info hash"));
        assert!(refused(&|add| add.metainfo.truncate(50)).contains("bencoded"));
        assert!(refused(&|add| add.metainfo = b"de".to_vec()).contains("info"));
        assert!(refused(&|add| drop(add.file_paths.pop())).contains("paths"));
        assert!(refused(&|add| add.have = fixedbitset::FixedBitSet::with_capacity(1)).contains("map"));

        let id = client.add(sample.add(here.path()));
        let beyond = PieceIndex(sample.pieces());
        assert!(client.session.request(id, beyond, Duration::ZERO).is_err());
        assert!(client.session.set_priority(id, &[(beyond, Priority::Ahead)]).is_err());

        client.session.remove(id).unwrap();
        assert!(matches!(
            client.session.request(id, PieceIndex(0), Duration::ZERO),
            Err(EngineError::UnknownTorrent)
        ));
        client
            .wait_for("removal", SOON, |event| matches!(event, Event::Removed(i) if *i == id).then_some(()));
        // And it can be added again immediately.
        client.add(sample.add(here.path()));
    });
}

#[test]
fn torrent_is_not_added_twice() {
    in_private_net(|| {
        let sample = sample();
        let here = tempfile::tempdir().unwrap();
        let mut client = Client::new();
        client.add(sample.add(here.path()));
        let second = client.session.add(sample.add(here.path())).unwrap();
        client.wait_for("refusal", SOON, |event| {
            matches!(event, Event::Failed(i, _) if *i == second).then_some(())
        });
    });
}

#[test]
fn magnet_link_leads_to_the_info_dictionary() {
    in_private_net(|| {
        let sample = sample();
        let seed = sample.stock_seed();
        let mut client = Client::new();
        let magnet = format!("magnet:?xt=urn:btmh:1220{}", sample.info_hash);
        let id = client.session.fetch_metadata(&magnet, &[seed.address()]).unwrap();
        let info = client.wait_for("metadata", SOON, |event| match event {
            Event::Metadata(i, info) if *i == id => Some(info.clone()),
            _ => None,
        });
        assert_eq!(silmaril::model::metainfo::info_hash(&info), sample.info_hash);
        client.session.remove(id).unwrap();
        client
            .wait_for("removal", SOON, |event| matches!(event, Event::Removed(i) if *i == id).then_some(()));
        assert!(matches!(
            client.session.fetch_metadata("magnet:?nonsense", &[]),
            Err(EngineError::BadTorrent(_))
        ));
    });
}

#[test]
fn libtorrent_and_the_model_agree_on_the_info_dictionary() {
    let sample = Sample::new(&[("a", 5), ("b/c", 40_000), ("b/d", 0), ("b.x", 7)], 16 * 1024, false);
    let parsed = silmaril::model::metainfo::parse_metainfo(&sample.metainfo).unwrap();
    let ours = silmaril::model::metainfo::info_dict(
        "sample",
        16 * 1024,
        parsed.files.iter().map(|file| file.as_torrent_file()),
    );
    assert_eq!(ours, parsed.info);
    let one = Sample::new(&[("only.gguf", 40_000)], 16 * 1024, false);
    let parsed = silmaril::model::metainfo::parse_metainfo(&one.metainfo).unwrap();
    assert_eq!((parsed.name.as_str(), parsed.files[0].path.as_str()), ("sample", "only.gguf"));
}

/// The v1 hash of a hybrid torrent matches bytes that its v2 hashes do not: by intent of the author, or by a collision of
/// SHA-1. While the v2 hash is unknown, libtorrent accepts such a piece.
#[test]
fn piece_with_only_a_v1_hash_is_never_verified() {
    in_private_net(|| {
        let sample = Sample::new(&[("a", 4 * 64 * 1024)], 64 * 1024, true);
        let lie = content(64 * 1024, 77);
        // The first v1 hash of the info dictionary becomes the hash of the wrong bytes.
        let genuine = Sha1::digest(sample.piece(0));
        let mut metainfo = sample.metainfo.clone();
        let at = metainfo.windows(20).position(|hash| hash == &genuine[..]).expect("the v1 hash of piece 0");
        metainfo[at..at + 20].copy_from_slice(&Sha1::digest(&lie));
        let parsed = silmaril::model::metainfo::parse_metainfo(&metainfo).unwrap();
        let add = |dir: &std::path::Path, metainfo: Vec<u8>| silmaril::torrent::AddTorrent {
            metainfo,
            info_hash: parsed.info_hash,
            ..sample.add(dir)
        };

        let lies = tempfile::tempdir().unwrap();
        let path = &sample.paths_in(lies.path())[0];
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, [&lie[..], &sample.files[0].1[lie.len()..]].concat()).unwrap();
        let mut liar = Client::new();
        let mut seed = add(lies.path(), metainfo);
        seed.have.insert_range(..);
        seed.mode = silmaril::torrent::Mode::Seed;
        liar.add(seed);

        let here = tempfile::tempdir().unwrap();
        let mut client = Client::new();
        // Without the layers, which the peer sends later.
        let mut reader = add(here.path(), silmaril::model::metainfo::wrap(&parsed.info, None));
        reader.peers = vec![liar.address];
        let id = client.add(reader);
        client.session.request(id, PieceIndex(0), Duration::ZERO).unwrap();
        client.wait_for("end of the torrent, or of the piece", SOON, |event| match event {
            Event::PieceVerified(_, piece) => panic!("{piece:?} was reported as verified"),
            Event::Failed(of, _) | Event::PieceRejected(of, PieceIndex(0)) if *of == id => Some(()),
            _ => None,
        });
    });
}
