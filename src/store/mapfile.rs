//! The files that remember a block map beside the data: `<data>.have`, `<data>.have.synced`, and where it is needed
//! `<data>.have.unproved`; and `<data>.have.stamp`, how the data file looked when all of it was there.
//!
//! The *live* map is patched as blocks are verified. It survives the end of the process, as the page cache does,
//! but after a power cut it may claim blocks whose data never reached the disk; so it counts only within the boot
//! that wrote it. The *synced* copy is written atomically after the data has reached the disk, and counts always.
//! What must hold: the synced copy never claims a block that the live map does not, so a block is taken out of
//! the synced copy before it is taken out of the live one, and before its data is touched.
//!
//! The *unproved* map names blocks that are probably in the data file, but that our own code has not proved: those of a
//! map written by an older version, and those of a live map of another boot. They are proved before a reader gets them,
//! so a bit too many in this file costs only time, and the file needs no order with the others. An unproved map of an
//! older version is moved to this file when the content is first opened.

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::blockmap::{BlockMap, Header};
use super::placement::Stamp;
use crate::model::BLOCK_LEN;
use crate::{fsutil, nofollow};

/// Longest stamp read, in bytes.
const MAX_STAMP: u64 = 4096;

/// The live map beside a data file.
pub(super) fn live_path(data: &Path) -> PathBuf {
    with_suffix(data, ".have")
}

/// The synced copy beside a data file.
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

/// Records how a complete data file looks.
pub(super) fn write_stamp(data: &Path, stamp: &Stamp) -> io::Result<()> {
    let json = serde_json::to_vec(stamp).map_err(io::Error::from)?;
    nofollow::write_volatile(&stamp_path(data), &json, fsutil::MODE_PRIVATE)
}

/// How a complete data file looked; none where that was not recorded, or cannot be read.
pub(super) fn stamp(data: &Path) -> Option<Stamp> {
    serde_json::from_slice(&nofollow::read_capped(&stamp_path(data), MAX_STAMP).ok()?).ok()
}

/// Forgets how a data file looked: it is about to change.
pub(super) fn forget_stamp(data: &Path) -> io::Result<()> {
    nofollow::remove_if_there(&stamp_path(data)).map(drop)
}

/// The name of the data file that a name belongs to: itself, or the one it is a map of.
pub(super) fn data_name(name: &str) -> &str {
    let suffixes = [".synced", ".unproved", ".stamp"];
    let name = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    name.strip_suffix(".have").unwrap_or(name)
}

