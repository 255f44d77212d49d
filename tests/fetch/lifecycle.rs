//! Joining, leaving, failures, saved data: the life of a torrent apart from reads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use silmaril::fetch::ReadError;
use silmaril::model::FileEntry;
use silmaril::store::Stamp;
use silmaril::torrent::{DiskErrorKind, EngineError, Event, Mode};

use crate::support::clock::pass;
use crate::support::rig::{MIB, READ_TIMEOUT, Rig, TestModel, noise};
use crate::support::swarm::{Call, Delivery};

const PEER: &str = "10.0.0.9:1";
const STALL: Duration = Duration::from_secs(100);

fn one(rig: &Rig) -> TestModel {
    rig.model("o/m", MIB, &[("a", noise(1, 4 * MIB))])
}

fn adds(rig: &Rig) -> usize {
    rig.swarm.calls().iter().filter(|c| matches!(c, Call::Add(_))).count()
}

#[tokio::test(start_paused = true)]
async fn joining_twice_adds_once() {
    let rig = Rig::new();
    let m = one(&rig);
    rig.fetch.join(&m.revision).unwrap();
    rig.fetch.join(&m.revision).unwrap();
    assert_eq!(adds(&rig), 1);
    assert_eq!(rig.swarm.added(m.info_hash).unwrap().mode, Mode::Lazy);
    assert_eq!(rig.fetch.status().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn leaving_fails_reads_and_joining_again_works() {
    let rig = Rig::new();
    let m = one(&rig);
    let read = rig.read(&m, 0, 0, 10);
    rig.idle().await;
    rig.swarm.removes(false);
    rig.fetch.leave(&m.info_hash);
    assert!(matches!(read.await.unwrap(), Err(ReadError::Left)));
    assert!(rig.fetch.status().is_empty());
    // The engine has not released it: the torrent is added again when the engine has, or when its time is over.
    rig.swarm.calls();
    rig.swarm.peer(m.info_hash, PEER, None);
    let read = rig.read(&m, 0, 0, 10);
    rig.idle().await;
    assert_eq!(adds(&rig), 0);
    assert_eq!(read.await.unwrap().unwrap(), m.bytes(0, 0, 10));
    assert_eq!(adds(&rig), 1);
}

#[tokio::test(start_paused = true)]
async fn read_that_begins_before_its_model_is_removed_does_not_join_again() {
    let rig = Rig::new();
    let m = one(&rig);
    let shown = AtomicBool::new(true);
    let is_shown = || shown.load(Ordering::Relaxed);
    rig.swarm.peer(m.info_hash, PEER, None);
    let file = m.file(0);
    let read = |at| rig.fetch.read_while(&file, at, 10, &is_shown);
    assert_eq!(read(0).await.unwrap(), m.bytes(0, 0, 10));
    let late = read(3 * MIB);
    shown.store(false, Ordering::Relaxed);
    rig.fetch.leave(&m.info_hash);
    assert!(matches!(late.await, Err(ReadError::Left)));
    assert!(rig.fetch.status().is_empty());
    // Bytes that are stored need no swarm.
    assert_eq!(read(0).await.unwrap(), m.bytes(0, 0, 10));
}

#[tokio::test(start_paused = true)]
async fn idle_swarm_is_left_and_one_with_readers_is_not() {
    let rig = Rig::new();
    let m = one(&rig);
    let read = rig.read(&m, 0, 0, 10);
    rig.idle().await;
    assert!(!rig.fetch.leave_if_idle(&m.info_hash));
    rig.swarm.peer(m.info_hash, PEER, None);
    assert_eq!(read.await.unwrap().unwrap(), m.bytes(0, 0, 10));
    assert!(rig.fetch.leave_if_idle(&m.info_hash));
    assert!(rig.fetch.status().is_empty());
    // The next read joins again.
    assert_eq!(rig.fetch.read(&m.file(0), 3 * MIB, 10).await.unwrap(), m.bytes(0, 3 * MIB, 10));
}

#[tokio::test(start_paused = true)]
async fn refused_torrent_is_tried_again_later() {
    for at_once in [true, false] {
        let rig = Rig::new();
        let m = one(&rig);
        rig.swarm.peer(m.info_hash, PEER, None);
        if at_once {
            rig.swarm.refuse(EngineError::BadTorrent("nonsense".into()));
        } else {
            rig.swarm.starts(false);
        }
        let read = rig.read(&m, 0, 0, 10);
        rig.idle().await;
        if !at_once {
            rig.swarm.starts(true);
            rig.swarm.send_event(|id| Event::Failed(id, "nonsense".into()), m.info_hash);
        }
        let Err(ReadError::Broken(why)) = read.await.unwrap() else { panic!("not broken") };
        assert!(why.contains("nonsense"));
        assert!(matches!(rig.fetch.join(&m.revision), Err(ReadError::Broken(_))), "too early");
        assert!(matches!(rig.fetch.read(&m.file(0), 0, 10).await, Err(ReadError::Broken(_))));
        assert!(rig.status(&m).last_error.unwrap().contains("nonsense"));
        pass(Duration::from_secs(2)).await;
        assert_eq!(rig.fetch.read(&m.file(0), 0, 10).await.unwrap(), m.bytes(0, 0, 10));
    }
}

#[tokio::test(start_paused = true)]
async fn reads_survive_lost_events() {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::ByHand);
    let m = one(&rig);
    rig.swarm.peer(m.info_hash, PEER, None);
    let first = rig.read(&m, 0, 0, 10);
    let second = rig.read(&m, 0, 3 * MIB, 10);
    rig.idle().await;
    rig.swarm.deliver(m.info_hash, 0);
    first.await.unwrap().unwrap();
    rig.swarm.lose_events();
    rig.idle().await;
    assert_eq!(rig.swarm.added(m.info_hash).unwrap().have.ones().collect::<Vec<_>>(), [0]);
    assert!(rig.swarm.deliver(m.info_hash, 3));
    assert_eq!(second.await.unwrap().unwrap(), m.bytes(0, 3 * MIB, 10));
}

#[tokio::test(start_paused = true)]
async fn write_without_space_is_retried_for_cached_files() {
    for kind in [DiskErrorKind::Full, DiskErrorKind::ReadOnly] {
        let rig = Rig::new();
        rig.swarm.delivery(Delivery::ByHand);
        let m = one(&rig);
        rig.swarm.peer(m.info_hash, PEER, None);
        let read = rig.read(&m, 0, 0, 10);
        rig.idle().await;
        rig.swarm.disk_error(m.info_hash, kind);
        rig.idle().await;
        assert!(rig.status(&m).last_error.unwrap().starts_with("disk: "));
        rig.swarm.delivery(Delivery::Immediate);
        rig.swarm.peer(m.info_hash, PEER, None);
        assert_eq!(read.await.unwrap().unwrap(), m.bytes(0, 0, 10));
    }
}

#[tokio::test(start_paused = true)]
async fn only_lasting_disk_errors_fail_reads() {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::ByHand);
    let m = one(&rig);
    rig.swarm.peer(m.info_hash, PEER, None);
    let read = rig.read(&m, 0, 0, 10);
    rig.idle().await;
    rig.swarm.disk_error(m.info_hash, DiskErrorKind::Other);
    rig.idle().await;
    assert!(!read.is_finished());
    assert_eq!(rig.swarm.requests(m.info_hash), [0, 0], "the deadline is repeated");
    rig.swarm.deliver(m.info_hash, 0);
    read.await.unwrap().unwrap();

    let read = rig.read(&m, 0, 2 * MIB, 10);
    for _ in 0..2 {
        rig.idle().await;
        rig.swarm.disk_error(m.info_hash, DiskErrorKind::Other);
    }
    assert!(matches!(read.await.unwrap(), Err(ReadError::Disk(..))));
}

