//! The sparse files of the store: their paths in the cache, their maps, and their removal.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::blockmap::{BlockMap, MapKind};
use super::copy::{ExtentSharing, crosses_devices, duplicate};
use super::mapfile::{self, OwnStamp};
use super::placement::{PlacedFile, Stamp};
use super::{ContentKey, HubKey};
use crate::paths::Paths;
use crate::{fsutil, nofollow};

/// The data files of contents, with their maps.
pub(super) struct DataFiles {
    /// Real paths.
    pub paths: Paths,
    /// The boot of this process.
    pub boot: [u8; 16],
    /// Whether this process has the node's lock.
    pub locked: bool,
}

impl DataFiles {
    /// The map of a data file (see [`mapfile::load`]).
    pub fn load_map(&self, data: &Path, len: u64) -> io::Result<mapfile::Loaded> {
        mapfile::load(MapKind::Proved, data, len, &self.boot, self.locked)
    }

    /// The map of a data file with bytes of a hub.
    pub fn load_hub_map(&self, data: &Path, len: u64) -> io::Result<mapfile::Loaded> {
        mapfile::load(MapKind::Hub, data, len, &self.boot, self.locked)
    }

    /// Whether a file that may not exist yet is on the file system of the cache.
    pub fn is_on_cache_disk(&self, data: &Path) -> bool {
        let device =
            |path: &Path| path.ancestors().find_map(|dir| fs::metadata(dir).ok()).map(|found| found.dev());
        device(data) == device(&self.paths.cache())
    }

    /// The path of a content in the cache.
    pub fn cached(&self, key: &ContentKey) -> PathBuf {
        self.paths.cached(&key.root).with_file_name(key.file_name())
    }

    /// The path of a content that comes from a hub.
    pub fn cached_from_hub(&self, hub: &HubKey) -> PathBuf {
        let name = hub.file_name();
        self.paths.hub_cache().join(&name[..2]).join(name)
    }

    /// Moves or copies the bytes of a placed file, which the caller then removes, into the cache; they are on the disk when
    /// this returns. The file itself goes there if it has no other name: the cache makes holes in its files. Otherwise it is
    /// copied. Does nothing if the file has changed since it was verified. On an error the file is as it was.
    pub fn keep(&self, key: &ContentKey, placed: &PlacedFile) -> io::Result<()> {
        let unchanged = || Stamp::at(&placed.path).is_ok_and(|now| now == placed.stamp);
        if !unchanged() {
            return Ok(());
        }
        let data = self.cached(key);
        nofollow::create_dir_all(fsutil::parent(&data))?;
        remove_data(&data)?;
        if self.move_into_cache(key, placed, &data)? {
            return Ok(());
        }
        let copied = duplicate(&placed.path, &data, ExtentSharing::Extents);
        if !copied.as_ref().is_ok_and(|copied| Stamp::of(copied) == placed.stamp) {
            nofollow::remove_if_there(&data)?;
            return copied.map(drop);
        }
        self.write_maps(&data, &BlockMap::all(key.len))?;
        record_stamp(&data)
    }

    /// Moves a file into the cache, if it is on that file system and has no other name.
    fn move_into_cache(&self, key: &ContentKey, placed: &PlacedFile, data: &Path) -> io::Result<bool> {
        let from = placed.path.as_path();
        if nofollow::metadata(from)?.nlink() != 1 {
            return Ok(false);
        }
        fsutil::flush(&nofollow::read(from)?)?;
        // The maps first: until the data is there, they claim nothing.
        self.write_maps(data, &BlockMap::all(key.len))?;
        match nofollow::rename(from, data) {
            // Another file had the name by then.
            Ok(()) if Stamp::at(data).ok() != Some(placed.stamp) => remove_data(data).map(|()| true),
            Ok(()) => {
                nofollow::sync_dir(fsutil::parent(data))?;
                record_stamp(data).map(|()| true)
            }
            Err(e) => {
                mapfile::remove(data)?;
                if crosses_devices(&e) { Ok(false) } else { Err(e) }
            }
        }
    }

    /// Writes the live map and the synced copy of a file that is on the disk.
    pub fn write_maps(&self, data: &Path, map: &BlockMap) -> io::Result<()> {
        mapfile::write_live(data, map, &self.boot)?;
        mapfile::write_synced(data, map, &self.boot)
    }
}

/// Records the stamp of a complete data file as it is now.
pub(super) fn record_stamp(data: &Path) -> io::Result<()> {
    mapfile::write_stamp(data, &OwnStamp::of(&nofollow::metadata(data)?))
}

/// Removes a data file of the store and its maps, for a caller that syncs the directory. Returns whether there was one.
pub(super) fn remove_data_unsynced(data: &Path) -> io::Result<bool> {
    let mapped = mapfile::remove(data)?;
    Ok(nofollow::remove_if_there(data)? || mapped)
}

/// Removes a data file of the store and its maps, durably.
pub(super) fn remove_data(data: &Path) -> io::Result<()> {
    remove_data_unsynced(data)?;
    fsutil::existing(nofollow::sync_dir(fsutil::parent(data))).map(drop)
}
