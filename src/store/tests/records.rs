//! Tests of the records of placed files: after a kill or a power cut, and the cost of a change.

use super::*;
use crate::model::InfoHash;
use crate::store::placement::{PlacementRecord, Placements};

/// Files of one model in two directories; entries are made up.
#[derive(Debug, Clone)]
enum Op {
    Put {
        dir: usize,
        files: Range<usize>,
        mtime: i64,
    },
    Drop {
        dir: usize,
        every: u64,
    },
    Damage {
        dir: usize,
        file: usize,
    },
    Stage(usize),
    Unstage(usize),
    Forget,
    /// The process dies while it writes the last change: this part of its bytes was written, in percent, and then zeros or
    /// no byte.
    Cut {
        percent: usize,
        zeros: bool,
    },
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0usize..2, 0usize..60, 1usize..40, 0i64..3)
            .prop_map(|(dir, from, n, mtime)| Op::Put { dir, files: from..from + n, mtime }),
        2 => (0usize..2, 1u64..5).prop_map(|(dir, every)| Op::Drop { dir, every }),
        6 => (0usize..2, 0usize..100).prop_map(|(dir, file)| Op::Damage { dir, file }),
        1 => (0usize..3).prop_map(Op::Stage),
        1 => (0usize..3).prop_map(Op::Unstage),
        1 => Just(Op::Forget),
        4 => (0usize..100, any::<bool>()).prop_map(|(percent, zeros)| Op::Cut { percent, zeros }),
        1 => Just(Op::Reopen),
    ]
}

fn dir(n: usize) -> PathBuf {
    PathBuf::from(format!("/nowhere/{n}"))
}

fn entry(file: usize, mtime_ns: i64) -> PlacedEntry {
    let stamp = Stamp { size: 4, mtime_ns, inode: file as u64 };
    let root = Some(PiecesRoot(sha2::Sha256::digest(file.to_be_bytes()).into()));
    PlacedEntry::verified(format!("f{file:03}"), root, 4, stamp, true)
}

fn key(file: usize) -> ContentKey {
    ContentKey { root: entry(file, 0).root.unwrap(), len: 4 }
}

fn change(records: &Placements, manifest: &Manifest, op: &Op) {
    let of = &manifest.torrent.info_hash;
    let done = match op.clone() {
        Op::Put { dir: to, files, mtime } => {
            records.put(manifest, &dir(to), files.map(|file| entry(file, mtime)).collect())
        }
        Op::Drop { dir: from, every } => records.update(of, |record| {
            record.place_mut(&dir(from)).files.retain(|file| !file.stamp.inode.is_multiple_of(every));
        }),
        Op::Damage { dir: from, file } => records.distrust(&key(file), &dir(from).join(entry(file, 0).path)),
        Op::Stage(n) => records.update(of, |record| {
            record.staging.push(dir(n));
            record.inodes.insert(dir(n), n as u64);
        }),
        Op::Unstage(n) => records.update(of, |record| {
            record.staging.retain(|staging| *staging != dir(n));
            record.inodes.remove(&dir(n));
        }),
        Op::Forget => records.update(of, |record| *record = PlacementRecord::default()),
        Op::Cut { .. } | Op::Reopen => Ok(()),
    };
    done.unwrap();
}

