//! Tests that the number of waits for the disk does not grow with the number of files.

use super::models::{all, published};
use super::*;

/// The number of times that `work` waits for the disk.
fn flushes<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = fsutil::FLUSHES.get();
    let done = work();
    (fsutil::FLUSHES.get() - before, done)
}

/// More waits than a publication or a sync of one file needs, and fewer than one for each file of these tests.
const BOUND: usize = 40;
const FILES: u32 = 300;

fn many() -> (Vec<String>, Vec<[u8; 4]>) {
    let names = (0..FILES).map(|i| format!("d{:02}/f{i:03}", i / 30)).collect();
    (names, (0..FILES).map(u32::to_be_bytes).collect())
}

fn listed<'a>(names: &'a [String], data: &'a [[u8; 4]]) -> Vec<(&'a str, &'a [u8])> {
    names.iter().zip(data).map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect()
}

#[test]
fn publication_waits_for_the_disk_few_times() {
    let home = home();
    let store = home.store();
    let (names, data) = many();
    let files = listed(&names, &data);
    let revision = store.revision(manifest("o/m", &files)).unwrap();
    // A cache in use has its directories.
    for byte in 0..=u8::MAX {
        fs::create_dir_all(home.paths.cache().join(hex::encode([byte]))).unwrap();
    }
    let (dest, second) = (home.dir.path().join("out"), home.dir.path().join("second"));
    let (count, ()) = flushes(|| store.staging().stage(&revision, &dest).unwrap());
    assert!(count < BOUND, "staging: {count}");
    for (content, bytes) in revision.contents.iter().zip(&data) {
        arrive(content, bytes, 0..4);
    }
    for dest in [&dest, &second] {
        let (count, _) = flushes(|| store.staging().publish(&revision, &all(&revision), dest).unwrap());
        assert!(count < BOUND, "{}: {count}", dest.display());
        assert_eq!(published(dest), models::expected(&files));
    }
    drop((revision, store));
    let store = home.store();
    assert!(store.placed().has_all(&manifest("o/m", &files), &dest));
}

#[test]
fn files_read_through_the_cache_are_published_with_few_waits() {
    let home = home();
    let store = home.store();
    let (names, data) = many();
    let files = listed(&names, &data);
    let revision = store.revision(manifest("o/m", &files)).unwrap();
    for (content, bytes) in revision.contents.iter().zip(&data) {
        arrive(content, bytes, 0..4);
    }
    let dest = home.dir.path().join("out");
    let (count, _) = flushes(|| store.staging().publish(&revision, &all(&revision), &dest).unwrap());
    assert!(count < BOUND, "{count}");
    assert_eq!(store.cache().usage().unwrap(), 0);
}

#[test]
fn sync_of_many_new_files_waits_for_the_disk_few_times() {
    let home = home();
    let (names, data) = many();
    let files = listed(&names, &data);
    let store = home.store();
    let revision = store.revision(manifest("o/m", &files)).unwrap();
    for (content, bytes) in revision.contents.iter().zip(&data) {
        arrive(content, bytes, 0..4);
    }
    let (count, ()) = flushes(|| store.sync().unwrap());
    assert!(count < BOUND, "{count}");
    let (count, ()) = flushes(|| store.sync().unwrap());
    assert_eq!(count, 0, "no byte is new");
    // After a power cut no byte is lost.
    drop((revision, store));
    let store = Store::open_in_boot(&home.paths, [9; 16]).unwrap();
    let revision = store.revision(manifest("o/m", &files)).unwrap();
    assert!(revision.is_complete());
    // Removed blocks do not return.
    for content in &revision.contents {
        content.mark_missing(0..4).unwrap();
    }
    drop((revision, store));
    let store = Store::open_in_boot(&home.paths, [10; 16]).unwrap();
    assert_eq!(store.revision(manifest("o/m", &files)).unwrap().cached_bytes(), 0);
}
