//! The record of one torrent: the directories that have its verified files, and the stamps of these files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::ContentKey;
use crate::model::{ModelRef, PiecesRoot};
use crate::nofollow;

/// The metadata by which a change of a file is noticed. It has neither the device number, which may differ after a reboot, nor
/// the change time, which changes when a hard link is made (see [`change_time`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Length in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Inode number.
    pub inode: u64,
}

impl Stamp {
    /// The stamp of a file with this metadata.
    pub fn of(meta: &Metadata) -> Self {
        let mtime_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
        Self { size: meta.len(), mtime_ns, inode: meta.ino() }
    }

    /// The stamp of the regular file at a real path; a symbolic link is an error.
    pub fn at(path: &Path) -> io::Result<Self> {
        let meta = nofollow::metadata(path)?;
        if meta.is_file() { Ok(Self::of(&meta)) } else { Err(io::Error::other("not a regular file")) }
    }
}

/// The change time of a file, nanoseconds since 1970. Programs cannot set it, unlike the modification time.
pub(super) fn change_time(meta: &Metadata) -> i64 {
    meta.ctime().saturating_mul(1_000_000_000).saturating_add(meta.ctime_nsec())
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// One file of a placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlacedEntry {
    /// Relative to the placement's directory.
    pub path: String,
    /// Its pieces root; none for an empty file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PiecesRoot>,
    /// Its stamp when it was verified.
    pub stamp: Stamp,
    /// The real path of the file if a symbolic link leads there, as it was when the file was shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PathBuf>,
    /// Whether this program made it, and may replace and remove it.
    #[serde(default)]
    pub ours: bool,
    /// Whether its bytes turned out to be damaged since.
    #[serde(default)]
    pub damaged: bool,
    /// Its change time when it was verified; none in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_ns: Option<i64>,
    /// Ranges of wrong bytes, as start and end offsets, in order; the other bytes are right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<(u64, u64)>,
}

impl PlacedEntry {
    /// A file that had `stamp` when all of it was verified. If its length is not `size`, it is damaged.
    pub fn verified(path: String, root: Option<PiecesRoot>, size: u64, stamp: Stamp, ours: bool) -> Self {
        let damaged = stamp.size != size;
        Self { path, root, stamp, target: None, ours, damaged, changed_ns: None, wrong: Vec::new() }
    }

    pub fn key(&self) -> Option<ContentKey> {
        self.root.map(|root| ContentKey { root, len: self.stamp.size })
    }

    /// The real path of the file, in the directory `dir`.
    pub fn real_path(&self, dir: &Path) -> PathBuf {
        self.target.clone().unwrap_or_else(|| dir.join(&self.path))
    }
}

/// Entries of one directory, sorted by path.
type DirEntries<'a> = &'a [Arc<PlacedEntry>];

/// A directory that has files of one torrent. Copies share the entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlacedDir {
    pub dir: PathBuf,
    /// Sorted by path, each path once.
    pub files: Vec<Arc<PlacedEntry>>,
}

/// The directories of one torrent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlacementRecord {
    /// The models that it is or was a state of.
    #[serde(default)]
    pub models: BTreeSet<ModelRef>,
    /// Sorted by directory, each directory once.
    #[serde(default)]
    pub places: Vec<PlacedDir>,
    /// Staging directories of a `get` that is not done.
    #[serde(default)]
    pub staging: Vec<PathBuf>,
    /// The inodes of the staging directories, by which they are recognised.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inodes: BTreeMap<PathBuf, u64>,
}

/// The difference of two records. Its size is that of the differences.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Delta {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    models: Option<BTreeSet<ModelRef>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    staging: Option<(Vec<PathBuf>, BTreeMap<PathBuf, u64>)>,
    /// The directories with different files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<DirDelta>,
}

/// The difference in one directory. A directory without files is removed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DirDelta {
    pub dir: PathBuf,
    /// Entries that are new, or replace those of their paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub put: Vec<Arc<PlacedEntry>>,
    /// Paths whose entries are removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<String>,
}

