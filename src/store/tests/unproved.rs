//! Bytes that an older version recorded.

use super::*;
use crate::model::BLOCK_LEN;

const PIECE: u64 = 65_536;
const LEN: u64 = 300_000;

/// A store with four of the five pieces of one file, as an older version left them; the last one has its end only.
fn old_cache(home: &super::Home) -> (Arc<Manifest>, Vec<u8>) {
    let a = bytes(LEN as usize, 1);
    let manifest = manifest("o/m", &[("a", &a)]);
    let store = home.store();
    let revision = store.revision(manifest.clone()).unwrap();
    arrive(&revision.contents[0], &a, 0..3 * PIECE);
    arrive(&revision.contents[0], &a, 4 * PIECE - BLOCK_LEN..LEN);
    store.sync().unwrap();
    outdate(&revision.contents[0].path());
    (manifest, a)
}

fn content(store: &Arc<Store>, manifest: &Arc<Manifest>) -> Arc<Content> {
    store.revision(manifest.clone()).unwrap().contents[0].clone()
}

#[test]
fn bytes_of_an_older_version_are_not_readable_until_proved() {
    let home = home();
    let (manifest, a) = old_cache(&home);
    let cached = LEN - (PIECE - BLOCK_LEN);
    let store = home.store();
    let revision = store.revision(manifest.clone()).unwrap();
    let old = revision.contents[0].clone();
    assert_eq!((old.cached_bytes(), old.unproved_bytes()), (0, cached));
    assert_eq!(old.read(0..1).unwrap(), None);
    assert!(revision.have_pieces().is_clear() && revision.held_bytes() == cached);
    assert_eq!(revision.unproved_pieces().ones().collect::<Vec<_>>(), [0, 1, 2, 4]);
    assert_eq!(old.read_unproved(PIECE..2 * PIECE).unwrap().unwrap(), &a[PIECE as usize..2 * PIECE as usize]);
    assert_eq!(old.read_unproved(3 * PIECE..4 * PIECE).unwrap(), None, "a part of this piece is missing");

    old.mark_verified(PIECE..2 * PIECE).unwrap();
    old.forget_unproved(2 * PIECE..3 * PIECE).unwrap();
    assert_eq!(old.read(PIECE..2 * PIECE).unwrap().unwrap(), &a[PIECE as usize..2 * PIECE as usize]);
    assert_eq!(revision.unproved_pieces().ones().collect::<Vec<_>>(), [0, 4]);
    drop((old, revision, store));
    // A kill restores no removed byte and loses no other.
    let store = home.store();
    let old = content(&store, &manifest);
    assert_eq!((old.cached_bytes(), old.unproved_bytes()), (PIECE, cached - 2 * PIECE));
    assert_eq!(old.unproved_pieces(PIECE), [0, 4]);
    old.mark_verified(0..PIECE).unwrap();
    old.mark_verified(4 * PIECE - BLOCK_LEN..LEN).unwrap();
    assert!(!mapfile::unproved_path(&old.path()).exists());
}

#[test]
fn power_cut_after_a_proof_requires_another_proof() {
    let home = home();
    let (manifest, _) = old_cache(&home);
    {
        let store = home.store();
        content(&store, &manifest).mark_verified(0..PIECE).unwrap();
    }
    let store = Store::open_in_boot(&home.paths, [BOOT[0] + 1; 16]).unwrap();
    let old = content(&store, &manifest);
    assert_eq!((old.cached_bytes(), old.unproved_pieces(PIECE)), (0, vec![0, 1, 2, 4]));
    // The new boot writes its own map, and the bytes stay where they are.
    old.mark_verified(PIECE..2 * PIECE).unwrap();
    drop((old, store));
    let store = Store::open_in_boot(&home.paths, [BOOT[0] + 1; 16]).unwrap();
    let old = content(&store, &manifest);
    assert_eq!((old.cached_bytes(), old.unproved_pieces(PIECE)), (PIECE, vec![0, 2, 4]));
}

#[test]
fn evicted_bytes_are_no_longer_unproved() {
    let home = home();
    let (manifest, _) = old_cache(&home);
    let store = home.store();
    let old = content(&store, &manifest);
    old.mark_missing(0..PIECE).unwrap();
    assert_eq!(old.unproved_pieces(PIECE), [1, 2, 4]);
    assert_eq!(content(&home.store(), &manifest).unproved_pieces(PIECE), [1, 2, 4]);
    store.cache().evict(u64::MAX, &|_| false).unwrap();
    assert_eq!((old.unproved_bytes(), store.cache().usage().unwrap()), (0, 0));
    assert_eq!(content(&home.store(), &manifest).unproved_bytes(), 0);
    assert!(!mapfile::unproved_path(&old.path()).exists());
}

#[test]
fn cut_file_loses_its_missing_unproved_bytes() {
    let home = home();
    let (manifest, _) = old_cache(&home);
    let path = content(&home.store(), &manifest).path();
    let old = content(&home.store(), &manifest);
    fs::File::options().write(true).open(&path).unwrap().set_len(2 * PIECE + 5).unwrap();
    assert!(old.read_unproved(2 * PIECE..3 * PIECE).is_err());
    assert_eq!(old.unproved_pieces(PIECE), [0, 1]);
    assert_eq!(content(&home.store(), &manifest).unproved_pieces(PIECE), [0, 1]);
}

#[test]
fn unproved_bytes_move_to_the_staging_directory() {
    for other_device in [false, true] {
        let home = home();
        let (manifest, a) = old_cache(&home);
        let shm = tempfile::tempdir_in("/dev/shm").unwrap();
        let dest = if other_device { shm.path().join("out") } else { home.dir.path().join("out") };
        let store = home.store();
        let revision = store.revision(manifest.clone()).unwrap();
        let old = &revision.contents[0];
        old.mark_verified(PIECE..2 * PIECE).unwrap();
        store.staging().stage(&revision, &dest).unwrap();
        assert!(!old.path().starts_with(home.paths.cache()));
        for old in [old.clone(), content(&home.store(), &manifest)] {
            assert_eq!((old.cached_bytes(), old.unproved_pieces(PIECE)), (PIECE, vec![0, 2, 4]));
            assert_eq!(old.read_unproved(0..PIECE).unwrap().unwrap(), &a[..PIECE as usize]);
        }
    }
}

#[test]
fn process_without_the_lock_converts_no_map() {
    let home = home();
    let (manifest, _) = old_cache(&home);
    let path = content(&Store::open_as(&home.paths, BOOT, false).unwrap(), &manifest).path();
    assert!(mapfile::live_path(&path).exists() && !mapfile::unproved_path(&path).exists());
    let old = content(&Store::open_as(&home.paths, BOOT, false).unwrap(), &manifest);
    assert_eq!((old.cached_bytes(), old.unproved_pieces(PIECE)), (0, vec![0, 1, 2, 4]));
    assert_eq!(content(&home.store(), &manifest).unproved_pieces(PIECE), [0, 1, 2, 4]);
    assert!(!mapfile::live_path(&path).exists() && mapfile::unproved_path(&path).exists());
}
