//! A record store on a full disk.

use std::path::Path;

use silmaril::catalog::CatalogStore;
use silmaril::catalog::record::SharedRecord;

use super::rig::{EPOCH, key, records};
use crate::support::fixtures::noise;
use crate::support::net::sh;
use crate::support::process::{PATIENCE, until};

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
fn store_recovers_from_a_full_disk() {
    let disk = Disk::new(12 << 20);
    let store = CatalogStore::open(&disk.path().join("catalog"), EPOCH).unwrap();
    let none_kept = |_: &_| false;
    let all: Vec<SharedRecord> = records(key(0), 2000);
    store.insert(&all[..10], EPOCH, &none_kept).unwrap();

    let ballast = disk.path().join("ballast");
    let full = std::fs::write(&ballast, noise(1, 12 << 20));
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let mut further = (1..60).map(|n| records(key(n), 500));
    let failed = further.by_ref().find_map(|some| store.insert(&some, EPOCH, &none_kept).err());
    assert!(failed.expect("the disk is not full").to_string().contains("records.redb"));
    assert!(store.insert(&all[10..20], EPOCH, &none_kept).is_err());

    std::fs::remove_file(&ballast).unwrap();
    until("the store works again", PATIENCE, || store.insert(&all[10..20], EPOCH, &none_kept).is_ok());
    assert!(store.len() >= 20, "{} records are left", store.len());
    assert_eq!(store.after(&key(0).public(), 0, 100).len(), 20);
    store.flush().unwrap();
    drop(store);
    let store = CatalogStore::open(&disk.path().join("catalog"), EPOCH).unwrap();
    assert_eq!(store.after(&key(0).public(), 0, 100).len(), 20);
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
            if let Err(error) = CatalogStore::open(&dir, EPOCH) {
                assert!(left < 1 << 20, "{error}");
                assert!(error.to_string().contains("records.redb"), "{error}");
            }
            assert!(!dir.join("records.redb.damaged").exists(), "{left} bytes were free");
        }
        std::fs::remove_file(&ballast).unwrap();
        let store = CatalogStore::open(&dir, EPOCH).unwrap();
        store.insert(&records(key(0), 20), EPOCH, &|_| false).unwrap();
        assert!(!dir.join("records.redb.damaged").exists());
    }
}
