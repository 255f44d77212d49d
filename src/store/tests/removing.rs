//! Tests of what removing a model leaves to other models and to its user.

use std::os::unix::fs::MetadataExt;

use super::lifecycle::{Files, expected, get, published, tree};
use super::{BOOT, Home, arrive, bytes, home, manifest};
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
    store.forget(&revision, std::slice::from_ref(&other.manifest)).unwrap();
    assert_eq!(published(&dest), expected(files));
}

/// Does what `get` does when a whole state has taken its place; returns how many files of former ones that removes.
fn clear_former(home: &Home, present: &Manifest, dest: &Path, others: &[Arc<Manifest>]) -> usize {
    let store = home.store();
    let former = store.former(&present.model_ref(), &present.torrent.info_hash, Some(dest)).unwrap();
    former.iter().map(|former| store.clear_former(former, present, dest, others).unwrap()).sum()
}

/// What is left of a model's states and downloads beside the files of its directory, but for the record of `present`.
fn left(home: &Home, present: &Manifest) -> Vec<String> {
    let models = tree(&home.paths.models).into_iter().map(|(path, _)| path);
    let partial = models.filter(|path| path.contains("silmaril-partial"));
    let records = tree(&home.paths.base.join("resume")).into_iter().map(|(path, _)| path);
    let present = format!("{}.json", present.torrent.info_hash);
    partial.chain(records.filter(|path| *path != present)).collect()
}

const OLD: &[(&str, &[u8])] = &[("a", &[1; 20_000]), ("old", &[2; 20_000])];
const NEW: &[(&str, &[u8])] = &[("a", &[1; 20_000]), ("new", &[3; 20_000])];

/// What a `get` of the files that `which` says leaves of the state `OLD`; of the others it has begun the last.
fn got_in_part(home: &Home, dest: &Path, which: &[usize]) {
    let store = home.store();
    let revision = store.revision(manifest("o/m", OLD)).unwrap();
    store.stage(&revision, dest).unwrap();
    for &file in which {
        if !revision.contents[file].is_complete() {
            arrive(&revision.contents[file], OLD[file].1, 0..20_000);
        }
    }
    match which.is_empty() {
        true => arrive(&revision.contents[1], OLD[1].1, 0..16_384),
        false => assert_eq!(store.publish(&revision, which, dest).unwrap(), []),
    }
}

#[test]
fn a_download_that_was_superseded_before_it_was_whole_is_not_left_for_good() {
    for which in [&[][..], &[1], &[0, 1]] {
        let home = home();
        let dest = home.paths.models.join("o/m");
        let present = manifest("o/m", NEW);
        got_in_part(&home, &dest, which);
        assert!(!left(&home, &present).is_empty());
        drop(get(&home, "o/m", NEW, &dest));
        let removed = clear_former(&home, &present, &dest, std::slice::from_ref(&present));
        assert_eq!(removed, usize::from(which.contains(&1)));
        assert_eq!(published(&dest), expected(NEW));
        assert_eq!(left(&home, &present), Vec::<String>::new());
        assert!(home.store().revision(present).unwrap().is_complete());
    }
}

#[test]
fn what_was_got_of_a_superseded_state_goes_with_the_model_but_for_what_is_elsewhere() {
    for which in [&[][..], &[1]] {
        let home = home();
        let elsewhere = home.dir.path().join("out");
        for dest in [&home.paths.models.join("o/m"), &elsewhere] {
            got_in_part(&home, dest, which);
        }
        let store = home.store();
        let revision = store.revision(manifest("o/m", NEW)).unwrap();
        let present = revision.manifest.torrent.info_hash;
        let model = revision.manifest.model_ref();
        for former in store.former(&model, &present, None).unwrap() {
            store.forget_former(&former, &model, &[]).unwrap();
        }
        store.forget(&revision, &[]).unwrap();
        assert_eq!(left(&home, &revision.manifest), Vec::<String>::new());
        assert!(!home.paths.models.join("o").exists());
        assert_eq!(
            elsewhere.exists(),
            !which.is_empty(),
            "what was got into a directory of the user's stays there"
        );
    }
}

#[test]
fn a_former_state_of_another_model_in_the_same_directory_stays() {
    let home = home();
    let dest = home.dir.path().join("out");
    drop(get(&home, "o/n", OLD, &dest));
    drop(get(&home, "o/m", NEW, &dest));
    // Of the other model, a newer state is known.
    let others = [manifest("o/m", NEW), manifest("o/n", &[("a", b"x")])];
    assert_eq!(clear_former(&home, &others[0], &dest, &others), 0);
    assert!(dest.join("old").exists());
}

#[test]
fn what_was_edited_of_a_former_state_is_its_editors() {
    let home = home();
    let dest = home.paths.models.join("o/m");
    drop(get(&home, "o/m", OLD, &dest));
    fs::write(dest.join("old"), b"mine").unwrap();
    drop(get(&home, "o/m", NEW, &dest));
    let present = manifest("o/m", NEW);
    assert_eq!(clear_former(&home, &present, &dest, std::slice::from_ref(&present)), 0);
    assert_eq!(fs::read(dest.join("old")).unwrap(), b"mine");
    assert_eq!(left(&home, &present), Vec::<String>::new());
}
