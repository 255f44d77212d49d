//! Tests of files outside the cache that disappear, return and change, and of cached files with a wrong length.

use std::os::unix::fs::FileExt;

use super::verify::{PIECE, Real, real, rot};
use super::*;
use crate::store::placement::PlacedDirId;
use crate::store::placement::change_time;
use crate::store::tend::{CheckedFiles, Fault};

fn check(store: &Store) -> CheckedFiles {
    let places = store.placed().all();
    let [place] = places.as_slice() else { panic!("{places:?}") };
    store.placed().check(place, 0, usize::MAX, &|_| false)
}

/// A home directory with the store of a model of one file of 200 000 bytes, of which none are cached.
fn cached_model() -> (super::Home, Vec<u8>, Arc<Store>, Arc<StoredRevision>) {
    let (home, a) = (home(), bytes(200_000, 1));
    let store = home.store();
    let revision = store.revision(manifest("o/m", &[("a", &a)])).unwrap();
    (home, a, store, revision)
}

/// Proves a changed file again, as the node does.
fn prove(store: &Store, real: &Real, revision: &StoredRevision, path: &Path) -> (u64, bool) {
    let known =
        store.torrents.piece_hashes(&real.manifest, store.torrents.layers(&real.manifest).unwrap()).unwrap();
    store.placed().prove(revision, 0, path, known.layer(0).as_deref(), UNWATCHED).unwrap()
}

#[test]
fn absent_directory_counts_again_when_it_returns() {
    let home = home();
    let (dir, away) = (home.dir.path().join("mine"), home.dir.path().join("away"));
    let real = real(&home, &dir);
    let store = home.store();
    record(&store, &real.manifest, &dir).unwrap();
    let revision = store.revision(real.manifest.clone()).unwrap();
    assert_eq!(check(&store), CheckedFiles::default());
    fs::rename(&dir, &away).unwrap();
    // Noticed by a check of the directory, or by a read that finds no file.
    for reader in [false, true] {
        if reader {
            revision.contents[0].read(0..10).unwrap_err();
        }
        let checked = check(&store);
        assert!(checked.moved && checked.faulty.iter().all(|file| matches!(file.fault, Fault::Absent(_))));
        assert_eq!((checked.faulty.len(), revision.cached_bytes()), (2, 0));
        assert!(!check(&store).moved);
        // A daemon that starts now does not find the files, and finds them later, too.
        let other = home.store();
        let early = other.revision(real.manifest.clone()).unwrap();
        assert_eq!(early.cached_bytes(), 0);
        fs::rename(&away, &dir).unwrap();
        for (store, revision) in [(&store, &revision), (&other, &early)] {
            assert_eq!(check(store), CheckedFiles { moved: true, ..CheckedFiles::default() });
            assert!(revision.is_complete());
        }
        assert_eq!(early.contents[0].read(0..300_000).unwrap().unwrap(), real.files[0].1);
        fs::rename(&dir, &away).unwrap();
    }
}

