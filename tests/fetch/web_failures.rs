//! Servers that fail are skipped for a while, other servers are asked, and no wrong byte reaches the engine.

use std::time::Duration;

use silmaril::fetch::ReadError;
use silmaril::fetch::web::WebError;
use tokio::time::Instant;

use super::web::with_web;
use crate::support::clock::pass;
use crate::support::fake_web::{FakeAnswer, FakeWeb};
use crate::support::rig::{MIB, Rig, noise};
use crate::support::swarm::Delivery;

const SEED: &str = "http://w.example/m/";
const OTHER: &str = "http://v.example/m/";
const STALL: Duration = Duration::from_secs(100);

#[tokio::test(start_paused = true)]
async fn server_of_wrong_bytes_is_asked_once() {
    let (rig, web, m) = with_web(MIB, 8 * MIB);
    // The third piece is wrong; the first two are right.
    web.always(SEED, FakeAnswer::Lie(2 * MIB + 7));
    let get = rig.get(&m, &[0], STALL);
    let Err(ReadError::TimedOut(why)) = get.await.unwrap() else { panic!("it has not failed") };
    assert!(why.contains("no peer") && why.contains("bytes that do not match the manifest"), "{why}");
    assert_eq!(web.asked().len(), 1);
    assert_eq!(rig.swarm.given(m.info_hash), [0, 1]);
    assert!(rig.status(&m).last_error.unwrap().contains("do not match"));
}

#[tokio::test(start_paused = true)]
async fn server_of_wrong_bytes_does_not_exclude_other_servers() {
    let web = FakeWeb::new();
    let rig = Rig::with(|s| s.web = Some(web.settings()));
    let m = rig.web_model(MIB, &[("a", noise(1, 8 * MIB))], &[SEED, OTHER]);
    for seed in [SEED, OTHER] {
        web.serve(&format!("{seed}a"), m.files[0].clone());
    }
    web.always(SEED, FakeAnswer::Lie(2 * MIB));
    rig.get(&m, &[0], STALL).await.unwrap().unwrap();
    let asked = web.asked();
    assert_eq!(asked.iter().filter(|a| a.url.starts_with(SEED)).count(), 1);
    assert_eq!(asked.last().unwrap().range, 2 * MIB..8 * MIB);
}

#[tokio::test(start_paused = true)]
async fn broken_transfer_is_resumed() {
    let (rig, web, m) = with_web(MIB, 8 * MIB);
    web.once(FakeAnswer::Cut(3 * MIB as usize + 100));
    rig.get(&m, &[0], STALL).await.unwrap().unwrap();
    assert_eq!(web.ranges(), [0..8 * MIB, 3 * MIB..8 * MIB]);
    assert_eq!(rig.swarm.given(m.info_hash), (0..8).collect::<Vec<_>>());
    assert_eq!(rig.status(&m).downloaded_web, 8 * MIB + 100);
}

