//! A reader without other readers fetches a whole file in order, so that its SHA-256 follows the download.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::rig::{Client, Sample};
use crate::support::private_net::in_private_net;
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_message::Message;
use crate::support::raw_peer_seed::{Conduct, RawSeed};

const PIECE: u32 = 16 << 10;
const PIECES: usize = 1400;

#[test]
fn pieces_of_a_lone_get_come_in_order_after_a_while() {
    in_private_net(|| {
        let sample = Sample::new(&[("model.safetensors", PIECES * PIECE as usize)], PIECE, false);
        let content = Arc::new(Content::new(sample.info_hash, PIECE, &sample.files));
        let requested = Arc::new(Mutex::new(Vec::new()));
        let seen = requested.clone();
        // A slow link: the file takes many seconds.
        let conduct = Conduct::honest().with_blocks(move |content, block| {
            seen.lock().unwrap().push(block.piece);
            std::thread::sleep(Duration::from_millis(10));
            vec![Message::Piece(block.piece, block.begin, content.block(block, 0).unwrap())]
        });
        let seed = RawSeed::listen_here(&content, conduct);
        let mut client = Client::new();
        let here = tempfile::tempdir().unwrap();
        let mut add = sample.add(here.path());
        add.peers = vec![seed.address()];
        let id = client.add(add);

        client.fetch_all(id, sample.pieces(), |_| ());

        let requested = requested.lock().unwrap();
        let last = &requested[requested.len() - 100..];
        assert!(last.is_sorted(), "{last:?}");
    });
}
