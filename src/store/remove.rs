//! Removing a model: what this program put there goes, what others use or own stays.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::{Content, Home};
use super::placement::{PlacedEntry, Record, Stamp};
use super::staging::{resolve, staging_dir};
use super::{ContentKey, Store, StoreError, StoredRevision, mapfile, registry};
use crate::fsutil;
use crate::model::{InfoHash, Manifest, ModelRef};
use crate::paths::Paths;

impl Store {
    /// Forgets a revision: removes the files below the models directory that this program put there, cached
    /// contents that none of `others` uses, metainfo, resume data and placement. Contents that one of `others`
    /// uses and that stand nowhere else go to the cache. Files shared in place, or got into another directory,
    /// stay. The engine must not have the revision open. The registry is not touched. `others` are all other
    /// manifests known.
    pub fn forget(&self, revision: &StoredRevision, others: &[Arc<Manifest>]) -> Result<(), StoreError> {
        let _moving = self.moving();
        let manifest = &revision.manifest;
        let info_hash = &manifest.torrent.info_hash;
        // The same torrent under another name shares this one's record.
        let twin = others.iter().any(|m| m.torrent.info_hash == *info_hash);
        let record = self.shared.placements.record(info_hash);
        let models =
            fs::canonicalize(&self.shared.paths.models).unwrap_or_else(|_| self.shared.paths.models.clone());
        let dir = models.join(manifest.model_ref().to_string());
        let goes = |place: &Path| if twin { place == dir } else { place.starts_with(&models) };
        let doomed = self.doomed(info_hash, &record, others, goes);
        let used = used_by(others);
        let all: Vec<usize> = (0..revision.contents.len()).collect();
        for (key, content) in self.unique(revision, &all) {
            self.release(&key, &content, used.contains(&key), &doomed)?;
        }
        for path in &doomed {
            fsutil::remove_if_there(path).map_err(|e| StoreError::io(path, e))?;
            registry::remove_empty_parents(path, &models);
        }
        for place in record.places.iter().filter(|p| goes(&p.dir)) {
            remove_manifest_copy(&place.dir, manifest, &models)?;
        }
        if twin {
            return self.shared.placements.update(info_hash, |record| {
                // What the twin shares from there in place is its.
                let here = record.places.iter_mut().filter(|place| place.dir == dir);
                here.for_each(|place| place.files.retain(|file| !file.ours));
            });
        }
        for staging in &record.staging {
            self.close_staging(revision, staging)?;
        }
        self.shared.placements.update(info_hash, |record| *record = Record::default())?;
        self.remove_metainfo(info_hash)
    }

    /// Forgets that files of a revision stand below `dir`, so that the directory can go. They must stand elsewhere, too:
    /// `Incomplete` names one that does not.
    pub fn retire(&self, revision: &StoredRevision, dir: &Path) -> Result<(), StoreError> {
        let _moving = self.moving();
        let dir = fs::canonicalize(dir).map_err(|e| StoreError::io(dir, e))?;
        let manifest = &revision.manifest;
        self.shared.placements.update(&manifest.torrent.info_hash, |record| {
            record.places.retain(|place| place.dir != dir);
        })?;
        for (file, content) in manifest.files.iter().zip(&revision.contents) {
            let mut journal = content.journal();
            let (Some(key), Home::Placed(placed)) = (content.key(), content.home()) else { continue };
            if placed.path.starts_with(&dir) {
                let elsewhere = self.shared.placements.find(&key);
                let elsewhere =
                    elsewhere.ok_or_else(|| StoreError::Incomplete { path: file.path.clone() })?;
                content.settle_placed(&mut journal, elsewhere);
            }
        }
        Ok(())
    }

    /// The manifest of the state of a model whose files stand whole in a directory, by the copy that lies beside them.
    pub fn stands_at(&self, model: &ModelRef, dir: &Path) -> Option<Manifest> {
        let manifest = registry::read_manifest(&resolve(dir).ok()?.join(Paths::MODEL_MANIFEST)).ok()?;
        (manifest.model_ref() == *model).then_some(manifest)
    }

    /// Removes from a directory the files of a former state of a model that the state which took its place, if one did, has
    /// not: those that this program put there and nobody has changed. Returns how many. `others` are all manifests known
    /// that stay; contents that one of them uses and that stand nowhere else go to the cache. A state that is none of
    /// them and stands nowhere else is forgotten. The engine must not have the former state open.
    pub fn clear_former(
        &self,
        former: &StoredRevision,
        present: Option<&Manifest>,
        dir: &Path,
        others: &[Arc<Manifest>],
    ) -> Result<usize, StoreError> {
        let _moving = self.moving();
        let dir = resolve(dir)?;
        let info_hash = &former.manifest.torrent.info_hash;
        let twin = others.iter().any(|m| m.torrent.info_hash == *info_hash);
        let record = self.shared.placements.record(info_hash);
        let ours = self.shared.placements.ours_below(&dir);
        let files = present.iter().flat_map(|present| &present.files);
        let stays: HashSet<PathBuf> = files.map(|file| dir.join(&file.path)).collect();
        let mut doomed = self.doomed(info_hash, &record, others, |place| place == dir);
        doomed.retain(|path| {
            let unchanged =
                || ours.get(path).is_some_and(|of| Stamp::at(path).is_ok_and(|now| of.contains(&now)));
            !stays.contains(path) && unchanged()
        });
        let used = used_by(others);
        let all: Vec<usize> = (0..former.contents.len()).collect();
        for (key, content) in self.unique(former, &all) {
            if matches!(content.home(), Home::Placed(file) if doomed.contains(&file.path)) {
                self.release(&key, &content, used.contains(&key), &doomed)?;
            }
        }
        for path in &doomed {
            fsutil::remove_if_there(path).map_err(|e| StoreError::io(path, e))?;
            registry::remove_empty_parents(path, &dir);
        }
        let models = &self.shared.paths.models;
        let top = if present.is_none() { fs::canonicalize(models).ok() } else { None };
        remove_manifest_copy(&dir, &former.manifest, top.as_deref().unwrap_or(&dir))?;
        if !twin {
            self.close_staging(former, &staging_dir(&dir, info_hash)?)?;
        }
        self.shared.placements.update(info_hash, |record| {
            let gone = |file: &PlacedEntry| match twin {
                true => doomed.contains(&dir.join(&file.path)),
                // What it had in common with the present state is that one's, what was edited its editor's.
                false => file.ours,
            };
            let here = record.places.iter_mut().filter(|place| place.dir == dir);
            here.for_each(|place| place.files.retain(|file| !gone(file)));
        })?;
        if !twin && self.shared.placements.record(info_hash) == Record::default() {
            self.remove_metainfo(info_hash)?;
        }
        self.forget_former(&former.manifest, &dir)?;
        Ok(doomed.len())
    }

