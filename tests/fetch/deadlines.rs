//! Every read ends, and none fails while bytes come.

use std::time::Duration;

use silmaril::fetch::ReadError;
use tokio::time::Instant;

use crate::support::clock::pass;
use crate::support::rig::{MIB, READ_TIMEOUT, Rig, TestModel, noise};
use crate::support::swarm::{Call, Delivery};

const PEER: &str = "10.0.0.9:1";

fn stalled() -> (Rig, TestModel) {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::ByHand);
    let m = rig.model("o/m", MIB, &[("a", noise(1, 8 * MIB))]);
    (rig, m)
}

fn timed_out(result: Result<Vec<u8>, ReadError>) -> String {
    match result {
        Err(ReadError::TimedOut(why)) => why,
        other => panic!("{:?}", other.map(|b| b.len())),
    }
}

#[tokio::test(start_paused = true)]
async fn read_without_peers_times_out_with_a_reason() {
    let (rig, m) = stalled();
    let start = Instant::now();
    let why = timed_out(rig.fetch.read(&m.file(0), 0, 10).await);
    assert_eq!(start.elapsed().as_secs(), READ_TIMEOUT.as_secs());
    assert!(why.contains("no peer"), "{why}");
    assert!(rig.status(&m).last_error.unwrap().contains("no peer"));
    rig.idle().await;
    assert!(rig.swarm.wanted(m.info_hash).is_empty());
}

