//! The index of verified files outside the cache, by content.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::ContentKey;
use super::blockmap::BlockMap;
use super::record::{DirDelta, PlacedEntry, PlacementRecord, Stamp};
use super::recordfile::PartLengths;
use crate::model::InfoHash;

/// A verified file outside the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlacedFile {
    pub path: PathBuf,
    pub stamp: Stamp,
    pub ours: bool,
    /// Bytes that are wrong, in order.
    pub wrong: Vec<Range<u64>>,
    /// The change time when it was verified, nanoseconds since 1970; none if it is not known.
    pub changed_ns: Option<i64>,
}

impl PlacedFile {
    /// A file of which every byte is right.
    pub fn whole(path: PathBuf, stamp: Stamp, ours: bool) -> Self {
        Self { path, stamp, ours, wrong: Vec::new(), changed_ns: None }
    }

    /// The blocks that are right, of a content of `len` bytes.
    pub fn map(&self, len: u64) -> BlockMap {
        let mut map = BlockMap::all(len);
        for range in &self.wrong {
            map.remove(range);
        }
        map
    }
}

/// All records, and the files in them by content.
#[derive(Default)]
pub(super) struct PlacementIndex {
    pub records: BTreeMap<InfoHash, PlacementRecord>,
    /// The lengths of the record files.
    pub lengths: HashMap<InfoHash, PartLengths>,
    pub by_key: HashMap<ContentKey, Vec<PlacedFile>>,
    /// Files that could not be read or had wrong bytes for a reader, and until when they are ignored.
    pub ignored: HashMap<PathBuf, Instant>,
}

/// The file of an entry of the directory `dir`, with its content; none if it does not count.
fn placed(dir: &Path, entry: &PlacedEntry) -> Option<(ContentKey, PlacedFile)> {
    let key = entry.key().filter(|_| !entry.damaged)?;
    let wrong = entry.wrong.iter().map(|&(from, to)| from..to).collect();
    let (path, stamp, ours, changed_ns) = (entry.real_path(dir), entry.stamp, entry.ours, entry.changed_ns);
    Some((key, PlacedFile { path, stamp, ours, wrong, changed_ns }))
}

impl PlacementIndex {
    pub fn index(&mut self, dir: &Path, entry: &PlacedEntry) {
        if let Some((key, file)) = placed(dir, entry) {
            self.by_key.entry(key).or_default().push(file);
        }
    }

    fn unindex(&mut self, dir: &Path, entry: &PlacedEntry) {
        let Some((key, file)) = placed(dir, entry) else { return };
        let Some(files) = self.by_key.get_mut(&key) else { return };
        // Another record may have the same file.
        if let Some(at) = files.iter().position(|known| *known == file) {
            files.remove(at);
        }
        if files.is_empty() {
            self.by_key.remove(&key);
        }
    }

    /// Applies one change of a directory. `old` are its entries before, sorted by path.
    pub fn reindex(&mut self, old: &[Arc<PlacedEntry>], change: &DirDelta) {
        let changed = change.put.iter().map(|entry| &entry.path).chain(&change.gone);
        for path in changed {
            if let Ok(at) = old.binary_search_by(|file| file.path.cmp(path)) {
                self.unindex(&change.dir, &old[at]);
            }
        }
        for entry in &change.put {
            self.index(&change.dir, entry);
        }
    }
}
