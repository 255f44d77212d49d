//! Removing a model: what this program put there goes, what others use or own stays.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::{Content, Home};
use super::placement::{Record, Stamp};
use super::{ContentKey, Store, StoreError, StoredRevision, registry};
use crate::model::{InfoHash, Manifest, ModelRef};
use crate::nofollow;
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
        let all: Vec<usize> = (0..revision.contents.len()).collect();
        let contents = self.unique(revision, &all);
        let hybrid = manifest.torrent.hybrid_info_hash;
        let hybrid = hybrid.filter(|_| others.iter().all(|other| other.torrent.hybrid_info_hash != hybrid));
        if let Some(hybrid) = hybrid {
            self.remove_metainfo(&hybrid)?;
        }
        self.forget_torrent(&manifest.torrent.info_hash, &manifest.model_ref(), &contents, others)
    }

    /// [`Store::forget`] for a torrent that is or was a state of a model, and its contents. With `moving` held.
    pub(super) fn forget_torrent(
        &self,
        info_hash: &InfoHash,
        model: &ModelRef,
        contents: &BTreeMap<ContentKey, Arc<Content>>,
        others: &[Arc<Manifest>],
    ) -> Result<(), StoreError> {
        // The same torrent under another name shares this one's record.
        let twin = is_known(info_hash, others);
        let record = self.shared.placements.record(info_hash);
        let models = self.shared.paths.models.clone();
        let dir = models.join(model.to_string());
        let goes = |place: &Path| if twin { place == dir } else { place.starts_with(&models) };
        let doomed = self.doomed(info_hash, &record, others, goes);
        self.release_all(contents, &doomed, others)?;
        remove_files(&doomed, &models)?;
        for place in record.places.iter().filter(|p| goes(&p.dir)) {
            remove_manifest_copy(&place.dir, info_hash, &models)?;
        }
        if twin {
            return self.shared.placements.update(info_hash, |record| {
                // What the twin shares from there in place is its.
                let here = record.places.iter_mut().filter(|place| place.dir == dir);
                here.for_each(|place| place.files.retain(|file| !file.ours));
                record.models.remove(model);
            });
        }
        for staging in &record.staging {
            self.close_staging(info_hash, staging)?;
            nofollow::remove_empty_parents(staging, &models);
        }
        self.shared.placements.update(info_hash, |record| *record = Record::default())?;
        self.remove_metainfo(info_hash)
    }

    /// Forgets that files of a revision stand below `dir`, so that the directory can go. They must stand elsewhere,
    /// too: `Incomplete` names one that does not.
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

    /// All that this program put below the models directory: files it got or laid out, the copies of manifests beside
    /// them, directories of a `get` that is not done. What is shared in place, or was edited since it came, is not
    /// among them.
    pub fn made_below_models(&self) -> Vec<PathBuf> {
        let models = self.shared.paths.models.clone();
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
        made.retain(|path| path.starts_with(&models) && nofollow::exists(path));
        let mut made: Vec<PathBuf> = made.into_iter().collect();
        made.sort();
        made
    }

    /// The files of ours in the places that go, unless the record of one of `others` has them as well, or somebody has
    /// edited them.
    pub(super) fn doomed(
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

    /// The contents of keys; parts of them may be where a record says that they are fetched.
    pub(super) fn contents_of(
        &self,
        keys: &BTreeSet<ContentKey>,
        record: &Record,
    ) -> Result<BTreeMap<ContentKey, Arc<Content>>, StoreError> {
        keys.iter().map(|key| Ok((*key, self.content(*key, &record.staging)?))).collect()
    }

    /// Lets go of the contents of a torrent some of whose files go; what one of `others` uses is kept.
    pub(super) fn release_all(
        &self,
        contents: &BTreeMap<ContentKey, Arc<Content>>,
        doomed: &HashSet<PathBuf>,
        others: &[Arc<Manifest>],
    ) -> Result<(), StoreError> {
        let files = others.iter().flat_map(|manifest| &manifest.files);
        let used: HashSet<ContentKey> =
            files.filter_map(|f| Some(ContentKey { root: f.pieces_root?, len: f.size })).collect();
        for (key, content) in contents {
            self.release(key, content, used.contains(key), doomed)?;
        }
        Ok(())
    }

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
        let loaded = self.shared.load_map(&data, key.len).map_err(|e| StoreError::io(&data, e))?;
        content.settle_loaded(&mut journal, Home::Own(data), loaded);
        Ok(())
    }
}

/// Whether a torrent is that of one of some manifests.
pub(super) fn is_known(info_hash: &InfoHash, manifests: &[Arc<Manifest>]) -> bool {
    manifests.iter().any(|manifest| manifest.torrent.info_hash == *info_hash)
}

/// Removes files below `top`, and the directories that are empty then.
pub(super) fn remove_files(files: &HashSet<PathBuf>, top: &Path) -> Result<(), StoreError> {
    for path in files {
        nofollow::remove_if_there(path).map_err(|e| StoreError::io(path, e))?;
        nofollow::remove_empty_parents(path, top);
    }
    Ok(())
}

/// Removes `.silmaril.json` from a directory if it is that of a torrent, what a kill left of one that was being
/// written, and the directory if it is empty.
pub(super) fn remove_manifest_copy(dir: &Path, of: &InfoHash, models: &Path) -> Result<(), StoreError> {
    let path = dir.join(Paths::MODEL_MANIFEST);
    if registry::read_copy(&path).is_ok_and(|manifest| manifest.torrent.info_hash == *of) {
        nofollow::remove_if_there(&path).map_err(|e| StoreError::io(&path, e))?;
    }
    nofollow::remove_temporary(dir).map_err(|e| StoreError::io(dir, e))?;
    nofollow::remove_empty_parents(&path, models);
    Ok(())
}