#[tokio::test(start_paused = true)]
async fn reason_distinguishes_missing_pieces_from_a_stall() {
    let (rig, m) = stalled();
    rig.swarm.peer(m.info_hash, PEER, Some(&[7]));
    let why = timed_out(rig.fetch.read(&m.file(0), 0, 10).await);
    assert!(why.contains("1 peer is connected, but none has the piece"), "{why}");

    let stats = silmaril::torrent::SwarmStats { peers: 1, seeds: 1, ..Default::default() };
    rig.swarm.send_event(|id| silmaril::torrent::Event::Stats(id, stats), m.info_hash);
    let why = timed_out(rig.fetch.read(&m.file(0), 3 * MIB, 10).await);
    assert!(why.contains("stalled"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn any_byte_postpones_the_deadline_exactly_twice() {
    let (rig, m) = stalled();
    rig.swarm.peer(m.info_hash, PEER, None);
    let start = Instant::now();
    let read = rig.read(&m, 0, 0, 10);
    // A byte now and then, never the piece.
    while !read.is_finished() {
        assert!(start.elapsed() < 10 * READ_TIMEOUT, "it never ends");
        pass(Duration::from_secs(10)).await;
        rig.swarm.trickle(m.info_hash, 1);
    }
    timed_out(read.await.unwrap());
    let waited = start.elapsed();
    assert!((3 * READ_TIMEOUT..3 * READ_TIMEOUT + Duration::from_secs(11)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn another_piece_counts_as_progress() {
    let (rig, m) = stalled();
    rig.swarm.peer(m.info_hash, PEER, None);
    let start = Instant::now();
    let slow = rig.read(&m, 0, 0, 10);
    let other = rig.read(&m, 0, 5 * MIB, 10);
    pass(READ_TIMEOUT / 2).await;
    rig.swarm.deliver(m.info_hash, 5);
    other.await.unwrap().unwrap();
    timed_out(slow.await.unwrap());
    assert_eq!(start.elapsed().as_secs(), 2 * READ_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn progress_of_another_swarm_does_not_count() {
    let (rig, m) = stalled();
    let other = rig.model("o/other", MIB, &[("a", noise(2, 8 * MIB))]);
    rig.swarm.peer(other.info_hash, PEER, None);
    rig.fetch.join(&other.revision).unwrap();
    let start = Instant::now();
    let read = rig.read(&m, 0, 0, 10);
    while !read.is_finished() {
        pass(Duration::from_secs(10)).await;
        rig.swarm.trickle(other.info_hash, 1);
    }
    timed_out(read.await.unwrap());
    assert!(start.elapsed() <= READ_TIMEOUT + Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn endless_bad_data_does_not_keep_a_job_alive() {
    let (rig, m) = stalled();
    rig.swarm.lie(usize::MAX);
    rig.swarm.peer(m.info_hash, PEER, None);
    let start = Instant::now();
    let get = rig.get(&m, &[0], READ_TIMEOUT);
    while !get.is_finished() {
        assert!(start.elapsed() < 20 * READ_TIMEOUT, "bad data keeps a job alive");
        pass(Duration::from_secs(5)).await;
        rig.swarm.trickle(m.info_hash, MIB);
        rig.swarm.deliver(m.info_hash, 0);
    }
    assert!(matches!(get.await.unwrap(), Err(ReadError::TimedOut(_))));
}

#[tokio::test(start_paused = true)]
async fn timed_out_piece_fails_immediately_for_a_short_time() {
    let (rig, m) = stalled();
    timed_out(rig.fetch.read(&m.file(0), 0, 128 * 1024).await);
    let start = Instant::now();
    timed_out(rig.fetch.read(&m.file(0), 0, 4096).await);
    assert!(start.elapsed() < Duration::from_millis(1), "the kernel's second try waits again");
    pass(Duration::from_secs(6)).await;
    let start = Instant::now();
    timed_out(rig.fetch.read(&m.file(0), 0, 4096).await);
    assert!(start.elapsed() >= READ_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn peer_or_progress_lets_reads_wait_again() {
    for how in ["peer", "progress"] {
        let (rig, m) = stalled();
        timed_out(rig.fetch.read(&m.file(0), 0, 4096).await);
        match how {
            "peer" => rig.swarm.peer(m.info_hash, PEER, None),
            _ => rig.swarm.trickle(m.info_hash, 1),
        }
        pass(Duration::from_secs(1)).await;
        let read = rig.read(&m, 0, 0, 4096);
        rig.idle().await;
        assert!(!read.is_finished(), "{how}");
        rig.swarm.deliver(m.info_hash, 0);
        assert_eq!(read.await.unwrap().unwrap(), m.bytes(0, 0, 4096));
    }
}

#[tokio::test(start_paused = true)]
async fn second_read_of_the_kernel_fails_immediately() {
    for how in ["peer", "progress", "another piece"] {
        let (rig, m) = stalled();
        rig.swarm.peer(m.info_hash, PEER, None);
        let other = rig.read(&m, 0, 5 * MIB, 10);
        timed_out(rig.fetch.read(&m.file(0), 0, 128 * 1024).await);
        timed_out(other.await.unwrap());
        let other = rig.read(&m, 0, 6 * MIB, 10);
        rig.idle().await;
        match how {
            "peer" => rig.swarm.peer(m.info_hash, "192.0.2.9:6881", None),
            "progress" => rig.swarm.trickle(m.info_hash, 1),
            _ => assert!(rig.swarm.deliver(m.info_hash, 6)),
        }
        rig.idle().await;
        let start = Instant::now();
        timed_out(rig.fetch.read(&m.file(0), 0, 4096).await);
        assert!(start.elapsed() < Duration::from_millis(1), "{how}: it waits again");
        drop(other);
    }
}

#[tokio::test(start_paused = true)]
async fn read_completes_when_a_peer_returns() {
    let rig = Rig::new();
    let m = rig.model("o/m", MIB, &[("a", noise(1, 8 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.fetch.read(&m.file(0), 0, 10).await.unwrap();
    rig.swarm.vanish(m.info_hash, PEER);
    rig.idle().await;
    rig.swarm.calls();
    let start = Instant::now();
    let read = rig.read(&m, 0, 5 * MIB, 10);
    pass(Duration::from_secs(50)).await;
    assert!(!read.is_finished());
    let calls = rig.swarm.calls();
    let searches = calls.iter().filter(|c| **c == Call::Reannounce(m.info_hash)).count();
    let dials = calls.iter().filter(|c| **c == Call::Redial(m.info_hash)).count();
    // After 1, 3, 7, 15 and 31 seconds.
    assert_eq!(searches, 5);
    // At first, after 0.2, 0.6, 1.4 and 3 seconds, and then every 3 seconds.
    assert_eq!(dials, 5 + 15);
    assert!(rig.fetch.starving().borrow().contains(&m.info_hash));
    rig.swarm.peer(m.info_hash, PEER, None);
    assert_eq!(read.await.unwrap().unwrap(), m.bytes(0, 5 * MIB, 10));
    assert!(start.elapsed() < Duration::from_secs(51));
    rig.swarm.vanish(m.info_hash, PEER);
    rig.swarm.calls();
    pass(Duration::from_secs(100)).await;
    let calls = rig.swarm.calls();
    let searched =
        calls.iter().any(|c| [Call::Reannounce(m.info_hash), Call::Redial(m.info_hash)].contains(c));
    assert!(!searched, "no read waits, and peers are searched");
    assert!(rig.fetch.starving().borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn known_peers_are_called_immediately_when_the_last_connection_ends() {
    let rig = Rig::new();
    let m = rig.model("o/m", MIB, &[("a", noise(1, 8 * MIB))]);
    rig.fetch.join(&m.revision).unwrap();
    let read = rig.read(&m, 0, 5 * MIB, 10);
    pass(Duration::from_secs(10)).await;
    let redials = || rig.swarm.calls().iter().filter(|c| **c == Call::Redial(m.info_hash)).count();
    redials();
    // A peer without pieces: a new connection.
    let come_and_go = || async {
        rig.swarm.peer(m.info_hash, PEER, Some(&[]));
        rig.idle().await;
        rig.swarm.vanish(m.info_hash, PEER);
        rig.idle().await;
        redials()
    };
    assert_eq!(come_and_go().await, 1);
    // A peer that connects and disconnects repeatedly is called at most once a second.
    assert_eq!(come_and_go().await, 0);
    pass(Duration::from_secs(4)).await;
    redials();
    assert_eq!(come_and_go().await, 1);
    read.abort();
    rig.idle().await;
    rig.swarm.peer(m.info_hash, PEER, Some(&[]));
    pass(Duration::from_secs(4)).await;
    redials();
    rig.swarm.vanish(m.info_hash, PEER);
    rig.idle().await;
    assert_eq!(redials(), 0, "no read waits");
}

#[tokio::test(start_paused = true)]
async fn known_addresses_are_called_when_peers_are_silent() {
    let (rig, m) = stalled();
    rig.fetch.join(&m.revision).unwrap();
    // The peer remains connected and sends nothing, as after a power failure of its host.
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.idle().await;
    rig.swarm.calls();
    let read = rig.read(&m, 0, 5 * MIB, 10);
    pass(Duration::from_millis(1900)).await;
    let redials = || rig.swarm.calls().iter().filter(|c| **c == Call::Redial(m.info_hash)).count();
    assert_eq!(redials(), 0);
    pass(Duration::from_secs(2)).await;
    assert!(redials() >= 3);
    assert!(rig.fetch.starving().borrow().contains(&m.info_hash));
    read.abort();
    pass(Duration::from_secs(4)).await;
    assert!(rig.fetch.starving().borrow().is_empty());
}
