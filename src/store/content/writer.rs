//! Changes of a content's location and of its map files.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::{ContentWriter, Location};
use crate::store::blockmap::{BlockMap, MapKind};
use crate::store::data::{record_stamp, remove_data};
use crate::store::mapfile::{self, Loaded};
use crate::store::placement::PlacedFile;
use crate::{fsutil, nofollow};

impl<'a> ContentWriter<'a> {
    /// Writes the bits of `range` to the live map.
    pub fn write_map(&mut self, range: &Range<u64>) -> io::Result<()> {
        let (data, patch) = {
            let state = self.content.state();
            let Location::Own(data) = &state.location else { return Ok(()) };
            (data.clone(), self.journal.live.then(|| state.map.patch(range)))
        };
        if let Some((at, bytes)) = patch
            && fsutil::existing(mapfile::patch_live(&data, at, &bytes))?.is_some()
        {
            return Ok(());
        }
        let map = self.content.state().map.clone();
        self.journal.live = false;
        mapfile::write_live(&data, &map, self.boot())?;
        self.journal.live = true;
        Ok(())
    }

    /// Records the stamp of the content's own file, all of whose bytes are proved. A missing file has none.
    pub fn write_stamp(&mut self) -> io::Result<()> {
        let Some(data) = self.content.own_path() else { return Ok(()) };
        fsutil::existing(record_stamp(&data)).map(drop)
    }

    /// Writes the bits of `range` to the map of unproved blocks.
    pub fn write_unproved(&self, range: &Range<u64>) -> io::Result<()> {
        let (data, clear, (at, bytes)) = {
            let state = self.content.state();
            let Location::Own(data) = &state.location else { return Ok(()) };
            (data.clone(), state.unproved.is_clear(), state.unproved.patch(range))
        };
        if !clear && fsutil::existing(mapfile::patch_unproved(&data, at, &bytes))?.is_some() {
            return Ok(());
        }
        let map = self.content.state().unproved.clone();
        mapfile::write_unproved(&data, &map, self.boot())
    }

    /// Removes the maps: for the next process, no byte of the file is verified.
    pub fn remove_maps(&mut self, data: &Path) -> io::Result<()> {
        self.journal.live = false;
        mapfile::remove(data)?;
        nofollow::sync_dir(fsutil::parent(data))
    }

    /// Moves the content to another file. Blocks that the new map lacks are missing then; bytes that were read before do not
    /// count.
    pub fn move_to(&mut self, location: Location, loaded: Loaded) {
        let Loaded { map, unproved, live, synced } = loaded;
        let content = self.content;
        let on_cache_disk =
            matches!(&location, Location::Own(data) if content.parts.files.is_on_cache_disk(data));
        content.on_cache_disk.store(on_cache_disk, Ordering::Relaxed);
        let old = {
            let mut state = content.state();
            let old = state.version.moves;
            (state.location, state.map, state.unproved) = (location, map, unproved);
            state.version.moves += 1;
            state.version.removals += 1;
            state.inserts += 1;
            state.synced = if synced { state.inserts } else { 0 };
            self.journal.live = live;
            old
        };
        content.parts.fds.forget((content.id, old));
    }

    /// Moves the content to another file, of which no block is verified.
    pub fn move_to_empty(&mut self, location: Location) {
        self.move_to(
            location,
            Loaded::of(BlockMap::none_of(self.content.map_kind(), self.content.len()), false, true),
        );
    }

    /// Moves the content to a file outside the cache.
    pub fn move_to_placed(&mut self, file: PlacedFile) {
        let map = file.map(self.content.len());
        self.move_to(Location::Placed(file), Loaded::of(map, true, true));
    }

    /// Moves the content to the cache, with the verified bytes that the cache has, because its placed file is absent or has
    /// changed. The record of the file stays: the content moves back when the unchanged file is found again.
    pub fn move_to_cache(&mut self) -> io::Result<()> {
        let Some(key) = self.content.key else { return Ok(()) };
        let data = self.content.parts.files.cached(&key);
        let loaded = self.content.parts.files.load_map(&data, key.len)?;
        // A publication may have removed the maps at this path without waiting for the disk. After a power cut they would
        // be there again, with bytes that they do not describe.
        fsutil::existing(nofollow::sync_dir(fsutil::parent(&data)))?;
        self.move_to(Location::Own(data), loaded);
        Ok(())
    }

