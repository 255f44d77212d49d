//! Whole files: `get` and `warm`.

use std::time::Duration;

use silmaril::fetch::ReadError;
use silmaril::torrent::Priority;
use tokio::time::Instant;

use crate::support::clock::pass;
use crate::support::rig::{MIB, Rig, noise};
use crate::support::swarm::{Delivery, WantedPiece};

const PEER: &str = "10.0.0.9:1";
const STALL: Duration = Duration::from_secs(100);

#[tokio::test(start_paused = true)]
async fn only_requested_files_are_fetched() {
    let rig = Rig::new();
    let m = rig.model("o/m", MIB, &[("a", noise(1, 3 * MIB)), ("b", noise(2, 3 * MIB)), ("c", noise(3, 10))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.get(&m, &[0, 2], STALL).await.unwrap().unwrap();
    let held = rig.swarm.holds(m.info_hash).unwrap();
    assert_eq!(held.into_iter().collect::<Vec<_>>(), [0, 1, 2, 6]);
    assert_eq!(rig.status(&m).cached_bytes, 3 * MIB + 10);
    rig.get(&m, &[0, 2], STALL).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn job_fails_only_when_nothing_comes() {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::ByHand);
    let m = rig.model("o/m", MIB, &[("a", noise(1, 8 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    let job = rig.get(&m, &[0], STALL);
    for piece in 0..7 {
        pass(STALL - Duration::from_secs(1)).await;
        assert!(rig.swarm.deliver(m.info_hash, piece));
    }
    rig.idle().await;
    let last = Instant::now();
    let Err(ReadError::TimedOut(why)) = job.await.unwrap() else { panic!("it has not failed") };
    assert!(last.elapsed().abs_diff(STALL) < Duration::from_millis(10), "{:?}", last.elapsed());
    assert!(why.contains("1 peer is connected"), "{why}");
    rig.idle().await;
    assert!(rig.swarm.wanted(m.info_hash).is_empty());
}

#[tokio::test(start_paused = true)]
async fn dropped_job_releases_its_claims_only() {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::ByHand);
    let m = rig.model("o/m", MIB, &[("a", noise(1, 3 * MIB)), ("b", noise(2, 3 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    let both = rig.get(&m, &[0, 1], STALL);
    let second = rig.get(&m, &[1], STALL);
    let read = rig.read(&m, 0, MIB, 10);
    rig.idle().await;
    let wanted = rig.swarm.wanted(m.info_hash);
    assert_eq!(wanted.len(), 6);
    assert_eq!(wanted[&0], WantedPiece::Priority(Priority::Normal));
    assert_eq!(wanted[&1], WantedPiece::Requested);
    both.abort();
    rig.idle().await;
    assert_eq!(rig.swarm.wanted(m.info_hash).keys().copied().collect::<Vec<_>>(), [1, 3, 4, 5]);
    second.abort();
    rig.idle().await;
    assert_eq!(rig.swarm.wanted(m.info_hash).keys().copied().collect::<Vec<_>>(), [1]);
    read.abort();
}

#[tokio::test(start_paused = true)]
async fn cancelled_read_leaves_the_piece_to_the_job() {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::ByHand);
    let m = rig.model("o/m", MIB, &[("a", noise(1, 3 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    let job = rig.get(&m, &[0], STALL);
    let read = rig.read(&m, 0, MIB, 10);
    rig.idle().await;
    read.abort();
    rig.idle().await;
    for piece in 0..3 {
        assert!(rig.swarm.deliver(m.info_hash, piece), "piece {piece}");
    }
    job.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn job_without_peers_searches_and_ends() {
    let rig = Rig::new();
    let m = rig.model("o/m", MIB, &[("a", noise(1, 3 * MIB))]);
    let job = rig.get(&m, &[0], STALL);
    pass(Duration::from_secs(60)).await;
    let searches =
        rig.swarm.calls().iter().filter(|c| matches!(c, crate::support::swarm::Call::Reannounce(_))).count();
    assert_eq!(searches, 5);
    rig.swarm.peer(m.info_hash, PEER, None);
    job.await.unwrap().unwrap();
}