#[test]
fn only_wrong_pieces_of_a_changed_file_are_missing() {
    let home = home();
    let dir = home.dir.path().join("mine");
    let real = real(&home, &dir);
    let store = home.store();
    record(&store, &real.manifest, &dir).unwrap();
    let revision = store.revision(real.manifest.clone()).unwrap();
    let (content, path) = (&revision.contents[0], fs::canonicalize(&dir).unwrap().join("big"));
    let original = fs::read(&path).unwrap();
    fs::File::options().write(true).open(&path).unwrap().write_all_at(b"!", 2 * PIECE + 5).unwrap();
    let checked = check(&store);
    assert_eq!(checked.faulty.iter().map(|file| file.fault.clone()).collect::<Vec<_>>(), [Fault::Changed]);
    assert!(checked.moved && content.cached_bytes() == 0);
    assert_eq!(prove(&store, &real, &revision, &path), (PIECE, true));
    assert_eq!(content.missing_ranges(0..300_000), [2 * PIECE..3 * PIECE]);
    assert!(content.is_placed());
    assert_eq!(content.read(0..PIECE).unwrap().unwrap(), &original[..PIECE as usize]);
    assert_eq!(check(&store).faulty[0].fault, Fault::Damaged(PIECE));
    // After a restart the result is known without reading.
    drop((revision, store));
    let store = home.store();
    let revision = store.revision(real.manifest.clone()).unwrap();
    let content = &revision.contents[0];
    assert_eq!(content.missing_ranges(0..300_000), [2 * PIECE..3 * PIECE]);
    // A reader of the wrong bytes receives them from a swarm, and the file is not changed.
    assert!(!content.make_fetchable(&(0..PIECE)).unwrap());
    assert!(content.make_fetchable(&(2 * PIECE..2 * PIECE + 1)).unwrap());
    assert!(!content.is_placed());
    arrive(content, &original, 2 * PIECE..3 * PIECE);
    assert_eq!(
        content.read(2 * PIECE..3 * PIECE).unwrap().unwrap(),
        &original[2 * PIECE as usize..3 * PIECE as usize]
    );
    assert_eq!(fs::read(&path).unwrap()[2 * PIECE as usize + 5], b'!');
    assert!(!check(&store).moved, "the content stays in the cache for a minute");
    // The owner restores the file: all of it counts again.
    fs::write(&path, &original).unwrap();
    check(&store);
    assert_eq!(prove(&store, &real, &revision, &path), (0, true));
    assert!(content.is_complete() && content.is_placed());
    assert_eq!(check(&store), CheckedFiles::default());
}

#[test]
fn bytes_that_rot_in_place_are_missing_and_the_rest_stays() {
    let home = home();
    let dir = home.dir.path().join("mine");
    let real = real(&home, &dir);
    let store = home.store();
    record(&store, &real.manifest, &dir).unwrap();
    let revision = store.revision(real.manifest.clone()).unwrap();
    let (content, path) = (&revision.contents[0], fs::canonicalize(&dir).unwrap().join("big"));
    assert!(content.mark_wrong(PIECE..2 * PIECE).unwrap());
    assert!(!content.mark_wrong(PIECE..2 * PIECE).unwrap(), "the fault is known");
    assert_eq!(content.missing_ranges(0..300_000), [PIECE..2 * PIECE]);
    assert_eq!(content.read(0..PIECE).unwrap().unwrap(), &real.files[0].1[..PIECE as usize]);
    drop((revision, store));
    let store = home.store();
    let revision = store.revision(real.manifest.clone()).unwrap();
    assert_eq!(revision.contents[0].missing_ranges(0..300_000), [PIECE..2 * PIECE]);
    // Only the change time shows it.
    rot(&path, 3 * PIECE);
    assert_eq!(check(&store).faulty[0].fault, Fault::Damaged(PIECE));
    assert_eq!(prove(&store, &real, &revision, &path), (PIECE, true));
    assert_eq!(revision.contents[0].missing_ranges(0..300_000), [3 * PIECE..4 * PIECE]);
    // The content leaves a file without right bytes.
    assert!(revision.contents[0].mark_wrong(0..300_000).unwrap());
    assert!(!revision.contents[0].is_placed());
}

#[test]
fn file_with_another_length_is_not_proved() {
    let home = home();
    let dir = home.dir.path().join("mine");
    let real = real(&home, &dir);
    let store = home.store();
    record(&store, &real.manifest, &dir).unwrap();
    let revision = store.revision(real.manifest.clone()).unwrap();
    fs::File::options().write(true).open(dir.join("big")).unwrap().set_len(10).unwrap();
    let checked = check(&store);
    assert_eq!((checked.faulty[0].fault.clone(), checked.moved), (Fault::OtherLength, true));
    assert!(!revision.contents[0].is_placed() && revision.contents[2].is_complete());
}

#[test]
fn contents_leave_a_directory_that_does_not_answer() {
    let home = home();
    let dir = home.dir.path().join("mine");
    let real = real(&home, &dir);
    let store = home.store();
    record(&store, &real.manifest, &dir).unwrap();
    let revision = store.revision(real.manifest.clone()).unwrap();
    let place: PlacedDirId = store.placed().all().remove(0);
    assert!(store.placed().leave(&place) && !store.placed().leave(&place));
    assert_eq!(revision.cached_bytes(), 0);
    assert!(check(&store).moved && revision.is_complete());
}

