//! A read sets the deadline of a piece. What is on its way for other pieces is cancelled only if no reader is about to read it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use silmaril::model::PieceIndex;
use silmaril::torrent::{Priority, Swarms};

use super::rig::{Client, SOON, Sample};
use crate::support::private_net::in_private_net;
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_seed::{Conduct, RawSeed, Seen};

const PIECE: u32 = 256 << 10;

/// The piece of which a read sets the deadline.
const READ: u32 = 7;

/// How many requests a peer that sends no block sees cancelled, when pieces of this priority are on their way and a read
/// follows.
fn cancelled(on_their_way: Priority) -> u64 {
    let sample = Sample::new(&[("model.safetensors", 8 * PIECE as usize)], PIECE, false);
    let content = Arc::new(Content::new(sample.info_hash, PIECE, &sample.files));
    let requested = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = requested.clone();
    let seed = RawSeed::listen_here(
        &content,
        Conduct::honest().with_blocks(move |_, block| {
            seen.lock().unwrap().insert(block.piece);
            vec![]
        }),
    );
    let mut client = Client::new();
    let here = tempfile::tempdir().unwrap();
    let mut add = sample.add(here.path());
    add.peers = vec![seed.address()];
    let id = client.add(add);
    let wait_for = |client: &mut Client, piece: u32| {
        let began = Instant::now();
        while !requested.lock().unwrap().contains(&piece) {
            assert!(began.elapsed() < SOON, "piece {piece} was not requested");
            let _ = client.next(Duration::from_millis(20));
        }
    };
    client.session.set_priority(id, &[(PieceIndex(0), on_their_way)]).unwrap();
    wait_for(&mut client, 0);
    client.session.request(id, PieceIndex(READ), Duration::ZERO).unwrap();
    wait_for(&mut client, READ);
    // Cancels are sent before the requests of a later order.
    client.session.request(id, PieceIndex(READ - 1), Duration::ZERO).unwrap();
    wait_for(&mut client, READ - 1);
    Seen::count(&seed.seen().cancels)
}

#[test]
fn read_on_a_fast_link_cancels_no_request_of_its_window() {
    in_private_net(|| assert_eq!(cancelled(Priority::Ahead), 0));
}

#[test]
fn read_does_not_wait_behind_a_get() {
    in_private_net(|| assert_ne!(cancelled(Priority::Normal), 0));
}
