//! Pieces fetched ahead of readers: none at first, many for a stream, none after a jump or a close.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::clock::pass;
use crate::support::rig::{KIB, MIB, Rig, TestModel, noise};
use crate::support::swarm::{Delivery, WantedPiece};

const PEER: &str = "10.0.0.9:1";

/// The piece length in most of these tests.
const P: u64 = 256 * KIB;

fn held(rig: &Rig, m: &TestModel) -> BTreeSet<u32> {
    rig.swarm.holds(m.info_hash).unwrap()
}

/// Reads `from..to` of a file as `cat` through the mount does.
async fn stream(rig: &Rig, m: &TestModel, from: u64, to: u64) {
    let mut at = from;
    while at < to {
        let got = rig.serve(m, 0, at, 128 * KIB).await.unwrap();
        assert_eq!(got, m.bytes(0, at, 128 * KIB));
        at += 128 * KIB;
    }
}

#[tokio::test(start_paused = true)]
async fn opening_fetches_one_piece() {
    let rig = Rig::new();
    let m = rig.model("o/m", 4 * MIB, &[("a.safetensors", noise(1, 16 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.serve(&m, 0, 0, 128 * KIB).await.unwrap();
    rig.idle().await;
    assert_eq!(held(&rig, &m), BTreeSet::from([0]));
}

#[tokio::test(start_paused = true)]
async fn scattered_reads_fetch_only_their_pieces() {
    let rig = Rig::new();
    let m = rig.model("o/m", P, &[("a.gguf", noise(1, 16 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    let places = [3, 60, 17, 40, 9, 31];
    for piece in places {
        rig.serve(&m, 0, piece * P + 4096, 8192).await.unwrap();
    }
    rig.idle().await;
    assert_eq!(held(&rig, &m), places.iter().map(|&p| p as u32).collect());
}

#[tokio::test(start_paused = true)]
async fn stream_next_to_other_readers_wants_many_pieces_soon() {
    let rig = Rig::with(|s| (s.readahead_max, s.window_bound) = (4 * P, 64 * MIB));
    let m = rig.model("o/m", P, &[("a.bin", noise(1, 16 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    stream(&rig, &m, 0, P).await;
    rig.idle().await;
    assert_eq!(held(&rig, &m), (0..2).collect(), "alone");
    rig.swarm.send_event(|id| silmaril::torrent::Event::Readers(id, 1), m.info_hash);
    rig.idle().await;
    stream(&rig, &m, P, 2 * P).await;
    rig.idle().await;
    assert_eq!(held(&rig, &m), (0..18).collect(), "while another host reads");
}

#[tokio::test(start_paused = true)]
async fn stream_keeps_the_widest_window_requested() {
    let rig = Rig::with(|s| s.readahead_max = 4 * MIB);
    rig.swarm.delivery(Delivery::After(Duration::from_millis(20)));
    let m = rig.model("o/m", 512 * KIB, &[("a.bin", noise(1, 12 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    let mut at = 0;
    while at < 10 * MIB {
        rig.serve(&m, 0, at, 128 * KIB).await.unwrap();
        at += 128 * KIB;
        if at >= MIB {
            let has = held(&rig, &m);
            let wanted = rig.swarm.wanted(m.info_hash);
            let here = (at / (512 * KIB)) as u32;
            let covered = (here..here + 8).filter(|p| has.contains(p) || wanted.contains_key(p)).count();
            assert!(
                covered >= 8.min(24 - here as usize),
                "at {at}: {covered} of the next 8 pieces are coming"
            );
            assert!(wanted.len() <= 9, "too many pieces: {wanted:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_front_of_a_window_has_deadlines() {
    let rig = Rig::new();
    let m = rig.model("o/m", MIB, &[("a.bin", noise(1, 64 * MIB))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    stream(&rig, &m, 0, 4 * MIB).await;
    rig.swarm.delivery(Delivery::ByHand);
    // Far beyond the pieces that came ahead: all next pieces of this run are missing.
    let at = 40 * MIB;
    rig.serve(&m, 0, 4 * MIB, 128 * KIB).await.unwrap();
    let first = rig.read(&m, 0, at, 128 * KIB);
    rig.idle().await;
    for step in 1..8 {
        rig.swarm.deliver(m.info_hash, 40);
        rig.idle().await;
        rig.serve(&m, 0, at + step * 128 * KIB, 128 * KIB).await.unwrap();
    }
    first.await.unwrap().unwrap();
    let mut wanted = rig.swarm.wanted(m.info_hash);
    wanted.retain(|piece, _| *piece >= 40);
    let (near, tail): (Vec<_>, Vec<_>) = wanted.iter().partition(|(_, w)| **w == WantedPiece::Requested);
    assert!((1..=3).contains(&near.len()), "{near:?}");
    assert!(tail.len() > near.len(), "{tail:?}");
    assert!(near.iter().all(|(p, _)| tail.iter().all(|(q, _)| p < q)));
}

#[tokio::test(start_paused = true)]
async fn window_ends_when_the_reader_stops() {
    for how in ["time", "close"] {
        let rig = Rig::with(|s| s.readahead_max = 32 * P);
        let m = rig.model("o/m", P, &[("a.bin", noise(1, 64 * P))]);
        rig.swarm.peer(m.info_hash, PEER, Some(&(0..4).collect::<Vec<_>>()));
        stream(&rig, &m, 0, 3 * P).await;
        rig.idle().await;
        assert!(rig.swarm.wanted(m.info_hash).len() > 4);
        match how {
            "time" => pass(Duration::from_secs(11)).await,
            _ => rig.fetch.released(&m.file(0)),
        }
        assert!(rig.swarm.wanted(m.info_hash).is_empty(), "{how}");
        rig.swarm.peer(m.info_hash, "10.0.0.10:1", None);
        stream(&rig, &m, 3 * P, 16 * P).await;
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_reader_keeps_its_window() {
    let rig = Rig::with(|s| s.readahead_max = 32 * P);
    let m = rig.model("o/m", P, &[("a.bin", noise(1, 64 * P))]);
    rig.swarm.peer(m.info_hash, PEER, Some(&(0..4).collect::<Vec<_>>()));
    stream(&rig, &m, 0, 4 * P).await;
    let wanted = rig.swarm.wanted(m.info_hash).len();
    let read = rig.read(&m, 0, 4 * P, 128 * KIB);
    pass(Duration::from_secs(30)).await;
    assert!(rig.swarm.wanted(m.info_hash).len() >= wanted);
    read.abort();
}

#[tokio::test(start_paused = true)]
async fn windows_of_many_files_share_a_budget() {
    let rig = Rig::with(|s| s.readahead_max = MIB);
    let files: Vec<(String, Vec<u8>)> = (0..40).map(|i| (format!("f{i:02}"), noise(i, 2 * MIB))).collect();
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(n, b)| (n.as_str(), b.clone())).collect();
    let m = rig.model("o/m", 64 * KIB, &files);
    let first_pieces: Vec<u32> = (0..40).flat_map(|i| i * 32..i * 32 + 8).collect();
    rig.swarm.peer(m.info_hash, PEER, Some(&first_pieces));
    for at in 0..16 {
        for file in 0..40 {
            rig.serve(&m, file, at * 32 * KIB, 32 * KIB).await.unwrap();
        }
    }
    // All forty share 4 MiB: 102 KiB each, so two pieces.
    let wanted = rig.swarm.wanted(m.info_hash);
    for file in 0..40 {
        let of_file = wanted.keys().filter(|p| **p / 32 == file).count();
        assert!((1..=3).contains(&of_file), "file {file}: {of_file}");
    }
}

#[tokio::test(start_paused = true)]
async fn urgent_read_of_another_file_is_requested_immediately() {
    let rig = Rig::with(|s| s.readahead_max = 32 * P);
    rig.swarm.delivery(Delivery::ByHand);
    let m = rig.model("o/m", P, &[("a.bin", noise(1, 64 * P)), ("b.bin", noise(2, 8 * P))]);
    rig.swarm.peer(m.info_hash, PEER, None);
    let job = rig.get(&m, &[0], Duration::from_secs(3600));
    rig.idle().await;
    assert_eq!(rig.swarm.wanted(m.info_hash).len(), 64);
    let read = rig.read(&m, 1, 3 * P, 10);
    rig.idle().await;
    assert_eq!(rig.swarm.wanted(m.info_hash)[&67], WantedPiece::Requested);
    assert_eq!(rig.swarm.requests(m.info_hash), [67]);
    rig.swarm.deliver(m.info_hash, 67);
    read.await.unwrap().unwrap();
    job.abort();
}

#[tokio::test(start_paused = true)]
async fn window_requests_at_most_its_bound() {
    for (bound, most) in [(4 * P, 4), (4 * P - 1, 3), (P - 1, 0), (u64::MAX, 33)] {
        let rig = Rig::with(|s| (s.readahead_max, s.window_bound) = (32 * P, bound));
        let m = rig.model("o/m", P, &[("a.bin", noise(1, 64 * P))]);
        // No peer has the pieces ahead, so all requests remain visible.
        rig.swarm.peer(m.info_hash, PEER, Some(&(0..12).collect::<Vec<_>>()));
        stream(&rig, &m, 0, 12 * P).await;
        rig.idle().await;
        let ahead = rig.swarm.wanted(m.info_hash).len();
        assert_eq!(ahead.min(most), ahead, "bound {bound}");
        assert!(bound == u64::MAX && ahead > 20 || ahead == most, "bound {bound}: {ahead} pieces");
    }
}
