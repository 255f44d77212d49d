//! The web delivers pieces that peers do not deliver, and no other pieces.

use std::time::Duration;

use silmaril::torrent::SwarmStats;
use tokio::time::Instant;

use crate::support::clock::pass;
use crate::support::fake_web::{FakeAnswer, FakeWeb};
use crate::support::rig::{KIB, MIB, Rig, TestModel, noise};
use crate::support::swarm::Delivery;

const PEER: &str = "10.0.0.9:1";
const SEED: &str = "http://w.example/m/";
const PATIENCE: Duration = Duration::from_secs(2);
const STALL: Duration = Duration::from_secs(100);

/// A rig with a web that has a model of one file; the test delivers the pieces of peers.
pub fn with_web(piece_length: u64, len: u64) -> (Rig, std::sync::Arc<FakeWeb>, TestModel) {
    let web = FakeWeb::new();
    let rig = Rig::with(|s| s.web = Some(web.settings()));
    rig.swarm.delivery(Delivery::ByHand);
    let m = rig.web_model(piece_length, &[("a", noise(1, len))], &[SEED]);
    web.serve(&format!("{SEED}a"), m.files[0].clone());
    (rig, web, m)
}

/// How long a read of a few bytes takes.
async fn timed(rig: &Rig, m: &TestModel, offset: u64) -> Duration {
    let start = Instant::now();
    assert_eq!(rig.fetch.read(&m.file(0), offset, 100).await.unwrap(), m.bytes(0, offset, 100));
    start.elapsed()
}

/// The range of the only request.
#[track_caller]
fn only(web: &FakeWeb) -> std::ops::Range<u64> {
    let [range] = &web.ranges()[..] else { panic!("not one request") };
    range.clone()
}

fn about(took: Duration, expected: Duration) -> bool {
    took.abs_diff(expected) < Duration::from_millis(50)
}

