//! The records of verified files outside the cache: in model directories and directories shared in place.
//!
//! One record per torrent (see `recordfile`). Each file has a *stamp*, taken when its bytes were verified; a file whose
//! stamp has changed does not count. Opening reads the records and no data. Only the holder of the node's lock writes
//! records.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub(super) use super::placement_index::PlacedFile;
use super::placement_index::PlacementIndex;
use super::record::Delta;
pub use super::record::Stamp;
pub(super) use super::record::change_time;
pub(super) use super::record::{PlacedDir, PlacedEntry, PlacementRecord};
use super::recordfile;
use super::{ContentKey, StoreError};
use crate::model::{InfoHash, Manifest, ModelRef};
use crate::paths::Paths;
use crate::{fsutil, nofollow};

/// How long a file that could not be read is ignored.
const IGNORED_FOR: Duration = Duration::from_secs(60);

/// A directory with files of one torrent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlacedDirId {
    /// The torrent.
    pub info_hash: InfoHash,
    /// The directory.
    pub dir: PathBuf,
}

/// All records.
pub(super) struct Placements {
    paths: Paths,
    state: Mutex<PlacementIndex>,
    /// Held while a record is written; taken before `state`.
    writing: Mutex<()>,
}

impl Placements {
    /// Reads all records. A damaged one is logged and skipped.
    pub fn open(paths: &Paths) -> Result<Self, StoreError> {
        let this = Self {
            paths: paths.clone(),
            state: Mutex::new(PlacementIndex::default()),
            writing: Mutex::new(()),
        };
        this.reload()?;
        Ok(this)
    }

