//! What other models use of files that go is kept in the cache.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::blockmap::BlockMap;
use super::content::remove_data;
use super::copy::{Sharing, crosses_devices, duplicate};
use super::placement::{PlacedFile, Stamp};
use super::{ContentKey, Shared, mapfile};
use crate::{fsutil, nofollow};

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
        nofollow::create_dir_all(fsutil::parent(&data))?;
        remove_data(&data)?;
        if self.moved(key, placed, &data)? {
            return Ok(());
        }
        let copied = duplicate(&placed.path, &data, Sharing::Extents);
        if !copied.as_ref().is_ok_and(|copied| Stamp::of(copied) == placed.stamp) {
            nofollow::remove_if_there(&data)?;
            return copied.map(drop);
        }
        self.write_maps(key, &data)
    }

    /// Moves a file into the cache, if it is on that file system and has no other name.
    fn moved(&self, key: &ContentKey, placed: &PlacedFile, data: &Path) -> io::Result<bool> {
        let from = placed.path.as_path();
        if nofollow::metadata(from)?.nlink() != 1 {
            return Ok(false);
        }
        fsutil::flush(&nofollow::read(from)?)?;
        // The maps first: until the data is there, they claim nothing.
        self.write_maps(key, data)?;
        match nofollow::rename(from, data) {
            // Another file had its name by then.
            Ok(()) if Stamp::at(data).ok() != Some(placed.stamp) => remove_data(data).map(|()| true),
            Ok(()) => nofollow::sync_dir(fsutil::parent(data)).map(|()| true),
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
