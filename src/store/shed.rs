//! Bytes of one cached content that are deleted while its torrents run.
//!
//! In two steps: [`Content::take_out`] makes the range count as missing in this process, which costs nothing and is done
//! while no request can be made; [`Content::delete_taken`] has the maps on the disk forget it and then makes a hole. The
//! range must not be requested between the two.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::content::Home;
use super::memory::MemoryFile;
use super::{Content, mapfile};
use crate::nofollow;

/// Where the bytes of a content go, as far as space is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lies {
    /// In the cache: they may be deleted.
    Cache,
    /// In memory: they may be deleted.
    Memory,
    /// In a directory that `get` fills, on the file system of the cache.
    Beside,
    /// On another file system, or in a file that is only read.
    Away,
}

/// A range that counts as missing and whose bytes are still there.
#[derive(Debug)]
#[must_use]
pub struct Taken {
    ranges: Vec<Range<u64>>,
    moves: u64,
}

impl Content {
    /// Where the bytes go.
    pub fn lies(&self) -> Lies {
        let Some(key) = self.key() else { return Lies::Away };
        match &self.state().home {
            Home::Empty | Home::Placed(_) => Lies::Away,
            Home::Memory(_) => Lies::Memory,
            Home::Own(path) if *path == self.shared().cached(&key) => Lies::Cache,
            Home::Own(_) if self.is_beside() => Lies::Beside,
            Home::Own(_) => Lies::Away,
        }
    }

    /// Whether the bytes are in memory only.
    pub fn is_in_memory(&self) -> bool {
        self.lies() == Lies::Memory
    }

    /// Bytes of memory that it occupies.
    pub fn bytes_in_memory(&self) -> u64 {
        match self.home() {
            Home::Memory(file) => file.allocated(),
            _ => 0,
        }
    }

    /// Whether bytes of it may be deleted when space is lacking.
    pub fn is_sheddable(&self) -> bool {
        matches!(self.lies(), Lies::Cache | Lies::Memory)
    }

    /// Whether some of the bytes are verified.
    pub fn holds_some(&self, range: &Range<u64>) -> bool {
        !self.state().map.runs(range, true).is_empty()
    }

    /// Makes ranges of a cached content count as missing in this process, those of them that have verified bytes. None if
    /// none has, or if the content is pinned or not in the cache.
    pub fn take_out(&self, ranges: &[Range<u64>]) -> Option<Taken> {
        if self.is_pinned() || !self.is_sheddable() {
            return None;
        }
        let mut state = self.state();
        // Looked at again under this lock: who opens the file for the kernel pins it first, and then looks at the map.
        if self.is_pinned() {
            return None;
        }
        let mut taken = ranges.to_vec();
        taken.retain(|range| state.map.remove(range));
        if taken.is_empty() {
            return None;
        }
        state.note_removal();
        Some(Taken { ranges: taken, moves: state.moves })
    }

    /// Deletes what was taken out: first the maps on the disk forget it, durably, then a hole takes its place. Returns how
    /// many bytes that freed; 0 where the content has moved since.
    pub fn delete_taken(&self, taken: &Taken) -> io::Result<u64> {
        let mut journal = self.journal();
        let home = {
            let state = self.state();
            if state.moves != taken.moves {
                return Ok(0);
            }
            state.home.clone()
        };
        let mut freed = 0;
        match home {
            Home::Own(data) => {
                mapfile::forget_stamp(&data)?;
                mapfile::shrink_synced(&data, self.len(), &taken.ranges, self.boot())?;
                let Some(file) = open(&data)? else { return Ok(0) };
                for range in &taken.ranges {
                    if self.persist(&mut journal, range).is_err() {
                        // A full disk may have no space for a change of the map.
                        self.forget_maps(&mut journal, &data)?;
                    }
                    freed += punch(&file, range)?;
                }
            }
            Home::Memory(file) => {
                for range in &taken.ranges {
                    freed += file.punch(range)?;
                }
            }
            Home::Empty | Home::Placed(_) => {}
        }
        Ok(freed)
    }

    /// Deletes all bytes of a cached content and goes on in memory, with nothing. Its torrents must be out of the engine.
    pub fn enter_memory(&self) -> io::Result<()> {
        if self.is_pinned() || self.lies() != Lies::Cache {
            return Ok(());
        }
        let file = MemoryFile::new(self.len())?;
        self.discard()?;
        let mut journal = self.journal();
        if matches!(self.home(), Home::Own(_)) {
            self.settle_empty(&mut journal, Home::Memory(file));
        }
        Ok(())
    }

    /// Deletes all bytes of a content in memory and goes on in the cache, with what is there. Its torrents must be out of
    /// the engine.
    pub fn leave_memory(&self) -> io::Result<()> {
        let mut journal = self.journal();
        let (Some(key), Home::Memory(_)) = (self.key(), self.home()) else { return Ok(()) };
        let data = self.shared().cached(&key);
        let loaded = self.shared().load_map(&data, key.len)?;
        self.settle_loaded(&mut journal, Home::Own(data), loaded);
        Ok(())
    }

    /// Deletes the bytes of a cached content that are neither verified nor to be proved: the remains of pieces that did not
    /// become whole. Its torrents must be out of the engine. Returns how many bytes of the disk that freed.
    pub fn trim(&self) -> io::Result<u64> {
        let _journal = self.journal();
        if self.lies() != Lies::Cache {
            return Ok(0);
        }
        let Some(file) = self.own_path().map(|data| open(&data)).transpose()?.flatten() else { return Ok(0) };
        let kept = self.unproved();
        let mut freed = 0;
        for hole in self.missing_ranges(0..self.len()) {
            for range in kept.runs(&hole, false) {
                freed += punch(&file, &range)?;
            }
        }
        Ok(freed)
    }
}

/// Opens a data file for writing. None if there is none.
fn open(data: &Path) -> io::Result<Option<File>> {
    match nofollow::write(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Makes a hole in a file. Returns how many bytes that freed.
pub(super) fn punch(file: &File, range: &Range<u64>) -> io::Result<u64> {
    let before = file.metadata()?.blocks();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, range.start, range.end - range.start)?;
    Ok(before.saturating_sub(file.metadata()?.blocks()) * 512)
}
