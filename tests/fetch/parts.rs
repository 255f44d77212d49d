//! A small read waits for its granule, not for its piece.
#![allow(clippy::single_range_in_vec_init)]

use std::time::Duration;

use silmaril::fetch::Shedding;
use silmaril::model::PieceIndex;
use silmaril::store::Rooms;
use silmaril::torrent::Event;

use crate::support::clock::pass;
use crate::support::rig::{KIB, MIB, Rig, TestModel, noise};
use crate::support::swarm::{Call, Delivery};

const PEER: &str = "10.0.0.9:1";

/// A model of one file of eight pieces of 1 MiB, and a peer that supplies the hashes of blocks.
fn model(rig: &Rig) -> TestModel {
    rig.swarm.sends_parts();
    let m = rig.model("o/m", MIB, &[("a.bin", noise(1, 8 * MIB - 5))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    m
}

fn cached(m: &TestModel) -> u64 {
    m.revision.contents[0].cached_bytes()
}

#[tokio::test(start_paused = true)]
async fn small_read_fetches_one_granule() {
    let rig = Rig::new();
    let m = model(&rig);
    let bytes = rig.fetch.read(&m.file(0), 3 * MIB + 300 * KIB, 4096).await.unwrap();
    assert_eq!(bytes, m.bytes(0, 3 * MIB + 300 * KIB, 4096));
    assert_eq!(rig.swarm.block_requests(m.info_hash), [(3, vec![16..20])]);
    rig.idle().await;
    assert_eq!((cached(&m), rig.swarm.wanted(m.info_hash).len()), (64 * KIB, 0));
    // The last granule is short, and a read may touch two granules.
    rig.fetch.read(&m.file(0), 8 * MIB - 100, 100).await.unwrap();
    rig.fetch.read(&m.file(0), 5 * MIB + 128 * KIB - 1, 2).await.unwrap();
    assert_eq!(rig.swarm.block_requests(m.info_hash)[1..], [(7, vec![60..64]), (5, vec![4..12])]);
    assert!(rig.swarm.holds(m.info_hash).unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn reads_of_one_piece_are_answered_one_by_one() {
    let rig = Rig::new();
    let m = model(&rig);
    rig.swarm.delivery(Delivery::ByHand);
    let first = rig.read(&m, 0, 2 * MIB, 10);
    rig.idle().await;
    rig.swarm.deliver_blocks(m.info_hash, 2);
    assert_eq!(first.await.unwrap().unwrap(), m.bytes(0, 2 * MIB, 10));
    let reads = [rig.read(&m, 0, 2 * MIB + 256 * KIB, 10), rig.read(&m, 0, 2 * MIB + 512 * KIB, 10)];
    rig.idle().await;
    assert_eq!(rig.swarm.block_requests(m.info_hash).last(), Some(&(2, vec![16..20, 32..36])));
    rig.swarm.deliver_blocks(m.info_hash, 2);
    for read in reads {
        read.await.unwrap().unwrap();
    }
    rig.idle().await;
    assert_eq!(cached(&m), 192 * KIB);
}

#[tokio::test(start_paused = true)]
async fn stream_fetches_whole_pieces() {
    let rig = Rig::new();
    let m = model(&rig);
    let mut at = 0;
    while at < 4 * MIB {
        assert_eq!(rig.serve(&m, 0, at, 128 * KIB).await.unwrap(), m.bytes(0, at, 128 * KIB));
        at += 128 * KIB;
    }
    assert!(rig.swarm.block_requests(m.info_hash).len() <= 2, "{:?}", rig.swarm.block_requests(m.info_hash));
    assert!(rig.swarm.holds(m.info_hash).unwrap().is_superset(&(0..4).collect()));
}

#[tokio::test(start_paused = true)]
async fn long_read_waits_for_the_whole_piece() {
    let rig = Rig::new();
    let m = model(&rig);
    rig.fetch.read(&m.file(0), MIB, 600 * KIB).await.unwrap();
    assert_eq!((rig.swarm.block_requests(m.info_hash), rig.swarm.requests(m.info_hash)), (vec![], vec![1]));
}

#[tokio::test(start_paused = true)]
async fn without_hashes_of_blocks_the_piece_is_fetched() {
    let rig = Rig::new();
    let m = rig.model("o/m", MIB, &[("a.bin", noise(1, 8 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    for piece in [3, 4] {
        rig.fetch.read(&m.file(0), piece * MIB + 300 * KIB, 4096).await.unwrap();
    }
    assert_eq!(rig.swarm.requests(m.info_hash), [3, 4]);
    // Another peer may supply them.
    rig.swarm.sends_parts();
    rig.swarm.peer(m.info_hash, "10.0.0.8:1", None);
    rig.idle().await;
    rig.fetch.read(&m.file(0), 5 * MIB, 4096).await.unwrap();
    assert_eq!(rig.swarm.block_requests(m.info_hash), [(5, vec![0..4])]);
}

#[tokio::test(start_paused = true)]
async fn blocks_are_given_back_to_the_engine() {
    let rig = Rig::new();
    let m = model(&rig);
    for at in [3 * MIB, 3 * MIB + 64 * KIB, 3 * MIB + 640 * KIB, 8 * MIB - 100] {
        rig.fetch.read(&m.file(0), at, 10).await.unwrap();
    }
    rig.get(&m, &[0], Duration::from_secs(30)).abort();
    rig.fetch.leave(&m.info_hash);
    rig.idle().await;
    rig.fetch.join(&m.revision).unwrap();
    let given = [(3, 0..8), (3, 40..44), (7, 60..64)];
    let blocks = given.map(|(piece, blocks)| (PieceIndex(piece), blocks));
    assert_eq!(rig.swarm.added(m.info_hash).unwrap().blocks, blocks);
}

#[tokio::test(start_paused = true)]
async fn lost_blocks_are_fetched_again() {
    let rig = Rig::new();
    let m = model(&rig);
    rig.fetch.read(&m.file(0), 3 * MIB, 10).await.unwrap();
    m.revision.contents[0].mark_missing(3 * MIB..3 * MIB + 64 * KIB).unwrap();
    rig.swarm.calls();
    assert_eq!(rig.fetch.read(&m.file(0), 3 * MIB, 10).await.unwrap(), m.bytes(0, 3 * MIB, 10));
    let calls = rig.swarm.calls();
    assert!(calls.contains(&Call::Remove(m.info_hash)), "the engine believes to have the blocks: {calls:?}");
}

#[tokio::test(start_paused = true)]
async fn blocks_reported_before_a_deletion_do_not_count() {
    let rig = Rig::new();
    let m = model(&rig);
    rig.fetch.read(&m.file(0), 3 * MIB, 10).await.unwrap();
    rig.idle().await;
    pass(Duration::from_secs(11)).await;
    // Reported, and not handled yet when the piece is deleted.
    rig.swarm.send_event(|id| Event::BlocksVerified(id, PieceIndex(3), 8..12), m.info_hash);
    rig.swarm.send_event(|id| Event::PieceVerified(id, PieceIndex(3)), m.info_hash);
    let content = &m.revision.contents[0];
    rig.fetch.delete(content, &[3 * MIB..4 * MIB], Shedding::Spare).unwrap();
    assert_eq!(cached(&m), 0);
    rig.idle().await;
    assert_eq!(cached(&m), 0, "deleted bytes count as verified");
    let again = rig.fetch.read(&m.file(0), 3 * MIB + 128 * KIB, 10).await.unwrap();
    assert_eq!(again, m.bytes(0, 3 * MIB + 128 * KIB, 10));
}

#[tokio::test(start_paused = true)]
async fn blocks_that_came_reserve_no_space_again() {
    let rooms = Rooms::new(std::env::temp_dir(), 4 * MIB, 0, 16 * MIB);
    let rig = Rig::with(|settings| settings.rooms = rooms.clone());
    let m = model(&rig);
    rig.swarm.delivery(Delivery::ByHand);
    // 4 MiB, and 6 MiB above it for a read that waits: space for one granule is left.
    let full = 10 * MIB - 64 * KIB;
    rooms.cache.measured(full);
    let read = rig.read(&m, 0, 3 * MIB - 10, 20);
    rig.idle().await;
    assert_eq!(rig.swarm.block_requests(m.info_hash), [(2, vec![60..64])]);
    rig.swarm.deliver_blocks(m.info_hash, 2);
    rig.idle().await;

    rooms.cache.measured(full);
    rig.fetch.space_came();
    rig.idle().await;
    assert_eq!(rig.swarm.block_requests(m.info_hash)[1..], [(3, vec![0..4])]);
    rig.swarm.deliver_blocks(m.info_hash, 3);
    assert_eq!(read.await.unwrap().unwrap(), m.bytes(0, 3 * MIB - 10, 20));
    assert!(!rooms.cache.is_reserved());
}