    /// Reads all records again.
    pub fn reload(&self) -> Result<(), StoreError> {
        let dir = self.paths.base.join("resume");
        let mut records = BTreeMap::new();
        let entries = fsutil::existing(fs::read_dir(&dir)).map_err(|e| StoreError::io(&dir, e))?;
        let Some(entries) = entries else { return Ok(()) };
        for entry in entries {
            let path = entry.map_err(|e| StoreError::io(&dir, e))?.path();
            let stem = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<InfoHash>().ok());
            let (Some(info_hash), Some("json")) = (stem, path.extension().and_then(|e| e.to_str())) else {
                continue;
            };
            match recordfile::read(&path) {
                Ok(record) => drop(records.insert(info_hash, record)),
                Err(e) => {
                    tracing::warn!(error = %e, file = %path.display(), "skipping a damaged placement record")
                }
            }
        }
        let mut new = PlacementIndex::default();
        for (info_hash, (record, lengths)) in records {
            for place in &record.places {
                place.files.iter().for_each(|file| new.index(&place.dir, file));
            }
            new.lengths.insert(info_hash, lengths);
            new.records.insert(info_hash, record);
        }
        *self.state.lock() = new;
        Ok(())
    }

    /// The record of a torrent; empty if there is none.
    pub fn record(&self, info_hash: &InfoHash) -> PlacementRecord {
        self.state.lock().records.get(info_hash).cloned().unwrap_or_default()
    }

    /// The torrents whose records name a model.
    pub fn of(&self, model: &ModelRef) -> Vec<InfoHash> {
        let state = self.state.lock();
        let named = state.records.iter().filter(|(_, record)| record.models.contains(model));
        named.map(|(info_hash, _)| *info_hash).collect()
    }

    /// Records files of a model in a directory, and replaces older entries for their paths.
    pub fn put(
        &self,
        manifest: &Manifest,
        dir: &Path,
        mut entries: Vec<PlacedEntry>,
    ) -> Result<(), StoreError> {
        for entry in &mut entries {
            // The change time of a file that is just being renamed to its path is not known yet.
            let meta = nofollow::metadata(&entry.real_path(dir)).ok();
            let meta = meta.filter(|meta| Stamp::of(meta) == entry.stamp);
            entry.changed_ns = entry.changed_ns.or(meta.as_ref().map(change_time));
        }
        self.update(&manifest.torrent.info_hash, |record| {
            record.models.insert(manifest.model_ref());
            record.place_mut(dir).put(entries.into_iter().map(Arc::new));
        })
    }

    /// Changes the record of a torrent: first durably on disk, then in memory. An empty record is removed.
    pub fn update(
        &self,
        info_hash: &InfoHash,
        change: impl FnOnce(&mut PlacementRecord),
    ) -> Result<(), StoreError> {
        let _writing = self.writing.lock();
        let (old, known) = {
            let state = self.state.lock();
            let old = state.records.get(info_hash).cloned().unwrap_or_default();
            (old, state.lengths.get(info_hash).copied())
        };
        let mut new = old.clone();
        change(&mut new);
        new.places.retain(|place| !place.files.is_empty());
        let delta = old.delta(&new);
        if delta == Delta::default() {
            return Ok(());
        }
        let path = self.paths.placement(info_hash);
        let written = if new.is_over() {
            recordfile::remove(&path).map(|()| None)
        } else {
            recordfile::write(&path, known, &new, &delta).map(Some)
        };
        let lengths = written.map_err(|e| StoreError::io(&path, e))?;
        let mut state = self.state.lock();
        for change in &delta.places {
            let place = old.places.iter().find(|place| place.dir == change.dir);
            state.reindex(place.map_or(&[], |place| &place.files), change);
        }
        match lengths {
            Some(lengths) => {
                state.records.insert(*info_hash, new);
                state.lengths.insert(*info_hash, lengths);
            }
            None => {
                state.records.remove(info_hash);
                state.lengths.remove(info_hash);
            }
        }
        Ok(())
    }

    /// A file that has the whole content and has not changed since it was verified. A file that is missing or has changed does
    /// not count now and may count later: another thread may be renaming it, or its disk may be mounted again.
    pub fn find(&self, key: &ContentKey) -> Option<PlacedFile> {
        let mut whole = self.candidates(key).into_iter().filter(|file| file.wrong.is_empty());
        whole.find(|file| self.still_counts(key, file))
    }

    /// Like [`Placements::find`]; if there is none, a file that has a part of the content.
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
        let state = self.state.lock();
        let files = state.by_key.get(key).into_iter().flatten();
        let now = Instant::now();
        files
            .filter(|file| state.ignored.get(&file.path).is_none_or(|until| *until <= now))
            .cloned()
            .collect()
    }

    /// Ignores a file for a minute: it cannot be read, or a reader needs bytes that are wrong in it. This may be temporary, so it
    /// is not recorded on disk.
    pub fn ignore_for_a_while(&self, path: &Path) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.ignored.retain(|_, until| *until > now);
        state.ignored.insert(path.to_owned(), now + IGNORED_FOR);
    }

    fn still_counts(&self, key: &ContentKey, file: &PlacedFile) -> bool {
        let why = match Stamp::at(&file.path) {
            Ok(stamp) if stamp == file.stamp => return true,
            Ok(_) => "it has changed since it was verified".to_owned(),
            Err(e) => e.to_string(),
        };
        tracing::debug!(root = %key.root, file = %file.path.display(), why, "the file does not count as verified");
        false
    }

    /// The files below `dir` that this program made, edited or not, with their recorded stamps. A file that the user has
    /// shared in place is not among them: the user has edited it before.
    pub fn ours_below(&self, dir: &Path) -> HashMap<PathBuf, Vec<Stamp>> {
        let state = self.state.lock();
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

    /// The files of models in `dir` itself, not of models in a directory below it, that this program made and that were not
    /// edited, with their present stamps.
    pub fn unedited_at(&self, dir: &Path) -> HashMap<PathBuf, Stamp> {
        let ours = self.ours_below(dir);
        let state = self.state.lock();
        let places =
            state.records.values().flat_map(|record| &record.places).filter(|place| place.dir == dir);
        let files = places.flat_map(|place| &place.files).filter_map(|file| {
            let path = dir.join(&file.path);
            let now = Stamp::at(&path).ok()?;
            ours.get(&path).is_some_and(|stamps| stamps.contains(&now)).then_some((path, now))
        });
        files.collect()
    }

    /// All files below `dir` that any record has, of this program and of users.
    pub fn placed_below(&self, dir: &Path) -> HashSet<PathBuf> {
        let state = self.state.lock();
        let places = state.records.values().flat_map(|record| &record.places);
        let files = places.flat_map(|place| place.files.iter().map(|file| place.dir.join(&file.path)));
        files.filter(|path| path.starts_with(dir)).collect()
    }

    /// The directories below `top` in which files of any record are, or are being collected.
    pub fn dirs_below(&self, top: &Path) -> BTreeSet<PathBuf> {
        let state = self.state.lock();
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

    /// The records of all torrents.
    pub fn all(&self) -> Vec<PlacementRecord> {
        self.state.lock().records.values().cloned().collect()
    }

    /// The contents among `keys` that are in files of a model for which `counts` is true.
    pub fn stored_for(
        &self,
        keys: &HashSet<ContentKey>,
        counts: impl Fn(&ModelRef) -> bool,
    ) -> HashSet<ContentKey> {
        let state = self.state.lock();
        let records = state.records.values().filter(|record| record.models.iter().any(&counts));
        let files = records.flat_map(|record| &record.places).flat_map(|place| &place.files);
        let held = files.filter(|file| !file.damaged).filter_map(|file| file.key());
        held.filter(|key| keys.contains(key)).collect()
    }

    /// Records that the bytes of a placed file turned out to be damaged.
    pub fn distrust(&self, key: &ContentKey, path: &Path) -> Result<(), StoreError> {
        if let Some(files) = self.state.lock().by_key.get_mut(key) {
            files.retain(|f| f.path != path);
        }
        self.update_file(key, path, |file| file.damaged = true)
    }

    /// Ends [`Placements::ignore_for_a_while`].
    pub fn stop_ignoring(&self, path: &Path) {
        self.state.lock().ignored.remove(path);
    }

    /// All directories of all records.
    pub fn ids(&self) -> Vec<PlacedDirId> {
        let state = self.state.lock();
        let ids = state.records.iter().flat_map(|(info_hash, record)| {
            record.places.iter().map(|place| PlacedDirId { info_hash: *info_hash, dir: place.dir.clone() })
        });
        ids.collect()
    }

    /// At most `count` files of a directory that have contents, starting with index `from`, and the index of the next
    /// one; 0 when these are the last.
    pub fn files_of(&self, id: &PlacedDirId, from: usize, count: usize) -> (Vec<PlacedEntry>, usize) {
        let state = self.state.lock();
        let place = state.records.get(&id.info_hash);
        let Some(place) = place.and_then(|r| r.places.iter().find(|place| place.dir == id.dir)) else {
            return (Vec::new(), 0);
        };
        let end = from.saturating_add(count).min(place.files.len());
        let files = place.files.get(from..end).unwrap_or_default();
        let next = if end == place.files.len() { 0 } else { end };
        (files.iter().filter(|file| file.root.is_some()).map(|file| PlacedEntry::clone(file)).collect(), next)
    }

    /// The contents of all files.
    pub fn keys(&self) -> HashSet<ContentKey> {
        self.state.lock().by_key.keys().copied().collect()
    }

    /// Changes the entries of the file at a real path in all records that have it for this content.
    pub fn update_file(
        &self,
        key: &ContentKey,
        path: &Path,
        change: impl Fn(&mut PlacedEntry),
    ) -> Result<(), StoreError> {
        let is_it = |dir: &Path, file: &PlacedEntry| file.key() == Some(*key) && file.real_path(dir) == path;
        let holders: Vec<InfoHash> = {
            let state = self.state.lock();
            let holds =
                |r: &PlacementRecord| r.places.iter().any(|p| p.files.iter().any(|f| is_it(&p.dir, f)));
            state.records.iter().filter(|(_, r)| holds(r)).map(|(h, _)| *h).collect()
        };
        for info_hash in holders {
            self.update(&info_hash, |record| {
                for place in &mut record.places {
                    let files = place.files.iter_mut().filter(|file| is_it(&place.dir, file));
                    files.for_each(|file| change(Arc::make_mut(file)));
                }
            })?;
        }
        Ok(())
    }

    /// The files that the index has for a content.
    #[cfg(test)]
    pub fn indexed(&self, key: &ContentKey) -> Vec<String> {
        self.candidates(key).into_iter().map(|file| format!("{file:?}")).collect()
    }
}
