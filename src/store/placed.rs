//! Files outside the cache that were verified: in model directories and in directories shared in place.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::content::Location;
use super::placement::{PlacedDir, PlacedEntry, Stamp};
use super::{Content, ContentKey, Store, StoreError, StoredRevision};
use crate::fsutil;
use crate::model::{InfoHash, Manifest, ModelRef, PiecesRoot};
use crate::nofollow;
use crate::paths::Paths;

/// The files outside the cache.
pub struct PlacedFiles<'a> {
    pub(super) store: &'a Store,
}

impl PlacedFiles<'_> {
    /// A verified file with all bytes of a content; its stamp when it was verified; and whether this program made it, so that
    /// it may be linked.
    pub fn find(&self, root: &PiecesRoot, len: u64) -> Option<(PathBuf, Stamp, bool)> {
        let file = self.store.parts.placements.find(&ContentKey { root: *root, len })?;
        Some((file.path, file.stamp, file.ours))
    }

    /// Records that the files of a revision are below `dir`, verified. They had `stamps` (one per file of the manifest) before
    /// their bytes were hashed: a file that has changed since then does not count. The files belong to the user: they are never
    /// written, replaced or removed. `targets` has the real paths of the files to which a symbolic link leads; they are read
    /// there from now on, even if the link leads to another file later.
    pub fn record_as(
        &self,
        manifest: &Manifest,
        dir: &Path,
        stamps: &[Stamp],
        targets: &HashMap<String, PathBuf>,
    ) -> Result<(), StoreError> {
        self.record_files(manifest, dir, stamps, targets, false)
    }

    /// Like [`PlacedFiles::record_as`], for files that this program made: it may move, replace and remove them.
    pub fn record_own(&self, manifest: &Manifest, dir: &Path, stamps: &[Stamp]) -> Result<(), StoreError> {
        self.record_files(manifest, dir, stamps, &HashMap::new(), true)
    }

    fn record_files(
        &self,
        manifest: &Manifest,
        dir: &Path,
        stamps: &[Stamp],
        targets: &HashMap<String, PathBuf>,
        ours: bool,
    ) -> Result<(), StoreError> {
        let dir = fs::canonicalize(dir).map_err(|e| StoreError::io(dir, e))?;
        let _moving = self.store.moving.lock();
        // The record of a file that was published there since then stays.
        let known = self.store.parts.placements.record(&manifest.torrent.info_hash);
        let known = known.places.iter().filter(|place| place.dir == dir).flat_map(|place| &place.files);
        let known: HashMap<&str, Stamp> = known.map(|file| (file.path.as_str(), file.stamp)).collect();
        let is_newer = |path: &str, stamp: &Stamp| {
            let on_record = known.get(path).filter(|known| *known != stamp);
            on_record.is_some_and(|known| Stamp::at(&dir.join(path)).is_ok_and(|now| now == *known))
        };
        let files = manifest.files.iter().zip(stamps).filter(|(file, stamp)| !is_newer(&file.path, stamp));
        let entries = files.map(|(file, stamp)| PlacedEntry {
            target: targets.get(&file.path).cloned(),
            ..PlacedEntry::verified(file.path.clone(), file.pieces_root, file.size, *stamp, ours)
        });
        self.store.parts.placements.put(manifest, &dir, entries.collect())?;
        for key in manifest.files.iter().filter_map(ContentKey::of) {
            self.store.move_if_placed(&key);
        }
        Ok(())
    }

    /// Records that all bytes of a content were read and are right, in a file with this change time.
    pub fn set_change_time(&self, content: &Content, changed_ns: i64) -> Result<(), StoreError> {
        let (Some(key), Location::Placed(file)) = (content.key(), content.location()) else { return Ok(()) };
        if file.changed_ns == Some(changed_ns) {
            return Ok(());
        }
        self.store.parts.placements.update_file(&key, &file.path, |entry| entry.changed_ns = Some(changed_ns))
    }

    /// Whether the files of a torrent are recorded for a model.
    pub fn is_stored_for(&self, info_hash: &InfoHash, model: &ModelRef) -> bool {
        let record = self.store.parts.placements.record(info_hash);
        !record.places.is_empty() && record.models.contains(model)
    }

    /// Whether `dest` has every file of a manifest, unchanged since it was verified.
    pub fn has_all(&self, manifest: &Manifest, dest: &Path) -> bool {
        self.store.dirs.resolve(dest).is_ok_and(|dest| self.has_all_at(manifest, &dest))
    }

    /// [`PlacedFiles::has_all`] for a real path.
    pub(super) fn has_all_at(&self, manifest: &Manifest, dest: &Path) -> bool {
        let record = self.store.parts.placements.record(&manifest.torrent.info_hash);
        record.places.iter().find(|place| place.dir == dest).is_some_and(|place| is_whole(manifest, place))
    }

    /// The directory of a revision: the one that has every file of it, unchanged since it was verified. If several
    /// do, the one in the models directory comes first. None if files are missing, or are only in the cache.
    ///
    /// For a file that is in other models too, only the path in this directory counts.
    pub fn own_dir(&self, revision: &StoredRevision) -> Option<PathBuf> {
        let manifest = &revision.manifest;
        let mut places = self.store.parts.placements.record(&manifest.torrent.info_hash).places;
        places.sort_by_key(|place| !self.store.dirs.is_own(&manifest.model_ref(), &place.dir));
        places.into_iter().find(|place| is_whole(manifest, place)).map(|place| place.dir)
    }

    /// Forgets that files of a revision are below `dir`, so that the directory can be removed. They must be in another
    /// directory too: `Incomplete` names a file that is not.
    pub fn retire(&self, revision: &StoredRevision, dir: &Path) -> Result<(), StoreError> {
        let _moving = self.store.moving.lock();
        let dir = fs::canonicalize(dir).map_err(|e| StoreError::io(dir, e))?;
        let (manifest, placements) = (&revision.manifest, &self.store.parts.placements);
        placements.update(&manifest.torrent.info_hash, |record| {
            record.places.retain(|place| place.dir != dir);
        })?;
        for (file, content) in manifest.files.iter().zip(&revision.contents) {
            let mut writer = content.writer();
            let (Some(key), Location::Placed(placed)) = (content.key(), content.location()) else { continue };
            if placed.path.starts_with(&dir) {
                let other = placements.find(&key);
                let other = other.ok_or_else(|| StoreError::Incomplete { path: file.path.clone() })?;
                writer.move_to_placed(other);
            }
        }
        Ok(())
    }

    /// The directories below the models directory that have files of this program, or files that were shared in place.
    pub fn recorded_dirs(&self) -> BTreeSet<PathBuf> {
        let mut dirs = self.store.parts.placements.dirs_below(&self.store.dirs.models);
        let files = self.store.partial_mirrors().all_files();
        dirs.extend(files.iter().map(|file| fsutil::parent(file).to_owned()));
        dirs
    }

    /// All files that this program made below the models directory: files of models and of mirrors, the copies of manifests
    /// next to them, directories of a `get` that is not done. Files that are shared in place, or were edited later, are not
    /// among them.
    pub fn made_below_models(&self) -> Vec<PathBuf> {
        let models = &self.store.dirs.models;
        let mut ours = self.store.parts.placements.ours_below(models);
        // A file that was edited belongs to its editor.
        ours.retain(|path, stamps| Stamp::at(path).is_ok_and(|now| stamps.contains(&now)));
        let mut made = HashSet::new();
        for record in self.store.parts.placements.all() {
            for place in &record.places {
                let files = place.files.iter().map(|f| place.dir.join(&f.path));
                let files: Vec<PathBuf> = files.filter(|path| ours.contains_key(path)).collect();
                if !files.is_empty() {
                    made.insert(place.dir.join(Paths::MODEL_MANIFEST));
                }
                made.extend(files);
            }
            made.extend(record.staging);
        }
        made.extend(self.store.partial_mirrors().all_files());
        made.retain(|path| path.starts_with(models) && nofollow::exists(path));
        let mut made: Vec<PathBuf> = made.into_iter().collect();
        made.sort();
        made
    }
}

fn is_whole(manifest: &Manifest, place: &PlacedDir) -> bool {
    let known: HashMap<&str, &PlacedEntry> =
        place.files.iter().map(|file| (file.path.as_str(), &**file)).collect();
    manifest.files.iter().all(|file| {
        known.get(file.path.as_str()).is_some_and(|entry| {
            !entry.damaged && Stamp::at(&entry.real_path(&place.dir)).is_ok_and(|stamp| stamp == entry.stamp)
        })
    })
}
