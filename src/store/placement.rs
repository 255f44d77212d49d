//! Where files stand, verified, outside the cache: model directories and directories shared in place.
//!
//! One record per torrent, `resume/<info hash>.json`. Each file has a *stamp*, taken when its bytes were
//! verified; a file whose stamp has changed does not count any more. Opening reads the records and no data.
//! The records are written by whoever holds the node's lock; others only read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::blockmap::BlockMap;
use super::tend::PlaceId;
use super::{ContentKey, StoreError};
use crate::model::{InfoHash, Manifest, ModelRef, PiecesRoot};
use crate::paths::Paths;
use crate::{fsutil, nofollow};

/// Longest record read; 100 000 files of long paths fit.
const MAX_RECORD: u64 = 512 << 20;

/// How long a file that could not be read is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// How a file looked when its bytes were verified. Not the device number, which may differ after a reboot, nor
/// the change time, which moves when a hard link is made (see [`change_time`]).
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
    /// The stamp of a file that is open or was just looked at.
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

/// One file of a placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlacedEntry {
    /// Relative to the placement's directory.
    pub path: String,
    /// Its content; none for an empty file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PiecesRoot>,
    /// How it looked when verified.
    pub stamp: Stamp,
    /// Where the file really is when a symbolic link leads there; decided, and fixed, when it was shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PathBuf>,
    /// Whether this program put it there, and may replace and remove it.
    #[serde(default)]
    pub ours: bool,
    /// Whether its bytes turned out to be damaged since.
    #[serde(default)]
    pub damaged: bool,
    /// Its change time when it was verified; none in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_ns: Option<i64>,
    /// Bytes that are wrong, as offsets from and to, in order, while the others are right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<(u64, u64)>,
}

impl PlacedEntry {
    /// A file that looked like `stamp` when all of it was verified. One of another length than `size` is damaged.
    pub fn verified(path: String, root: Option<PiecesRoot>, size: u64, stamp: Stamp, ours: bool) -> Self {
        let damaged = stamp.size != size;
        Self { path, root, stamp, target: None, ours, damaged, changed_ns: None, wrong: Vec::new() }
    }

    pub fn key(&self) -> Option<ContentKey> {
        self.root.map(|root| ContentKey { root, len: self.stamp.size })
    }

    /// The real path of the file, in a place at `dir`.
    pub fn real_path(&self, dir: &Path) -> PathBuf {
        self.target.clone().unwrap_or_else(|| dir.join(&self.path))
    }
}

/// A directory in which files of one torrent stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub dir: PathBuf,
    pub files: Vec<PlacedEntry>,
}

/// All places of one torrent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The models that it is or was a state of.
    #[serde(default)]
    pub models: BTreeSet<ModelRef>,
    #[serde(default)]
    pub places: Vec<Place>,
    /// Directories that hold partial files for a `get` that is not done.
    #[serde(default)]
    pub staging: Vec<PathBuf>,
    /// The inodes of those, by which they are known again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inodes: BTreeMap<PathBuf, u64>,
}

impl Record {
    /// The place at `dir`, made where missing.
    pub fn place_mut(&mut self, dir: &Path) -> &mut Place {
        let at = self.places.iter().position(|p| p.dir == dir).unwrap_or_else(|| {
            self.places.push(Place { dir: dir.to_owned(), files: Vec::new() });
            self.places.len() - 1
        });
        &mut self.places[at]
    }
}

impl Place {
    /// Adds files, or replaces their entries.
    pub fn put(&mut self, entries: impl IntoIterator<Item = PlacedEntry>) {
        let files = std::mem::take(&mut self.files).into_iter().chain(entries);
        let by_path: BTreeMap<String, PlacedEntry> = files.map(|file| (file.path.clone(), file)).collect();
        self.files = by_path.into_values().collect();
    }
}

/// A file known to hold a whole content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlacedFile {
    pub path: PathBuf,
    pub stamp: Stamp,
    pub ours: bool,
    /// Bytes that are wrong, in order.
    pub wrong: Vec<Range<u64>>,
    /// The change time when it was verified, nanoseconds since 1970; none where it is not known.
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