#[test]
fn record_of_an_older_version_is_read() {
    let home = home();
    let dir = home.dir.path().join("mine");
    let real = real(&home, &dir);
    let store = home.store();
    record(&store, &real.manifest, &dir).unwrap();
    drop(store);
    let record = home.paths.placement(&real.manifest.torrent.info_hash);
    let text = fs::read_to_string(&record).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for file in json["places"][0]["files"].as_array_mut().unwrap() {
        assert!(file.as_object_mut().unwrap().remove("changed_ns").is_some());
        assert!(file.get("wrong").is_none());
    }
    fs::write(&record, json.to_string()).unwrap();
    let store = home.store();
    assert!(store.revision(real.manifest.clone()).unwrap().is_complete());
    assert_eq!(check(&store), CheckedFiles::default());
}

#[test]
fn cached_file_with_a_wrong_length_is_not_passed_through() {
    let home = home();
    let a = bytes(200_000, 1);
    let store = home.store();
    let revision = store.revision(manifest("o/m", &[("a", &a)])).unwrap();
    let content = &revision.contents[0];
    let open = || content.open_for_passthrough();
    arrive(content, &a, 0..200_000);
    let set_len = |len| fs::File::options().write(true).open(content.path()).unwrap().set_len(len).unwrap();
    assert_eq!(open().unwrap().metadata().unwrap().len(), 200_000);
    // Another program wrote to it: its length is restored, and all of it is proved again.
    set_len(200_001);
    assert!(open().is_none());
    assert_eq!(fs::metadata(content.path()).unwrap().len(), 200_000);
    assert!(content.is_unproved(&(0..200_000)) && content.read(0..1).unwrap().is_none());
    content.mark_verified(0..200_000).unwrap();
    assert_eq!(open().unwrap().metadata().unwrap().len(), 200_000);
    set_len(100_000);
    assert!(open().is_none());
    assert_eq!(content.missing_ranges(0..200_000), [98_304..200_000]);
    arrive(content, &a, 98_304..200_000);
    assert!(open().is_some());
    fs::remove_file(content.path()).unwrap();
    assert!(open().is_none());
    assert_eq!(content.cached_bytes(), 0, "it is fetched again");
    drop((revision, store));
    assert_eq!(Store::open_in_boot(&home.paths, BOOT).unwrap().cache().usage().unwrap(), 0);
}

#[test]
fn cached_file_changed_by_another_program_is_proved_again() {
    let home = home();
    let a = bytes(200_000, 1);
    let manifest = manifest("o/m", &[("a", &a)]);
    for restarts in [false, true] {
        let store = home.store();
        let revision = store.revision(manifest.clone()).unwrap();
        arrive(&revision.contents[0], &a, 0..200_000);
        let path = revision.contents[0].path();
        let other = || fs::File::options().write(true).open(&path).unwrap().write_all_at(b"!", 9).unwrap();
        let revision = if restarts {
            store.sync().unwrap();
            drop((revision, store));
            other();
            home.store().revision(manifest.clone()).unwrap()
        } else {
            other();
            assert!(revision.contents[0].open_for_passthrough().is_none());
            revision
        };
        assert!(revision.contents[0].is_unproved(&(0..200_000)) && revision.cached_bytes() == 0);
    }
}

#[test]
fn cached_file_changed_with_its_old_time_is_proved_again() {
    for synced_after in [false, true] {
        let (_home, a, store, revision) = cached_model();
        let content = &revision.contents[0];
        arrive(content, &a, 0..200_000);
        assert!(content.open_for_passthrough().is_some());
        overwrite(&content.path());
        if synced_after {
            store.sync().unwrap();
        }
        assert!(content.open_for_passthrough().is_none(), "{synced_after}");
        assert!(content.is_unproved(&(0..200_000)) && content.read(0..1).unwrap().is_none());
    }
}

/// Changes a byte of a file and restores its modification time. The clock of the file system may have a coarse resolution.
fn overwrite(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let before = file.metadata().unwrap();
    while change_time(&file.metadata().unwrap()) == change_time(&before) {
        file.write_all_at(b"!", 9).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
    }
}

