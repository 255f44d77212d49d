//! Disk failures are reported with the file and the kind of failure, the torrent continues when the cause is removed, and
//! other torrents are not affected.

use std::path::{Path, PathBuf};

use silmaril::model::PieceIndex;
use silmaril::torrent::{DiskErrorKind, Event, FileStamp, Priority, Swarms, TorrentId};

use super::rig::{Client, SOON, Sample};
use crate::support::net::sh;
use crate::support::private_net::in_private_net;

/// A small file system in memory.
struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        sh(&format!("mount -t tmpfs -o {options} tmpfs {}", dir.path().display()));
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn remount(&self, options: &str) {
        sh(&format!("mount -o remount,{options} {}", self.path().display()));
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn seeding(sample: &Sample) -> Client {
    let mut seed = Client::new();
    seed.add(sample.add_seed());
    seed
}

fn joined(client: &mut Client, sample: &Sample, dir: &Path, seed: &Client) -> TorrentId {
    let mut add = sample.add(dir);
    add.peers = vec![seed.address];
    client.add(add)
}

#[track_caller]
fn wait_disk_error(client: &mut Client, id: TorrentId) -> (PathBuf, DiskErrorKind) {
    client.wait_for("disk error", SOON, |event| match event {
        Event::DiskError(i, path, kind, _) if *i == id => Some((path.clone(), *kind)),
        _ => None,
    })
}

fn want_all(client: &Client, id: TorrentId, sample: &Sample) {
    let all: Vec<_> = (0..sample.pieces()).map(|p| (PieceIndex(p), Priority::Normal)).collect();
    client.session.set_priority(id, &all).unwrap();
}

fn assert_whole(sample: &Sample, dir: &Path) {
    for piece in 0..sample.pieces() {
        assert!(sample.piece_in(dir, piece).unwrap() == sample.piece(piece), "piece {piece}");
    }
}

/// `broken` cannot be written to until `mend` has run; another torrent completes meanwhile, and this one afterwards.
fn fails_then_recovers(broken: &Tmpfs, mend: &str, expected: DiskErrorKind, hybrid: bool) {
    let sample = Sample::new(&[("dir/model.safetensors", 12 << 20)], 256 * 1024, hybrid);
    let other = Sample::new(&[("other.bin", 3_000_000)], 64 * 1024, false);
    let (seed, other_seed) = (seeding(&sample), seeding(&other));
    let mut client = Client::new();
    let other_dir = tempfile::tempdir().unwrap();

    let id = joined(&mut client, &sample, broken.path(), &seed);
    want_all(&client, id, &sample);
    let (path, kind) = wait_disk_error(&mut client, id);
    assert_eq!((path, kind), (sample.paths_in(broken.path())[0].clone(), expected));

    let other_id = joined(&mut client, &other, other_dir.path(), &other_seed);
    client.fetch_all(other_id, other.pieces(), |_| {});
    assert_whole(&other, other_dir.path());

    broken.remount(mend);
    let mut left: std::collections::BTreeSet<u32> = (0..sample.pieces()).collect();
    left.retain(|piece| {
        !sample.piece_in(broken.path(), *piece).is_ok_and(|bytes| bytes == sample.piece(*piece))
    });
    assert!(!left.is_empty(), "no write failed");
    client.wait_for("rest of the pieces", SOON, |event| {
        if let Event::PieceVerified(i, piece) = event
            && *i == id
        {
            left.remove(&piece.0);
        }
        left.is_empty().then_some(())
    });
    assert_whole(&sample, broken.path());
}

#[test]
fn full_disk_is_reported_and_survived() {
    in_private_net(|| fails_then_recovers(&Tmpfs::new("size=4m"), "size=64m", DiskErrorKind::Full, false));
}

#[test]
fn full_disk_of_a_hybrid_torrent_is_survived() {
    in_private_net(|| fails_then_recovers(&Tmpfs::new("size=4m"), "size=64m", DiskErrorKind::Full, true));
}

#[test]
fn read_only_disk_is_reported_and_survived() {
    in_private_net(|| fails_then_recovers(&Tmpfs::new("size=64m,ro"), "rw", DiskErrorKind::ReadOnly, false));
}

#[test]
fn removed_file_is_reported_and_written_again() {
    in_private_net(|| {
        let sample = Sample::new(&[("model.safetensors", 4 << 20)], 256 * 1024, false);
        let seed = seeding(&sample);
        let mut client = Client::new();
        let here = tempfile::tempdir().unwrap();
        let id = joined(&mut client, &sample, here.path(), &seed);
        client.read(id, 1);
        let path = sample.paths_in(here.path())[0].clone();
        std::fs::remove_file(&path).unwrap();

        client.session.request(id, PieceIndex(9), std::time::Duration::ZERO).unwrap();
        let (mut reported, mut verified) = (None, false);
        client.wait_for("loss and the piece", SOON, |event| {
            match event {
                Event::DiskError(i, path, kind, _) if *i == id => reported = Some((path.clone(), *kind)),
                Event::PieceVerified(i, PieceIndex(9)) if *i == id => verified = true,
                _ => {}
            }
            (reported.is_some() && verified).then_some(())
        });
        assert_eq!(reported, Some((path, DiskErrorKind::Missing)));
        assert!(sample.piece_in(here.path(), 9).unwrap() == sample.piece(9));
    });
}

/// Blocks that come together are written by one call. A write must not skip those of them that no torrent has verified.
#[test]
fn piece_of_which_another_torrent_has_parts_is_written() {
    in_private_net(|| {
        let sample = |piece| Sample::new(&[("model.safetensors", 4 << 20)], piece, false);
        let (small, large) = (sample(64 << 10), sample(1 << 20));
        let mut seed = seeding(&small);
        seed.add(large.add_seed());
        let mut client = Client::new();
        let here = tempfile::tempdir().unwrap();
        let first = joined(&mut client, &small, here.path(), &seed);
        for piece in [3, 20, 21, 41, 63] {
            client.read(first, piece);
        }

        let second = joined(&mut client, &large, here.path(), &seed);
        client.fetch_all(second, large.pieces(), |_| ());

        assert_whole(&large, here.path());
    });
}

#[test]
fn missing_seeded_file_is_reported() {
    in_private_net(|| {
        let sample = Sample::new(&[("model.safetensors", 1 << 20)], 256 * 1024, false);
        let mut seed = Client::new();
        let seeded = seed.add(sample.add_seed());
        let path = sample.paths_in(sample.dir.path())[0].clone();
        std::fs::remove_file(&path).unwrap();

        let client = Client::new();
        let here = tempfile::tempdir().unwrap();
        let mut add = sample.add(here.path());
        add.peers = vec![seed.address];
        let id = client.session.add(add).unwrap();
        want_all(&client, id, &sample);
        assert_eq!(wait_disk_error(&mut seed, seeded), (path, DiskErrorKind::Missing));
    });
}

#[test]
fn seeded_directory_is_not_changed() {
    in_private_net(|| {
        let sample =
            Sample::new(&[("model.safetensors", 1 << 20), ("tokenizer.json", 5000)], 64 * 1024, false);
        let before: Vec<_> =
            sample.paths_in(sample.dir.path()).iter().map(|path| std::fs::metadata(path).unwrap()).collect();
        let seed = seeding(&sample);
        let mut client = Client::new();
        let here = tempfile::tempdir().unwrap();
        let id = joined(&mut client, &sample, here.path(), &seed);
        client.fetch_all(id, sample.pieces(), |_| {});
        for (path, before) in sample.paths_in(sample.dir.path()).iter().zip(before) {
            let after = std::fs::metadata(path).unwrap();
            assert_eq!(before.modified().unwrap(), after.modified().unwrap());
            assert_eq!(before.len(), after.len());
        }
    });
}

/// The failure of a seed whose file is replaced by `change`, which receives the file and a secret file.
fn failure_of_exchanged(fixed: bool, change: impl Fn(&Path, &Path)) -> Option<DiskErrorKind> {
    use std::os::unix::fs::MetadataExt as _;
    let sample = Sample::new(&[("a.bin", 1_000_000)], 64 * 1024, false);
    let path = sample.paths_in(sample.dir.path())[0].clone();
    let found = path.metadata().unwrap();
    let secret = sample.dir.path().join("secret");
    std::fs::write(&secret, vec![7; 1_000_000]).unwrap();
    change(&path, &secret);
    let mut add = sample.add_seed();
    if fixed {
        let mtime_ns = found.mtime() * 1_000_000_000 + found.mtime_nsec();
        add.file_stamps =
            vec![Some(FileStamp { size: found.size(), mtime_ns, inode: found.ino(), changed_ns: None })];
    }
    let mut seed = Client::new();
    let id = seed.add(add);
    let dir = tempfile::tempdir().unwrap();
    let mut client = Client::new();
    let to = joined(&mut client, &sample, dir.path(), &seed);
    want_all(&client, to, &sample);
    seed.wait_for("an upload or a disk error", SOON, |event| match event {
        Event::DiskError(i, at, kind, _) if *i == id && *at == path => Some(Some(*kind)),
        Event::Stats(i, stats) if *i == id && stats.uploaded > 0 => Some(None),
        _ => None,
    })
}

#[test]
fn file_in_place_of_a_shared_one_is_not_uploaded() {
    in_private_net(|| {
        let missing = Some(DiskErrorKind::Missing);
        assert_eq!(failure_of_exchanged(true, |_, _| ()), None, "the file itself");
        let link = |path: &Path, secret: &Path| {
            std::fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink(secret, path).unwrap();
        };
        assert_eq!(failure_of_exchanged(false, link), missing, "a link");
        let parent = |path: &Path, _: &Path| {
            let dir = path.parent().unwrap();
            std::fs::rename(dir, dir.with_extension("away")).unwrap();
            std::os::unix::fs::symlink(dir.with_extension("away"), dir).unwrap();
        };
        assert_eq!(failure_of_exchanged(false, parent), missing, "a link above it");
        let hard = |path: &Path, secret: &Path| {
            std::fs::remove_file(path).unwrap();
            std::fs::hard_link(secret, path).unwrap();
        };
        assert_eq!(failure_of_exchanged(true, hard), missing, "a hard link");
    });
}

#[test]
fn nothing_is_written_through_a_link() {
    in_private_net(|| {
        let sample = Sample::new(&[("a.bin", 1_000_000)], 64 * 1024, false);
        let seed = seeding(&sample);
        let dir = tempfile::tempdir().unwrap();
        let path = sample.paths_in(dir.path())[0].clone();
        let precious = dir.path().join("precious");
        std::fs::write(&precious, b"mine").unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        let mut client = Client::new();
        let id = joined(&mut client, &sample, dir.path(), &seed);
        want_all(&client, id, &sample);
        assert_eq!(wait_disk_error(&mut client, id), (path.clone(), DiskErrorKind::Missing));
        assert_eq!(std::fs::read(&precious).unwrap(), b"mine");
        // It continues when the link is removed.
        std::fs::remove_file(&path).unwrap();
        client.fetch_all(id, sample.pieces(), |_| {});
        assert_whole(&sample, dir.path());
    });
}