impl PlacementRecord {
    /// The entry of the directory `dir`, made if it is missing.
    pub fn place_mut(&mut self, dir: &Path) -> &mut PlacedDir {
        let at = self.places.binary_search_by(|place| place.dir.as_path().cmp(dir)).unwrap_or_else(|at| {
            self.places.insert(at, PlacedDir { dir: dir.to_owned(), files: Vec::new() });
            at
        });
        &mut self.places[at]
    }

    /// Whether the record can be removed.
    pub fn is_over(&self) -> bool {
        self.places.is_empty() && self.staging.is_empty()
    }

    /// Sorts directories and files, which a file may have in another order, and drops directories without files.
    pub fn normalise(&mut self) {
        for place in std::mem::take(&mut self.places) {
            if !place.files.is_empty() {
                self.place_mut(&place.dir).put(place.files);
            }
        }
    }

    /// The difference from this record to `new`. Both are normal.
    pub fn delta(&self, new: &Self) -> Delta {
        let mut dirs: BTreeMap<&Path, (DirEntries<'_>, DirEntries<'_>)> = BTreeMap::new();
        for place in &self.places {
            dirs.entry(&place.dir).or_default().0 = &place.files;
        }
        for place in &new.places {
            dirs.entry(&place.dir).or_default().1 = &place.files;
        }
        let places = dirs.into_iter().filter_map(|(dir, (old, new))| {
            let (put, gone) = differences(old, new);
            (!put.is_empty() || !gone.is_empty()).then(|| DirDelta { dir: dir.to_owned(), put, gone })
        });
        let staging = || (new.staging.clone(), new.inodes.clone());
        Delta {
            models: (self.models != new.models).then(|| new.models.clone()),
            staging: (self.staging != new.staging || self.inodes != new.inodes).then(staging),
            places: places.collect(),
        }
    }

    /// Applies a difference that [`PlacementRecord::delta`] returned.
    pub fn apply(&mut self, delta: Delta) {
        if let Some(models) = delta.models {
            self.models = models;
        }
        if let Some((staging, inodes)) = delta.staging {
            (self.staging, self.inodes) = (staging, inodes);
        }
        for change in delta.places {
            let gone: BTreeSet<String> = change.gone.into_iter().collect();
            let place = self.place_mut(&change.dir);
            if !gone.is_empty() {
                place.files.retain(|file| !gone.contains(&file.path));
            }
            place.put(change.put);
        }
        self.places.retain(|place| !place.files.is_empty());
    }
}

impl PlacedDir {
    /// Adds files, or replaces their entries.
    pub fn put(&mut self, entries: impl IntoIterator<Item = Arc<PlacedEntry>>) {
        let mut new: Vec<Arc<PlacedEntry>> = entries.into_iter().collect();
        if let [entry] = new.as_slice() {
            match self.files.binary_search_by(|file| file.path.cmp(&entry.path)) {
                Ok(at) => self.files[at] = entry.clone(),
                Err(at) => self.files.insert(at, entry.clone()),
            }
            return;
        }
        // The sort is stable: of equal paths the newest is the last.
        let mut all = std::mem::take(&mut self.files);
        all.append(&mut new);
        all.sort_by(|a, b| a.path.cmp(&b.path));
        for entry in all {
            match self.files.last_mut() {
                Some(last) if last.path == entry.path => *last = entry,
                _ => self.files.push(entry),
            }
        }
    }
}

/// The entries of `new` that are not in `old`, and the paths of `old` that are not in `new`.
fn differences(old: DirEntries<'_>, new: DirEntries<'_>) -> (Vec<Arc<PlacedEntry>>, Vec<String>) {
    let (mut put, mut gone) = (Vec::new(), Vec::new());
    let mut old = old.iter().peekable();
    for entry in new {
        while let Some(file) = old.next_if(|file| file.path < entry.path) {
            gone.push(file.path.clone());
        }
        match old.next_if(|file| file.path == entry.path) {
            Some(file) if Arc::ptr_eq(file, entry) || file == entry => {}
            _ => put.push(entry.clone()),
        }
    }
    gone.extend(old.map(|file| file.path.clone()));
    (put, gone)
}
