//! Tests that removing a model keeps the files of other models and of the user.

use std::os::unix::fs::MetadataExt;

use super::models::{Files, expected, get, published, tree};
use super::*;

/// Fetches `o/m` with one file, removes it while `o/n` has the same content, and returns the number of its bytes after a
/// power cut. `edit` is applied to the file before.
fn kept_for_another(home: &Home, edit: impl FnOnce(&Path)) -> u64 {
    let a = bytes(50_000, 1);
    let dest = home.paths.models.join("o/m");
    let (store, revision) = get(home, "o/m", &[("w", &a)], &dest);
    let other = manifest("o/n", &[("x", &a)]);
    edit(&dest.join("w"));
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
    let entries = store.cache().entries().unwrap();
    assert_eq!(entries.len(), 1);
    entries[0].path.clone()
}

#[test]
fn removal_keeps_shared_content_across_a_power_cut() {
    let home = home();
    assert_eq!(kept_for_another(&home, |_| ()), 50_000);
    assert!(!home.paths.models.join("o").exists());
}

#[test]
fn removal_keeps_shared_content_across_file_systems() {
    let mut home = home();
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    home.paths.models = other.path().join("models");
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_ne!(device(other.path()), device(home.dir.path()), "this test needs two file systems");
    assert_eq!(kept_for_another(&home, |_| ()), 50_000);
    assert!(!home.paths.models.join("o").exists());
}

#[test]
fn cache_copies_a_file_with_another_hard_link() {
    let home = home();
    let link = home.dir.path().join("link");
    assert_eq!(kept_for_another(&home, |file| fs::hard_link(file, &link).unwrap()), 50_000);
    assert_ne!(fs::metadata(cached(&home)).unwrap().ino(), fs::metadata(&link).unwrap().ino());
    assert_eq!(fs::metadata(&link).unwrap().nlink(), 1, "the model's own name is left");
}

#[test]
fn kept_file_that_changes_later_is_proved_again() {
    // It is moved, or copied because of the other link.
    for linked in [false, true] {
        let home = home();
        let link = home.dir.path().join("link");
        let edit = |file: &Path| {
            if linked {
                fs::hard_link(file, &link).unwrap()
            }
        };
        assert_eq!(kept_for_another(&home, edit), 50_000);
        fs::write(cached(&home), bytes(50_000, 2)).unwrap();
        let store = home.store();
        let revision = store.revision(manifest("o/n", &[("x", &bytes(50_000, 1))])).unwrap();
        assert!(
            revision.contents[0].open_for_passthrough().is_none() && revision.cached_bytes() == 0,
            "{linked}"
        );
    }
}

#[test]
fn moved_file_and_the_link_to_it_stay() {
    let home = home();
    let moved = home.dir.path().join("moved");
    kept_for_another(&home, |file| {
        fs::rename(file, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, file).unwrap();
    });
    let link = home.paths.models.join("o/m/w");
    assert_eq!(fs::read_link(&link).unwrap(), moved);
    assert_eq!(fs::read(&moved).unwrap(), bytes(50_000, 1));
    assert!(home.store().cache().entries().unwrap().iter().all(|entry| !entry.path.is_symlink()));
}

