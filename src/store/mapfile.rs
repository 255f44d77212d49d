//! The files of a block map next to the data: `<data>.have`, `<data>.have.synced`, and if needed `<data>.have.unproved`; and
//! `<data>.have.stamp`, the stamp of the data file when all of it was verified.
//!
//! The *live* map is patched as blocks are verified. It survives the end of the process, as the page cache does,
//! but after a power cut it may claim blocks whose data never reached the disk; so it counts only within the boot
//! that wrote it. The *synced* copy is written atomically after the data has reached the disk, and counts always.
//! The synced copy must never claim a block that the live map does not: a block is removed from the synced copy before it is
//! removed from the live map, and before its data is changed.
//!
//! The *unproved* map names blocks that are probably in the data file, but that our own code has not proved: the blocks of a
//! map written by an older version, and of a live map of another boot. They are proved before a reader gets them,
//! so a wrong bit in this file costs only time, and the file needs no order with the other files. An unproved map of an
//! older version is moved to this file when the content is first opened. Bytes of a hub have no unproved map: they cannot be
//! proved one by one, so blocks of a live map of another boot are fetched again.

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::blockmap::{BlockMap, MapHeader, MapKind};
use super::placement::{Stamp, change_time};
use crate::model::BLOCK_LEN;
use crate::{fsutil, nofollow};
use serde::{Deserialize, Serialize};
use std::fs::Metadata;

/// Longest stamp read, in bytes.
const MAX_STAMP: u64 = 4096;

/// The live map next to a data file.
pub(super) fn live_path(data: &Path) -> PathBuf {
    with_suffix(data, ".have")
}

/// The synced copy next to a data file.
pub(super) fn synced_path(data: &Path) -> PathBuf {
    with_suffix(data, ".have.synced")
}

/// The map of unproved blocks next to a data file.
pub(super) fn unproved_path(data: &Path) -> PathBuf {
    with_suffix(data, ".have.unproved")
}

/// The stamp next to a data file.
fn stamp_path(data: &Path) -> PathBuf {
    with_suffix(data, ".have.stamp")
}

/// The stamp of a complete data file of the store. Only this program may change the file, so that a different change time is
/// a reason to prove it again, although its modification time is equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OwnStamp {
    #[serde(flatten)]
    stamp: Stamp,
    /// Change time, nanoseconds since 1970; none in files of older versions.
    #[serde(default)]
    changed_ns: Option<i64>,
}

impl OwnStamp {
    /// The stamp of a file with this metadata.
    pub fn of(found: &Metadata) -> Self {
        Self { stamp: Stamp::of(found), changed_ns: Some(change_time(found)) }
    }

    /// Whether a file of the recorded length has changed since.
    pub fn differs(&self, found: &Metadata) -> bool {
        let now = Self::of(found);
        let changed = self.changed_ns.is_some() && self.changed_ns != now.changed_ns;
        self.stamp.size == found.len() && (self.stamp != now.stamp || changed)
    }
}

/// The hashes of a complete file that came from a hub, next to the data file.
pub(super) fn proof_path(data: &Path) -> PathBuf {
    with_suffix(data, ".proof")
}

/// Records the stamp of a complete data file.
pub(super) fn write_stamp(data: &Path, stamp: &OwnStamp) -> io::Result<()> {
    let json = serde_json::to_vec(stamp).map_err(io::Error::from)?;
    nofollow::write_volatile(&stamp_path(data), &json, fsutil::MODE_PRIVATE)
}

/// The recorded stamp of a complete data file; none if there is none, or it cannot be read.
pub(super) fn stamp(data: &Path) -> Option<OwnStamp> {
    serde_json::from_slice(&nofollow::read_capped(&stamp_path(data), MAX_STAMP).ok()?).ok()
}

/// Records the stamp of a complete data file that was moved from `old`, which had the metadata `before`. If another program
/// had changed the file before the move, this is still noticed.
pub(super) fn move_stamp(old: &Path, before: &Metadata, new: &Path) -> io::Result<()> {
    match stamp(old).filter(|stamp| stamp.differs(before)) {
        Some(stamp) => write_stamp(new, &stamp),
        None => write_stamp(new, &OwnStamp::of(&nofollow::metadata(new)?)),
    }
}

/// Removes the recorded stamp of a data file that will change.
pub(super) fn forget_stamp(data: &Path) -> io::Result<()> {
    nofollow::remove_if_there(&stamp_path(data)).map(drop)
}

/// The name of the data file for the name of a data file or of one of its maps.
pub(super) fn data_name(name: &str) -> &str {
    let suffixes = [".synced", ".unproved", ".stamp", ".proof"];
    let name = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    name.strip_suffix(".have").unwrap_or(name)
}