#[tokio::test(start_paused = true)]
async fn resume_data_is_saved_first_and_metainfo_at_the_end() {
    let rig = Rig::new();
    let m = one(&rig);
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.fetch.read(&m.file(0), 0, 10).await.unwrap();
    assert_eq!(rig.saved_resume(&m), None);
    pass(Duration::from_secs(31)).await;
    let resume = rig.saved_resume(&m).expect("resume data after half a minute");
    pass(Duration::from_secs(100)).await;
    let saves = rig.swarm.calls().iter().filter(|c| matches!(c, Call::SaveResume(_))).count();
    assert_eq!(saves, 1, "nothing has changed since");

    rig.fetch.leave(&m.info_hash);
    rig.idle().await;
    rig.fetch.join(&m.revision).unwrap();
    assert_eq!(rig.swarm.added(m.info_hash).unwrap().resume, Some(resume));

    rig.get(&m, &[0], STALL).await.unwrap().unwrap();
    rig.fetch.flush(Duration::from_secs(5)).await;
    let metainfo = rig.saved_metainfo(&m).expect("the metainfo with its layers");
    assert_eq!(rig.saved_resume(&m), None, "the metainfo replaces it");
    rig.fetch.leave(&m.info_hash);
    rig.idle().await;
    rig.fetch.join(&m.revision).unwrap();
    let added = rig.swarm.added(m.info_hash).unwrap();
    assert_eq!((added.metainfo, added.resume, added.mode), (metainfo, None, Mode::Seed));
}

