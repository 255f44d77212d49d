//! Pieces that wait for space, and the bytes that are deleted for them.
#![allow(clippy::single_range_in_vec_init)]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use silmaril::fetch::Shedding;
use silmaril::store::{Content, Rooms};

use crate::support::clock::pass;
use crate::support::rig::{KIB, MIB, Rig, TestModel, noise};
use crate::support::swarm::{Call, Delivery};

const PEER: &str = "10.0.0.9:1";

/// A model of one file of 24 pieces of 1 MiB, and a peer that has all of it.
fn model(rig: &Rig) -> TestModel {
    let m = rig.model("o/m", MIB, &[("a.bin", noise(1, 24 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    m
}

fn content(m: &TestModel) -> &Arc<Content> {
    &m.revision.contents[0]
}

/// The pieces that may be deleted, in the order of deletion.
fn deletable(rig: &Rig, m: &TestModel, shedding: Shedding) -> Vec<u64> {
    let whole = |range: Range<u64>| {
        assert_eq!((range.start % MIB, range.end - range.start), (0, MIB), "a whole piece");
        range.start / MIB
    };
    rig.fetch.deletable(content(m), shedding).into_iter().map(whole).collect()
}

fn delete(rig: &Rig, m: &TestModel, piece: u64, shedding: Shedding) {
    rig.fetch.delete(content(m), &[piece * MIB..(piece + 1) * MIB], shedding).unwrap();
}

fn has(m: &TestModel, piece: u64) -> bool {
    content(m).has(piece * MIB..(piece + 1) * MIB)
}

async fn stream(rig: &Rig, m: &TestModel, pieces: Range<u64>) {
    let mut at = pieces.start * MIB;
    while at < pieces.end * MIB {
        assert_eq!(rig.serve(m, 0, at, 128 * KIB).await.unwrap(), m.bytes(0, at, 128 * KIB));
        at += 128 * KIB;
    }
    rig.idle().await;
}

#[tokio::test(start_paused = true)]
async fn piece_without_space_is_requested_when_there_is_some() {
    let rooms = Rooms::new(std::env::temp_dir(), 4 * MIB, 0, 16 * MIB);
    let rig = Rig::with(|settings| settings.rooms = rooms.clone());
    let m = model(&rig);
    let read = rig.read(&m, 0, 5 * MIB, 10);
    rig.idle().await;
    // The read waits for one granule.
    assert_eq!((rig.swarm.requests(m.info_hash), rig.fetch.lacking_bytes(false)), (vec![], 64 * KIB));
    assert_eq!(rig.fetch.starved().len(), 1);
    tokio::time::timeout(Duration::ZERO, rooms.space_requested())
        .await
        .expect("the lack of space is reported");
    rig.fetch.space_came();
    rig.idle().await;
    assert!(rig.swarm.requests(m.info_hash).is_empty(), "no space was made");

    rooms.cache.freed(16 * MIB);
    rig.fetch.space_came();
    assert_eq!(read.await.unwrap().unwrap(), m.bytes(0, 5 * MIB, 10));
    assert_eq!((rig.swarm.requests(m.info_hash), rig.fetch.lacking_bytes(false)), (vec![5], 0));
}

#[tokio::test(start_paused = true)]
async fn space_for_one_piece_goes_to_the_oldest_read() {
    let rooms = Rooms::new(std::env::temp_dir(), 4 * MIB, 0, 16 * MIB);
    let rig = Rig::with(|settings| settings.rooms = rooms.clone());
    let m = model(&rig);
    // From now on reads wait for whole pieces: the peer does not supply the hashes of blocks of three pieces.
    rooms.cache.measured(0);
    for piece in [0, 12, 16] {
        rig.fetch.read(&m.file(0), piece * MIB, 10).await.unwrap();
    }
    rig.swarm.calls();
    rooms.cache.measured(16 * MIB);
    rig.swarm.delivery(Delivery::ByHand);
    let mut reads = vec![];
    for piece in [20, 9, 3] {
        reads.push(rig.read(&m, 0, piece * MIB, 10));
        pass(Duration::from_millis(10)).await;
    }
    // 4 MiB, 6 MiB above it for a read that waits, and one piece of that is left.
    rooms.cache.measured(9 * MIB);
    rig.fetch.space_came();
    rig.idle().await;
    assert_eq!(rig.swarm.requests(m.info_hash), [20]);
    rooms.cache.freed(9 * MIB);
    rig.fetch.space_came();
    rig.idle().await;
    for piece in [20, 9, 3] {
        rig.swarm.deliver(m.info_hash, piece);
    }
    for read in reads {
        read.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_read_releases_its_space() {
    let rooms = Rooms::new(std::env::temp_dir(), 4 * MIB, 0, 9 * MIB);
    let rig = Rig::with(|settings| settings.rooms = rooms.clone());
    rig.swarm.delivery(Delivery::ByHand);
    let m = model(&rig);
    let first = rig.read(&m, 0, 0, 10);
    rig.idle().await;
    assert!(rooms.cache.is_reserved());
    first.abort();
    rig.idle().await;
    assert!(!rooms.cache.is_reserved());
}

#[tokio::test(start_paused = true)]
async fn pieces_behind_the_reader_are_deleted_first() {
    let rig = Rig::with(|settings| settings.readahead_max = 2 * MIB);
    let m = model(&rig);
    // Pieces of an earlier reader.
    for piece in [14, 18, 23] {
        rig.serve(&m, 0, piece * MIB, 128 * KIB).await.unwrap();
    }
    pass(Duration::from_secs(11)).await;
    stream(&rig, &m, 0..10).await;
    assert!(has(&m, 10) && has(&m, 11), "the window is fetched");
    // The first piece (the header), 2 MiB behind the reader, and its window are kept.
    assert_eq!(deletable(&rig, &m, Shedding::Spare), [7, 6, 5, 4, 3, 2, 1, 23, 18, 14]);
}

#[tokio::test(start_paused = true)]
async fn without_a_reader_the_end_is_deleted_first() {
    let rig = Rig::new();
    let m = model(&rig);
    for piece in [3, 0, 17, 9] {
        rig.serve(&m, 0, piece * MIB, 128 * KIB).await.unwrap();
    }
    pass(Duration::from_secs(11)).await;
    assert_eq!(deletable(&rig, &m, Shedding::Spare), [17, 9, 3, 0]);
}

#[tokio::test(start_paused = true)]
async fn bytes_for_which_a_read_waits_are_not_deleted() {
    let rig = Rig::new();
    let m = model(&rig);
    for piece in [3, 9, 12] {
        rig.serve(&m, 0, piece * MIB, 128 * KIB).await.unwrap();
    }
    pass(Duration::from_secs(11)).await;
    rig.swarm.delivery(Delivery::ByHand);
    // Both reads need a cached piece and a missing one.
    let older = rig.read(&m, 0, 4 * MIB - 10, 20);
    pass(Duration::from_millis(10)).await;
    let newer = rig.read(&m, 0, 10 * MIB - 10, 20);
    rig.idle().await;
    assert_eq!(deletable(&rig, &m, Shedding::Spare), [12]);
    for piece in [3, 9] {
        delete(&rig, &m, piece, Shedding::Spare);
        assert!(has(&m, piece), "a read needs piece {piece}");
    }

    // If reads stop each other, only the oldest keeps its bytes.
    assert_eq!(deletable(&rig, &m, Shedding::AllButOldest), [12, 9]);
    delete(&rig, &m, 3, Shedding::AllButOldest);
    delete(&rig, &m, 9, Shedding::AllButOldest);
    assert!(has(&m, 3) && !has(&m, 9));
    rig.idle().await;
    // The newer read claims the piece that it lost.
    for piece in [4, 9, 10] {
        assert!(rig.swarm.deliver(m.info_hash, piece), "piece {piece} is requested");
    }
    assert_eq!(older.await.unwrap().unwrap(), m.bytes(0, 4 * MIB - 10, 20));
    assert_eq!(newer.await.unwrap().unwrap(), m.bytes(0, 10 * MIB - 10, 20));
}

#[tokio::test(start_paused = true)]
async fn deleted_piece_is_withdrawn_before_the_next_request() {
    let rig = Rig::new();
    let m = model(&rig);
    rig.serve(&m, 0, 6 * MIB, 10).await.unwrap();
    pass(Duration::from_secs(11)).await;
    let used = content(&m).cached_bytes();
    delete(&rig, &m, 6, Shedding::Spare);
    assert_eq!((has(&m, 6), content(&m).cached_bytes()), (false, used - MIB));
    assert_eq!(rig.fetch.try_read(&m.file(0), 6 * MIB, 10), None);
    assert_eq!(rig.serve(&m, 0, 6 * MIB, 10).await.unwrap(), m.bytes(0, 6 * MIB, 10));
    let calls = rig.swarm.calls();
    let withdrawn = calls.iter().position(|call| *call == Call::Withdraw(m.info_hash, vec![6])).unwrap();
    let requests = |call: &Call| matches!(call, Call::Request(_, 6, _));
    assert!(calls[..withdrawn].iter().any(requests) && calls[withdrawn..].iter().any(requests));
}

#[tokio::test(start_paused = true)]
async fn whole_pieces_of_each_torrent_are_deleted() {
    let rig = Rig::new();
    let common = noise(1, 8 * MIB);
    let small = rig.model("o/a", 256 * KIB, &[("w.bin", common.clone())]);
    let large = rig.model("o/b", 2 * MIB, &[("w.bin", common)]);
    rig.swarm.peer(small.info_hash, PEER, None);
    rig.fetch.join(&large.revision).unwrap();
    rig.serve(&small, 0, 5 * MIB, 10).await.unwrap();
    pass(Duration::from_secs(11)).await;
    let ranges = rig.fetch.deletable(content(&small), Shedding::Spare);
    assert_eq!(ranges, [4 * MIB..6 * MIB]);
    rig.fetch.delete(content(&small), &ranges, Shedding::Spare).unwrap();
    let withdrawn: Vec<Call> =
        rig.swarm.calls().into_iter().filter(|call| matches!(call, Call::Withdraw(..))).collect();
    assert!(withdrawn.contains(&Call::Withdraw(small.info_hash, (16..24).collect())), "{withdrawn:?}");
    assert!(withdrawn.contains(&Call::Withdraw(large.info_hash, vec![2])), "{withdrawn:?}");
}
