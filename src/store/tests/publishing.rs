//! Tests of models that are staged and published.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::models::{Files, all, arrive_all, expected, get, published, tree};
use super::*;

fn publishes_to(home: Home, dest: &Path) {
    let (a, b) = (bytes(150_000, 1), bytes(20_000, 2));
    let files: Files = &[("a", &a), ("again/a", &a), ("e", &[]), ("sub/deep/b", &b)];
    // A part was read through a mount before.
    let store = home.store();
    let revision = store.revision(manifest("o/m", files)).unwrap();
    arrive(&revision.contents[0], &a, 65_536..131_072);
    store.staging().stage(&revision, dest).unwrap();
    assert!(!revision.contents[0].path().starts_with(&home.paths.base));
    assert_eq!(revision.cached_bytes(), 2 * 65_536, "two paths have the same bytes");
    arrive(&revision.contents[0], &a, 0..65_536);
    assert!(
        matches!(store.staging().publish(&revision, &[0], dest), Err(StoreError::Incomplete { path }) if path == "a")
    );
    assert!(!dest.exists());
    // After a kill the next run continues with these bytes.
    drop((revision, store));
    let store = home.store();
    let revision = store.revision(manifest("o/m", files)).unwrap();
    assert_eq!(revision.contents[0].cached_bytes(), 131_072);
    store.staging().stage(&revision, dest).unwrap();
    arrive_all(&revision, files);
    store.staging().publish(&revision, &all(&revision), dest).unwrap();

    assert_eq!(published(dest), expected(files));
    assert!(dest.join(Paths::MODEL_MANIFEST).exists());
    assert_eq!(tree(dest.parent().unwrap()).len(), files.len() + 1, "no staging directory remains");
    assert_eq!(fs::metadata(dest.join("a")).unwrap().permissions().mode() & 0o777, 0o666 & !fsutil::umask());
    assert_eq!(store.cache().usage().unwrap(), 0);
    assert_eq!(revision.contents[3].read(0..20_000).unwrap().unwrap(), b);
    drop((revision, store));
    assert!(home.store().revision(manifest("o/m", files)).unwrap().is_complete());
}

#[test]
fn executable_files_are_published_as_such() {
    let (a, shm) = (bytes(70_000, 1), tempfile::tempdir_in("/dev/shm").unwrap());
    let home = home();
    for dest in [home.dir.path().join("out"), home.paths.models.join("o/m"), shm.path().join("out")] {
        let files: Files = &[("a", &a), ("e", &[]), ("run", &a), ("start", &[])];
        let mut manifest = Manifest::clone(&manifest("o/m", files));
        manifest.files[2].executable = true;
        manifest.files[3].executable = true;
        let store = home.store();
        let revision = store.revision(Arc::new(manifest)).unwrap();
        store.staging().stage(&revision, &dest).unwrap();
        arrive_all(&revision, files);
        store.staging().publish(&revision, &all(&revision), &dest).unwrap();
        let modes = ["a", "e", "run", "start"]
            .map(|path| fs::metadata(dest.join(path)).unwrap().permissions().mode() & 0o777);
        let (plain, executable) = (0o666 & !fsutil::umask(), 0o777 & !fsutil::umask());
        assert_eq!(modes, [plain, plain, executable, executable], "{}", dest.display());
        assert_eq!(published(&dest), expected(files));
        drop((revision, store));
        let again = home.store();
        assert!(
            again.placed().has_all(&Manifest::clone(&self::manifest("o/m", files)), &dest),
            "{}",
            dest.display()
        );
    }
}