#[tokio::test(start_paused = true)]
async fn flush_saves_changes_immediately() {
    let rig = Rig::new();
    let m = one(&rig);
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.fetch.read(&m.file(0), 0, 10).await.unwrap();
    rig.fetch.stop();
    rig.fetch.flush(Duration::from_secs(5)).await;
    assert!(rig.saved_resume(&m).is_some());
}

#[tokio::test(start_paused = true)]
async fn unknown_layers_are_requested_again() {
    let rig = Rig::new();
    rig.swarm.layers_known(false);
    let m = one(&rig);
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.get(&m, &[0], STALL).await.unwrap().unwrap();
    rig.idle().await;
    assert_eq!(rig.saved_metainfo(&m), None);
    rig.swarm.layers_known(true);
    pass(Duration::from_secs(70)).await;
    assert!(rig.saved_metainfo(&m).is_some());
}

#[tokio::test(start_paused = true)]
async fn damaged_metainfo_is_replaced_by_the_manifests() {
    for at_once in [true, false] {
        let rig = Rig::new();
        let m = one(&rig);
        rig.swarm.peer(m.info_hash, PEER, None);
        std::fs::write(rig.paths.metainfo(&m.info_hash), b"garbage").unwrap();
        if at_once {
            rig.swarm.refuse(EngineError::BadTorrent("garbage".into()));
        } else {
            rig.swarm.starts(false);
        }
        let read = rig.read(&m, 0, 0, 10);
        rig.idle().await;
        if !at_once {
            rig.swarm.starts(true);
            rig.swarm.fail(m.info_hash, "garbage");
        }
        assert_eq!(read.await.unwrap().unwrap(), m.bytes(0, 0, 10));
        assert_ne!(rig.swarm.added(m.info_hash).unwrap().metainfo, b"garbage");
        rig.idle().await;
        assert_eq!(rig.saved_metainfo(&m), None);
    }
}

#[tokio::test(start_paused = true)]
async fn reads_survive_relocation() {
    let rig = Rig::new();
    rig.swarm.delivery(Delivery::ByHand);
    let m = one(&rig);
    rig.swarm.peer(m.info_hash, PEER, None);
    let read = rig.read(&m, 0, MIB, 10);
    rig.idle().await;
    rig.fetch.relocate(&m.revision);
    rig.idle().await;
    assert_eq!(adds(&rig), 1, "nothing has changed");
    // Bytes were found on the disk.
    let path = m.revision.contents[0].path();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, m.bytes(0, 0, MIB)).unwrap();
    m.revision.contents[0].mark_verified(0..MIB).unwrap();
    rig.fetch.relocate(&m.revision);
    rig.idle().await;
    assert_eq!(rig.swarm.added(m.info_hash).unwrap().have.ones().collect::<Vec<_>>(), [0]);
    assert!(rig.swarm.deliver(m.info_hash, 1));
    assert_eq!(read.await.unwrap().unwrap(), m.bytes(0, MIB, 10));
}

#[tokio::test(start_paused = true)]
async fn missing_file_is_not_offered_and_is_fetched_again() {
    let rig = Rig::new();
    let m = one(&rig);
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.get(&m, &[0], STALL).await.unwrap().unwrap();
    rig.idle().await;
    std::fs::OpenOptions::new()
        .write(true)
        .open(m.revision.contents[0].path())
        .unwrap()
        .set_len(MIB)
        .unwrap();
    rig.swarm.disk_error(m.info_hash, DiskErrorKind::Missing);
    rig.idle().await;
    let added = rig.swarm.added(m.info_hash).unwrap();
    // In a file that was created again, old bytes cannot be distinguished from holes.
    assert_eq!((added.have.ones().count(), added.mode), (0, Mode::Lazy));
    assert_eq!(rig.fetch.read(&m.file(0), 3 * MIB, 10).await.unwrap(), m.bytes(0, 3 * MIB, 10));
}

#[tokio::test(start_paused = true)]
async fn reads_end_when_the_whole_file_appears() {
    let rig = Rig::new();
    let m = one(&rig);
    let read = rig.read(&m, 0, MIB, 10);
    rig.idle().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), &*m.files[0]).unwrap();
    let manifest = &m.revision.manifest;
    let stamp = |file: &FileEntry| Stamp::at(&dir.path().join(&file.path)).unwrap();
    let stamps: Vec<Stamp> = manifest.files.iter().map(stamp).collect();
    rig.store.placed().record_as(manifest, dir.path(), &stamps, &HashMap::new()).unwrap();
    rig.fetch.relocate(&m.revision);
    assert_eq!(read.await.unwrap().unwrap(), m.bytes(0, MIB, 10));
    rig.idle().await;
    let added = rig.swarm.added(m.info_hash).unwrap();
    assert_eq!(added.mode, Mode::Seed);
    assert_eq!(added.file_paths, [dir.path().canonicalize().unwrap().join("a")]);
}

