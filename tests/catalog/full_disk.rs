//! A record store on a disk that runs full.

use std::path::Path;

use silmaril::catalog::CatalogStore;
use silmaril::catalog::record::SharedRecord;

use super::rig::{EPOCH, key, records};
use crate::support::fixtures::noise;
use crate::support::net::sh;
use crate::support::process::{PATIENCE, until};

/// A small disk of its own.
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
fn a_store_that_met_a_full_disk_works_again_when_there_is_room() {
    let disk = Disk::new(12 << 20);
    let store = CatalogStore::open(&disk.path().join("catalog"), EPOCH).unwrap();
    let nobody = |_: &_| false;
    let all: Vec<SharedRecord> = records(key(0), 2000);
    store.insert(&all[..10], EPOCH, &nobody).unwrap();

    let ballast = disk.path().join("ballast");
    let full = std::fs::write(&ballast, noise(1, 12 << 20));
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let mut others = (1..60).map(|n| records(key(n), 500));
    let failed = others.by_ref().find_map(|some| store.insert(&some, EPOCH, &nobody).err());
    assert!(failed.expect("the disk is not full").to_string().contains("records.redb"));
    assert!(store.insert(&all[10..20], EPOCH, &nobody).is_err());

    std::fs::remove_file(&ballast).unwrap();
    until("it works again", PATIENCE, || store.insert(&all[10..20], EPOCH, &nobody).is_ok());
    assert!(store.len() >= 20, "{} records are left", store.len());
    assert_eq!(store.after(&key(0).public(), 0, 100).len(), 20);
    store.flush().unwrap();
    drop(store);
    let store = CatalogStore::open(&disk.path().join("catalog"), EPOCH).unwrap();
    assert_eq!(store.after(&key(0).public(), 0, 100).len(), 20);
}

#[test]
fn a_store_that_is_made_on_a_full_disk_is_not_taken_for_damaged() {
    // Whatever part of a new database the disk has space for.
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
