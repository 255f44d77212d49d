//! Tests of what happens to whole models: staged, published, evicted, removed.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::{BOOT, Home, arrive, bytes, home, manifest};
use crate::store::*;

pub(super) type Files<'a> = &'a [(&'a str, &'a [u8])];

/// Everything that is in a directory, hidden files too, as (path, bytes).
pub(super) fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    fn walk(dir: &Path, top: &Path, out: &mut Vec<(String, Vec<u8>)>) {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, top, out);
            } else {
                out.push((
                    path.strip_prefix(top).unwrap().to_str().unwrap().to_owned(),
                    fs::read(&path).unwrap(),
                ));
            }
        }
    }
    let mut out = Vec::new();
    walk(dir, dir, &mut out);
    out.sort();
    out
}

/// The files of a published model, without the manifest copy.
pub(super) fn published(dir: &Path) -> Vec<(String, Vec<u8>)> {
    tree(dir).into_iter().filter(|(path, _)| path != Paths::MODEL_MANIFEST).collect()
}

pub(super) fn expected(files: Files) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = files.iter().map(|(p, b)| ((*p).to_owned(), b.to_vec())).collect();
    all.sort();
    all
}

pub(super) fn arrive_all(revision: &StoredRevision, files: Files) {
    for (content, (_, bytes)) in revision.contents.iter().zip(files) {
        if !content.is_complete() {
            arrive(content, bytes, 0..bytes.len() as u64);
        }
    }
}

pub(super) fn all(revision: &StoredRevision) -> Vec<usize> {
    (0..revision.contents.len()).collect()
}

/// Gets a model the way `get` does.
pub(super) fn get(home: &Home, name: &str, files: Files, dest: &Path) -> (Arc<Store>, Arc<StoredRevision>) {
    let store = home.store();
    let revision = store.revision(manifest(name, files)).unwrap();
    store.stage(&revision, dest).unwrap();
    arrive_all(&revision, files);
    store.publish(&revision, &all(&revision), dest).unwrap();
    (store, revision)
}

fn publishes_to(home: Home, dest: &Path) {
    let (a, b) = (bytes(150_000, 1), bytes(20_000, 2));
    let files: Files = &[("a", &a), ("again/a", &a), ("e", &[]), ("sub/deep/b", &b)];
    // Something was read through a mount before.
    let store = home.store();
    let revision = store.revision(manifest("o/m", files)).unwrap();
    arrive(&revision.contents[0], &a, 65_536..131_072);
    store.stage(&revision, dest).unwrap();
    assert!(!revision.contents[0].path().starts_with(&home.paths.base));
    assert_eq!(revision.cached_bytes(), 2 * 65_536, "two paths show the same bytes");
    arrive(&revision.contents[0], &a, 0..65_536);
    assert!(
        matches!(store.publish(&revision, &[0], dest), Err(StoreError::Incomplete { path }) if path == "a")
    );
    assert!(!dest.exists());
    // Killed; the next run goes on where the bytes are, whether it stages first or not.
    drop((revision, store));
    let store = home.store();
    let revision = store.revision(manifest("o/m", files)).unwrap();
    assert_eq!(revision.contents[0].cached_bytes(), 131_072);
    store.stage(&revision, dest).unwrap();
    arrive_all(&revision, files);
    store.publish(&revision, &all(&revision), dest).unwrap();

    assert_eq!(published(dest), expected(files));
    assert!(dest.join(Paths::MODEL_MANIFEST).exists());
    assert_eq!(tree(dest.parent().unwrap()).len(), files.len() + 1, "no staging is left behind");
    assert_eq!(fs::metadata(dest.join("a")).unwrap().permissions().mode() & 0o777, 0o666 & !fsutil::umask());
    assert_eq!(store.cache_usage().unwrap(), 0);
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
        store.stage(&revision, &dest).unwrap();
        arrive_all(&revision, files);
        store.publish(&revision, &all(&revision), &dest).unwrap();
        let modes = ["a", "e", "run", "start"]
            .map(|path| fs::metadata(dest.join(path)).unwrap().permissions().mode() & 0o777);
        let (plain, executable) = (0o666 & !fsutil::umask(), 0o777 & !fsutil::umask());
        assert_eq!(modes, [plain, plain, executable, executable], "{}", dest.display());
        assert_eq!(published(&dest), expected(files));
        drop((revision, store));
        let again = home.store();
        assert!(
            again.stands_whole_at(&Manifest::clone(&self::manifest("o/m", files)), &dest),
            "{}",
            dest.display()
        );
    }
}