#[test]
fn occupied_destination_is_found_before_the_download() {
    let (a, b) = (bytes(100_000, 1), bytes(20_000, 2));
    let files: Files = &[("a", &a), ("e", &[]), ("sub/b", &b)];
    let home = home();
    let store = home.store();
    let revision = store.revision(manifest("o/m", files)).unwrap();
    let dest = home.dir.path().join("none/out");
    let check = || store.staging().check_vacant(&revision, &all(&revision), &dest);
    check().unwrap();
    assert!(!dest.parent().unwrap().exists());
    fs::create_dir_all(&dest).unwrap();
    fs::write(dest.join("another"), b"mine").unwrap();
    check().unwrap();
    let refused = |at: &str| match check() {
        Err(StoreError::Occupied { path }) => assert_eq!(path, dest.join(at)),
        other => panic!("{at}: {other:?}"),
    };
    for (path, text, at) in
        [("a", "mine", "a"), ("e", "mine", "e"), ("sub", "mine", "sub/b"), ("sub/b/c", "", "sub/b")]
    {
        fs::create_dir_all(dest.join(path).parent().unwrap()).unwrap();
        fs::write(dest.join(path), text).unwrap();
        refused(at);
        fs::remove_dir_all(&dest).unwrap();
        fs::create_dir(&dest).unwrap();
    }
    fs::create_dir(home.dir.path().join("linked")).unwrap();
    std::os::unix::fs::symlink(home.dir.path().join("linked"), dest.join("sub")).unwrap();
    refused("sub");
    fs::remove_file(dest.join("sub")).unwrap();
    // A file of this program may be replaced, and an empty file has the right bytes.
    fs::write(dest.join("e"), b"").unwrap();
    check().unwrap();
    arrive_all(&revision, files);
    store.staging().publish(&revision, &all(&revision), &dest).unwrap();
    let newer = store.revision(manifest("o/m", &[("a", &b), ("sub", &a)])).unwrap();
    store.staging().check_vacant(&newer, &all(&newer), &dest).unwrap();
}

#[test]
fn publishes_cached_and_staged_bytes() {
    let home = home();
    let dest = home.dir.path().join("out/model");
    publishes_to(home, &dest);
}

#[test]
fn publishes_to_another_file_system() {
    let shm = Path::new("/dev/shm");
    let home = home();
    if !shm.is_dir() || fs::metadata(shm).unwrap().dev() == fs::metadata(home.dir.path()).unwrap().dev() {
        panic!("this test needs /dev/shm to be another file system than {}", home.dir.path().display());
    }
    let other = tempfile::tempdir_in(shm).unwrap();
    publishes_to(home, &other.path().join("out/model"));
}

#[test]
fn cached_files_are_published_to_another_file_system() {
    let home = home();
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    let a = bytes(150_000, 1);
    let store = home.store();
    let revision = store.revision(manifest("o/m", &[("a", &a), ("b", &a)])).unwrap();
    arrive(&revision.contents[0], &a, 0..150_000);
    let dest = other.path().join("model");
    store.staging().publish(&revision, &[0, 1], &dest).unwrap();
    assert_eq!(published(&dest), expected(&[("a", &a), ("b", &a)]));
    assert_eq!(store.cache().usage().unwrap(), 0);
    drop((revision, store));
    assert!(home.store().revision(manifest("o/m", &[("a", &a), ("b", &a)])).unwrap().is_complete());
}

#[test]
fn chosen_files_are_published_before_the_rest() {
    let home = home();
    let dest = home.paths.models.join("o/m");
    let (a, b) = (bytes(50_000, 1), bytes(20_000, 2));
    let files: Files = &[("a", &a), ("b", &b)];
    let store = home.store();
    let revision = store.revision(manifest("o/m", files)).unwrap();
    arrive(&revision.contents[1], &b, 0..16_384);
    store.staging().stage(&revision, &dest).unwrap();
    arrive(&revision.contents[0], &a, 0..50_000);
    store.staging().publish(&revision, &[0], &dest).unwrap();
    assert_eq!(tree(&dest), expected(&files[..1]), "the manifest comes with the last file");
    assert_eq!(revision.contents[1].cached_bytes(), 16_384, "the bytes of other files stay in the cache");
    get(&home, "o/m", files, &dest);
    assert_eq!(published(&dest), expected(files));
    assert!(dest.join(Paths::MODEL_MANIFEST).exists());
}

