//! What other models use of files that go is kept in the cache.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::blockmap::BlockMap;
use super::content::remove_data;
use super::copy::{Sharing, crosses_devices, duplicate};
use super::placement::{PlacedFile, Stamp};
use super::{ContentKey, Shared, mapfile};
use crate::fsutil;

impl Shared {
    /// Has the bytes of a placed file, which the caller removes then, stand in the cache, on the disk when this
    /// returns. The file itself goes there if it has no other name: the cache punches holes into what it holds.
    /// Otherwise it is copied. One that is not there as it was verified is left out; an error leaves it as it is.
    pub(super) fn keep(&self, key: &ContentKey, placed: &PlacedFile) -> io::Result<()> {
        let unchanged = || Stamp::at(&placed.path).is_ok_and(|now| now == placed.stamp);
        if !unchanged() {
            return Ok(());
        }
        let data = self.cached(key);
        fs::create_dir_all(fsutil::parent(&data))?;
        remove_data(&data)?;
        if self.moved(key, &placed.path, &data)? {
            return Ok(());
        }
        let copied = duplicate(&placed.path, &data, Sharing::Extents);
        if copied.is_err() || !unchanged() {
            fsutil::remove_if_there(&data)?;
            return copied;
        }
        self.write_maps(key, &data)
    }

    /// Moves a file into the cache, if it is on that file system and has no other name.
    fn moved(&self, key: &ContentKey, from: &Path, data: &Path) -> io::Result<bool> {
        if fs::symlink_metadata(from)?.nlink() != 1 {
            return Ok(false);
        }
        File::open(from)?.sync_all()?;
        // The maps first: until the data is there, they claim nothing.
        self.write_maps(key, data)?;
        match fs::rename(from, data) {
            Ok(()) => fsutil::sync_dir(fsutil::parent(data)).map(|()| true),
            Err(e) => {
                mapfile::remove(data)?;
                if crosses_devices(&e) { Ok(false) } else { Err(e) }
            }
        }
    }

    fn write_maps(&self, key: &ContentKey, data: &Path) -> io::Result<()> {
        let map = BlockMap::all(key.len);
        mapfile::write_live(data, &map, &self.boot)?;
        mapfile::write_synced(data, &map, &self.boot)
    }
}