#[tokio::test(start_paused = true)]
async fn torrents_leave_the_engine_before_bytes_are_deleted() {
    let rig = Rig::new();
    let m = one(&rig);
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.fetch.read(&m.file(0), 0, 2 * MIB).await.unwrap();
    let content = m.revision.contents[0].clone();
    let hold = rig.fetch.release_for_eviction(&[content.key().unwrap()], STALL).await.unwrap();
    assert_eq!(rig.swarm.holds(m.info_hash), None);
    let read = rig.read(&m, 0, 3 * MIB, 10);
    pass(Duration::from_secs(20)).await;
    assert_eq!(rig.swarm.holds(m.info_hash), None, "it is out of the engine while the hold lives");
    content.mark_missing(0..MIB).unwrap();
    drop(hold);
    assert_eq!(read.await.unwrap().unwrap(), m.bytes(0, 3 * MIB, 10));
    assert_eq!(rig.swarm.added(m.info_hash).unwrap().have.ones().collect::<Vec<_>>(), [1]);

    rig.swarm.removes(false);
    let refused = rig.fetch.release_for_eviction(&[content.key().unwrap()], READ_TIMEOUT).await;
    assert!(refused.is_err(), "the engine still has the torrent");
}

#[tokio::test(start_paused = true)]
async fn torrent_joined_during_a_hold_is_added_afterwards() {
    let rig = Rig::new();
    let m = one(&rig);
    rig.swarm.peer(m.info_hash, PEER, None);
    let key = m.revision.contents[0].key().unwrap();
    let first = rig.fetch.release_for_eviction(&[key], STALL).await.unwrap();
    let read = rig.read(&m, 0, 0, 10);
    rig.idle().await;
    assert_eq!(rig.swarm.holds(m.info_hash), None, "the hold was there first");

    // Leaving and joining during the hold neither ends the hold nor excludes the torrent forever.
    rig.fetch.leave(&m.info_hash);
    assert!(matches!(read.await.unwrap(), Err(ReadError::Left)));
    let second = rig.fetch.release_for_eviction(&[key], STALL).await.unwrap();
    let again = rig.read(&m, 0, 0, 10);
    drop(first);
    rig.idle().await;
    assert_eq!(rig.swarm.holds(m.info_hash), None, "one hold is left");
    drop(second);
    assert_eq!(again.await.unwrap().unwrap(), m.bytes(0, 0, 10));
}

#[tokio::test(start_paused = true)]
async fn bytes_deleted_during_a_read_are_fetched_again() {
    let rig = Rig::new();
    let m = one(&rig);
    rig.swarm.peer(m.info_hash, PEER, Some(&[0]));
    rig.fetch.read(&m.file(0), 0, 10).await.unwrap();
    let waiting = rig.read(&m, 0, 0, 2 * MIB);
    rig.idle().await;
    let content = m.revision.contents[0].clone();
    let hold = rig.fetch.release_for_eviction(&[content.key().unwrap()], STALL).await.unwrap();
    content.mark_missing(0..MIB).unwrap();
    drop(hold);
    rig.swarm.peer(m.info_hash, PEER, None);
    assert_eq!(waiting.await.unwrap().unwrap(), m.bytes(0, 0, 2 * MIB));
}

#[tokio::test(start_paused = true)]
async fn figures_survive_a_new_start_of_the_torrent() {
    let rig = Rig::new();
    let m = one(&rig);
    rig.swarm.peer(m.info_hash, PEER, None);
    rig.fetch.read(&m.file(0), 0, 10).await.unwrap();
    rig.idle().await;
    rig.swarm.lose_events();
    rig.fetch.read(&m.file(0), 3 * MIB, 10).await.unwrap();
    rig.idle().await;
    let status = rig.status(&m);
    assert_eq!((status.downloaded, status.cached_bytes, status.total_size), (2 * MIB, 2 * MIB, 4 * MIB));
    assert_eq!((status.model.as_str(), status.peers, status.waiting_reads), ("o/m", 1, 0));
}

#[tokio::test(start_paused = true)]
async fn dropped_scheduler_leaves_no_task() {
    let rig = Rig::new();
    let m = one(&rig);
    let read = rig.read(&m, 0, 0, 10);
    rig.idle().await;
    read.abort();
    rig.idle().await;
    let weak = std::sync::Arc::downgrade(&rig.fetch);
    let Rig { fetch, swarm, .. } = rig;
    drop((fetch, swarm));
    pass(Duration::from_millis(10)).await;
    assert!(weak.upgrade().is_none());
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}