#[test]
fn an_occupied_destination_is_found_before_anything_is_here() {
    let (a, b) = (bytes(100_000, 1), bytes(20_000, 2));
    let files: Files = &[("a", &a), ("e", &[]), ("sub/b", &b)];
    let home = home();
    let store = home.store();
    let revision = store.revision(manifest("o/m", files)).unwrap();
    let dest = home.dir.path().join("none/out");
    let check = || store.check_vacant(&revision, &all(&revision), &dest);
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
    fs::create_dir(home.dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(home.dir.path().join("elsewhere"), dest.join("sub")).unwrap();
    refused("sub");
    fs::remove_file(dest.join("sub")).unwrap();
    // What this program has put there may be replaced, and an empty file is what it should be.
    fs::write(dest.join("e"), b"").unwrap();
    check().unwrap();
    arrive_all(&revision, files);
    store.publish(&revision, &all(&revision), &dest).unwrap();
    let newer = store.revision(manifest("o/m", &[("a", &b), ("sub", &a)])).unwrap();
    store.check_vacant(&newer, &all(&newer), &dest).unwrap();
}

#[test]
fn publishes_what_was_cached_and_staged() {
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
fn complete_cached_files_cross_to_another_file_system_without_staging() {
    let home = home();
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    let a = bytes(150_000, 1);
    let store = home.store();
    let revision = store.revision(manifest("o/m", &[("a", &a), ("b", &a)])).unwrap();
    arrive(&revision.contents[0], &a, 0..150_000);
    let dest = other.path().join("model");
    store.publish(&revision, &[0, 1], &dest).unwrap();
    assert_eq!(published(&dest), expected(&[("a", &a), ("b", &a)]));
    assert_eq!(store.cache_usage().unwrap(), 0);
    drop((revision, store));
    assert!(home.store().revision(manifest("o/m", &[("a", &a), ("b", &a)])).unwrap().is_complete());
}

#[test]
fn chosen_files_first_the_rest_later() {
    let home = home();
    let dest = home.paths.models.join("o/m");
    let (a, b) = (bytes(50_000, 1), bytes(20_000, 2));
    let files: Files = &[("a", &a), ("b", &b)];
    let store = home.store();
    let revision = store.revision(manifest("o/m", files)).unwrap();
    arrive(&revision.contents[1], &b, 0..16_384);
    store.stage(&revision, &dest).unwrap();
    arrive(&revision.contents[0], &a, 0..50_000);
    store.publish(&revision, &[0], &dest).unwrap();
    assert_eq!(tree(&dest), expected(&files[..1]), "the manifest comes with the last file");
    assert_eq!(revision.contents[1].cached_bytes(), 16_384, "what was not asked for stays in the cache");
    get(&home, "o/m", files, &dest);
    assert_eq!(published(&dest), expected(files));
    assert!(dest.join(Paths::MODEL_MANIFEST).exists());
}

#[test]
fn refuses_to_replace_what_is_not_ours_and_changes_nothing() {
    let home = home();
    let dest = home.dir.path().join("out");
    let (a, b) = (bytes(50_000, 1), bytes(20_000, 2));
    let files: Files = &[("a", &a), ("b", &b)];
    let store = home.store();
    let revision = store.revision(manifest("o/m", files)).unwrap();
    arrive_all(&revision, files);
    fs::create_dir(&dest).unwrap();
    fs::write(dest.join("b"), b"precious").unwrap();
    let error = store.publish(&revision, &[0, 1], &dest).unwrap_err();
    assert!(matches!(&error, StoreError::Occupied { path } if path.ends_with("out/b")), "{error}");
    assert_eq!(tree(&dest), expected(&[("b", b"precious")]));
    assert!(revision.is_complete());
    // The same bytes are welcome, and stay the user's.
    fs::write(dest.join("b"), &b).unwrap();
    let inode = fs::metadata(dest.join("b")).unwrap().ino();
    store.publish(&revision, &[0, 1], &dest).unwrap();
    assert_eq!(fs::metadata(dest.join("b")).unwrap().ino(), inode);
    assert_eq!(published(&dest), expected(files));
}

#[test]
fn edits_that_the_user_shared_are_neither_replaced_nor_cleaned_up() {
    let home = home();
    let dest = home.paths.models.join("o/m");
    let (a, b, edited) = (bytes(50_000, 1), bytes(20_000, 2), bytes(50_000, 3));
    let files: Files = &[("a", &a), ("b", &b)];
    drop(get(&home, "o/m", files, &dest));
    fs::write(dest.join("a"), &edited).unwrap();
    let store = home.store();
    let mine: Files = &[("a", &edited), ("b", &b)];
    let before = store.made_below_models();
    assert!(before.iter().any(|p| p.ends_with("o/m/b")), "{before:?}");
    assert!(!before.iter().any(|p| p.ends_with("o/m/a")), "edited, not even shared yet: {before:?}");
    store.record_placement(&manifest("me/m", mine), &dest).unwrap();
    assert_eq!(store.made_below_models(), Vec::<PathBuf>::new());

    let revision = store.revision(manifest("o/m", files)).unwrap();
    store.stage(&revision, &dest).unwrap();
    arrive_all(&revision, files);
    let error = store.publish(&revision, &[0, 1], &dest).unwrap_err();
    assert!(matches!(&error, StoreError::Occupied { path } if path.ends_with("o/m/a")), "{error}");
    assert_eq!(published(&dest), expected(mine));
}

#[test]
fn an_edit_of_a_published_file_is_not_published_as_verified() {
    let home = home();
    let dest = home.dir.path().join("out");
    let (a, edited) = (bytes(50_000, 1), bytes(50_000, 3));
    let (store, revision) = get(&home, "o/m", &[("a", &a)], &dest);
    fs::write(dest.join("a"), &edited).unwrap();
    let error = store.publish(&revision, &[0], &dest).unwrap_err();
    assert!(matches!(&error, StoreError::Incomplete { path } if path == "a"), "{error}");
    assert!(!revision.is_complete());
    drop((revision, store));
    assert!(!home.store().revision(manifest("o/m", &[("a", &a)])).unwrap().is_complete());
    // Nor does a copy of it get to another place.
    let (store, revision) = get(&home, "o/m", &[("a", &a)], &dest);
    fs::write(dest.join("a"), &edited).unwrap();
    let other = home.dir.path().join("other");
    let error = store.publish(&revision, &[0], &other).unwrap_err();
    assert!(matches!(&error, StoreError::Incomplete { path } if path == "a"), "{error}");
    assert_eq!(tree(&other), []);
}

#[test]
fn nothing_is_published_through_a_symbolic_link_below_the_destination() {
    let home = home();
    let (dest, outside) = (home.dir.path().join("out"), home.dir.path().join("outside"));
    let a = bytes(50_000, 1);
    let store = home.store();
    let revision = store.revision(manifest("o/m", &[("sub/a", &a)])).unwrap();
    arrive_all(&revision, &[("sub/a", &a)]);
    fs::create_dir(&dest).unwrap();
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, dest.join("sub")).unwrap();
    let error = store.publish(&revision, &[0], &dest).unwrap_err();
    assert!(matches!(&error, StoreError::Occupied { path } if path.ends_with("out/sub")), "{error}");
    assert_eq!(tree(&outside), []);
    assert!(revision.is_complete());
}

#[test]
fn a_damaged_file_of_ours_is_fetched_and_replaced() {
    let home = home();
    let dest = home.paths.models.join("o/m");
    let (a, b) = (bytes(50_000, 1), bytes(20_000, 2));
    let files: Files = &[("a", &a), ("b", &b)];
    drop(get(&home, "o/m", files, &dest));
    fs::write(dest.join("a"), b"overwritten").unwrap();
    let (_, revision) = get(&home, "o/m", files, &dest);
    // What somebody may have meant so is not lost.
    let kept: Files = &[files[0], files[1], ("a.edited", b"overwritten")];
    assert_eq!(published(&dest), expected(kept));
    // Damage that no stamp shows: a read error or a verification found it.
    assert!(revision.contents[0].mark_wrong(0..50_000).unwrap());
    assert!(!revision.contents[0].is_complete());
    drop(revision);
    let store = home.store();
    assert!(!store.revision(manifest("o/m", files)).unwrap().is_complete(), "the distrust is remembered");
    get(&home, "o/m", files, &dest);
    assert!(home.store().revision(manifest("o/m", files)).unwrap().is_complete());
    assert_eq!(published(&dest), expected(kept), "damage is nobody's work");
}

#[test]
fn a_file_that_was_edited_is_kept_aside_when_an_update_has_another() {
    let home = home();
    let dest = home.paths.models.join("o/m");
    let (old, new): (Files, Files) = (&[("c", b"1"), ("d", b"2")], &[("c", b"3"), ("d", b"4")]);
    drop(get(&home, "o/m", old, &dest));
    fs::write(dest.join("c"), b"mine").unwrap();
    let store = home.store();
    let revision = store.revision(manifest("o/m", new)).unwrap();
    arrive_all(&revision, new);
    let kept = store.publish(&revision, &[0, 1], &dest).unwrap();
    let said: Vec<_> = kept.iter().map(Kept::to_string).collect();
    assert!(said.len() == 1 && said[0].contains("o/m/c.edited"), "{said:?}");
    assert_eq!(published(&dest), expected(&[new[0], new[1], ("c.edited", b"mine")]));
    // It is its editor's.
    store.forget(&revision, &[]).unwrap();
    assert_eq!(published(&dest), expected(&[("c.edited", b"mine")]));
}

#[test]
fn equal_files_of_another_model_are_shared_and_of_a_users_directory_copied() {
    let home = home();
    let a = bytes(50_000, 1);
    let mine = home.dir.path().join("mine");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("x"), &a).unwrap();
    let store = home.store();
    store.record_placement(&manifest("o/mine", &[("x", &a)]), &mine).unwrap();
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
fn removing_a_model_keeps_what_others_use_and_own() {
    let home = home();
    let (shared, own, partial) = (bytes(50_000, 1), bytes(20_000, 2), bytes(40_000, 3));
    let dest = home.paths.models.join("o/m");
    let files: Files = &[("own", &own), ("sub/shared", &shared)];
    let other_files: Files = &[("p", &partial), ("s", &shared)];
    let (store, revision) = get(&home, "o/m", files, &dest);
    store.save_metainfo(&revision.manifest.torrent.info_hash, b"d").unwrap();
    let other = store.revision(manifest("o/other", other_files)).unwrap();
    assert_eq!(other.contents[1].path(), fs::canonicalize(&dest).unwrap().join("sub/shared"));
    fs::write(dest.join("notes.txt"), b"by the user").unwrap();

    store.forget(&revision, std::slice::from_ref(&other.manifest)).unwrap();
    assert_eq!(tree(&home.paths.models), expected(&[("o/m/notes.txt", b"by the user")]));
    assert!(!revision.contents[0].is_complete());
    assert_eq!(other.contents[1].read(0..50_000).unwrap().unwrap(), shared);
    assert_eq!(store.load_metainfo(&revision.manifest.torrent.info_hash).unwrap(), None);
    drop((revision, other, store));
    let store = home.store();
    let other = store.revision(manifest("o/other", other_files)).unwrap();
    assert_eq!(other.cached_bytes(), 50_000);
    arrive(&other.contents[0], &partial, 0..16_384);
    store.forget(&other, &[]).unwrap();
    assert_eq!(store.cache_usage().unwrap(), 0);
    assert_eq!(tree(&home.paths.base.join("resume")), []);
}

#[test]
fn removing_a_model_shared_in_place_leaves_its_files() {
    let home = home();
    let a = bytes(50_000, 1);
    let mine = home.paths.models.join("o/mine");
    fs::create_dir_all(&mine).unwrap();
    fs::write(mine.join("x"), &a).unwrap();
    let store = home.store();
    let manifest = manifest("o/mine", &[("x", &a)]);
    store.record_placement(&manifest, &mine).unwrap();
    let revision = store.revision(manifest.clone()).unwrap();
    store.forget(&revision, &[]).unwrap();
    assert_eq!(tree(&mine), expected(&[("x", &a)]));
    drop((revision, store));
    assert!(!home.store().revision(manifest).unwrap().is_complete());
}

#[test]
fn removing_one_of_two_names_of_a_torrent_leaves_the_other() {
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

#[test]
fn readers_see_right_bytes_or_none_while_blocks_come_and_go() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let home = home();
    let a = bytes(200_000, 1);
    let store = home.store();
    let revision = store.revision(manifest("o/m", &[("a", &a)])).unwrap();
    let content = &revision.contents[0];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..2u64 {
            let (a, done) = (&a, &done);
            scope.spawn(move || {
                for at in (0u64..).map(|i| (i * 7919 + reader * 31) % 150_000) {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    // A file that was removed between the look at the map and the open is an error, not bytes.
                    if let Ok(Some(read)) = content.read(at..at + 50_000) {
                        assert_eq!(read, a[at as usize..at as usize + 50_000]);
                    }
                }
            });
        }
        for round in 0..200u64 {
            arrive(content, &a, 0..200_000);
            match round % 3 {
                0 => drop(store.evict(u64::MAX, &|_| false).unwrap()),
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
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn eviction_takes_the_least_recently_used_first_and_respects_pins_and_keeps() {
    let home = home();
    let store = home.store();
    let data: Vec<Vec<u8>> = (0..4).map(|i| bytes(100_000, i)).collect();
    let names = ["a", "b", "c", "d"];
    let files: Vec<(&str, &[u8])> = names.iter().zip(&data).map(|(n, d)| (*n, d.as_slice())).collect();
    let revision = store.revision(manifest("o/m", &files)).unwrap();
    arrive_all(&revision, &files);
    // As if used in this order, long ago; then the first is read.
    for (content, age) in revision.contents.iter().zip([400, 300, 200, 100]) {
        let live = fs::File::options().write(true).open(mapfile::live_path(&content.path())).unwrap();
        live.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
    }
    revision.contents[0].read(0..1).unwrap().unwrap();
    let usage = store.cache_usage().unwrap();
    let one = usage / 4;
    let pin = revision.contents[1].pin();
    let kept = revision.contents[2].root().unwrap();
    let evicted = store.evict(one, &|root| *root == kept).unwrap();
    assert_eq!(evicted.iter().map(|e| Some(e.key.root)).collect::<Vec<_>>(), [revision.contents[3].root()]);
    assert_eq!(revision.contents[3].read(0..1).unwrap(), None);
    assert!(!revision.contents[3].path().exists());
    assert_eq!(store.cache_usage().unwrap(), usage - one);
    drop(pin);
    store.evict(u64::MAX, &|_| false).unwrap();
    assert_eq!((store.cache_usage().unwrap(), revision.cached_bytes()), (0, 0));
    // What went can come back.
    arrive_all(&revision, &files);
    assert_eq!(revision.contents[3].read(0..100_000).unwrap().unwrap(), data[3]);
}

#[test]
fn eviction_while_publishing_leaves_all_of_a_model_or_nothing() {
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
                store.evict(u64::MAX, &|_| false).unwrap();
            });
            start.wait();
            store.publish(&revision, &all(&revision), &dest)
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
fn staging_directory_is_removed_only_if_it_is_empty() {
    let home = home();
    let dest = home.dir.path().join("out");
    let a = bytes(50_000, 1);
    let store = home.store();
    let revision = store.revision(manifest("o/m", &[("a", &a)])).unwrap();
    let staging = || tree(home.dir.path()).iter().filter(|(p, _)| p.contains("silmaril-partial")).count();
    let directories = || fs::read_dir(home.dir.path()).unwrap().count();
    let before = directories();
    store.stage(&revision, &dest).unwrap();
    assert_eq!(directories(), before + 1);
    store.unstage_empty(&revision, &dest).unwrap();
    assert_eq!(directories(), before);
    // The content can still be received, and a later `get` collects it next to the destination.
    arrive(&revision.contents[0], &a, 0..16_384);
    store.stage(&revision, &dest).unwrap();
    let collected = staging();
    assert!(collected > 0);
    store.unstage_empty(&revision, &dest).unwrap();
    assert_eq!(staging(), collected);
    arrive(&revision.contents[0], &a, 16_384..50_000);
    store.publish(&revision, &[0], &dest).unwrap();
    assert_eq!(published(&dest), expected(&[("a", &a)]));
}

#[test]
fn publishing_leaves_the_partial_download_of_another_model_to_the_same_place() {
    let home = home();
    let dest = home.dir.path().join("out");
    let (a, b) = (bytes(50_000, 1), bytes(20_000, 2));
    let store = home.store();
    let partial = store.revision(manifest("o/m", &[("a", &a)])).unwrap();
    store.stage(&partial, &dest).unwrap();
    arrive(&partial.contents[0], &a, 0..16_384);
    // Its `get` was killed.
    drop((partial, store));
    let (store, revision) = get(&home, "o/n", &[("b", &b)], &dest);
    drop((revision, store));
    let store = home.store();
    let partial = store.revision(manifest("o/m", &[("a", &a)])).unwrap();
    assert_eq!(partial.contents[0].read(0..16_384).unwrap().unwrap(), a[..16_384]);
    arrive(&partial.contents[0], &a, 16_384..50_000);
    store.publish(&partial, &[0], &dest).unwrap();
    assert_eq!(published(&dest), expected(&[("a", &a), ("b", &b)]));
    assert_eq!(tree(home.dir.path()).iter().filter(|(p, _)| p.contains("silmaril-partial")).count(), 0);
    assert_eq!(fs::read_dir(home.dir.path()).unwrap().count(), 2, "no staging directory is left");
}

#[test]
fn a_large_file_gives_way_from_its_end_even_across_a_power_cut() {
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
    let before = store.cache_usage().unwrap();
    let evicted = store.evict(30 << 20, &|_| false).unwrap();
    assert_eq!(evicted[0].range, 64 << 20..len);
    assert!(store.cache_usage().unwrap() <= before - (30 << 20));
    assert_eq!(content.missing_ranges(0..len), [64 << 20..len]);
    drop((revision, store));
    let store = Store::open_in_boot(&home.paths, [BOOT[0] + 1; 16]).unwrap();
    assert_eq!(store.revision(manifest).unwrap().contents[0].missing_ranges(0..len), [64 << 20..len]);
}

#[test]
fn the_bounds_of_the_cache_become_bytes() {
    use crate::config::{CacheConfig, SizeOrPercent};
    let home = home();
    let store = home.store();
    let a = bytes(100_000, 1);
    let revision = store.revision(manifest("o/m", &[("a", &a)])).unwrap();
    arrive_all(&revision, &[("a", &a)]);
    let usage = store.cache_usage().unwrap();
    let excess = |max_size, min_free| store.cache_excess(&CacheConfig { max_size, min_free }).unwrap();
    assert_eq!(excess(SizeOrPercent::Bytes(usage), 0), 0);
    assert_eq!(excess(SizeOrPercent::Bytes(usage - 4096), 0), 4096);
    assert_eq!(excess(SizeOrPercent::Percent(100.0), u64::MAX), usage);
    assert_eq!(cache::resolve_size(SizeOrPercent::Percent(12.5), 800), 100);
}

#[test]
fn a_file_and_a_directory_of_a_former_state_give_way_to_each_other() {
    let home = home();
    let dest = home.paths.models.join("o/m");
    let (a, b, c, e) = (bytes(20_000, 1), bytes(20_000, 2), bytes(20_000, 3), bytes(20_000, 4));
    let (old, new): (Files, Files) =
        (&[("a", &a), ("b/c", &b), ("b/d/e", &e)], &[("a/x", &a), ("a/y", &c), ("b", &c)]);
    drop(get(&home, "o/m", old, &dest));
    let store = home.store();
    let (former, present) = (manifest("o/m", old), manifest("o/m", new));
    let revision = store.revision(present.clone()).unwrap();
    store.stage(&revision, &dest).unwrap();
    arrive(&revision.contents[1], &c, 0..20_000);
    // Not where somebody has edited or added something.
    for (path, text) in [("b/d/e", "edited"), ("b/d/mine", "mine")] {
        fs::write(dest.join(path), text).unwrap();
        let error = store.publish(&revision, &all(&revision), &dest).unwrap_err();
        assert!(matches!(&error, StoreError::Occupied { path } if path.ends_with("b")), "{error}");
        assert_eq!(fs::read_to_string(dest.join(path)).unwrap(), text);
        assert_eq!(fs::read(dest.join("a")).unwrap(), a, "what could have given way is gone");
        fs::remove_file(dest.join(path)).unwrap();
    }
    store.publish(&revision, &all(&revision), &dest).unwrap();
    assert_eq!(published(&dest), expected(new));
    // The same content is read where it is now.
    assert_eq!(revision.contents[0].read(0..20_000).unwrap().unwrap(), a);
    let left = store.former(&present.model_ref(), &present.torrent.info_hash, Some(&dest)).unwrap();
    assert_eq!(left[0].info_hash, former.torrent.info_hash);
    store.clear_former(&left[0], &present, &dest, std::slice::from_ref(&present)).unwrap();
    assert_eq!(published(&dest), expected(new));
    assert_eq!(revision.contents[0].read(0..20_000).unwrap().unwrap(), a);
    assert!(home.store().revision(present).unwrap().is_complete());
}

#[test]
fn a_model_that_was_got_into_a_directory_below_another_does_not_give_way() {
    let home = home();
    let (dest, below) = (home.dir.path().join("out"), home.dir.path().join("out/x"));
    let (a, b) = (bytes(20_000, 1), bytes(20_000, 2));
    drop(get(&home, "o/m", &[("a", &a)], &below));
    let files: Files = &[("x", &b)];
    let store = home.store();
    let revision = store.revision(manifest("o/n", files)).unwrap();
    store.stage(&revision, &dest).unwrap();
    arrive_all(&revision, files);
    store.publish(&revision, &[0], &dest).unwrap_err();
    assert_eq!(published(&below), expected(&[("a", &a)]));
}

#[test]
fn syncs_and_reads_during_a_publication_lose_nothing() {
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
        let published = store.publish(&revision, &all, &home.dir.path().join("out"));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        published.unwrap();
    });
    assert!(revision.is_complete());
}
