//! Verified bytes that are proved again before they are sent.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use silmaril::model::PieceIndex;
use silmaril::model::hash::{Control, hash_file};
use silmaril::torrent::{AddTorrent, Event, FileCare, FileStamp, Swarms, TorrentId};

use super::rig::{Client, SOON, Sample};
use crate::support::private_net::in_private_net;

const MIB: usize = 1 << 20;
const WRONG: u32 = 5;

fn sample() -> Sample {
    Sample::new(&[("model.safetensors", 8 * MIB)], MIB as u32, false)
}

/// Overwrites bytes in the middle of a piece, and restores the modification time.
fn overwrite(sample: &Sample, piece: u32) -> PathBuf {
    let path = sample.paths_in(sample.dir.path()).remove(0);
    let time = path.metadata().unwrap().modified().unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0x55; 1000], u64::from(piece) * MIB as u64 + 300_000).unwrap();
    file.set_modified(time).unwrap();
    path
}

fn granules_of(path: &Path) -> Vec<u8> {
    let cancel = AtomicBool::new(false);
    let control = Control { progress: &|_| (), cancel: &cancel };
    hash_file(path, MIB as u32, control).unwrap().granules.as_flattened().to_vec()
}

/// Whether the seed found the wrong piece, and how often its leech rejected it.
struct Outcome {
    damaged: bool,
    rejected: u32,
}

/// Lets a leech request all pieces of a seed until it has all right ones and the seed has found the wrong one, if there is one.
fn exchange(sample: &Sample, add: AddTorrent, expect_damage: bool) -> Outcome {
    let mut seed = Client::new();
    let seeded = seed.add(add);
    let dir = tempfile::tempdir().unwrap();
    let mut leech = Client::new();
    let mut add = sample.add(dir.path());
    add.peers = vec![seed.address];
    let id = leech.add(add);
    let want =
        |leech: &Client, piece: u32| leech.session.request(id, PieceIndex(piece), Duration::ZERO).unwrap();
    (0..sample.pieces()).for_each(|piece| want(&leech, piece));
    let mut left: Vec<u32> = (0..sample.pieces()).filter(|piece| !expect_damage || *piece != WRONG).collect();
    let mut outcome = Outcome { damaged: false, rejected: 0 };
    let until = Instant::now() + 3 * SOON;
    while !left.is_empty() || outcome.damaged != expect_damage {
        assert!(Instant::now() < until, "pieces left: {left:?}; found damaged: {}", outcome.damaged);
        let is_damage = |event: &Event, of: TorrentId| matches!(event, Event::PieceDamaged(i, piece) if *i == of && piece.0 == WRONG);
        if let Some(event) = seed.next(Duration::from_millis(20)) {
            outcome.damaged |= is_damage(&event, seeded);
        }
        leech.wait_for_next(SOON, &mut left, &mut outcome.rejected, outcome.damaged);
    }
    for piece in (0..sample.pieces()).filter(|piece| !expect_damage || *piece != WRONG) {
        assert!(sample.piece_in(dir.path(), piece).unwrap() == sample.piece(piece));
    }
    outcome
}

impl Client {
    /// Processes one event of a leech, if one comes soon. Fails when no event comes while pieces are missing.
    fn wait_for_next(&mut self, within: Duration, left: &mut Vec<u32>, rejected: &mut u32, is_over: bool) {
        let within = if left.is_empty() || is_over { Duration::from_millis(20) } else { within };
        match self.next(within.min(Duration::from_secs(1))) {
            Some(Event::PieceVerified(_, piece)) => left.retain(|other| *other != piece.0),
            Some(Event::PieceRejected(..)) => *rejected += 1,
            _ => {}
        }
    }
}

#[test]
fn doubted_bytes_are_proved_before_they_are_sent() {
    in_private_net(|| {
        for with_granules in [false, true] {
            let sample = sample();
            let granules = sample.dir.path().join("granules");
            std::fs::write(&granules, granules_of(&sample.paths_in(sample.dir.path())[0])).unwrap();
            let care = FileCare { doubted: true, granules: with_granules.then_some(granules) };
            let add = || AddTorrent { file_care: vec![care.clone()], ..sample.add_seed() };
            assert!(!exchange(&sample, add(), false).damaged);
            overwrite(&sample, WRONG);
            let outcome = exchange(&sample, add(), true);
            assert_eq!((outcome.damaged, outcome.rejected), (true, 0), "no wrong byte was sent");
        }
    });
}

#[test]
fn wrong_granule_hashes_do_not_reject_right_bytes() {
    in_private_net(|| {
        let sample = sample();
        let granules = sample.dir.path().join("granules");
        std::fs::write(&granules, vec![7; 8 * 16 * 32]).unwrap();
        let care = FileCare { doubted: true, granules: Some(granules) };
        let add = AddTorrent { file_care: vec![care], ..sample.add_seed() };
        assert_eq!(exchange(&sample, add, false).rejected, 0);
    });
}

#[test]
fn repeatedly_requested_piece_is_proved() {
    in_private_net(|| {
        let sample = sample();
        overwrite(&sample, WRONG);
        let outcome = exchange(&sample, sample.add_seed(), true);
        assert!(outcome.damaged && outcome.rejected >= 1);
    });
}

#[test]
fn changed_ctime_makes_a_file_doubted() {
    in_private_net(|| {
        let sample = sample();
        let path = sample.paths_in(sample.dir.path()).remove(0);
        let found = path.metadata().unwrap();
        let mtime_ns = found.mtime() * 1_000_000_000 + found.mtime_nsec();
        let changed_ns = Some(found.ctime() * 1_000_000_000 + found.ctime_nsec());
        let stamp = FileStamp { size: found.size(), mtime_ns, inode: found.ino(), changed_ns };
        let add = || AddTorrent { file_stamps: vec![Some(stamp)], ..sample.add_seed() };
        // After a link or a change of mode the bytes are right.
        std::fs::hard_link(&path, path.with_extension("link")).unwrap();
        assert!(!exchange(&sample, add(), false).damaged);
        overwrite(&sample, WRONG);
        let outcome = exchange(&sample, add(), true);
        assert_eq!((outcome.damaged, outcome.rejected), (true, 0), "no wrong byte was sent");
    });
}

#[test]
fn hashes_of_granules_are_saved_as_pieces_come() {
    in_private_net(|| {
        let sample = sample();
        let mut seed = Client::new();
        seed.add(sample.add_seed());
        let dir = tempfile::tempdir().unwrap();
        let granules = dir.path().join("below/granules");
        let mut leech = Client::new();
        let care = FileCare { doubted: false, granules: Some(granules.clone()) };
        let mut add = AddTorrent { file_care: vec![care], ..sample.add(dir.path()) };
        add.peers = vec![seed.address];
        let id = leech.add(add);
        leech.fetch_all(id, sample.pieces(), |_| {});
        let expected = granules_of(&sample.paths_in(sample.dir.path())[0]);
        assert!(std::fs::read(&granules).unwrap() == expected);
    });
}