    /// Moves the content away from a placed file, and records that the bytes of the file are wrong.
    pub fn distrust(&mut self, file: &PlacedFile) -> io::Result<()> {
        let Some(key) = self.content.key.filter(|_| !self.content.local) else { return Ok(()) };
        self.move_to_cache()?;
        self.content.parts.placements.distrust(&key, &file.path).map_err(io::Error::other)?;
        self.move_to_other_than(file);
        Ok(())
    }

    /// Moves a content that has just left `file` to another placed file that holds all of it, if there is one.
    fn move_to_other_than(&mut self, file: &PlacedFile) {
        let Some(key) = self.content.key else { return };
        let found = self.content.parts.placements.find_all(&key);
        if let Some(other) = found.into_iter().find(|found| found.path != file.path) {
            self.move_to_placed(other);
        }
    }

    /// Removes the blocks that the range touches from the maps. Does nothing for a local file.
    pub fn remove_blocks(&mut self, range: Range<u64>) -> io::Result<()> {
        let content = self.content;
        if content.local {
            return Ok(());
        }
        let (location, was_unproved) = {
            let mut state = content.state();
            let was_unproved = state.unproved.remove(&range);
            if !matches!(state.location, Location::Placed(_)) {
                if !state.map.remove(&range) && !was_unproved {
                    return Ok(());
                }
                state.version.removals += 1;
            }
            (state.location.clone(), was_unproved)
        };
        match location {
            Location::Empty => Ok(()),
            Location::Own(data) => {
                if was_unproved {
                    self.write_unproved(&range)?;
                }
                mapfile::forget_stamp(&data)?;
                let kind = content.map_kind();
                mapfile::shrink_synced(
                    kind,
                    &data,
                    content.len(),
                    std::slice::from_ref(&range),
                    self.boot(),
                )?;
                self.write_map(&range)
            }
            Location::Memory(file) => file.punch(&range).map(drop),
            Location::Placed(file) => {
                self.move_to_cache()?;
                self.move_to_other_than(&file);
                Ok(())
            }
        }
    }

    /// Makes all blocks of a complete own file unproved: another program has changed the file at the location after `moves`
    /// moves. Does nothing if the content has moved since. Bytes of a hub are forgotten: they cannot be proved one by one.
    pub fn doubt_all(&mut self, moves: u64) -> io::Result<()> {
        if self.content.hub.is_some() {
            let Some(data) = self.content.own_path().filter(|_| self.content.moves() == moves) else {
                return Ok(());
            };
            if self.content.parts.files.locked {
                return self.discard();
            }
            self.move_to_empty(Location::Own(data));
            return Ok(());
        }
        let all = 0..self.content.len();
        let data = {
            let mut state = self.content.state();
            let Location::Own(data) = &state.location else { return Ok(()) };
            if state.version.moves != moves {
                return Ok(());
            }
            let data = data.clone();
            state.unproved = std::mem::replace(&mut state.map, BlockMap::none(all.end));
            state.version.removals += 1;
            data
        };
        tracing::warn!(file = %data.display(), "another program has changed the file; it is proved again");
        if !self.content.parts.files.locked {
            return Ok(());
        }
        mapfile::forget_stamp(&data)?;
        self.write_unproved(&all)?;
        mapfile::shrink_synced(MapKind::Proved, &data, all.end, std::slice::from_ref(&all), self.boot())?;
        self.write_map(&all)
    }

    /// Forgets all bytes of an own file and removes it, the maps first.
    pub fn discard(&mut self) -> io::Result<()> {
        let Some(data) = self.content.own_path() else { return Ok(()) };
        self.move_to_empty(Location::Own(data.clone()));
        remove_data(&data)
    }

    pub(super) fn boot(&self) -> &'a [u8; 16] {
        &self.content.parts.files.boot
    }
}