#[test]
fn refuses_to_replace_files_of_the_user() {
    let home = home();
    let dest = home.dir.path().join("out");
    let (a, b) = (bytes(50_000, 1), bytes(20_000, 2));
    let files: Files = &[("a", &a), ("b", &b)];
    let store = home.store();
    let revision = store.revision(manifest("o/m", files)).unwrap();
    arrive_all(&revision, files);
    fs::create_dir(&dest).unwrap();
    fs::write(dest.join("b"), b"precious").unwrap();
    let error = store.staging().publish(&revision, &[0, 1], &dest).unwrap_err();
    assert!(matches!(&error, StoreError::Occupied { path } if path.ends_with("out/b")), "{error}");
    assert_eq!(tree(&dest), expected(&[("b", b"precious")]));
    assert!(revision.is_complete());
    // A file of the user with the same bytes stays.
    fs::write(dest.join("b"), &b).unwrap();
    let inode = fs::metadata(dest.join("b")).unwrap().ino();
    store.staging().publish(&revision, &[0, 1], &dest).unwrap();
    assert_eq!(fs::metadata(dest.join("b")).unwrap().ino(), inode);
    assert_eq!(published(&dest), expected(files));
}

#[test]
fn shared_edits_are_neither_replaced_nor_removed() {
    let home = home();
    let dest = home.paths.models.join("o/m");
    let (a, b, edited) = (bytes(50_000, 1), bytes(20_000, 2), bytes(50_000, 3));
    let files: Files = &[("a", &a), ("b", &b)];
    drop(get(&home, "o/m", files, &dest));
    fs::write(dest.join("a"), &edited).unwrap();
    let store = home.store();
    let mine: Files = &[("a", &edited), ("b", &b)];
    let before = store.placed().made_below_models();
    assert!(before.iter().any(|p| p.ends_with("o/m/b")), "{before:?}");
    assert!(!before.iter().any(|p| p.ends_with("o/m/a")), "edited, not even shared yet: {before:?}");
    record(&store, &manifest("me/m", mine), &dest).unwrap();
    assert_eq!(store.placed().made_below_models(), Vec::<PathBuf>::new());

    let revision = store.revision(manifest("o/m", files)).unwrap();
    store.staging().stage(&revision, &dest).unwrap();
    arrive_all(&revision, files);
    let error = store.staging().publish(&revision, &[0, 1], &dest).unwrap_err();
    assert!(matches!(&error, StoreError::Occupied { path } if path.ends_with("o/m/a")), "{error}");
    assert_eq!(published(&dest), expected(mine));
}

#[test]
fn edited_file_is_not_published_as_verified() {
    let home = home();
    let dest = home.dir.path().join("out");
    let (a, edited) = (bytes(50_000, 1), bytes(50_000, 3));
    let (store, revision) = get(&home, "o/m", &[("a", &a)], &dest);
    fs::write(dest.join("a"), &edited).unwrap();
    let error = store.staging().publish(&revision, &[0], &dest).unwrap_err();
    assert!(matches!(&error, StoreError::Incomplete { path } if path == "a"), "{error}");
    assert!(!revision.is_complete());
    drop((revision, store));
    assert!(!home.store().revision(manifest("o/m", &[("a", &a)])).unwrap().is_complete());
    // It is not copied to another directory either.
    let (store, revision) = get(&home, "o/m", &[("a", &a)], &dest);
    fs::write(dest.join("a"), &edited).unwrap();
    let other = home.dir.path().join("other");
    let error = store.staging().publish(&revision, &[0], &other).unwrap_err();
    assert!(matches!(&error, StoreError::Incomplete { path } if path == "a"), "{error}");
    assert_eq!(tree(&other), []);
}