#[tokio::test(start_paused = true)]
async fn stalled_or_silent_server_is_given_up() {
    for (answer, within) in [(FakeAnswer::Stalls(100_000), 20), (FakeAnswer::Silent, 60)] {
        let (rig, web, m) = with_web(MIB, 2 * MIB);
        web.once(answer);
        let start = Instant::now();
        rig.get(&m, &[0], STALL).await.unwrap().unwrap();
        // The first attempt, the pause after it, and the second attempt.
        let expected = Duration::from_secs(2 + within + 2);
        assert!(start.elapsed().abs_diff(expected) < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(web.asked().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn failed_requests_are_repeated_with_growing_pauses() {
    let (rig, web, m) = with_web(MIB, 2 * MIB);
    let error = WebError::Unreachable("http://w.example/m/a answered 500 Internal Server Error".to_owned());
    web.always(SEED, FakeAnswer::Error(error));
    let get = rig.get(&m, &[0], STALL);
    let Err(ReadError::TimedOut(why)) = get.await.unwrap() else { panic!("it has not failed") };
    assert_eq!(
        why,
        "no peer was found; and over HTTP: http://w.example/m/a answered 500 Internal Server Error"
    );
    // After 2, 4, 8, 16, 32 and 64 seconds.
    assert_eq!(web.asked().len(), 6);
    assert!(rig.status(&m).last_error.unwrap().contains("500"));
}

#[tokio::test(start_paused = true)]
async fn server_of_parts_does_not_keep_a_job_alive() {
    let (rig, web, m) = with_web(MIB, 2 * MIB);
    web.always(SEED, FakeAnswer::Cut(100_000));
    // Longer than the longest pause between two attempts.
    let get = rig.get(&m, &[0], Duration::from_secs(400));
    let ended = tokio::time::timeout(Duration::from_secs(10_000), get).await.expect("the job never ends");
    assert!(matches!(ended.unwrap(), Err(ReadError::TimedOut(_))));
    assert!(rig.status(&m).downloaded_web > 0);
}

#[tokio::test(start_paused = true)]
async fn requested_pause_of_a_server_is_kept() {
    let (rig, web, m) = with_web(MIB, 2 * MIB);
    let retry_after = Some(Duration::from_secs(40));
    web.once(FakeAnswer::Error(WebError::Busy { why: "429".to_owned(), retry_after }));
    let start = Instant::now();
    let read = rig.read(&m, 0, 0, 100);
    pass(Duration::from_secs(41)).await;
    assert_eq!(web.asked().len(), 1);
    read.await.unwrap().unwrap();
    assert!(start.elapsed().abs_diff(Duration::from_secs(42)) < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn denied_request_is_reported_immediately() {
    let (rig, web, m) = with_web(MIB, 2 * MIB);
    web.always(SEED, FakeAnswer::Error(WebError::Denied("http://w.example/m/a answered 403".to_owned())));
    let read = rig.read(&m, 0, 0, 100);
    pass(Duration::from_secs(3)).await;
    assert!(rig.status(&m).last_error.unwrap().contains("403"));
    read.abort();
    assert_eq!(web.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn missing_file_does_not_affect_other_files() {
    let web = FakeWeb::new();
    let rig = Rig::with(|s| s.web = Some(web.settings()));
    let m = rig.web_model(MIB, &[("a", noise(1, 2 * MIB)), ("b", noise(2, 2 * MIB))], &[SEED]);
    web.serve(&format!("{SEED}b"), m.files[1].clone());
    let missing = rig.get(&m, &[0], STALL);
    rig.get(&m, &[1], Duration::from_secs(10)).await.unwrap().unwrap();
    let Err(ReadError::TimedOut(why)) = missing.await.unwrap() else { panic!("it has not failed") };
    assert!(why.contains("404"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn piece_refused_by_the_engine_is_tried_a_few_times() {
    for (refusals, comes) in [(2, true), (100, false)] {
        let (rig, web, m) = with_web(MIB, MIB);
        rig.swarm.refuse_pieces(refusals);
        let get = rig.get(&m, &[0], STALL).await.unwrap();
        assert_eq!(get.is_ok(), comes);
        assert_eq!(web.asked().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn piece_without_an_answer_of_the_engine_is_repeated() {
    let (rig, web, m) = with_web(MIB, MIB);
    rig.swarm.takes_pieces(false);
    let start = Instant::now();
    let get = rig.get(&m, &[0], STALL);
    pass(Duration::from_secs(30)).await;
    assert_eq!(web.asked().len(), 1, "it is under way");
    rig.swarm.takes_pieces(true);
    get.await.unwrap().unwrap();
    assert_eq!(web.asked().len(), 1);
    assert!(start.elapsed().abs_diff(Duration::from_secs(62)) < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn piece_lost_by_a_disk_error_is_fetched_again() {
    let (rig, web, m) = with_web(MIB, MIB);
    rig.swarm.takes_pieces(false);
    let get = rig.get(&m, &[0], STALL);
    pass(Duration::from_secs(3)).await;
    rig.swarm.takes_pieces(true);
    rig.swarm.disk_error(m.info_hash, silmaril::torrent::DiskErrorKind::Other);
    get.await.unwrap().unwrap();
    assert_eq!(web.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn peers_are_not_blamed_for_pieces_over_http() {
    let (rig, _web, m) = with_web(MIB, MIB);
    rig.swarm.delivery(Delivery::ByHand);
    rig.swarm.refuse_pieces(1);
    rig.get(&m, &[0], STALL).await.unwrap().unwrap();
    assert!(rig.status(&m).last_error.is_none_or(|e| !e.contains("peer")));
}
