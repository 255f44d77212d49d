//! Tests of the store as its users see it.
#![allow(clippy::single_range_in_vec_init)]

mod eviction;
mod flushes;
mod models;
mod publishing;
mod records;
mod removing;
mod scheduler;
mod tending;
mod unproved;
mod verify;

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use sha2::Digest as _;

use super::placement::PlacedEntry;
use super::verify::Watch;
use super::*;
use crate::model::{BLOCK_LEN, FileEntry, Manifest, PiecesRoot};
use crate::paths::Paths;
use crate::{fsutil, nofollow};

/// A base directory. The manifests of these tests have made-up pieces roots, because the store does not hash.
pub(super) struct Home {
    pub dir: tempfile::TempDir,
    pub paths: Paths,
}

pub(super) fn home() -> Home {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::below(&dir.path().join("base"));
    Home { dir, paths }
}

/// No progress and no cancellation.
const UNWATCHED: Watch<'static> = Watch { progress: &|_| (), cancel: &NEVER };
static NEVER: AtomicBool = AtomicBool::new(false);

/// Records that files are below `dir`, verified, with their present stamps.
fn record(store: &Store, manifest: &Manifest, dir: &Path) -> Result<(), StoreError> {
    let stamps: Vec<_> =
        manifest.files.iter().map(|file| Stamp::at(&dir.join(&file.path)).unwrap()).collect();
    store.placed().record_as(manifest, dir, &stamps, &HashMap::new())
}

pub(super) const BOOT: [u8; 16] = [1; 16];

impl Home {
    pub fn store(&self) -> Arc<Store> {
        Store::open_in_boot(&self.paths, BOOT).unwrap()
    }
}

/// A manifest of files (path, content), in canonical order. Equal contents have equal roots.
pub(super) fn manifest(name: &str, files: &[(&str, &[u8])]) -> Arc<Manifest> {
    let entries = files.iter().map(|(path, bytes)| {
        let root = PiecesRoot(sha2::Sha256::digest(bytes).into());
        FileEntry::new(*path, bytes.len() as u64, None, (!bytes.is_empty()).then_some(root))
    });
    let manifest =
        Manifest::new(name.parse().unwrap(), Default::default(), 65_536, entries.collect()).unwrap();
    assert!(manifest.files.iter().map(|f| f.path.as_str()).eq(files.iter().map(|f| f.0)), "not in order");
    Arc::new(manifest)
}

pub(super) fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ (i / 4096) as u8 ^ seed).collect()
}

/// Does what the engine does: writes bytes, then reports them.
pub(super) fn arrive(content: &Content, bytes: &[u8], range: Range<u64>) {
    let path = content.path();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = fs::File::options().create(true).truncate(false).write(true).open(path).unwrap();
    file.write_all_at(&bytes[range.start as usize..range.end as usize], range.start).unwrap();
    content.mark_verified(range).unwrap();
}

/// Turns the map files of a data file into those of an older version.
pub(super) fn outdate(data: &Path) {
    for map in [mapfile::live_path(data), mapfile::synced_path(data)] {
        match fs::File::options().write(true).open(map) {
            Ok(file) => file.write_all_at(b"silmmap1", 0).unwrap(),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::NotFound),
        }
    }
}