#[test]
fn symbolic_link_below_the_destination_is_refused() {
    let home = home();
    let (dest, outside) = (home.dir.path().join("out"), home.dir.path().join("outside"));
    let a = bytes(50_000, 1);
    let store = home.store();
    let revision = store.revision(manifest("o/m", &[("sub/a", &a)])).unwrap();
    arrive_all(&revision, &[("sub/a", &a)]);
    fs::create_dir(&dest).unwrap();
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, dest.join("sub")).unwrap();
    let error = store.staging().publish(&revision, &[0], &dest).unwrap_err();
    assert!(matches!(&error, StoreError::Occupied { path } if path.ends_with("out/sub")), "{error}");
    assert_eq!(tree(&outside), []);
    assert!(revision.is_complete());
}

#[test]
fn damaged_published_file_is_fetched_and_replaced() {
    let home = home();
    let dest = home.paths.models.join("o/m");
    let (a, b) = (bytes(50_000, 1), bytes(20_000, 2));
    let files: Files = &[("a", &a), ("b", &b)];
    drop(get(&home, "o/m", files, &dest));
    fs::write(dest.join("a"), b"overwritten").unwrap();
    let (_, revision) = get(&home, "o/m", files, &dest);
    // The overwritten file may be an edit and is kept.
    let kept: Files = &[files[0], files[1], ("a.edited", b"overwritten")];
    assert_eq!(published(&dest), expected(kept));
    // Damage that no stamp shows: a read error or a verification found it.
    assert!(revision.contents[0].mark_wrong(0..50_000).unwrap());
    assert!(!revision.contents[0].is_complete());
    drop(revision);
    let store = home.store();
    assert!(!store.revision(manifest("o/m", files)).unwrap().is_complete(), "the damage is recorded");
    get(&home, "o/m", files, &dest);
    assert!(home.store().revision(manifest("o/m", files)).unwrap().is_complete());
    assert_eq!(published(&dest), expected(kept), "damage is not kept as an edit");
}

#[test]
fn edited_file_is_kept_when_an_update_replaces_it() {
    let home = home();
    let dest = home.paths.models.join("o/m");
    let (old, new): (Files, Files) = (&[("c", b"1"), ("d", b"2")], &[("c", b"3"), ("d", b"4")]);
    drop(get(&home, "o/m", old, &dest));
    fs::write(dest.join("c"), b"mine").unwrap();
    let store = home.store();
    let revision = store.revision(manifest("o/m", new)).unwrap();
    arrive_all(&revision, new);
    let kept = store.staging().publish(&revision, &[0, 1], &dest).unwrap();
    let messages: Vec<_> = kept.iter().map(Kept::to_string).collect();
    assert!(messages.len() == 1 && messages[0].contains("o/m/c.edited"), "{messages:?}");
    assert_eq!(published(&dest), expected(&[new[0], new[1], ("c.edited", b"mine")]));
    // The edited file belongs to the user.
    store.forget(&revision, &[]).unwrap();
    assert_eq!(published(&dest), expected(&[("c.edited", b"mine")]));
}

#[test]
fn files_of_models_are_shared_and_files_of_users_copied() {
    let home = home();
    let a = bytes(50_000, 1);
    let mine = home.dir.path().join("mine");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("x"), &a).unwrap();
    let store = home.store();
    record(&store, &manifest("o/mine", &[("x", &a)]), &mine).unwrap();
    drop(store);

    let one = home.paths.models.join("o/one");
    get(&home, "o/one", &[("y", &a)], &one);
    assert_ne!(fs::metadata(one.join("y")).unwrap().ino(), fs::metadata(mine.join("x")).unwrap().ino());
    fs::write(mine.join("x"), b"edited").unwrap();
    assert_eq!(fs::read(one.join("y")).unwrap(), a);

    let two = home.paths.models.join("o/two");
    let (_, revision) = get(&home, "o/two", &[("z", &a)], &two);
    assert!(revision.is_complete());
    assert_eq!(published(&two), expected(&[("z", &a)]));
}

