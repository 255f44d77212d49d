//! Bytes that came from elsewhere, and bytes that went: the same over the real engine.

use silmaril::model::metainfo;

use super::real::Node;
use crate::engine::rig::{Client, SOON, Sample};
use crate::support::private_net::in_private_net;

#[test]
fn a_host_with_bytes_from_elsewhere_gives_them_to_one_that_knows_the_info_hash_only() {
    in_private_net(|| {
        let sample = Sample::new(&[("a.bin", 3_000_000), ("b.txt", 900)], 64 << 10, false);
        let parsed = metainfo::parse_metainfo(&sample.metainfo).unwrap();
        let node = Node::new(&sample, vec![]);
        // All bytes are here, and no peer ever told the hashes of their pieces.
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
        let saved = std::fs::read(node.paths.metainfo(&sample.info_hash)).expect("the layers are kept");
        assert_eq!(metainfo::parse_metainfo(&saved).unwrap().layers, parsed.layers);
    });
}

#[test]
fn a_file_removed_while_pieces_of_it_come_is_fetched_again_as_a_whole() {
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
        // The engine finds out when it writes the next piece; what came before is gone with the file.
        let get = node.fetch.fetch_files(&node.revision, &[0], SOON);
        node.runtime.block_on(async { tokio::time::timeout(3 * SOON, get).await }).unwrap().unwrap();
        node.runtime.block_on(async {
            // The file may have been found missing after the last piece came: then its bytes come again.
            let all = tokio::time::timeout(SOON, node.fetch.read(&file, 0, 2 << 20)).await.unwrap().unwrap();
            assert!(all == sample.files[0].1);
        });
        assert!(std::fs::read(content.path()).unwrap() == sample.files[0].1);
    });
}
