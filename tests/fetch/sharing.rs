//! Equal files of several models are fetched once, also with different piece lengths.

use std::time::Duration;

use silmaril::torrent::Mode;

use crate::support::clock::pass;
use crate::support::rig::{KIB, MIB, Rig, TestModel, noise};
use crate::support::swarm::{Call, Delivery};

const PEER: &str = "10.0.0.9:1";

/// Two models with one file in common, in pieces of 1 MiB and of 256 KiB.
fn pair(rig: &Rig) -> (TestModel, TestModel) {
    let common = noise(1, 4 * MIB);
    let a = rig.model("o/a", MIB, &[("config.json", noise(2, 100)), ("w.bin", common.clone())]);
    let b = rig.model("o/b", 256 * KIB, &[("other.json", noise(3, 100)), ("w.bin", common)]);
    (a, b)
}

#[tokio::test(start_paused = true)]
async fn bytes_of_one_model_are_verified_in_the_other() {
    let rig = Rig::new();
    let (a, b) = pair(&rig);
    rig.swarm.peer(a.info_hash, PEER, None);
    rig.fetch.read(&a.file(1), 2 * MIB, 10).await.unwrap();
    assert_eq!(rig.fetch.try_read(&b.file(1), 2 * MIB, MIB).unwrap(), b.bytes(1, 2 * MIB, MIB));
    rig.fetch.join(&b.revision).unwrap();
    assert_eq!(rig.swarm.added(b.info_hash).unwrap().have.ones().collect::<Vec<_>>(), [9, 10, 11, 12]);
}

#[tokio::test(start_paused = true)]
async fn piece_in_flight_is_not_requested_in_another_swarm() {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::ByHand);
    let (a, b) = pair(&rig);
    rig.swarm.peer(a.info_hash, PEER, None);
    rig.swarm.peer(b.info_hash, PEER, None);
    rig.fetch.join(&a.revision).unwrap();
    rig.fetch.join(&b.revision).unwrap();
    rig.idle().await;
    let first = rig.read(&a, 1, MIB, 10);
    rig.idle().await;
    let second = rig.read(&b, 1, MIB + 300 * KIB, 10);
    rig.idle().await;
    assert_eq!(rig.swarm.requests(a.info_hash), [2]);
    assert!(rig.swarm.requests(b.info_hash).is_empty());
    rig.swarm.deliver(a.info_hash, 2);
    first.await.unwrap().unwrap();
    assert_eq!(second.await.unwrap().unwrap(), b.bytes(1, MIB + 300 * KIB, 10));
}

#[tokio::test(start_paused = true)]
async fn bytes_wake_readers_of_both_models() {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::ByHand);
    let (a, b) = pair(&rig);
    // Neither swarm has peers when the reads begin, so both are asked.
    let first = rig.read(&a, 1, MIB, 10);
    let second = rig.read(&b, 1, MIB, 10);
    rig.idle().await;
    assert_eq!((rig.swarm.requests(a.info_hash), rig.swarm.requests(b.info_hash)), (vec![2], vec![5]));
    rig.swarm.deliver(a.info_hash, 2);
    first.await.unwrap().unwrap();
    assert_eq!(second.await.unwrap().unwrap(), b.bytes(1, MIB, 10));
    rig.idle().await;
    assert!(rig.swarm.wanted(b.info_hash).is_empty());
}

#[tokio::test(start_paused = true)]
async fn small_pieces_complete_a_large_piece_of_another_model() {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::ByHand);
    let (a, b) = pair(&rig);
    let read = rig.read(&a, 1, 0, MIB);
    let small: Vec<_> = (0..4).map(|i| rig.read(&b, 1, i * 256 * KIB, 10)).collect();
    rig.idle().await;
    for piece in 1..5 {
        assert!(!read.is_finished());
        assert!(rig.swarm.deliver(b.info_hash, piece));
        rig.idle().await;
    }
    assert_eq!(read.await.unwrap().unwrap(), a.bytes(1, 0, MIB));
    for read in small {
        read.await.unwrap().unwrap();
    }
    rig.idle().await;
    assert!(rig.swarm.wanted(a.info_hash).is_empty());
}

