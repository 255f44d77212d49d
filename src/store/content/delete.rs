//! Deleting bytes of one cached content while its torrents run.
//!
//! In two steps: [`Content::remove_from_map`] changes the map in memory, which costs nothing and is done while no request can
//! be made; [`Content::delete_removed`] changes the maps on the disk and then makes a hole. The range must not be requested
//! between the two.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::memory::MemoryFile;
use super::{Content, Location};
use crate::fsutil::{existing, punch};
use crate::nofollow;
use crate::store::mapfile;

/// The space that the bytes of a content take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpaceClass {
    /// In the cache: they may be deleted.
    Cache,
    /// In memory: they may be deleted.
    Memory,
    /// In a directory that `get` fills, on the file system of the cache.
    CacheDisk,
    /// On another file system, or in a file that is only read.
    Unlimited,
}

/// Ranges that count as missing while the file still has their bytes.
#[derive(Debug)]
#[must_use]
pub struct RemovedRanges {
    ranges: Vec<Range<u64>>,
    moves: u64,
}

impl Content {
    /// The space that the bytes take.
    pub fn space_class(&self) -> SpaceClass {
        let Some(key) = self.key() else { return SpaceClass::Unlimited };
        match &self.state().location {
            Location::Empty | Location::Placed(_) => SpaceClass::Unlimited,
            Location::Memory(_) => SpaceClass::Memory,
            Location::Own(path) if *path == self.cache_path(&key) => SpaceClass::Cache,
            Location::Own(_) if self.on_cache_disk.load(Ordering::Relaxed) => SpaceClass::CacheDisk,
            Location::Own(_) => SpaceClass::Unlimited,
        }
    }

    /// Whether the bytes are in memory only.
    pub fn is_in_memory(&self) -> bool {
        self.space_class() == SpaceClass::Memory
    }

    /// Bytes of memory that it occupies.
    pub fn bytes_in_memory(&self) -> u64 {
        match self.location() {
            Location::Memory(file) => file.allocated(),
            _ => 0,
        }
    }

    /// Whether its bytes may be deleted when space is short.
    pub fn is_sheddable(&self) -> bool {
        matches!(self.space_class(), SpaceClass::Cache | SpaceClass::Memory)
    }

    /// Removes ranges of a cached content from the map in memory. Ranges without verified bytes are left out. None if no range
    /// is left, or if the content is pinned or not in the cache.
    pub fn remove_from_map(&self, ranges: &[Range<u64>]) -> Option<RemovedRanges> {
        if self.is_pinned() || !self.is_sheddable() {
            return None;
        }
        let mut state = self.state();
        // Checked again under this lock: a caller that opens the file for the kernel pins it before it reads the map.
        if self.is_pinned() {
            return None;
        }
        let mut ranges = ranges.to_vec();
        ranges.retain(|range| state.remove(range));
        if ranges.is_empty() {
            return None;
        }
        Some(RemovedRanges { ranges, moves: state.version.moves })
    }

    /// Deletes the bytes of removed ranges: first the ranges are removed from the maps on the disk, durably, then a hole is
    /// made. Returns the number of freed bytes; 0 if the content has moved since.
    pub fn delete_removed(&self, removed: &RemovedRanges) -> io::Result<u64> {
        let mut writer = self.writer();
        let location = {
            let state = self.state();
            if state.version.moves != removed.moves {
                return Ok(0);
            }
            state.location.clone()
        };
        let mut freed = 0;
        match location {
            Location::Own(data) => {
                mapfile::forget_stamp(&data)?;
                mapfile::shrink_synced(self.map_kind(), &data, self.len(), &removed.ranges, writer.boot())?;
                let Some(file) = existing(nofollow::write(&data))? else { return Ok(0) };
                for range in &removed.ranges {
                    if writer.write_map(range).is_err() {
                        // A full disk may have no space for a change of the map.
                        writer.remove_maps(&data)?;
                    }
                    freed += punch(&file, range)?;
                }
            }
            Location::Memory(file) => {
                for range in &removed.ranges {
                    freed += file.punch(range)?;
                }
            }
            Location::Empty | Location::Placed(_) => {}
        }
        Ok(freed)
    }

    /// Deletes all bytes of a cached content and moves it to memory, without any byte. Its torrents must be out of the engine.
    pub fn enter_memory(&self) -> io::Result<()> {
        if self.is_pinned() || self.space_class() != SpaceClass::Cache {
            return Ok(());
        }
        let file = MemoryFile::new(self.len())?;
        let mut writer = self.writer();
        writer.discard()?;
        if self.own_path().is_some() {
            writer.move_to_empty(Location::Memory(file));
        }
        Ok(())
    }

    /// Deletes all bytes of a content in memory and moves it to the cache, with the bytes that the cache has. Its torrents
    /// must be out of the engine.
    pub fn leave_memory(&self) -> io::Result<()> {
        self.writer().leave_memory()
    }

    /// Deletes the bytes of a cached content that are neither verified nor unproved: the remains of pieces that did not
    /// become whole. Its torrents must be out of the engine. Returns the number of freed bytes.
    pub fn trim(&self) -> io::Result<u64> {
        let _writer = self.writer();
        if self.space_class() != SpaceClass::Cache {
            return Ok(0);
        }
        let Some(data) = self.own_path() else { return Ok(0) };
        let Some(file) = existing(nofollow::write(&data))? else { return Ok(0) };
        let kept = self.state().unproved.clone();
        let mut freed = 0;
        for hole in self.missing_ranges(0..self.len()) {
            for range in kept.runs(&hole, false) {
                freed += punch(&file, &range)?;
            }
        }
        Ok(freed)
    }
}