    /// All that this program put below the models directory: files it got or laid out, the copies of manifests beside
    /// them, directories of a `get` that is not done. What is shared in place, or was edited since it came, is not among
    /// them.
    pub fn made_below_models(&self) -> Vec<PathBuf> {
        let models = &self.shared.paths.models;
        let models = fs::canonicalize(models).unwrap_or_else(|_| models.clone());
        let mut ours = self.shared.placements.ours_below(&models);
        // What was edited since is its editor's work.
        ours.retain(|path, stamps| Stamp::at(path).is_ok_and(|now| stamps.contains(&now)));
        let mut made = HashSet::new();
        for record in self.shared.placements.all() {
            for place in &record.places {
                let files: Vec<PathBuf> = place
                    .files
                    .iter()
                    .map(|f| place.dir.join(&f.path))
                    .filter(|path| ours.contains_key(path))
                    .collect();
                if !files.is_empty() {
                    made.insert(place.dir.join(Paths::MODEL_MANIFEST));
                }
                made.extend(files);
            }
            made.extend(record.staging);
        }
        made.extend(self.all_laid_out());
        made.retain(|path| path.starts_with(&models) && path.symlink_metadata().is_ok());
        let mut made: Vec<PathBuf> = made.into_iter().collect();
        made.sort();
        made
    }

    /// The files of ours in the places that go, unless the record of one of `others` has them as well, or somebody has
    /// edited them.
    fn doomed(
        &self,
        info_hash: &InfoHash,
        record: &Record,
        others: &[Arc<Manifest>],
        goes: impl Fn(&Path) -> bool,
    ) -> HashSet<PathBuf> {
        let mut doomed: HashSet<PathBuf> = record
            .places
            .iter()
            .filter(|place| goes(&place.dir))
            .flat_map(|place| {
                place.files.iter().filter(|f| f.ours).map(|f| (place.dir.join(&f.path), f.stamp))
            })
            .filter(|(path, stamp)| match Stamp::at(path) {
                Ok(now) => now == *stamp,
                Err(e) => e.kind() == io::ErrorKind::NotFound,
            })
            .map(|(path, _)| path)
            .collect();
        for other in others.iter().filter(|other| other.torrent.info_hash != *info_hash) {
            let theirs = self.shared.placements.record(&other.torrent.info_hash);
            for place in &theirs.places {
                for file in &place.files {
                    doomed.remove(&place.dir.join(&file.path));
                }
            }
        }
        doomed
    }

    /// Lets go of one content of the revision that is being forgotten.
    fn release(
        &self,
        key: &ContentKey,
        content: &Content,
        used: bool,
        doomed: &HashSet<PathBuf>,
    ) -> Result<(), StoreError> {
        let placed = match content.home() {
            Home::Own(_) if used => return Ok(()),
            Home::Own(data) => return content.discard().map_err(|e| StoreError::io(&data, e)),
            Home::Placed(file) if doomed.contains(&file.path) => file,
            _ => return Ok(()),
        };
        let mut journal = content.journal();
        if let Some(other) =
            self.shared.placements.find_all(key).into_iter().find(|f| !doomed.contains(&f.path))
        {
            content.settle_placed(&mut journal, other);
            return Ok(());
        }
        let data = self.shared.cached(key);
        if used {
            self.shared.keep(key, &placed).map_err(|e| StoreError::io(&data, e))?;
        }
        let loaded =
            mapfile::load(&data, key.len, &self.shared.boot).map_err(|e| StoreError::io(&data, e))?;
        content.settle(&mut journal, Home::Own(data), loaded.map, loaded.live, loaded.synced);
        Ok(())
    }
}

/// The contents of manifests.
fn used_by(manifests: &[Arc<Manifest>]) -> HashSet<ContentKey> {
    let files = manifests.iter().flat_map(|m| &m.files);
    files.filter_map(|f| Some(ContentKey { root: f.pieces_root?, len: f.size })).collect()
}

/// Removes `.silmaril.json` from a directory if it is the copy of `manifest`, and the directory if it is empty.
fn remove_manifest_copy(dir: &Path, manifest: &Manifest, models: &Path) -> Result<(), StoreError> {
    let path = dir.join(Paths::MODEL_MANIFEST);
    if registry::read_manifest(&path).is_ok_and(|m| m.torrent.info_hash == manifest.torrent.info_hash) {
        fsutil::remove_if_there(&path).map_err(|e| StoreError::io(&path, e))?;
    }
    registry::remove_empty_parents(&path, models);
    Ok(())
}