fn with_suffix(data: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = data.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The maps of a data file when it is opened.
#[derive(Debug)]
pub(super) struct Loaded {
    /// The blocks that count.
    pub map: BlockMap,
    /// The blocks that count once they are proved. None of them is in `map`.
    pub unproved: BlockMap,
    /// Whether the live map on disk is equal, and may be patched.
    pub live: bool,
    /// Whether the synced copy is equal.
    pub synced: bool,
}

impl Loaded {
    /// A map without unproved blocks.
    pub(super) fn of(map: BlockMap, live: bool, synced: bool) -> Self {
        let unproved = map.unset();
        Self { map, unproved, live, synced }
    }

    /// Number of proved and unproved bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.map.bytes() + self.unproved.bytes()
    }
}

/// Reads the map of a data file for a content of `len` bytes. If the file is missing or short, the missing blocks are removed
/// from the map. With `mend`, they are also removed from the map files, and the maps of an older version are converted. Only
/// the holder of the node's lock may do that: another process could write a map that an eviction has just changed.
pub(super) fn load(kind: MapKind, data: &Path, len: u64, boot: &[u8; 16], mend: bool) -> io::Result<Loaded> {
    // In this order: another thread may add a block to both maps, first to the live one.
    let on_disk = match kind {
        MapKind::Proved => read(kind, &unproved_path(data), len)?.map(|(map, _)| map),
        MapKind::Hub => None,
    };
    let mut unproved = on_disk.clone().unwrap_or_else(|| BlockMap::none_of(kind, len));
    let mut outdated = Vec::new();
    let mut proved = |path: PathBuf, of_this_boot: bool| -> io::Result<Option<BlockMap>> {
        let Some((map, header)) = read(kind, &path, len)? else { return Ok(None) };
        if header.proved && (header.boot == *boot || !of_this_boot) {
            return Ok(Some(map));
        }
        if kind == MapKind::Hub {
            return Ok(None);
        }
        unproved.insert_all(&map);
        if !header.proved {
            outdated.push(path);
        }
        Ok(None)
    };
    let synced = proved(synced_path(data), false)?;
    let live = proved(live_path(data), true)?;
    let there = fsutil::existing(nofollow::metadata(data))?.map_or(0, |meta| meta.len());
    let is_live = live.is_some();
    let mut map = live.or_else(|| synced.clone()).unwrap_or_else(|| BlockMap::none_of(kind, len));
    let lacks = there / BLOCK_LEN * BLOCK_LEN..len;
    if there < len {
        unproved.remove(&lacks);
    }
    unproved.remove_all(&map);
    if mend {
        let changed = on_disk.map_or(!unproved.is_clear(), |on_disk| on_disk != unproved);
        // If that fails, on a full disk for instance, only time is lost: the older maps stay.
        if let Err(e) = keep_unproved(data, changed.then_some(&unproved), boot, &outdated) {
            tracing::warn!(error = %e, file = %data.display(), "could not convert an older map");
        }
    }
    if there < len && map.remove(&lacks) {
        tracing::warn!(file = %data.display(), "the file is shorter than its map; the missing bytes are fetched again");
        // Immediately: when the file grows again, the maps must not claim bytes that were never in it.
        if is_live && mend {
            write_live(data, &map, boot)?;
        }
    }
    let same = synced.as_ref().map_or(map.is_clear(), |s| *s == map);
    if let Some(mut synced) = synced.filter(|_| mend) {
        let mut claims_more = false;
        for missing in map.runs(&(0..len), false) {
            claims_more |= synced.remove(&missing);
        }
        if claims_more {
            nofollow::write_atomic(&synced_path(data), &synced.encode(boot), fsutil::MODE_PRIVATE)?;
        }
    }
    Ok(Loaded { map, unproved, live: is_live, synced: same })
}

/// Writes the map of unproved blocks if it changed, then removes the maps of an older version that it was made from.
fn keep_unproved(
    data: &Path,
    changed: Option<&BlockMap>,
    boot: &[u8; 16],
    outdated: &[PathBuf],
) -> io::Result<()> {
    if let Some(map) = changed {
        write_unproved(data, map, boot)?;
    }
    outdated.iter().try_for_each(|path| nofollow::remove_if_there(path).map(drop))
}