#[test]
fn staging_directory_is_removed_only_if_it_is_empty() {
    let home = home();
    let dest = home.dir.path().join("out");
    let a = bytes(50_000, 1);
    let store = home.store();
    let revision = store.revision(manifest("o/m", &[("a", &a)])).unwrap();
    let staging = || tree(home.dir.path()).iter().filter(|(p, _)| p.contains("silmaril-partial")).count();
    let directories = || fs::read_dir(home.dir.path()).unwrap().count();
    let before = directories();
    store.staging().stage(&revision, &dest).unwrap();
    assert_eq!(directories(), before + 1);
    store.staging().unstage_empty(&revision, &dest).unwrap();
    assert_eq!(directories(), before);
    // The content can still be received, and a later `get` collects it next to the destination.
    arrive(&revision.contents[0], &a, 0..16_384);
    store.staging().stage(&revision, &dest).unwrap();
    let collected = staging();
    assert!(collected > 0);
    store.staging().unstage_empty(&revision, &dest).unwrap();
    assert_eq!(staging(), collected);
    arrive(&revision.contents[0], &a, 16_384..50_000);
    store.staging().publish(&revision, &[0], &dest).unwrap();
    assert_eq!(published(&dest), expected(&[("a", &a)]));
}

#[test]
fn publication_keeps_partial_downloads_of_other_models() {
    let home = home();
    let dest = home.dir.path().join("out");
    let (a, b) = (bytes(50_000, 1), bytes(20_000, 2));
    let store = home.store();
    let partial = store.revision(manifest("o/m", &[("a", &a)])).unwrap();
    store.staging().stage(&partial, &dest).unwrap();
    arrive(&partial.contents[0], &a, 0..16_384);
    // Its `get` was killed.
    drop((partial, store));
    let (store, revision) = get(&home, "o/n", &[("b", &b)], &dest);
    drop((revision, store));
    let store = home.store();
    let partial = store.revision(manifest("o/m", &[("a", &a)])).unwrap();
    assert_eq!(partial.contents[0].read(0..16_384).unwrap().unwrap(), a[..16_384]);
    arrive(&partial.contents[0], &a, 16_384..50_000);
    store.staging().publish(&partial, &[0], &dest).unwrap();
    assert_eq!(published(&dest), expected(&[("a", &a), ("b", &b)]));
    assert_eq!(tree(home.dir.path()).iter().filter(|(p, _)| p.contains("silmaril-partial")).count(), 0);
    assert_eq!(fs::read_dir(home.dir.path()).unwrap().count(), 2, "no staging directory is left");
}

#[test]
fn file_and_directory_of_a_former_state_are_exchanged() {
    let home = home();
    let dest = home.paths.models.join("o/m");
    let (a, b, c, e) = (bytes(20_000, 1), bytes(20_000, 2), bytes(20_000, 3), bytes(20_000, 4));
    let (old, new): (Files, Files) =
        (&[("a", &a), ("b/c", &b), ("b/d/e", &e)], &[("a/x", &a), ("a/y", &c), ("b", &c)]);
    drop(get(&home, "o/m", old, &dest));
    let store = home.store();
    let (former, present) = (manifest("o/m", old), manifest("o/m", new));
    let revision = store.revision(present.clone()).unwrap();
    store.staging().stage(&revision, &dest).unwrap();
    arrive(&revision.contents[1], &c, 0..20_000);
    // Refused if the user has edited or added a file.
    for (path, text) in [("b/d/e", "edited"), ("b/d/mine", "mine")] {
        fs::write(dest.join(path), text).unwrap();
        let error = store.staging().publish(&revision, &all(&revision), &dest).unwrap_err();
        assert!(matches!(&error, StoreError::Occupied { path } if path.ends_with("b")), "{error}");
        assert_eq!(fs::read_to_string(dest.join(path)).unwrap(), text);
        assert_eq!(fs::read(dest.join("a")).unwrap(), a, "a removable file is gone");
        fs::remove_file(dest.join(path)).unwrap();
    }
    store.staging().publish(&revision, &all(&revision), &dest).unwrap();
    assert_eq!(published(&dest), expected(new));
    // The same content is read at its new path.
    assert_eq!(revision.contents[0].read(0..20_000).unwrap().unwrap(), a);
    let left =
        store.former_states().list(&present.model_ref(), &present.torrent.info_hash, Some(&dest)).unwrap();
    assert_eq!(left[0].info_hash, former.torrent.info_hash);
    store.former_states().clear(&left[0], &present, &dest, std::slice::from_ref(&present)).unwrap();
    assert_eq!(published(&dest), expected(new));
    assert_eq!(revision.contents[0].read(0..20_000).unwrap().unwrap(), a);
    assert!(home.store().revision(present).unwrap().is_complete());
}