/// All files of the index, sorted.
fn indexed(records: &Placements) -> Vec<(ContentKey, Vec<String>)> {
    let mut all: Vec<_> = (0..100).map(|file| (key(file), records.indexed(&key(file)))).collect();
    all.iter_mut().for_each(|(_, files)| files.sort());
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// The next process finds every reported change. It finds a change that was cut either whole or not at all, and all changes
    /// after it. The index is always equal to that of a process that has just started.
    #[test]
    fn records_survive_kills_and_power_cuts(ops in proptest::collection::vec(op(), 1..60)) {
        let home = home();
        drop(home.store());
        let manifest = manifest("o/m", &[("a", b"a")]);
        let of = manifest.torrent.info_hash;
        let path = home.paths.placement(&of);
        let mut records = Placements::open(&home.paths).unwrap();
        // The file and the record before the last change.
        let mut before: (Option<Vec<u8>>, PlacementRecord) = (None, PlacementRecord::default());
        for op in ops {
            match op {
                Op::Cut { percent, zeros } => {
                    let after = (fs::read(&path).ok(), records.record(&of));
                    // A replaced file is written whole or not at all; appended bytes may be written in part.
                    let (Some(old), Some(new)) = (&before.0, &after.0) else { continue };
                    if !new.starts_with(old) || new.len() == old.len() { continue }
                    let there = old.len() + (new.len() - old.len()) * percent / 100;
                    let mut left = new[..there].to_vec();
                    if zeros { left.resize(new.len(), 0); }
                    fs::write(&path, left).unwrap();
                    records = Placements::open(&home.paths).unwrap();
                    prop_assert_eq!(records.record(&of), before.1.clone());
                }
                Op::Reopen => {
                    let known = records.record(&of);
                    records = Placements::open(&home.paths).unwrap();
                    prop_assert_eq!(records.record(&of), known);
                }
                op => {
                    let old = (fs::read(&path).ok(), records.record(&of));
                    change(&records, &manifest, &op);
                    if records.record(&of) != old.1 { before = old; }
                }
            }
            let fresh = Placements::open(&home.paths).unwrap();
            prop_assert_eq!(fresh.record(&of), records.record(&of));
            prop_assert_eq!(indexed(&fresh), indexed(&records));
        }
    }
}

#[test]
fn record_of_one_line_is_read_in_any_order() {
    let home = home();
    drop(home.store());
    let of = manifest("o/m", &[("a", b"a")]).torrent.info_hash;
    let file = |n| serde_json::to_value(entry(n, 0)).unwrap();
    let place = |dir: &str, files: &[usize]| serde_json::json!({"dir": dir, "files": files.iter().map(|n| file(*n)).collect::<Vec<_>>()});
    let old = serde_json::json!({"models": ["o/m"], "places": [place("/b", &[2, 1]), place("/a", &[3])]});
    fs::write(home.paths.placement(&of), old.to_string()).unwrap();
    let records = Placements::open(&home.paths).unwrap();
    records.distrust(&key(1), Path::new("/b/f001")).unwrap();
    let again = Placements::open(&home.paths).unwrap();
    let damaged = again.record(&of).places.iter().flat_map(|p| &p.files).filter(|f| f.damaged).count();
    assert_eq!((damaged, again.record(&of)), (1, records.record(&of)));
}

#[test]
fn change_of_one_file_writes_no_whole_record() {
    let home = home();
    drop(home.store());
    let manifest = manifest("o/m", &[("a", b"a")]);
    let of: InfoHash = manifest.torrent.info_hash;
    let records = Placements::open(&home.paths).unwrap();
    records.put(&manifest, &dir(0), (0..400).map(|file| entry(file, 0)).collect()).unwrap();
    let path = home.paths.placement(&of);
    let (whole, inode) = {
        let meta = fs::metadata(&path).unwrap();
        (meta.len(), std::os::unix::fs::MetadataExt::ino(&meta))
    };
    let mut last = whole;
    for file in 0..400 {
        records.distrust(&key(file), &dir(0).join(entry(file, 0).path)).unwrap();
        let meta = fs::metadata(&path).unwrap();
        let same = std::os::unix::fs::MetadataExt::ino(&meta) == inode;
        assert!(!same || meta.len() - last < 1000, "change {file} wrote {} bytes", meta.len() - last);
        assert!(same || meta.len() > 30_000, "the file was written again for no reason");
        last = meta.len();
    }
    assert!(last <= 2 * whole + (1 << 17), "the changes are not folded into the record: {last} bytes");
    let again = Placements::open(&home.paths).unwrap();
    assert_eq!(again.record(&of), records.record(&of));
    assert!(again.record(&of).places[0].files.iter().all(|file| file.damaged));
}
