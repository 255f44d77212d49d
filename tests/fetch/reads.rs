//! A read waits only for its pieces; each piece is requested once.

use std::time::Duration;

use silmaril::fetch::ReadError;
use silmaril::torrent::Priority;

use crate::support::rig::{KIB, MIB, Rig, noise};
use crate::support::swarm::{Call, Delivery, WantedPiece};

const PEER: &str = "10.0.0.9:1";

#[tokio::test(start_paused = true)]
async fn read_fetches_its_pieces_only() {
    let rig = Rig::new();
    let m = rig.model("o/m", 256 * KIB, &[("a", noise(1, 2 * MIB)), ("b", noise(2, MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    let offset = 256 * KIB - 100;
    let bytes = rig.fetch.read(&m.file(0), offset, 200).await.unwrap();
    assert_eq!(bytes, m.bytes(0, offset, 200));
    assert_eq!(rig.swarm.requests(m.info_hash).len(), 2);
    assert_eq!(rig.swarm.holds(m.info_hash).unwrap().into_iter().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(rig.fetch.try_read(&m.file(0), offset, 200).unwrap(), m.bytes(0, offset, 200));
    assert!(rig.fetch.try_read(&m.file(1), 0, 1).is_none());
}

#[tokio::test(start_paused = true)]
async fn reads_at_and_beyond_the_end_are_cut() {
    let rig = Rig::new();
    let m = rig.model("o/m", 16 * KIB, &[("a", noise(1, 100)), ("empty", vec![]), ("z", noise(3, 20_000))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    assert_eq!(rig.fetch.read(&m.file(2), 19_990, 4096).await.unwrap(), m.bytes(2, 19_990, 10));
    assert_eq!(rig.fetch.read(&m.file(2), 20_000, 10).await.unwrap(), b"");
    assert_eq!(rig.fetch.read(&m.file(2), u64::MAX, u64::MAX).await.unwrap(), b"");
    assert_eq!(rig.fetch.read(&m.file(1), 0, 10).await.unwrap(), b"");
    assert_eq!(rig.fetch.try_read(&m.file(1), 0, 10).unwrap(), b"");
    assert_eq!(rig.fetch.read(&m.file(0), 1, u64::MAX).await.unwrap(), m.bytes(0, 1, 99));
}

#[tokio::test(start_paused = true)]
async fn many_readers_of_a_piece_cause_one_request() {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::ByHand);
    let m = rig.model("o/m", MIB, &[("a", noise(1, 4 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    let readers: Vec<_> = (0..50).map(|i| rig.read(&m, 0, MIB + i, 4096)).collect();
    rig.idle().await;
    assert_eq!(rig.swarm.requests(m.info_hash), [1]);
    assert_eq!(rig.status(&m).waiting_reads, 50);
    assert!(rig.swarm.deliver(m.info_hash, 1));
    for (i, reader) in readers.into_iter().enumerate() {
        assert_eq!(reader.await.unwrap().unwrap(), m.bytes(0, MIB + i as u64, 4096));
    }
    assert_eq!(rig.status(&m).waiting_reads, 0);
}

#[tokio::test(start_paused = true)]
async fn last_dropped_read_cancels_the_request() {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::ByHand);
    let m = rig.model("o/m", MIB, &[("a", noise(1, 8 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    let first = rig.read(&m, 0, 5 * MIB, 4096);
    let second = rig.read(&m, 0, 5 * MIB, 4096);
    rig.idle().await;
    first.abort();
    rig.idle().await;
    assert_eq!(rig.swarm.wanted(m.info_hash)[&5], WantedPiece::Requested);
    second.abort();
    rig.idle().await;
    assert!(rig.swarm.wanted(m.info_hash).is_empty());
    let took_back = Call::Priority(m.info_hash, 5, Priority::None);
    assert_eq!(rig.swarm.calls().iter().filter(|c| **c == took_back).count(), 1);
    assert_eq!(rig.status(&m).waiting_reads, 0);
}

#[tokio::test(start_paused = true)]
async fn early_reads_are_requested_when_the_torrent_runs() {
    let rig = Rig::new();
    rig.swarm.starts(false);
    let m = rig.model("o/m", MIB, &[("a", noise(1, 8 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    let kept = rig.read(&m, 0, 2 * MIB, 10);
    let dropped = rig.read(&m, 0, 7 * MIB, 10);
    rig.idle().await;
    assert!(rig.swarm.requests(m.info_hash).is_empty());
    dropped.abort();
    rig.idle().await;
    rig.swarm.start(m.info_hash);
    assert_eq!(kept.await.unwrap().unwrap(), m.bytes(0, 2 * MIB, 10));
    assert_eq!(rig.swarm.requests(m.info_hash), [2]);
}

#[tokio::test(start_paused = true)]
async fn bad_data_is_reported_and_fetched_again() {
    let rig = Rig::new();
    rig.swarm.lie(2);
    rig.swarm.delivery(Delivery::ByHand);
    let m = rig.model("o/m", MIB, &[("a", noise(1, 2 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    let read = rig.read(&m, 0, 0, 10);
    for _ in 0..2 {
        rig.idle().await;
        assert!(rig.swarm.deliver(m.info_hash, 0), "it stays wanted");
    }
    rig.idle().await;
    assert!(!read.is_finished());
    assert!(rig.status(&m).last_error.unwrap().contains("bad data"));
    assert!(rig.swarm.deliver(m.info_hash, 0));
    assert_eq!(read.await.unwrap().unwrap(), m.bytes(0, 0, 10));
}

#[tokio::test(start_paused = true)]
async fn lost_bytes_are_fetched_again() {
    let rig = Rig::new();
    let m = rig.model("o/m", MIB, &[("a", noise(1, 4 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.fetch.read(&m.file(0), MIB, 10).await.unwrap();
    // Another program cuts the file: the verified bytes are lost.
    let path = m.revision.contents[0].path();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
    assert_eq!(rig.serve(&m, 0, MIB, 10).await.unwrap(), m.bytes(0, MIB, 10));
    assert_eq!(rig.swarm.requests(m.info_hash), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn stop_fails_all_reads_and_later_ones() {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::ByHand);
    let m = rig.model("o/m", MIB, &[("a", noise(1, 4 * MIB))]);
    let readers: Vec<_> = (0..4).map(|i| rig.read(&m, 0, i * MIB, 10)).collect();
    let get = rig.get(&m, &[0], Duration::from_secs(5));
    rig.idle().await;
    rig.fetch.stop();
    for reader in readers {
        assert!(matches!(reader.await.unwrap(), Err(ReadError::Stopped)));
    }
    assert!(matches!(get.await.unwrap(), Err(ReadError::Stopped)));
    assert!(matches!(rig.fetch.read(&m.file(0), 0, 1).await, Err(ReadError::Stopped)));
    assert!(matches!(rig.fetch.join(&m.revision), Err(ReadError::Stopped)));
    rig.idle().await;
    assert!(rig.swarm.wanted(m.info_hash).is_empty(), "nothing is fetched any more");
}

#[tokio::test(start_paused = true)]
async fn dead_swarm_does_not_delay_another_model() {
    let rig = Rig::new();
    let dead = rig.model("o/dead", MIB, &[("a", noise(1, 4 * MIB))]);
    let good = rig.model("o/good", MIB, &[("a", noise(2, 4 * MIB))]);
    rig.swarm.peer(good.info_hash, PEER, None);
    let stuck: Vec<_> = (0..200).map(|i| rig.read(&dead, 0, i * 4096, 4096)).collect();
    rig.idle().await;
    let before = tokio::time::Instant::now();
    rig.fetch.read(&good.file(0), 0, 100).await.unwrap();
    assert!(before.elapsed() < Duration::from_millis(1));
    assert!(stuck.iter().all(|s| !s.is_finished()));
}

/// With real threads: after a lost wake-up a read would wait forever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_up_is_lost_between_threads() {
    let rig = Rig::with(|s| s.readahead_max = 64 * KIB);
    let m = rig.model("o/m", 16 * KIB, &[("a", noise(1, 8 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    let readers: Vec<_> = (0..16u64)
        .map(|seed| {
            let (fetch, m) = (rig.fetch.clone(), m.clone());
            tokio::spawn(async move {
                for i in 0..256 {
                    // All tasks read the same pieces in different orders, so that they wait for the same ones.
                    let piece = (i * (2 * seed + 1) + seed) % 512;
                    let offset = piece * 16 * KIB + seed;
                    let got = fetch.read(&m.file(0), offset, 1000).await.unwrap();
                    assert_eq!(got, m.bytes(0, offset, 1000));
                }
            })
        })
        .collect();
    let all = async {
        for reader in readers {
            reader.await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("a reader waits forever");
}
