//! A record store on a full disk.

use std::path::Path;

use silmaril::catalog::CatalogStore;
use silmaril::catalog::record::SharedRecord;

use super::rig::{EPOCH, key, records};
use crate::support::fixtures::noise;
use crate::support::net::sh;

/// A small file system.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        sh(&format!("mount -t tmpfs -o size={bytes} tmpfs {}", dir.path().display()));
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        sh(&format!("umount -l {}", self.path().display()));
    }
}

#[test]
fn records_that_a_full_disk_could_not_hold_are_saved_later() {
    let disk = Disk::new(12 << 20);
    let dir = disk.path().join("catalog");
    let open = || CatalogStore::open(&dir, EPOCH).unwrap();
    let none_kept = |_: &_| false;
    let all: Vec<SharedRecord> = records(key(0), 2000);
    open().insert(&all[..10], EPOCH, &none_kept).unwrap();

    let ballast = disk.path().join("ballast");
    let full = std::fs::write(&ballast, noise(1, 12 << 20));
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let store = open();
    for n in 1..8 {
        store.insert(&records(key(n), 2000), EPOCH, &none_kept).unwrap();
    }
    // More than the file had space for.
    assert_eq!(store.len(), 7 * 2000 + 10);
    store.insert(&all[10..20], EPOCH, &none_kept).unwrap();
    store.flush().unwrap();
    assert_eq!(store.after(&key(0).public(), 0, 100).len(), 20);
    drop(store);

    // Nothing was saved, and nothing that was saved before is lost.
    let store = open();
    let kept = store.after(&key(0).public(), 0, 100).len();
    assert!((10..=20).contains(&kept), "{kept} records are left");
    store.insert(&all[..20], EPOCH, &none_kept).unwrap();
    store.insert(&records(key(1), 2000), EPOCH, &none_kept).unwrap();
    std::fs::remove_file(&ballast).unwrap();
    drop(store);
    let store = open();
    assert_eq!(store.after(&key(0).public(), 0, 100).len(), 20);
    assert_eq!(store.after(&key(1).public(), 0, 1000).len(), 1000);
    assert!(!dir.join("records.redb.damaged").exists());
}

#[test]
fn new_store_on_a_full_disk_is_not_damaged() {
    // The disk has space for different parts of a new database.
    for left in [0, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20] {
        let disk = Disk::new(8 << 20);
        let (dir, ballast) = (disk.path().join("catalog"), disk.path().join("ballast"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(&ballast, noise(1, (8 << 20) - left)).unwrap();
        for _ in 0..3 {
            let store = CatalogStore::open(&dir, EPOCH).unwrap();
            store.insert(&records(key(0), 20), EPOCH, &|_| false).unwrap();
            assert_eq!(store.len(), 20, "{left} bytes were free");
            drop(store);
            assert!(!dir.join("records.redb.damaged").exists(), "{left} bytes were free");
        }
        std::fs::remove_file(&ballast).unwrap();
        let store = CatalogStore::open(&dir, EPOCH).unwrap();
        store.insert(&records(key(0), 20), EPOCH, &|_| false).unwrap();
        assert!(!dir.join("records.redb.damaged").exists());
    }
}