#[derive(Default)]
struct State {
    records: BTreeMap<InfoHash, Record>,
    by_key: HashMap<ContentKey, Vec<PlacedFile>>,
    /// Files that could not be read or that a reader had to leave, and until when they are left alone.
    left_alone: HashMap<PathBuf, Instant>,
}

impl State {
    fn index(&mut self) {
        self.by_key.clear();
        for place in self.records.values().flat_map(|r| &r.places) {
            for file in place.files.iter().filter(|f| !f.damaged) {
                let Some(key) = file.key() else { continue };
                let path = file.real_path(&place.dir);
                let wrong = file.wrong.iter().map(|&(from, to)| from..to).collect();
                let (stamp, ours, changed_ns) = (file.stamp, file.ours, file.changed_ns);
                let placed = PlacedFile { path, stamp, ours, wrong, changed_ns };
                self.by_key.entry(key).or_default().push(placed);
            }
        }
    }
}

/// All records.
pub(super) struct Placements {
    paths: Paths,
    state: Mutex<State>,
    /// Held while a record is written; taken before `state`.
    writing: Mutex<()>,
}

impl Placements {
    /// Reads all records. A damaged one is skipped and said.
    pub fn open(paths: &Paths) -> Result<Self, StoreError> {
        let this =
            Self { paths: paths.clone(), state: Mutex::new(State::default()), writing: Mutex::new(()) };
        this.reload()?;
        Ok(this)
    }