#[test]
fn directory_of_another_model_is_not_replaced_by_a_file() {
    let home = home();
    let (dest, below) = (home.dir.path().join("out"), home.dir.path().join("out/x"));
    let (a, b) = (bytes(20_000, 1), bytes(20_000, 2));
    drop(get(&home, "o/m", &[("a", &a)], &below));
    let files: Files = &[("x", &b)];
    let store = home.store();
    let revision = store.revision(manifest("o/n", files)).unwrap();
    store.staging().stage(&revision, &dest).unwrap();
    arrive_all(&revision, files);
    store.staging().publish(&revision, &[0], &dest).unwrap_err();
    assert_eq!(published(&below), expected(&[("a", &a)]));
}

#[test]
fn syncs_and_reads_during_a_publication_lose_no_bytes() {
    let home = home();
    let store = home.store();
    let names: Vec<String> = (0..400).map(|i| format!("f{i:03}")).collect();
    let data: Vec<Vec<u8>> = (0..400u32).map(|i| i.to_be_bytes().to_vec()).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().zip(&data).map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let revision = store.revision(manifest("o/m", &files)).unwrap();
    for (content, bytes) in revision.contents.iter().zip(&data) {
        arrive(content, bytes, 0..4);
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    let is_done = || done.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !is_done() {
                store.sync().unwrap();
            }
        });
        threads.spawn(|| {
            while !is_done() {
                revision.contents.iter().for_each(|content| drop(content.read(0..4)));
            }
        });
        let all: Vec<usize> = (0..400).collect();
        let published = store.staging().publish(&revision, &all, &home.dir.path().join("out"));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        published.unwrap();
    });
    assert!(revision.is_complete());
}

#[test]
fn content_opened_while_its_file_is_recorded_is_complete() {
    let (a, home) = (bytes(3000, 1), home());
    let tree = home.dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("a"), &a).unwrap();
    let stamps = [Stamp::at(&tree.join("a")).unwrap()];
    let (ours, other) = (manifest("o/m", &[("a", &a)]), manifest("o/other", &[("a", &a)]));
    let (store, both) = (home.store(), std::sync::Barrier::new(2));
    for round in 0..1000 {
        let opened = std::thread::scope(|threads| {
            let opening = threads.spawn(|| {
                // It pauses between the look for a record and that for a file in the cache.
                fsutil::JITTER.set(Some((fsutil::Point::Look, fastrand::Rng::with_seed(round))));
                both.wait();
                store.revision(other.clone()).unwrap()
            });
            both.wait();
            store.placed().record_own(&ours, &tree, &stamps).unwrap();
            opening.join().unwrap()
        });
        assert!(opened.is_complete(), "the record of round {round} was missed");
        store
            .parts
            .placements
            .update(&ours.torrent.info_hash, |record| *record = Default::default())
            .unwrap();
    }
}