#[test]
fn removal_keeps_files_shared_under_another_name() {
    let home = home();
    let a = bytes(50_000, 1);
    let files: Files = &[("w", &a)];
    let dest = home.paths.models.join("o/m");
    let (store, revision) = get(&home, "o/m", files, &dest);
    // Both have the same last component and therefore the same torrent.
    let twin = manifest("me/m", files);
    record(&store, &twin, &dest).unwrap();
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
fn removal_keeps_files_of_a_model_with_other_pieces() {
    let home = home();
    let a = bytes(50_000, 1);
    let files: Files = &[("w", &a)];
    let dest = home.paths.models.join("o/m");
    let (store, revision) = get(&home, "o/m", files, &dest);
    let same = &revision.manifest;
    let other = Manifest::new("o/n".parse().unwrap(), Default::default(), 1 << 20, same.files.clone());
    let other = store.revision(Arc::new(other.unwrap())).unwrap();
    store.staging().publish(&other, &[0], &dest).unwrap();
    store.forget(&revision, std::slice::from_ref(&other.manifest)).unwrap();
    assert_eq!(published(&dest), expected(files));
}

/// Removes the files of former states, as `get` does after a complete new state is published; returns their number.
fn clear_former(home: &Home, present: &Manifest, dest: &Path, known: &[Arc<Manifest>]) -> usize {
    let store = home.store();
    let former =
        store.former_states().list(&present.model_ref(), &present.torrent.info_hash, Some(dest)).unwrap();
    former.iter().map(|former| store.former_states().clear(former, present, dest, known).unwrap()).sum()
}

/// Remaining staging files and records of a model, without the record of `present`.
fn left(home: &Home, present: &Manifest) -> Vec<String> {
    let models = tree(&home.paths.models).into_iter().map(|(path, _)| path);
    let partial = models.filter(|path| path.contains("silmaril-partial"));
    let records = tree(&home.paths.base.join("resume")).into_iter().map(|(path, _)| path);
    let present = format!("{}.json", present.torrent.info_hash);
    partial.chain(records.filter(|path| *path != present)).collect()
}

const OLD: &[(&str, &[u8])] = &[("a", &[1; 20_000]), ("old", &[2; 20_000])];
const NEW: &[(&str, &[u8])] = &[("a", &[1; 20_000]), ("new", &[3; 20_000])];

/// A `get` of the files `which` of the state `OLD`. If `which` is empty, a part of the last file was fetched.
fn got_in_part(home: &Home, dest: &Path, which: &[usize]) {
    let store = home.store();
    let revision = store.revision(manifest("o/m", OLD)).unwrap();
    store.staging().stage(&revision, dest).unwrap();
    for &file in which {
        if !revision.contents[file].is_complete() {
            arrive(&revision.contents[file], OLD[file].1, 0..20_000);
        }
    }
    match which.is_empty() {
        true => arrive(&revision.contents[1], OLD[1].1, 0..16_384),
        false => assert_eq!(store.staging().publish(&revision, which, dest).unwrap(), []),
    }
}

#[test]
fn superseded_incomplete_download_is_removed() {
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
fn superseded_state_is_removed_with_its_model() {
    for which in [&[][..], &[1]] {
        let home = home();
        let outside = home.dir.path().join("out");
        for dest in [&home.paths.models.join("o/m"), &outside] {
            got_in_part(&home, dest, which);
        }
        let store = home.store();
        let revision = store.revision(manifest("o/m", NEW)).unwrap();
        let present = revision.manifest.torrent.info_hash;
        let model = revision.manifest.model_ref();
        for former in store.former_states().list(&model, &present, None).unwrap() {
            store.former_states().forget(&former, &model, &[]).unwrap();
        }
        store.forget(&revision, &[]).unwrap();
        assert_eq!(left(&home, &revision.manifest), Vec::<String>::new());
        assert!(!home.paths.models.join("o").exists());
        assert_eq!(outside.exists(), !which.is_empty(), "files in a directory of the user stay there");
    }
}

#[test]
fn former_state_of_another_model_stays() {
    let home = home();
    let dest = home.dir.path().join("out");
    drop(get(&home, "o/n", OLD, &dest));
    drop(get(&home, "o/m", NEW, &dest));
    // A newer state of the other model is known.
    let known = [manifest("o/m", NEW), manifest("o/n", &[("a", b"x")])];
    assert_eq!(clear_former(&home, &known[0], &dest, &known), 0);
    assert!(dest.join("old").exists());
}

#[test]
fn edited_file_of_a_former_state_stays() {
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

#[test]
fn removal_keeps_files_of_other_models_and_users() {
    let home = home();
    let (shared, own, partial) = (bytes(50_000, 1), bytes(20_000, 2), bytes(40_000, 3));
    let dest = home.paths.models.join("o/m");
    let files: Files = &[("own", &own), ("sub/shared", &shared)];
    let other_files: Files = &[("p", &partial), ("s", &shared)];
    let (store, revision) = get(&home, "o/m", files, &dest);
    store.torrents.save_metainfo(&revision.manifest.torrent.info_hash, b"d").unwrap();
    let other = store.revision(manifest("o/other", other_files)).unwrap();
    assert_eq!(other.contents[1].path(), fs::canonicalize(&dest).unwrap().join("sub/shared"));
    fs::write(dest.join("notes.txt"), b"by the user").unwrap();

    store.forget(&revision, std::slice::from_ref(&other.manifest)).unwrap();
    assert_eq!(tree(&home.paths.models), expected(&[("o/m/notes.txt", b"by the user")]));
    assert!(!revision.contents[0].is_complete());
    assert_eq!(other.contents[1].read(0..50_000).unwrap().unwrap(), shared);
    assert_eq!(store.torrents.load_metainfo(&revision.manifest.torrent.info_hash).unwrap(), None);
    drop((revision, other, store));
    let store = home.store();
    let other = store.revision(manifest("o/other", other_files)).unwrap();
    assert_eq!(other.cached_bytes(), 50_000);
    arrive(&other.contents[0], &partial, 0..16_384);
    store.forget(&other, &[]).unwrap();
    assert_eq!(store.cache().usage().unwrap(), 0);
    assert_eq!(tree(&home.paths.base.join("resume")), []);
}

#[test]
fn removal_of_a_model_shared_in_place_keeps_its_files() {
    let home = home();
    let a = bytes(50_000, 1);
    let mine = home.paths.models.join("o/mine");
    fs::create_dir_all(&mine).unwrap();
    fs::write(mine.join("x"), &a).unwrap();
    let store = home.store();
    let manifest = manifest("o/mine", &[("x", &a)]);
    record(&store, &manifest, &mine).unwrap();
    let revision = store.revision(manifest.clone()).unwrap();
    store.forget(&revision, &[]).unwrap();
    assert_eq!(tree(&mine), expected(&[("x", &a)]));
    drop((revision, store));
    assert!(!home.store().revision(manifest).unwrap().is_complete());
}

#[test]
fn removal_of_one_name_of_a_torrent_keeps_the_other() {
    let home = home();
    let a = bytes(50_000, 1);
    let files: Files = &[("a", &a)];
    let (ours, theirs) = (home.paths.models.join("o/m"), home.paths.models.join("p/m"));
    drop(get(&home, "o/m", files, &ours));
    let (store, other) = get(&home, "p/m", files, &theirs);
    let revision = store.revision(manifest("o/m", files)).unwrap();
    assert_eq!(revision.manifest.torrent.info_hash, other.manifest.torrent.info_hash);
    store.forget(&revision, std::slice::from_ref(&other.manifest)).unwrap();
    assert!(!ours.exists());
    assert_eq!(published(&theirs), expected(files));
    assert!(theirs.join(Paths::MODEL_MANIFEST).exists());
    drop((revision, other, store));
    assert!(home.store().revision(manifest("p/m", files)).unwrap().is_complete());
}
