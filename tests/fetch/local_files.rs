//! Files that appear or disappear on the disk, with the real engine.

use silmaril::model::metainfo;

use super::real::Node;
use crate::engine::rig::{Client, SOON, Sample};
use crate::support::private_net::in_private_net;

#[test]
fn local_files_are_seeded_with_computed_layers() {
    in_private_net(|| {
        let sample = Sample::new(&[("a.bin", 3_000_000), ("b.txt", 900)], 64 << 10, false);
        let parsed = metainfo::parse_metainfo(&sample.metainfo).unwrap();
        let node = Node::new(&sample, vec![]);
        // All bytes are verified, and no peer has sent the hashes of their pieces.
        for (content, (_, bytes)) in node.revision.contents.iter().zip(&sample.files) {
            std::fs::create_dir_all(content.path().parent().unwrap()).unwrap();
            std::fs::write(content.path(), bytes).unwrap();
            content.mark_verified(0..content.len()).unwrap();
        }
        {
            let _inside = node.runtime.enter();
            node.fetch.join(&node.revision).unwrap();
        }

        let here = tempfile::tempdir().unwrap();
        let mut client = Client::new();
        let mut add = sample.add(here.path());
        add.metainfo = metainfo::wrap(&parsed.info, None);
        add.peers = vec![node.address()];
        let id = client.add(add);
        client.fetch_all(id, sample.pieces(), |piece| {
            assert!(sample.piece_in(here.path(), piece).unwrap() == sample.piece(piece), "piece {piece}");
        });
        let saved =
            std::fs::read(node.paths.metainfo(&sample.info_hash)).expect("saved metainfo with layers");
        assert_eq!(metainfo::parse_metainfo(&saved).unwrap().layers, parsed.layers);
    });
}

#[test]
fn file_removed_during_a_transfer_is_fetched_again() {
    in_private_net(|| {
        let sample = Sample::new(&[("a.bin", 2 << 20)], 64 << 10, false);
        let mut seed = Client::new();
        seed.add(sample.add_seed());
        let node = Node::new(&sample, vec![seed.address]);
        let file = silmaril::fetch::FileRef { revision: node.revision.clone(), file: 0 };
        let content = node.revision.contents[0].clone();
        let first = node.runtime.block_on(node.fetch.read(&file, 0, 64 << 10)).unwrap();
        assert!(first == sample.files[0].1[..64 << 10]);
        std::fs::remove_file(content.path()).unwrap();
        // The engine notices it at the next write; the pieces before are lost with the file.
        let get = node.fetch.fetch_files(&node.revision, &[0], SOON);
        node.runtime.block_on(async { tokio::time::timeout(3 * SOON, get).await }).unwrap().unwrap();
        node.runtime.block_on(async {
            // The loss may have been noticed after the last piece came: then the bytes are fetched again.
            let all = tokio::time::timeout(SOON, node.fetch.read(&file, 0, 2 << 20)).await.unwrap().unwrap();
            assert!(all == sample.files[0].1);
        });
        assert!(std::fs::read(content.path()).unwrap() == sample.files[0].1);
    });
}