fn read(kind: MapKind, path: &Path, len: u64) -> io::Result<Option<(BlockMap, MapHeader)>> {
    let map = match nofollow::read_capped(path, BlockMap::encoded_len(len)) {
        Ok(bytes) => BlockMap::decode(kind, len, &bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::FileTooLarge => None,
        Err(e) => return Err(e),
    };
    if map.is_none() {
        tracing::warn!(file = %path.display(), "the map is damaged; its bytes are fetched again");
    }
    Ok(map)
}

/// Writes the whole live map.
pub(super) fn write_live(data: &Path, map: &BlockMap, boot: &[u8; 16]) -> io::Result<()> {
    nofollow::write_volatile(&live_path(data), &map.encode(boot), fsutil::MODE_PRIVATE)
}

/// Writes bytes of the live map in place; an error of kind `NotFound` if there is none.
pub(super) fn patch_live(data: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
    nofollow::write(&live_path(data))?.write_all_at(bytes, at)
}

/// Writes the whole map of unproved blocks, durably, or removes it if there are none.
pub(super) fn write_unproved(data: &Path, map: &BlockMap, boot: &[u8; 16]) -> io::Result<()> {
    if map.is_clear() {
        nofollow::remove_if_there(&unproved_path(data)).map(drop)
    } else {
        nofollow::write_atomic(&unproved_path(data), &map.encode(boot), fsutil::MODE_PRIVATE)
    }
}

/// Writes bytes of the map of unproved blocks in place; an error of kind `NotFound` if there is none.
pub(super) fn patch_unproved(data: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
    nofollow::write(&unproved_path(data))?.write_all_at(bytes, at)
}

/// Writes the synced copy. The data has reached the disk.
pub(super) fn write_synced(data: &Path, map: &BlockMap, boot: &[u8; 16]) -> io::Result<()> {
    nofollow::write_atomic(&synced_path(data), &map.encode(boot), fsutil::MODE_PRIVATE)
}

/// [`write_synced`] if there is no synced copy yet, for a caller that makes it durable. An error of kind `AlreadyExists` if
/// there is one: after a power cut both could be lost.
pub(super) fn write_first_synced(data: &Path, map: &BlockMap, boot: &[u8; 16]) -> io::Result<PathBuf> {
    let path = synced_path(data);
    if nofollow::exists(&path) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    nofollow::write_volatile(&path, &map.encode(boot), fsutil::MODE_PRIVATE)?;
    Ok(path)
}

/// Copies the synced copy of one data file for another, durably. Returns whether there was one.
pub(super) fn copy_synced(from: &Path, to: &Path, len: u64) -> io::Result<bool> {
    let read = nofollow::read_capped(&synced_path(from), BlockMap::encoded_len(len));
    let Some(bytes) = fsutil::existing(read)? else { return Ok(false) };
    nofollow::write_atomic(&synced_path(to), &bytes, fsutil::MODE_PRIVATE).map(|()| true)
}

/// Removes ranges from the synced copy, durably.
pub(super) fn shrink_synced(
    kind: MapKind,
    data: &Path,
    len: u64,
    ranges: &[Range<u64>],
    boot: &[u8; 16],
) -> io::Result<()> {
    match read(kind, &synced_path(data), len)? {
        Some((mut map, header)) if header.proved => {
            let mut shrunk = false;
            for range in ranges {
                shrunk |= map.remove(range);
            }
            // A full disk has no space for another copy.
            if shrunk { write_synced(data, &map, boot).or_else(|_| forget_synced(data)) } else { Ok(()) }
        }
        // Unreadable, or of an older version: its claims must not return.
        _ => forget_synced(data),
    }
}

/// Bytes of the disk that the maps of a file occupy, and the time when blocks were last recorded, in seconds since 1970.
pub(super) fn figures(data: &Path) -> (u64, Option<i64>) {
    let live = std::fs::metadata(live_path(data)).ok();
    let rest = [synced_path(data), unproved_path(data)];
    let rest = rest.iter().filter_map(|path| std::fs::metadata(path).ok());
    let blocks: u64 = live.iter().cloned().chain(rest).map(|found| found.blocks()).sum();
    (blocks * 512, live.map(|found| found.mtime()))
}

/// Removes the synced copy, durably.
fn forget_synced(data: &Path) -> io::Result<()> {
    if nofollow::remove_if_there(&synced_path(data))? {
        nofollow::sync_dir(fsutil::parent(data))
    } else {
        Ok(())
    }
}

/// Removes all maps, the synced copy first. The caller then removes or renames the data. Returns whether there was one.
pub(super) fn remove(data: &Path) -> io::Result<bool> {
    let mut found = false;
    for path in [proof_path(data), stamp_path(data), synced_path(data), live_path(data), unproved_path(data)]
    {
        found |= nofollow::remove_if_there(&path)?;
    }
    Ok(found)
}

/// Whether a complete data file of the store has changed since its stamp was recorded. The caller compares its length.
pub fn is_other(data: &Path, found: &Metadata) -> bool {
    stamp(data).is_some_and(|stamp| stamp.differs(found))
}
