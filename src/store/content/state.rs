//! The state of a content in memory: its location and its maps.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::memory::MemoryFile;
use crate::store::blockmap::BlockMap;
use crate::store::placement::PlacedFile;

/// The file that holds the bytes of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Location {
    /// No file: the content has no bytes.
    Empty,
    /// A sparse file of the store, in the cache or in a staging directory.
    Own(PathBuf),
    /// A sparse file in memory.
    Memory(Arc<MemoryFile>),
    /// A file outside the cache that other programs may change. The store never writes to it.
    Placed(PlacedFile),
}

impl Location {
    /// The path of the file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Empty => Path::new("/dev/null"),
            Self::Own(path) => path,
            Self::Memory(file) => file.path(),
            Self::Placed(file) => &file.path,
        }
    }
}

/// Changes when a content moves or loses blocks. A result about its bytes counts only if the version after the reading is
/// the one before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ContentVersion {
    /// How often the location has changed.
    pub moves: u64,
    /// How often blocks were removed.
    pub removals: u64,
}

/// The state of a content. Its lock is held for a few lines and never across I/O.
#[derive(Debug)]
pub(crate) struct ContentState {
    pub location: Location,
    /// The verified blocks.
    pub map: BlockMap,
    /// Blocks that are cached but not proved. None of them is in `map`.
    pub unproved: BlockMap,
    pub version: ContentVersion,
    /// How often blocks were added.
    pub inserts: u64,
    /// The value of `inserts` when the synced copy of the map was written.
    pub synced: u64,
}

impl ContentState {
    /// Whether all bytes of the range are cached and some of them are not proved.
    pub fn is_unproved(&self, range: &Range<u64>) -> bool {
        let missing = self.map.runs(range, false);
        !missing.is_empty() && missing.iter().all(|run| self.unproved.has(run))
    }

    /// Adds verified blocks, which are no longer unproved. None if all of them were verified before, otherwise whether some were
    /// unproved.
    pub fn insert(&mut self, range: &Range<u64>) -> Option<bool> {
        let new = self.map.insert(range);
        new.then(|| {
            self.inserts += 1;
            self.unproved.remove(range)
        })
    }

    /// Removes verified blocks. Returns whether there were any: then bytes that are being read no longer count.
    pub fn remove(&mut self, range: &Range<u64>) -> bool {
        let removed = self.map.remove(range);
        self.version.removals += u64::from(removed);
        removed
    }
}