#[tokio::test(start_paused = true)]
async fn model_without_peers_reads_through_another() {
    let rig = Rig::new();
    let (a, b) = pair(&rig);
    rig.swarm.peer(a.info_hash, PEER, None);
    rig.fetch.join(&a.revision).unwrap();
    rig.idle().await;
    assert_eq!(rig.fetch.read(&b.file(1), 3 * MIB, 10).await.unwrap(), b.bytes(1, 3 * MIB, 10));
    assert_eq!(rig.swarm.requests(a.info_hash), [4]);
}

#[tokio::test(start_paused = true)]
async fn read_falls_back_to_its_own_swarm() {
    for how in ["vanish", "leave", "fail", "stall"] {
        let rig = Rig::new();
        rig.swarm.delivery(Delivery::ByHand);
        let (a, b) = pair(&rig);
        rig.swarm.peer(a.info_hash, PEER, None);
        rig.fetch.join(&a.revision).unwrap();
        rig.idle().await;
        let read = rig.read(&b, 1, 3 * MIB, 10);
        rig.idle().await;
        assert_eq!(rig.swarm.requests(a.info_hash), [4]);
        rig.swarm.peer(b.info_hash, "10.0.0.10:1", None);
        rig.idle().await;
        match how {
            "vanish" => rig.swarm.vanish(a.info_hash, PEER),
            "leave" => rig.fetch.leave(&a.info_hash),
            "fail" => rig.swarm.fail(a.info_hash, "no"),
            _ => pass(Duration::from_secs(16)).await,
        }
        rig.idle().await;
        assert_eq!(rig.swarm.requests(b.info_hash), [13], "{how}");
        rig.swarm.deliver(b.info_hash, 13);
        assert_eq!(read.await.unwrap().unwrap(), b.bytes(1, 3 * MIB, 10), "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn busy_source_does_not_delay_a_read_forever() {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::ByHand);
    let (a, b) = pair(&rig);
    rig.swarm.peer(a.info_hash, PEER, Some(&[1, 2]));
    rig.swarm.peer(b.info_hash, PEER, None);
    rig.fetch.join(&b.revision).unwrap();
    let job = rig.get(&a, &[1], Duration::from_secs(3600));
    rig.idle().await;
    let read = rig.read(&b, 1, 3 * MIB, 10);
    for _ in 0..4 {
        pass(Duration::from_secs(5)).await;
        rig.swarm.trickle(a.info_hash, 1);
    }
    assert!(rig.swarm.deliver(b.info_hash, 13), "its own swarm was never asked");
    assert_eq!(read.await.unwrap().unwrap(), b.bytes(1, 3 * MIB, 10));
    job.abort();
}

#[tokio::test(start_paused = true)]
async fn each_byte_is_fetched_once_by_two_concurrent_jobs() {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::After(Duration::from_millis(10)));
    let (a, b) = pair(&rig);
    rig.swarm.peer(a.info_hash, PEER, None);
    rig.swarm.peer(b.info_hash, PEER, None);
    let stall = Duration::from_secs(60);
    let (one, two) = (rig.get(&a, &[0, 1], stall), rig.get(&b, &[0, 1], stall));
    one.await.unwrap().unwrap();
    two.await.unwrap().unwrap();
    rig.idle().await;
    let down = rig.status(&a).downloaded + rig.status(&b).downloaded;
    assert_eq!(down, 4 * MIB + 200);
    // Both seed all of it, no matter through which swarm it came.
    for m in [&a, &b] {
        let added = rig.swarm.added(m.info_hash).unwrap();
        assert_eq!(rig.swarm.holds(m.info_hash).unwrap().len(), added.have.len(), "{}", rig.status(m).model);
    }
    assert_eq!(rig.swarm.added(b.info_hash).unwrap().mode, Mode::Seed);
}

#[tokio::test(start_paused = true)]
async fn two_equal_files_in_one_model_are_fetched_once() {
    let rig = Rig::new();
    let m = rig.model("o/m", MIB, &[("a.bin", noise(1, 2 * MIB)), ("b.bin", noise(1, 2 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.get(&m, &[0, 1], Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(rig.status(&m).downloaded, 2 * MIB);
    assert_eq!(rig.fetch.try_read(&m.file(1), MIB, 10).unwrap(), m.bytes(1, MIB, 10));
    rig.idle().await;
    assert_eq!(rig.swarm.holds(m.info_hash).unwrap().len(), 4);
    assert!(rig.swarm.calls().contains(&Call::Export(m.info_hash)));
}
