//! Tests of what removing a model leaves to other models and to its user.

use std::os::unix::fs::MetadataExt;

use super::lifecycle::{Files, expected, get, published};
use super::{BOOT, Home, bytes, home, manifest};
use crate::store::*;

/// Gets `o/m` with one file, removes it while `o/n` has the same content, and returns how much of that is here after a
/// power cut. `meanwhile` is what its user does to the file before.
fn kept_for_another(home: &Home, meanwhile: impl FnOnce(&Path)) -> u64 {
    let a = bytes(50_000, 1);
    let dest = home.paths.models.join("o/m");
    let (store, revision) = get(home, "o/m", &[("w", &a)], &dest);
    let other = manifest("o/n", &[("x", &a)]);
    meanwhile(&dest.join("w"));
    store.forget(&revision, std::slice::from_ref(&other)).unwrap();
    drop((revision, store));
    let store = Store::open_in_boot(&home.paths, [BOOT[0] + 1; 16]).unwrap();
    let content = store.revision(other).unwrap().contents[0].clone();
    if content.is_complete() {
        assert_eq!(content.read(0..50_000).unwrap().unwrap(), a);
    }
    content.cached_bytes()
}

fn cached(home: &Home) -> PathBuf {
    let store = home.store();
    let entries = store.cache_entries().unwrap();
    assert_eq!(entries.len(), 1);
    entries[0].path.clone()
}

#[test]
fn what_another_model_uses_is_not_lost_with_a_removed_one_when_the_power_fails() {
    let home = home();
    assert_eq!(kept_for_another(&home, |_| ()), 50_000);
    assert!(!home.paths.models.join("o").exists());
}

#[test]
fn what_another_model_uses_is_not_lost_where_models_are_on_another_file_system() {
    let mut home = home();
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    home.paths.models = other.path().join("models");
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_ne!(device(other.path()), device(home.dir.path()), "this test needs two file systems");
    assert_eq!(kept_for_another(&home, |_| ()), 50_000);
    assert!(!home.paths.models.join("o").exists());
}

#[test]
fn a_file_that_its_user_has_linked_elsewhere_is_not_what_the_cache_punches_holes_into() {
    let home = home();
    let link = home.dir.path().join("link");
    assert_eq!(kept_for_another(&home, |file| fs::hard_link(file, &link).unwrap()), 50_000);
    assert_ne!(fs::metadata(cached(&home)).unwrap().ino(), fs::metadata(&link).unwrap().ino());
    assert_eq!(fs::metadata(&link).unwrap().nlink(), 1, "the model's own name is left");
}

#[test]
fn a_file_that_its_user_has_moved_stays_whole_and_the_link_to_it_stays() {
    let home = home();
    let moved = home.dir.path().join("moved");
    kept_for_another(&home, |file| {
        fs::rename(file, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, file).unwrap();
    });
    let link = home.paths.models.join("o/m/w");
    assert_eq!(fs::read_link(&link).unwrap(), moved);
    assert_eq!(fs::read(&moved).unwrap(), bytes(50_000, 1));
    assert!(home.store().cache_entries().unwrap().iter().all(|entry| !entry.path.is_symlink()));
}

#[test]
fn removing_a_model_whose_directory_is_shared_under_another_name_leaves_it_its_files() {
    let home = home();
    let a = bytes(50_000, 1);
    let files: Files = &[("w", &a)];
    let dest = home.paths.models.join("o/m");
    let (store, revision) = get(&home, "o/m", files, &dest);
    // Of one torrent, as both have one last component.
    let twin = manifest("me/m", files);
    store.record_placement(&twin, &dest).unwrap();
    store.forget(&revision, std::slice::from_ref(&twin)).unwrap();
    assert_eq!(published(&dest), expected(files));
    drop((revision, store));
    let store = home.store();
    let revision = store.revision(twin).unwrap();
    assert_eq!(revision.contents[0].path(), fs::canonicalize(&dest).unwrap().join("w"));
    store.forget(&revision, &[]).unwrap();
    assert_eq!(published(&dest), expected(files));
}

#[test]
fn removing_a_model_leaves_the_files_of_one_that_differs_in_its_pieces_alone() {
    let home = home();
    let a = bytes(50_000, 1);
    let files: Files = &[("w", &a)];
    let dest = home.paths.models.join("o/m");
    let (store, revision) = get(&home, "o/m", files, &dest);
    let same = &revision.manifest;
    let other = Manifest::new("o/n".parse().unwrap(), Default::default(), 1 << 20, same.files.clone());
    let other = store.revision(Arc::new(other.unwrap())).unwrap();
    store.publish(&other, &[0], &dest).unwrap();
    let record =
        |of: &StoredRevision| fs::read(home.paths.placement(&of.manifest.torrent.info_hash)).unwrap();
    assert_eq!(record(&revision), record(&other));
    store.forget(&revision, std::slice::from_ref(&other.manifest)).unwrap();
    assert_eq!(published(&dest), expected(files));
}