#[tokio::test(start_paused = true)]
async fn only_the_first_read_without_peers_waits_for_them() {
    let (rig, web, m) = with_web(MIB, 8 * MIB);
    let took = timed(&rig, &m, 3 * MIB + 5).await;
    assert!(about(took, PATIENCE), "{took:?}");
    let asked = web.asked();
    assert_eq!((asked.len(), asked[0].url.as_str()), (1, "http://w.example/m/a"));
    assert_eq!((asked[0].range.clone(), asked[0].file_len), (3 * MIB..4 * MIB, 8 * MIB));
    // No peer has connected since.
    let took = timed(&rig, &m, 6 * MIB).await;
    assert!(took < Duration::from_millis(20), "{took:?}");
    assert_eq!(only(&web), 6 * MIB..7 * MIB);
    let held = rig.swarm.holds(m.info_hash).unwrap();
    assert_eq!(held.into_iter().collect::<Vec<_>>(), [3, 6], "the engine has them, to seed");
    let status = rig.status(&m);
    assert_eq!((status.downloaded, status.downloaded_web, status.cached_bytes), (0, 2 * MIB, 2 * MIB));
    // A peer connects: it gets its time again.
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.idle().await;
    let took = timed(&rig, &m, 0).await;
    assert!(about(took, PATIENCE), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn web_is_not_asked_while_peers_deliver() {
    let (rig, web, m) = with_web(MIB, 32 * MIB);
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.swarm.delivery(Delivery::After(Duration::from_millis(1900)));
    for piece in [3, 9, 20] {
        timed(&rig, &m, piece * MIB).await;
    }
    let get = rig.get(&m, &[0], STALL);
    get.await.unwrap().unwrap();
    assert_eq!(web.asked(), []);
    let status = rig.status(&m);
    assert_eq!((status.downloaded, status.downloaded_web), (32 * MIB, 0));
}

#[tokio::test(start_paused = true)]
async fn peers_get_their_time_for_each_piece() {
    let (rig, web, m) = with_web(MIB, 8 * MIB);
    rig.swarm.peer(m.info_hash, PEER, Some(&[7]));
    for piece in [3, 5] {
        let took = timed(&rig, &m, piece * MIB).await;
        assert!(about(took, PATIENCE), "{took:?}");
    }
    assert_eq!(web.ranges().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn read_does_not_wait_for_slow_peers() {
    let (rig, web, m) = with_web(MIB, 8 * MIB);
    rig.swarm.peer(m.info_hash, PEER, None);
    let read = rig.read(&m, 0, 3 * MIB, 100);
    let start = Instant::now();
    while !read.is_finished() {
        // Bytes come continuously, but never the piece.
        rig.swarm.trickle(m.info_hash, 1000);
        pass(Duration::from_millis(100)).await;
        assert!(start.elapsed() < 2 * PATIENCE, "it waits for a slow peer");
    }
    assert!(start.elapsed() >= PATIENCE);
    assert_eq!(read.await.unwrap().unwrap(), m.bytes(0, 3 * MIB, 100));
    assert_eq!(only(&web), 3 * MIB..4 * MIB);
}

#[tokio::test(start_paused = true)]
async fn whole_file_waits_for_slow_peers() {
    let (rig, web, m) = with_web(MIB, 8 * MIB);
    rig.swarm.peer(m.info_hash, PEER, None);
    let get = rig.get(&m, &[0], STALL);
    for _ in 0..100 {
        rig.swarm.trickle(m.info_hash, 1000);
        pass(Duration::from_millis(500)).await;
    }
    assert_eq!(web.asked(), []);
    // The swarm stalls.
    get.await.unwrap().unwrap();
    assert!(!web.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn web_is_not_asked_after_peers_return() {
    let (rig, web, m) = with_web(MIB, 64 * MIB);
    web.always(SEED, FakeAnswer::Slow(Duration::from_millis(100)));
    let get = rig.get(&m, &[0], STALL);
    pass(PATIENCE + Duration::from_secs(1)).await;
    let begun = web.asked().len();
    assert_eq!((begun, web.open()), (3, 3), "one request is kept for readers");
    rig.swarm.peer(m.info_hash, PEER, None);
    // From the end, one piece a second: the web delivers the pieces under way.
    for piece in (48..64).rev() {
        pass(Duration::from_secs(1)).await;
        assert!(rig.swarm.deliver(m.info_hash, piece), "piece {piece}");
        if piece == 60 {
            assert_eq!(web.asked(), [], "the web gets no more requests");
        }
    }
    get.await.unwrap().unwrap();
    let status = rig.status(&m);
    assert_eq!((status.downloaded, status.downloaded_web), (16 * MIB, 48 * MIB));
}

#[tokio::test(start_paused = true)]
async fn neighbours_are_merged_into_a_few_requests() {
    let (rig, web, m) = with_web(MIB, 100 * MIB);
    web.always(SEED, FakeAnswer::Slow(Duration::from_millis(10)));
    rig.get(&m, &[0], STALL).await.unwrap().unwrap();
    let ranges = web.ranges();
    assert_eq!(ranges.len(), 7, "{ranges:?}");
    assert!(ranges.iter().all(|r| r.end - r.start <= 16 * MIB));
    assert_eq!(ranges.iter().map(|r| r.end - r.start).sum::<u64>(), 100 * MIB, "nothing twice");
    assert_eq!(web.most_open(), 3);
    assert_eq!(rig.swarm.given(m.info_hash).len(), 100);
}

#[tokio::test(start_paused = true)]
async fn requests_of_the_node_are_bounded() {
    let web = FakeWeb::new();
    let rig = Rig::with(|s| s.web = Some(web.settings()));
    let mut all = Vec::new();
    for i in 0..4 {
        let files = [("a", noise(i, 64 * MIB))];
        let mut manifest = crate::support::rig::hashed_manifest(&format!("o/m{i}"), MIB, &files);
        manifest.web_seeds = vec![SEED.replace("/m/", &format!("/m{i}/"))];
        let m = rig.model_of(manifest, &files);
        web.serve(&format!("http://w.example/m{i}/a"), m.files[0].clone());
        all.push(m);
    }
    web.always("http://w.example/", FakeAnswer::Slow(Duration::from_millis(20)));
    let gets: Vec<_> = all.iter().map(|m| rig.get(m, &[0], STALL)).collect();
    pass(PATIENCE + Duration::from_secs(1)).await;
    assert_eq!(web.open(), 6);
    let readers: Vec<_> = all.iter().map(|m| rig.read(m, 0, 60 * MIB, 10)).collect();
    for reader in readers {
        reader.await.unwrap().unwrap();
    }
    for get in gets {
        get.await.unwrap().unwrap();
    }
    assert!((7..=8).contains(&web.most_open()), "{}", web.most_open());
}

#[tokio::test(start_paused = true)]
async fn small_pieces_are_requested_with_their_neighbours() {
    let (rig, web, m) = with_web(64 * KIB, 8 * MIB);
    timed(&rig, &m, 2 * MIB).await;
    rig.idle().await;
    assert_eq!(only(&web), 2 * MIB..3 * MIB);
    assert_eq!(rig.status(&m).cached_bytes, MIB);
    // Verified pieces are not requested again.
    timed(&rig, &m, MIB + 512 * KIB).await;
    rig.idle().await;
    assert_eq!(only(&web), MIB + 512 * KIB..2 * MIB);
}

#[tokio::test(start_paused = true)]
async fn cancelled_read_ends_the_request() {
    let (rig, web, m) = with_web(MIB, 8 * MIB);
    web.always(SEED, FakeAnswer::Stalls(100_000));
    let kept = rig.read(&m, 0, 0, 100);
    let dropped = rig.read(&m, 0, 5 * MIB, 100);
    pass(PATIENCE + Duration::from_millis(100)).await;
    assert_eq!(web.open(), 2);
    dropped.abort();
    rig.idle().await;
    assert_eq!(web.open(), 1);
    kept.abort();
    rig.idle().await;
    assert_eq!(web.open(), 0);
    assert_eq!(rig.swarm.given(m.info_hash), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn stop_and_leave_end_all_requests() {
    for how in ["stop", "leave", "hold", "drop"] {
        let (rig, web, m) = with_web(MIB, 8 * MIB);
        web.always(SEED, FakeAnswer::Stalls(100_000));
        let read = rig.read(&m, 0, 0, 100);
        pass(PATIENCE + Duration::from_millis(100)).await;
        assert_eq!(web.open(), 1);
        let key = m.revision.contents[0].key().unwrap();
        match how {
            "stop" => rig.fetch.stop(),
            "leave" => rig.fetch.leave(&m.info_hash),
            "hold" => {
                let hold = rig.fetch.release_for_eviction(&[key], STALL).await.unwrap();
                rig.idle().await;
                assert_eq!(web.open(), 0);
                drop(hold);
                pass(PATIENCE + Duration::from_millis(100)).await;
                assert_eq!(web.open(), 1, "the web is asked again when the torrent is back");
                rig.fetch.stop();
            }
            _ => {
                read.abort();
                rig.idle().await;
                assert_eq!(std::sync::Arc::strong_count(&rig.fetch), 1);
                drop(rig);
                pass(Duration::from_millis(1)).await;
                assert_eq!(web.open(), 0);
                continue;
            }
        }
        rig.idle().await;
        assert_eq!(web.open(), 0, "{how}");
        assert!(read.is_finished(), "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn pieces_that_peers_sent_are_not_given_to_the_engine() {
    let (rig, web, m) = with_web(MIB, 4 * MIB);
    web.always(SEED, FakeAnswer::Slow(Duration::from_millis(100)));
    rig.swarm.peer(m.info_hash, PEER, None);
    let read = rig.read(&m, 0, 0, 2 * MIB);
    pass(PATIENCE + Duration::from_millis(200)).await;
    assert_eq!(only(&web), 0..2 * MIB);
    assert!(rig.swarm.deliver(m.info_hash, 0));
    read.await.unwrap().unwrap();
    assert_eq!(rig.swarm.given(m.info_hash), [1]);
    let status = rig.status(&m);
    assert_eq!((status.downloaded, status.downloaded_web), (MIB, 2 * MIB));
}

#[tokio::test(start_paused = true)]
async fn request_ends_when_peers_sent_its_pieces() {
    let (rig, web, m) = with_web(MIB, 4 * MIB);
    web.always(SEED, FakeAnswer::Slow(Duration::from_secs(1)));
    rig.swarm.peer(m.info_hash, PEER, None);
    let read = rig.read(&m, 0, 0, 100);
    pass(PATIENCE + Duration::from_secs(3)).await;
    assert_eq!(web.open(), 1);
    assert!(rig.swarm.deliver(m.info_hash, 0));
    read.await.unwrap().unwrap();
    rig.idle().await;
    assert_eq!(web.open(), 0);
    assert_eq!(rig.swarm.given(m.info_hash), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn window_of_a_reader_comes_from_the_web() {
    let (rig, web, m) = with_web(MIB, 64 * MIB);
    let start = Instant::now();
    for i in 0..256 {
        let offset = i * 256 * KIB;
        assert_eq!(rig.serve(&m, 0, offset, 256 * KIB).await.unwrap(), m.bytes(0, offset, 256 * KIB));
    }
    assert!(start.elapsed() < PATIENCE + Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(web.ranges().len() < 40);
    assert_eq!(rig.status(&m).downloaded_web, 64 * MIB);
}

#[tokio::test(start_paused = true)]
async fn peers_of_a_late_torrent_get_their_time() {
    let (rig, web, m) = with_web(MIB, 4 * MIB);
    rig.swarm.starts(false);
    let read = rig.read(&m, 0, 0, 100);
    pass(3 * PATIENCE).await;
    rig.swarm.start(m.info_hash);
    pass(PATIENCE - Duration::from_millis(100)).await;
    assert_eq!(web.asked(), []);
    read.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn pieces_with_unknown_hashes_are_left_to_peers() {
    let web = FakeWeb::new();
    let rig = Rig::with(|s| s.web = Some(web.settings()));
    let files = [("a", noise(1, 4 * MIB)), ("b", noise(2, 100))];
    let mut manifest = crate::support::rig::hashed_manifest("o/m", MIB, &files);
    manifest.web_seeds = vec![SEED.to_owned()];
    let layers = manifest.piece_layers();
    manifest.carry_piece_layers(&Default::default());
    let m = rig.model_of(manifest.clone(), &files);
    for (file, name) in ["a", "b"].into_iter().enumerate() {
        web.serve(&format!("{SEED}{name}"), m.files[file].clone());
    }
    rig.get(&m, &[1], STALL).await.unwrap().unwrap();
    assert_eq!(only(&web), 0..100, "the hash of a file of one piece is its root");
    assert!(rig.fetch.read(&m.file(0), 0, 100).await.is_err());
    assert_eq!(web.asked(), []);
    // The hashes are known from the metainfo on.
    rig.fetch.leave(&m.info_hash);
    std::fs::write(rig.paths.metainfo(&m.info_hash), manifest.metainfo(Some(&layers))).unwrap();
    rig.get(&m, &[0], STALL).await.unwrap().unwrap();
    assert_eq!(rig.status(&m).downloaded_web, 4 * MIB);
}

#[tokio::test(start_paused = true)]
async fn manifest_without_addresses_causes_no_request() {
    let (rig, web, _) = with_web(MIB, MIB);
    let m = rig.model("o/other", MIB, &[("a", noise(1, 4 * MIB))]);
    assert!(rig.fetch.read(&m.file(0), 0, 10).await.is_err());
    assert_eq!(web.asked(), []);
}

#[tokio::test(start_paused = true)]
async fn read_from_a_slow_server_times_out() {
    let (rig, web, m) = with_web(MIB, MIB);
    web.always(SEED, FakeAnswer::Slow(Duration::from_secs(15)));
    let start = Instant::now();
    let stats = SwarmStats { peers: 0, ..SwarmStats::default() };
    let read = rig.read(&m, 0, 0, 100);
    rig.idle().await;
    rig.swarm.send_event(|id| silmaril::torrent::Event::Stats(id, stats), m.info_hash);
    assert!(read.await.unwrap().is_err(), "it takes four minutes");
    let most = 3 * crate::support::rig::READ_TIMEOUT + Duration::from_secs(1);
    assert!(start.elapsed() > crate::support::rig::READ_TIMEOUT && start.elapsed() < most);
}