    /// Reads all records again.
    pub fn reload(&self) -> Result<(), StoreError> {
        let dir = self.paths.base.join("resume");
        let mut records = BTreeMap::new();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(StoreError::io(&dir, e)),
        };
        for entry in entries {
            let path = entry.map_err(|e| StoreError::io(&dir, e))?.path();
            let stem = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<InfoHash>().ok());
            let (Some(info_hash), Some("json")) = (stem, path.extension().and_then(|e| e.to_str())) else {
                continue;
            };
            let record = fsutil::read_capped(&path, MAX_RECORD)
                .and_then(|bytes| serde_json::from_slice::<Record>(&bytes).map_err(io::Error::from));
            match record {
                Ok(record) => drop(records.insert(info_hash, record)),
                Err(e) => tracing::warn!("Skipping the damaged placement record {}: {e}.", path.display()),
            }
        }
        let mut state = self.lock();
        state.records = records;
        state.index();
        Ok(())
    }

    /// The record of a torrent; empty where there is none.
    pub fn record(&self, info_hash: &InfoHash) -> Record {
        self.lock().records.get(info_hash).cloned().unwrap_or_default()
    }

    /// The torrents whose records name a model.
    pub fn of(&self, model: &ModelRef) -> Vec<InfoHash> {
        let state = self.lock();
        let named = state.records.iter().filter(|(_, record)| record.models.contains(model));
        named.map(|(info_hash, _)| *info_hash).collect()
    }

    /// Records files of a model that stand in a directory, in place of what was recorded for their paths.
    pub fn put(
        &self,
        manifest: &Manifest,
        dir: &Path,
        mut entries: Vec<PlacedEntry>,
    ) -> Result<(), StoreError> {
        for entry in &mut entries {
            // Of a file that is just being renamed to its place it is not known yet.
            let meta = nofollow::metadata(&entry.real_path(dir)).ok();
            let meta = meta.filter(|meta| Stamp::of(meta) == entry.stamp);
            entry.changed_ns = entry.changed_ns.or(meta.as_ref().map(change_time));
        }
        self.update(&manifest.torrent.info_hash, |record| {
            record.models.insert(manifest.model_ref());
            record.place_mut(dir).put(entries);
        })
    }

    /// Changes the record of a torrent, durably, before anybody sees the change. An empty record is removed.
    pub fn update(&self, info_hash: &InfoHash, change: impl FnOnce(&mut Record)) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.record(info_hash);
        let mut new = old.clone();
        change(&mut new);
        new.places.retain(|p| !p.files.is_empty());
        if new == old {
            return Ok(());
        }
        let path = self.paths.placement(info_hash);
        let gone = new.places.is_empty() && new.staging.is_empty();
        let written = if gone {
            fsutil::remove_if_there(&path).map(drop)
        } else {
            serde_json::to_vec(&new)
                .map_err(io::Error::from)
                .and_then(|bytes| fsutil::write_atomic(&path, &bytes, fsutil::MODE_PRIVATE))
        };
        written.map_err(|e| StoreError::io(&path, e))?;
        let mut state = self.lock();
        if gone {
            state.records.remove(info_hash);
        } else {
            state.records.insert(*info_hash, new);
        }
        state.index();
        Ok(())
    }

    /// A file that holds the whole content and looks as it did when verified. A file that is missing or has changed does
    /// not count while it is so: it may be on its way to its place, or on a disk that comes back.
    pub fn find(&self, key: &ContentKey) -> Option<PlacedFile> {
        let mut whole = self.candidates(key).into_iter().filter(|file| file.wrong.is_empty());
        whole.find(|file| self.still_counts(key, file))
    }

    /// Like [`Placements::find`]; where there is none, a file that holds a part of the content.
    pub fn find_any(&self, key: &ContentKey) -> Option<PlacedFile> {
        let mut candidates = self.candidates(key);
        candidates.sort_by_key(|file| file.wrong.iter().map(|range| range.end - range.start).sum::<u64>());
        candidates.into_iter().find(|file| self.still_counts(key, file))
    }

    /// All files that [`Placements::find`] may find.
    pub fn find_all(&self, key: &ContentKey) -> Vec<PlacedFile> {
        let whole = self.candidates(key).into_iter().filter(|file| file.wrong.is_empty());
        whole.filter(|file| self.still_counts(key, file)).collect()
    }

    fn candidates(&self, key: &ContentKey) -> Vec<PlacedFile> {
        let state = self.lock();
        let files = state.by_key.get(key).into_iter().flatten();
        let now = Instant::now();
        files
            .filter(|file| state.left_alone.get(&file.path).is_none_or(|until| *until <= now))
            .cloned()
            .collect()
    }

    /// Has a file not found for a minute: it cannot be read, or a reader needs bytes that are wrong in it. That is no
    /// fact about the file, so it is not written down.
    pub fn leave_alone(&self, path: &Path) {
        let now = Instant::now();
        let mut state = self.lock();
        state.left_alone.retain(|_, until| *until > now);
        state.left_alone.insert(path.to_owned(), now + LEFT_ALONE);
    }

    fn still_counts(&self, key: &ContentKey, file: &PlacedFile) -> bool {
        let why = match Stamp::at(&file.path) {
            Ok(stamp) if stamp == file.stamp => return true,
            Ok(_) => "it has changed since it was verified".to_owned(),
            Err(e) => e.to_string(),
        };
        tracing::debug!(root = %key.root, "{} does not count as verified: {why}.", file.path.display());
        false
    }

    /// The files below `dir` that this program put there, whatever they hold now, with their last stamps. A file
    /// that any record calls its owner's is not among them: the owner has shared what he made of ours.
    pub fn ours_below(&self, dir: &Path) -> HashMap<PathBuf, Vec<Stamp>> {
        let state = self.lock();
        let (mut ours, mut theirs) = (HashMap::<PathBuf, Vec<Stamp>>::new(), HashSet::new());
        for place in state.records.values().flat_map(|r| &r.places) {
            for file in &place.files {
                let path = place.dir.join(&file.path);
                if !path.starts_with(dir) {
                    continue;
                }
                if file.ours {
                    ours.entry(path).or_default().push(file.stamp);
                } else {
                    theirs.insert(path);
                }
            }
        }
        ours.retain(|path, _| !theirs.contains(path));
        ours
    }

    /// The files of ours whose place is `dir` itself and no directory below it, as they look now: those that nobody has
    /// edited.
    pub fn unedited_at(&self, dir: &Path) -> HashMap<PathBuf, Stamp> {
        let ours = self.ours_below(dir);
        let state = self.lock();
        let places =
            state.records.values().flat_map(|record| &record.places).filter(|place| place.dir == dir);
        let files = places.flat_map(|place| &place.files).filter_map(|file| {
            let path = dir.join(&file.path);
            let now = Stamp::at(&path).ok()?;
            ours.get(&path).is_some_and(|stamps| stamps.contains(&now)).then_some((path, now))
        });
        files.collect()
    }

    /// All files below `dir` that any record has, whosever they are.
    pub fn placed_below(&self, dir: &Path) -> HashSet<PathBuf> {
        let state = self.lock();
        let places = state.records.values().flat_map(|record| &record.places);
        let files = places.flat_map(|place| place.files.iter().map(|file| place.dir.join(&file.path)));
        files.filter(|path| path.starts_with(dir)).collect()
    }

    /// The directories below `top` in which files of any record are, or are being collected.
    pub fn dirs_below(&self, top: &Path) -> BTreeSet<PathBuf> {
        let state = self.lock();
        let dirs = state.records.values().flat_map(|record| {
            record
                .places
                .iter()
                .map(|place| &place.dir)
                .chain(&record.staging)
                .filter(|dir| dir.starts_with(top))
        });
        dirs.cloned().collect()
    }

    /// What is known of every torrent.
    pub fn all(&self) -> Vec<Record> {
        self.lock().records.values().cloned().collect()
    }

    /// Records that the bytes of a placed file turned out to be damaged.
    pub fn distrust(&self, key: &ContentKey, path: &Path) -> Result<(), StoreError> {
        if let Some(files) = self.lock().by_key.get_mut(key) {
            files.retain(|f| f.path != path);
        }
        self.update_file(key, path, |file| file.damaged = true)
    }

    /// Ends [`Placements::leave_alone`].
    pub fn expect_again(&self, path: &Path) {
        self.lock().left_alone.remove(path);
    }

    /// All places.
    pub fn ids(&self) -> Vec<PlaceId> {
        let state = self.lock();
        let ids = state.records.iter().flat_map(|(info_hash, record)| {
            record.places.iter().map(|place| PlaceId { info_hash: *info_hash, dir: place.dir.clone() })
        });
        ids.collect()
    }

    /// At most `count` files of a place that hold contents, from the one with index `from` on, and the index of the next
    /// one; 0 when these are the last.
    pub fn files_of(&self, id: &PlaceId, from: usize, count: usize) -> (Vec<PlacedEntry>, usize) {
        let state = self.lock();
        let place = state.records.get(&id.info_hash);
        let Some(place) = place.and_then(|r| r.places.iter().find(|place| place.dir == id.dir)) else {
            return (Vec::new(), 0);
        };
        let end = from.saturating_add(count).min(place.files.len());
        let files = place.files.get(from..end).unwrap_or_default();
        let next = if end == place.files.len() { 0 } else { end };
        (files.iter().filter(|file| file.root.is_some()).cloned().collect(), next)
    }

    /// The contents of all files.
    pub fn keys(&self) -> HashSet<ContentKey> {
        self.lock().by_key.keys().copied().collect()
    }

    /// Changes what is recorded of the file at a real path, wherever it is recorded for this content.
    pub fn update_file(
        &self,
        key: &ContentKey,
        path: &Path,
        change: impl Fn(&mut PlacedEntry),
    ) -> Result<(), StoreError> {
        let is_it = |dir: &Path, file: &PlacedEntry| {
            file.root == Some(key.root) && file.stamp.size == key.len && file.real_path(dir) == path
        };
        let holders: Vec<InfoHash> = {
            let state = self.lock();
            let holds = |r: &Record| r.places.iter().any(|p| p.files.iter().any(|f| is_it(&p.dir, f)));
            state.records.iter().filter(|(_, r)| holds(r)).map(|(h, _)| *h).collect()
        };
        for info_hash in holders {
            self.update(&info_hash, |record| {
                for place in &mut record.places {
                    let dir = place.dir.clone();
                    place.files.iter_mut().filter(|f| is_it(&dir, f)).for_each(&change);
                }
            })?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