fn with_suffix(data: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = data.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What is known of a data file when it is opened.
#[derive(Debug)]
pub(super) struct Loaded {
    /// The blocks that count.
    pub map: BlockMap,
    /// The blocks that count once they are proved. None of them is in `map`.
    pub unproved: BlockMap,
    /// Whether the live map on disk says the same, and may be patched.
    pub live: bool,
    /// Whether the synced copy says the same.
    pub synced: bool,
}

impl Loaded {
    /// A map without unproved blocks.
    pub(super) fn of(map: BlockMap, live: bool, synced: bool) -> Self {
        let unproved = map.unset();
        Self { map, unproved, live, synced }
    }

    /// Proved bytes and unproved ones.
    pub(super) fn bytes(&self) -> u64 {
        self.map.bytes() + self.unproved.bytes()
    }
}

/// Reads the map of a data file for a content of `len` bytes. A missing or short file loses the blocks it lacks: with
/// `mend` in the map files, too; and the maps of an older version are converted. Only the holder of the node's lock does that: beside an eviction, what anybody else
/// writes may be what was true before it.
pub(super) fn load(data: &Path, len: u64, boot: &[u8; 16], mend: bool) -> io::Result<Loaded> {
    // In this order: a block may enter both maps meanwhile, first the live one.
    let on_disk = read(&unproved_path(data), len)?.map(|(map, _)| map);
    let mut unproved = on_disk.clone().unwrap_or_else(|| BlockMap::none(len));
    let mut outdated = Vec::new();
    let mut proved = |path: PathBuf, of_this_boot: bool| -> io::Result<Option<BlockMap>> {
        let Some((map, header)) = read(&path, len)? else { return Ok(None) };
        if header.proved && (header.boot == *boot || !of_this_boot) {
            return Ok(Some(map));
        }
        unproved.insert_all(&map);
        if !header.proved {
            outdated.push(path);
        }
        Ok(None)
    };
    let synced = proved(synced_path(data), false)?;
    let live = proved(live_path(data), true)?;
    let there = match nofollow::metadata(data) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(e) => return Err(e),
    };
    let is_live = live.is_some();
    let mut map = live.or_else(|| synced.clone()).unwrap_or_else(|| BlockMap::none(len));
    let lacks = there / BLOCK_LEN * BLOCK_LEN..len;
    if there < len {
        unproved.remove(&lacks);
    }
    unproved.remove_all(&map);
    if mend {
        let changed = on_disk.map_or(!unproved.is_clear(), |on_disk| on_disk != unproved);
        // It is no loss but time if that fails, on a full disk for instance: the older maps stay.
        if let Err(e) = keep_unproved(data, changed.then_some(&unproved), boot, &outdated) {
            tracing::warn!("The older map of {} could not be converted: {e}.", data.display());
        }
    }
    if there < len && map.remove(&lacks) {
        tracing::warn!("{} is shorter than its map says; what it lacks is fetched again.", data.display());
        // At once: when the file grows again, the maps must not claim what was never in it.
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

/// Writes the map of unproved blocks if it changed, then removes the maps of an older version that it was made of.
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

fn read(path: &Path, len: u64) -> io::Result<Option<(BlockMap, Header)>> {
    match nofollow::read_capped(path, BlockMap::encoded_len(len)) {
        Ok(bytes) => {
            let map = BlockMap::decode(len, &bytes);
            if map.is_none() {
                tracing::warn!("{} is damaged; what it described is fetched again.", path.display());
            }
            Ok(map)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::FileTooLarge => {
            tracing::warn!("{} is damaged; what it described is fetched again.", path.display());
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Writes the whole live map.
pub(super) fn write_live(data: &Path, map: &BlockMap, boot: &[u8; 16]) -> io::Result<()> {
    nofollow::write_volatile(&live_path(data), &map.encode(boot), fsutil::MODE_PRIVATE)
}

/// Writes bytes of the live map in place; an error of kind `NotFound` if there is none.
pub(super) fn patch_live(data: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
    nofollow::write(&live_path(data))?.write_all_at(bytes, at)
}

/// Writes the whole map of unproved blocks, durably, or removes it where there are none.
pub(super) fn write_unproved(data: &Path, map: &BlockMap, boot: &[u8; 16]) -> io::Result<()> {
    match map.is_clear() {
        true => nofollow::remove_if_there(&unproved_path(data)).map(drop),
        false => nofollow::write_atomic(&unproved_path(data), &map.encode(boot), fsutil::MODE_PRIVATE),
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

/// [`write_synced`] where no synced copy is, for a caller that makes it durable. An error of kind `AlreadyExists` where one
/// is: a power cut could leave neither.
pub(super) fn write_first_synced(data: &Path, map: &BlockMap, boot: &[u8; 16]) -> io::Result<PathBuf> {
    let path = synced_path(data);
    if nofollow::exists(&path) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    nofollow::write_volatile(&path, &map.encode(boot), fsutil::MODE_PRIVATE)?;
    Ok(path)
}

/// Copies the synced copy of one data file beside another, durably. Returns whether there was one.
pub(super) fn copy_synced(from: &Path, to: &Path, len: u64) -> io::Result<bool> {
    match nofollow::read_capped(&synced_path(from), BlockMap::encoded_len(len)) {
        Ok(bytes) => {
            nofollow::write_atomic(&synced_path(to), &bytes, fsutil::MODE_PRIVATE)?;
            Ok(true)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Takes ranges out of the synced copy, durably.
pub(super) fn shrink_synced(data: &Path, len: u64, ranges: &[Range<u64>], boot: &[u8; 16]) -> io::Result<()> {
    match read(&synced_path(data), len)? {
        Some((mut map, header)) if header.proved => {
            let mut shrunk = false;
            for range in ranges {
                shrunk |= map.remove(range);
            }
            match shrunk {
                // A full disk has no space for another copy.
                true => write_synced(data, &map, boot).or_else(|_| forget_synced(data)),
                false => Ok(()),
            }
        }
        // Unreadable, or of an older version: whatever it claims must not come back.
        _ => forget_synced(data),
    }
}

/// Bytes of the disk that the maps of a file occupy, and when blocks were last recorded, in seconds since 1970.
pub(super) fn figures(data: &Path) -> (u64, Option<i64>) {
    let live = std::fs::metadata(live_path(data)).ok();
    let others = [synced_path(data), unproved_path(data)];
    let others = others.iter().filter_map(|path| std::fs::metadata(path).ok());
    let blocks: u64 = live.iter().cloned().chain(others).map(|found| found.blocks()).sum();
    (blocks * 512, live.map(|found| found.mtime()))
}

/// Removes the synced copy, durably.
fn forget_synced(data: &Path) -> io::Result<()> {
    match nofollow::remove_if_there(&synced_path(data))? {
        true => nofollow::sync_dir(fsutil::parent(data)),
        false => Ok(()),
    }
}

/// Removes all maps, the synced copy first. The caller then removes or renames the data. Returns whether there was one.
pub(super) fn remove(data: &Path) -> io::Result<bool> {
    let mut found = false;
    for path in [stamp_path(data), synced_path(data), live_path(data), unproved_path(data)] {
        found |= nofollow::remove_if_there(&path)?;
    }
    Ok(found)
}