#[test]
fn cached_file_changed_as_soon_as_it_is_complete_is_proved_again() {
    let (_home, a, _store, revision) = cached_model();
    let content = &revision.contents[0];
    arrive(content, &a, 0..196_608);
    fs::File::options()
        .write(true)
        .open(content.path())
        .unwrap()
        .write_all_at(&a[196_608..], 196_608)
        .unwrap();
    let passed_through = || content.open_for_passthrough().is_some();
    for round in 0..200 {
        std::thread::scope(|scope| {
            let changed = scope.spawn(|| {
                while !content.is_complete() {
                    std::hint::spin_loop();
                }
                overwrite(&content.path());
                passed_through()
            });
            content.mark_verified(196_608..200_000).unwrap();
            assert!(!changed.join().unwrap() && !passed_through(), "round {round}");
        });
        arrive(content, &a, 0..196_608);
    }
}

#[test]
fn cached_file_changed_after_it_was_moved_is_proved_again() {
    for changed_before in [false, true] {
        let (home, a, store, revision) = cached_model();
        let content = &revision.contents[0];
        arrive(content, &a, 0..200_000);
        store.sync().unwrap();
        if changed_before {
            overwrite(&content.path());
        }
        content.writer().relocate(&home.dir.path().join("other/place")).unwrap();
        store.sync().unwrap();
        if !changed_before {
            assert!(content.open_for_passthrough().is_some());
            overwrite(&content.path());
        }
        assert!(content.open_for_passthrough().is_none(), "changed before: {changed_before}");
    }
}

#[test]
fn unclean_boot_causes_doubt_until_a_pass() {
    let home = home();
    let manifest = manifest("o/m", &[("a", &bytes(100, 1))]);
    let info_hash = manifest.torrent.info_hash;
    let is_doubted = |boot: u8, close: bool| {
        let store = Store::open_in_boot(&home.paths, [boot; 16]).unwrap();
        let doubted = store.revision(manifest.clone()).unwrap().is_doubted();
        assert_eq!(doubted, store.parts.scrub.is_doubted(&info_hash));
        if close {
            store.close().unwrap();
        }
        doubted
    };
    // A process that is killed loses nothing, and neither does a machine that stops in order.
    assert!(!is_doubted(1, false) && !is_doubted(1, true) && !is_doubted(2, false));
    assert!(is_doubted(3, true) && is_doubted(3, true) && is_doubted(4, true));
    let store = Store::open_in_boot(&home.paths, [4; 16]).unwrap();
    store.parts.scrub.set_pass(&info_hash, Pass { at: super::super::record::now() + 1, ..Pass::default() });
    store.close().unwrap();
    drop(store);
    assert!(!is_doubted(4, true));
    // A file that cannot be read counts as an unclean stop.
    fs::write(home.paths.scrub(), "{").unwrap();
    assert!(is_doubted(4, false));
}

#[test]
fn only_right_hashes_of_granules_are_saved() {
    let home = home();
    let dir = home.dir.path().join("mine");
    let real = real(&home, &dir);
    let store = home.store();
    let key = ContentKey { root: real.manifest.files[0].pieces_root.unwrap(), len: 300_000 };
    let hashes = crate::model::hash::hash_file(&dir.join("big"), PIECE as u32, UNWATCHED).unwrap();
    assert_eq!(hashes.granules.len(), 5);
    let mut wrong = hashes.granules.clone();
    wrong[1][0] ^= 1;
    store.parts.granules.save(&key, &wrong);
    assert!(!store.parts.granules.has(&key));
    store.parts.granules.save(&key, &hashes.granules);
    assert!(store.parts.granules.has(&key));
    record(&store, &real.manifest, &dir).unwrap();
    store.prune_granules().unwrap();
    assert!(store.parts.granules.has(&key));
    fs::remove_file(home.paths.placement(&real.manifest.torrent.info_hash)).unwrap();
    store.parts.placements.reload().unwrap();
    store.prune_granules().unwrap();
    assert!(!store.parts.granules.has(&key));
}
