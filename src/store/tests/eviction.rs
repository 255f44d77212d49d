//! Tests of the bound of the cache and of eviction.

use super::models::{Files, all, arrive_all, expected, published, tree};
use super::*;

#[test]
fn readers_see_right_bytes_or_none_during_changes() {
    let home = home();
    let a = bytes(200_000, 1);
    let store = home.store();
    let revision = store.revision(manifest("o/m", &[("a", &a)])).unwrap();
    let content = &revision.contents[0];
    std::thread::scope(|scope| {
        // The readers end when it is dropped, also by a panic.
        let running = Arc::new(());
        for reader in 0..2u64 {
            let (a, running) = (&a, Arc::downgrade(&running));
            scope.spawn(move || {
                for at in (0u64..).map(|i| (i * 7919 + reader * 31) % 150_000) {
                    if running.strong_count() == 0 {
                        break;
                    }
                    // If the file was removed between the check of the map and the open, the result is an error.
                    if let Ok(Some(read)) = content.read(at..at + 50_000) {
                        assert_eq!(read, a[at as usize..at as usize + 50_000]);
                    }
                }
            });
        }
        for round in 0..200u64 {
            arrive(content, &a, 0..200_000);
            match round % 3 {
                0 => drop(store.cache().evict(u64::MAX, &|_| false).unwrap()),
                1 => {
                    content.mark_missing(0..100_000).unwrap();
                    let file = fs::File::options().write(true).open(content.path());
                    if let Ok(file) = file {
                        std::os::unix::fs::FileExt::write_all_at(&file, &[0; 98_304], 0).unwrap();
                    }
                }
                _ => store.sync().unwrap(),
            }
        }
        drop(running);
    });
}

#[test]
fn eviction_order_respects_use_and_pins() {
    let home = home();
    let store = home.store();
    let data: Vec<Vec<u8>> = (0..4).map(|i| bytes(100_000, i)).collect();
    let names = ["a", "b", "c", "d"];
    let files: Vec<(&str, &[u8])> = names.iter().zip(&data).map(|(n, d)| (*n, d.as_slice())).collect();
    let revision = store.revision(manifest("o/m", &files)).unwrap();
    arrive_all(&revision, &files);
    // The files were used in this order, long ago; then the first is read.
    for (content, age) in revision.contents.iter().zip([400, 300, 200, 100]) {
        let live = fs::File::options().write(true).open(mapfile::live_path(&content.path())).unwrap();
        live.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
    }
    revision.contents[0].read(0..1).unwrap().unwrap();
    let usage = store.cache().usage().unwrap();
    let one = usage / 4;
    let pin = revision.contents[1].pin();
    let kept = revision.contents[2].root().unwrap();
    let evicted = store.cache().evict(one, &|root| *root == kept).unwrap();
    assert_eq!(evicted.iter().map(|e| Some(e.key.root)).collect::<Vec<_>>(), [revision.contents[3].root()]);
    assert_eq!(revision.contents[3].read(0..1).unwrap(), None);
    assert!(!revision.contents[3].path().exists());
    assert_eq!(store.cache().usage().unwrap(), usage - one);
    drop(pin);
    store.cache().evict(u64::MAX, &|_| false).unwrap();
    assert_eq!((store.cache().usage().unwrap(), revision.cached_bytes()), (0, 0));
    // Evicted bytes can be stored again.
    arrive_all(&revision, &files);
    assert_eq!(revision.contents[3].read(0..100_000).unwrap().unwrap(), data[3]);
}

#[test]
fn eviction_during_publication_leaves_all_or_nothing() {
    let home = home();
    let store = home.store();
    for round in 0..40u8 {
        let data: Vec<Vec<u8>> = (0..3).map(|i| bytes(100_000, round * 3 + i)).collect();
        let files: Files = &[("a", &data[0]), ("b", &data[1]), ("c", &data[2])];
        let revision = store.revision(manifest("o/m", files)).unwrap();
        arrive_all(&revision, files);
        let dest = home.dir.path().join(format!("out/{round}"));
        let start = std::sync::Barrier::new(2);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                store.cache().evict(u64::MAX, &|_| false).unwrap();
            });
            start.wait();
            store.staging().publish(&revision, &all(&revision), &dest)
        });
        match result {
            Ok(_) => {
                assert_eq!(published(&dest), expected(files));
                assert!(revision.is_complete());
            }
            Err(StoreError::Incomplete { .. }) => {
                assert_eq!(tree(&dest), []);
                assert_eq!(revision.cached_bytes(), 0);
            }
            Err(e) => panic!("round {round}: {e}"),
        }
    }
}

#[test]
fn large_file_is_evicted_from_its_end() {
    let home = home();
    let store = home.store();
    let len = 150u64 << 20;
    let mut described = (*manifest("o/m", &[("a", b"x")])).clone();
    described.files[0].size = len;
    let manifest = Arc::new(described);
    let revision = store.revision(manifest.clone()).unwrap();
    let content = &revision.contents[0];
    fs::create_dir_all(content.path().parent().unwrap()).unwrap();
    let file = fs::File::create(content.path()).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len).unwrap();
    content.mark_verified(0..len).unwrap();
    store.sync().unwrap();
    let before = store.cache().usage().unwrap();
    let evicted = store.cache().evict(30 << 20, &|_| false).unwrap();
    assert_eq!(evicted[0].range, 64 << 20..len);
    assert!(store.cache().usage().unwrap() <= before - (30 << 20));
    assert_eq!(content.missing_ranges(0..len), [64 << 20..len]);
    drop((revision, store));
    let store = Store::open_in_boot(&home.paths, [BOOT[0] + 1; 16]).unwrap();
    assert_eq!(store.revision(manifest).unwrap().contents[0].missing_ranges(0..len), [64 << 20..len]);
}

#[test]
fn bound_of_the_cache_is_in_bytes() {
    use crate::config::{CacheConfig, SizeOrPercent};
    let home = home();
    let store = home.store();
    let bound = |max_size| store.cache().bound(&CacheConfig { max_size, min_free: 0 }).unwrap();
    let (total, _) = crate::store::eviction::disk_space(&home.paths.cache()).unwrap();
    assert_eq!(bound(SizeOrPercent::Bytes(4096)), 4096);
    assert_eq!(bound(SizeOrPercent::Percent(100.0)), total);
    assert_eq!(crate::store::eviction::resolve_size(SizeOrPercent::Percent(12.5), 800), 100);
}