fn write_files(dir: &Path, files: &[(&str, &[u8])]) {
    for (path, bytes) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn only_verified_blocks_are_readable() {
    let home = home();
    let (a, b) = (bytes(200_000, 1), bytes(70_000, 2));
    let revision = home.store().revision(manifest("o/m", &[("a", &a), ("b", &b), ("e", &[])])).unwrap();
    let content = &revision.contents[0];
    assert_eq!(content.read(0..1).unwrap(), None);
    arrive(content, &a, 65_536..131_072);
    arrive(content, &a, 131_072..147_456);
    assert_eq!(content.read(70_000..140_000).unwrap().unwrap(), &a[70_000..140_000]);
    assert_eq!(content.read(140_000..150_000).unwrap(), None);
    assert_eq!(content.missing_ranges(0..u64::MAX), [0..65_536, 147_456..200_000]);
    assert_eq!(revision.have_pieces().ones().collect::<Vec<_>>(), [1]);
    arrive(content, &a, 147_456..200_000);
    arrive(&revision.contents[1], &b, 65_536..70_000);
    assert_eq!(revision.have_pieces().ones().collect::<Vec<_>>(), [1, 2, 3, 5]);
    assert_eq!(revision.cached_bytes(), 200_000 - 65_536 + 70_000 - 65_536);
    assert!(revision.contents[2].is_complete() && !revision.is_complete());
    assert!(content.mark_verified(1..BLOCK_LEN).is_err() && content.read(0..200_001).is_err());
}

#[test]
fn bytes_written_to_an_old_path_do_not_count() {
    let home = home();
    let a = bytes(50_000, 1);
    let store = home.store();
    let revision = store.revision(manifest("o/m", &[("a", &a)])).unwrap();
    let content = &revision.contents[0];
    let moves = content.moves();
    assert!(content.mark_verified_at(0..16_384, moves).unwrap());
    // There is no data file to stage.
    store.staging().stage(&revision, &home.dir.path().join("out")).unwrap();
    assert!(!content.mark_verified_at(16_384..32_768, moves).unwrap());
    assert_eq!(content.cached_bytes(), 0);
    arrive(content, &a, 0..50_000);
    assert_eq!(content.read(0..50_000).unwrap().unwrap(), a);
}

#[test]
fn equal_files_are_one_content_within_and_across_models() {
    let home = home();
    let store = home.store();
    let a = bytes(100_000, 1);
    let one = store.revision(manifest("o/one", &[("x", &a), ("y", &a)])).unwrap();
    let two = store.revision(manifest("o/two", &[("z", &a)])).unwrap();
    assert!(
        Arc::ptr_eq(&one.contents[0], &one.contents[1]) && Arc::ptr_eq(&one.contents[0], &two.contents[0])
    );
}

#[test]
fn models_with_common_files_have_own_directories() {
    let home = home();
    let store = home.store();
    let (a, b) = (bytes(100_000, 1), bytes(50_000, 2));
    let one: &[(&str, &[u8])] = &[("license", &a), ("x", &a)];
    let two: &[(&str, &[u8])] = &[("empty", &[]), ("license", &a), ("y", &b)];
    let dirs = ["one", "two"].map(|name| home.dir.path().join(name));
    for (name, files, dir) in [("o/one", one, &dirs[0]), ("o/two", two, &dirs[1])] {
        write_files(dir, files);
        record(&store, &manifest(name, files), dir).unwrap();
    }
    let own_dir = |name, files| store.placed().own_dir(&store.revision(manifest(name, files)).unwrap());
    assert_eq!(own_dir("o/one", one).as_ref(), Some(&dirs[0]));
    assert_eq!(own_dir("o/two", two).as_ref(), Some(&dirs[1]));
    // A copy in the models directory comes first.
    let below_models = home.paths.models.join("o/two");
    write_files(&below_models, two);
    record(&store, &manifest("o/two", two), &below_models).unwrap();
    assert_eq!(own_dir("o/two", two).as_ref(), Some(&below_models));
    std::fs::remove_file(below_models.join("empty")).unwrap();
    assert_eq!(own_dir("o/two", two).as_ref(), Some(&dirs[1]), "an incomplete directory does not count");
    std::fs::remove_file(dirs[1].join("license")).unwrap();
    assert_eq!(own_dir("o/two", two), None);
}

#[test]
fn false_length_does_not_change_the_right_content() {
    let home = home();
    let store = home.store();
    let a = bytes(100_000, 1);
    let honest = manifest("o/honest", &[("x", &a)]);
    let mut lie = (*honest).clone();
    lie.files[0].size = 5;
    let honest = store.revision(honest).unwrap();
    arrive(&honest.contents[0], &a, 0..100_000);
    let liar = store.revision(Arc::new(lie)).unwrap();
    assert!(!liar.is_complete());
    arrive(&liar.contents[0], b"false", 0..5);
    assert_eq!(honest.contents[0].read(0..100_000).unwrap().unwrap(), a);
}

#[test]
fn files_shared_in_place_count_while_they_look_as_recorded() {
    let home = home();
    let dir = home.dir.path().join("mine");
    let files: &[(&str, &[u8])] = &[("a", &bytes(50_000, 1)), ("e", &[]), ("sub/b", &bytes(20_000, 2))];
    write_files(&dir, files);
    let manifest = manifest("o/m", files);
    let store = home.store();
    let early = store.revision(manifest.clone()).unwrap();
    assert!(!early.is_complete());
    record(&store, &manifest, &dir).unwrap();
    assert!(early.is_complete(), "a revision held from before moves to the placed files");
    assert_eq!(early.contents[0].moves(), 1);
    drop((early, store));

    let store = home.store();
    let revision = store.revision(manifest.clone()).unwrap();
    assert!(revision.is_complete());
    assert_eq!(revision.contents[2].path(), fs::canonicalize(&dir).unwrap().join("sub/b"));
    assert_eq!(revision.contents[2].read(5..15).unwrap().unwrap(), &files[2].1[5..15]);
    assert!(revision.contents[0].open_for_passthrough().is_some());

    // Edited while it is in use: its bytes are no longer returned, and no byte is written to it.
    fs::write(dir.join("sub/b"), bytes(20_000, 3)).unwrap();
    assert!(revision.contents[2].read(5..15).is_err());
    assert_eq!(revision.contents[2].read(5..15).unwrap(), None);
    assert!(revision.contents[2].path().starts_with(home.paths.cache()));
    // Edited while no store was open.
    fs::write(dir.join("a"), bytes(50_000, 3)).unwrap();
    drop((revision, store));
    assert_eq!(home.store().revision(manifest).unwrap().cached_bytes(), 0);
}

#[test]
fn link_exchanged_after_sharing_is_not_followed() {
    use std::os::unix::fs::symlink;
    let home = home();
    let top = fs::canonicalize(home.dir.path()).unwrap();
    let (dir, secret) = (top.join("mine"), top.join("secret"));
    let (a, b) = (bytes(50_000, 1), bytes(20_000, 2));
    write_files(&dir, &[("b", &b), ("data/a", &a)]);
    symlink("data/a", dir.join("a")).unwrap();
    fs::write(&secret, bytes(50_000, 3)).unwrap();
    let manifest = manifest("o/m", &[("a", &a), ("b", &b)]);
    let target = dir.join("data/a");
    let store = home.store();
    let stamps = [&target, &dir.join("b")].map(|path| Stamp::at(path).unwrap());
    let targets = HashMap::from([("a".to_owned(), target.clone())]);
    store.placed().record_as(&manifest, &dir, &stamps, &targets).unwrap();
    let revision = store.revision(manifest.clone()).unwrap();
    assert!(revision.is_complete());
    assert_eq!(revision.contents[0].place().0, target);
    assert_eq!(revision.contents[0].place().1.unwrap().0, stamps[0]);

    // The link is no longer read.
    fs::remove_file(dir.join("a")).unwrap();
    symlink(&secret, dir.join("a")).unwrap();
    drop((revision, store));
    let store = home.store();
    let revision = store.revision(manifest.clone()).unwrap();
    assert_eq!(revision.contents[0].read(0..50_000).unwrap().unwrap(), a);
    // A link at its old target, or at the file, is not followed either.
    fs::rename(&target, top.join("moved")).unwrap();
    symlink(top.join("moved"), &target).unwrap();
    fs::rename(dir.join("b"), top.join("b")).unwrap();
    fs::hard_link(&secret, dir.join("b")).unwrap();
    drop((revision, store));
    let store = home.store();
    assert_eq!(store.revision(manifest.clone()).unwrap().cached_bytes(), 0);
}

#[test]
fn cached_file_replaced_by_a_link_is_lost() {
    use std::os::unix::fs::symlink;
    let home = home();
    let (a, other) = (bytes(50_000, 1), bytes(50_000, 2));
    let store = home.store();
    let revision = store.revision(manifest("o/m", &[("a", &a)])).unwrap();
    arrive(&revision.contents[0], &a, 0..16_384);
    store.staging().stage(&revision, &home.dir.path().join("out")).unwrap();
    let path = revision.contents[0].path();
    fs::write(home.dir.path().join("other"), &other).unwrap();
    fs::remove_file(&path).unwrap();
    symlink(home.dir.path().join("other"), &path).unwrap();
    assert!(revision.contents[0].read(0..10).is_err());
    assert_eq!(revision.contents[0].read(0..10).unwrap(), None);
    assert_eq!(fs::read(home.dir.path().join("other")).unwrap(), other);
}

#[test]
fn file_changed_after_hashing_does_not_count() {
    let home = home();
    let dir = home.dir.path().join("mine");
    let files: &[(&str, &[u8])] = &[("a", &bytes(50_000, 1))];
    write_files(&dir, files);
    let stamp = Stamp::at(&dir.join("a")).unwrap();
    fs::write(dir.join("a"), bytes(50_001, 1)).unwrap();
    let store = home.store();
    let manifest = manifest("o/m", files);
    store.placed().record_as(&manifest, &dir, &[stamp], &HashMap::new()).unwrap();
    assert!(!store.revision(manifest).unwrap().is_complete());
}

#[test]
fn short_cache_file_loses_only_the_missing_bytes() {
    let home = home();
    let a = bytes(200_000, 1);
    let manifest = manifest("o/m", &[("a", &a)]);
    let path = {
        let store = home.store();
        let revision = store.revision(manifest.clone()).unwrap();
        arrive(&revision.contents[0], &a, 0..200_000);
        store.sync().unwrap();
        revision.contents[0].path()
    };
    fs::File::options().write(true).open(&path).unwrap().set_len(100_000).unwrap();
    let store = home.store();
    let content = store.revision(manifest.clone()).unwrap().contents[0].clone();
    assert_eq!(content.missing_ranges(0..200_000), [98_304..200_000]);
    // The file grows again: the cut part is a hole now, also after the map files are read again.
    arrive(&content, &a, 196_608..200_000);
    drop((content, store));
    let store = home.store();
    let content = store.revision(manifest.clone()).unwrap().contents[0].clone();
    assert_eq!(content.missing_ranges(0..200_000), [98_304..196_608]);
    // Cut while it is in use: the first read fails, later reads report that the bytes are missing.
    fs::File::options().write(true).open(&path).unwrap().set_len(40_000).unwrap();
    assert!(content.read(50_000..60_000).is_err());
    assert_eq!(content.read(50_000..60_000).unwrap(), None);
    assert_eq!(content.read(0..32_768).unwrap().unwrap(), &a[..32_768]);
    fs::remove_file(&path).unwrap();
    drop((content, store));
    assert_eq!(home.store().revision(manifest).unwrap().cached_bytes(), 0);
}

#[test]
fn process_without_the_lock_restores_no_map() {
    let home = home();
    let a = bytes(50_000, 1);
    let manifest = manifest("o/m", &[("a", &a)]);
    let store = home.store();
    let content = store.revision(manifest.clone()).unwrap().contents[0].clone();
    arrive(&content, &a, 0..50_000);
    store.sync().unwrap();
    let maps = || [mapfile::live_path(&content.path()), mapfile::synced_path(&content.path())];
    let before = maps().map(|path| fs::read(path).unwrap());
    // In the middle of an operation of another process.
    fs::File::options().write(true).open(content.path()).unwrap().set_len(20_000).unwrap();
    let reader = Store::open_as(&home.paths, BOOT, false).unwrap();
    assert_eq!(reader.revision(manifest.clone()).unwrap().cached_bytes(), 16_384);
    assert_eq!(maps().map(|path| fs::read(path).unwrap()), before);
    assert_eq!(home.store().revision(manifest).unwrap().cached_bytes(), 16_384);
    assert_ne!(maps().map(|path| fs::read(path).unwrap()), before, "the holder of the lock mends them");
}

#[derive(Debug, Clone)]
enum Op {
    Arrive(usize, usize),
    Lose(usize, usize),
    Read(usize, usize),
    Sync,
    Kill,
    PowerCut,
    Outdate,
    Truncate(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        5 => (0usize..20, 1usize..6).prop_map(|(a, n)| Op::Arrive(a, n)),
        2 => (0usize..20, 1usize..6).prop_map(|(a, n)| Op::Lose(a, n)),
        4 => (0usize..300_000, 1usize..60_000).prop_map(|(a, n)| Op::Read(a, n)),
        2 => Just(Op::Sync),
        2 => Just(Op::Kill),
        1 => Just(Op::PowerCut),
        1 => Just(Op::Outdate),
        1 => (0usize..320_000).prop_map(Op::Truncate),
    ];
    proptest::collection::vec(op, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Bytes that are not verified are never returned; a kill loses no marked block, a power cut no synced block.
    #[test]
    fn survives_kills_and_power_cuts(ops in ops()) {
        const LEN: usize = 300_001;
        let home = home();
        let data = bytes(LEN, 9);
        let manifest = manifest("o/m", &[("f", &data)]);
        let blocks = LEN.div_ceil(BLOCK_LEN as usize);
        let range = |b: usize| b as u64 * BLOCK_LEN..((b as u64 + 1) * BLOCK_LEN).min(LEN as u64);
        let mut boot = 1u8;
        let mut marked = vec![false; blocks];
        let mut synced = marked.clone();
        let mut store = Store::open_in_boot(&home.paths, [boot; 16]).unwrap();
        let mut revision = store.revision(manifest.clone()).unwrap();
        for op in ops {
            let content = revision.contents[0].clone();
            match op {
                Op::Arrive(from, n) => for b in (from..from + n).filter(|&b| b < blocks) {
                    arrive(&content, &data, range(b));
                    marked[b] = true;
                },
                Op::Lose(from, n) => {
                    let span = from as u64 * BLOCK_LEN..((from + n) as u64 * BLOCK_LEN).min(LEN as u64);
                    if span.is_empty() { continue }
                    content.mark_missing(span.clone()).unwrap();
                    // The file may be overwritten there immediately.
                    if let Ok(file) = fs::File::options().write(true).open(content.path()) {
                        file.write_all_at(&vec![0xee; (span.end - span.start) as usize], span.start).unwrap();
                    }
                    for b in (from..from + n).filter(|&b| b < blocks) { marked[b] = false; synced[b] = false; }
                }
                Op::Read(at, n) => {
                    let span = at as u64..((at + n) as u64).min(LEN as u64);
                    if span.is_empty() { continue }
                    let all = (span.start / BLOCK_LEN..span.end.div_ceil(BLOCK_LEN)).all(|b| marked[b as usize]);
                    let expected = all.then(|| data[span.start as usize..span.end as usize].to_vec());
                    prop_assert_eq!(content.read(span).unwrap(), expected);
                }
                Op::Sync => { store.sync().unwrap(); synced = marked.clone(); }
                Op::Kill | Op::PowerCut | Op::Outdate => {
                    let path = content.path();
                    drop((content, revision, store));
                    if matches!(op, Op::Outdate) {
                        outdate(&path);
                        marked.fill(false);
                        synced.fill(false);
                    }
                    if matches!(op, Op::PowerCut) { boot += 1; marked = synced.clone(); }
                    store = Store::open_in_boot(&home.paths, [boot; 16]).unwrap();
                    revision = store.revision(manifest.clone()).unwrap();
                }
                Op::Truncate(to) => {
                    let path = content.path();
                    drop((content, revision, store));
                    if let Ok(file) = fs::File::options().write(true).open(path)
                        && to < file.metadata().unwrap().len() as usize {
                        file.set_len(to as u64).unwrap();
                        for b in to / BLOCK_LEN as usize..blocks { marked[b] = false; synced[b] = false; }
                    }
                    store = Store::open_in_boot(&home.paths, [boot; 16]).unwrap();
                    revision = store.revision(manifest.clone()).unwrap();
                }
            }
            let content = &revision.contents[0];
            prop_assert!(content.unproved_pieces(BLOCK_LEN).iter().all(|&b| !marked[b as usize]));
            for (b, &is) in marked.iter().enumerate() {
                prop_assert_eq!(content.has(range(b)), is, "block {}", b);
            }
        }
    }
}
