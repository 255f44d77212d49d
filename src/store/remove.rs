//! Removing a model: files that this program made are removed; files that other models use or the user owns stay.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::{Content, Location};
use super::placement::{PlacementRecord, Stamp};
use super::{ContentKey, Store, StoreError, StoredRevision, registry};
use crate::model::{InfoHash, Manifest, ModelRef};
use crate::nofollow;
use crate::paths::Paths;

impl Store {
    /// Forgets a revision: removes the files below the models directory that this program made, cached contents that no other
    /// model uses, metainfo, resume data and placement. A content that another model uses and that has no other file moves to
    /// the cache. Files that are shared in place, or that `get` put in another directory, stay. The engine must not have the
    /// revision open. The registry is not changed. `rest` are all other known manifests.
    pub fn forget(&self, revision: &StoredRevision, rest: &[Arc<Manifest>]) -> Result<(), StoreError> {
        let _moving = self.moving.lock();
        let manifest = &revision.manifest;
        let all: Vec<usize> = (0..revision.contents.len()).collect();
        let contents = revision.unique(&all);
        let hybrid = manifest.torrent.hybrid_info_hash;
        let hybrid = hybrid.filter(|_| rest.iter().all(|other| other.torrent.hybrid_info_hash != hybrid));
        if let Some(hybrid) = hybrid {
            self.torrents.remove(&hybrid)?;
        }
        self.forget_torrent(&manifest.torrent.info_hash, &manifest.model_ref(), &contents, rest)
    }

    /// [`Store::forget`] for a torrent that is or was a state of a model, and its contents. The caller holds `moving`.
    pub(super) fn forget_torrent(
        &self,
        info_hash: &InfoHash,
        model: &ModelRef,
        contents: &BTreeMap<ContentKey, Arc<Content>>,
        rest: &[Arc<Manifest>],
    ) -> Result<(), StoreError> {
        // Another name of the same torrent has the same record.
        let is_shared = is_known(info_hash, rest);
        let record = self.parts.placements.record(info_hash);
        let models = self.dirs.models.clone();
        let dir = models.join(model.to_string());
        let is_removed = |place: &Path| if is_shared { place == dir } else { place.starts_with(&models) };
        let to_remove = self.files_to_remove(info_hash, &record, rest, is_removed);
        self.release_all(contents, &to_remove, rest)?;
        remove_files(&to_remove, &models)?;
        for place in record.places.iter().filter(|p| is_removed(&p.dir)) {
            remove_manifest_copy(&place.dir, info_hash, &models)?;
        }
        if is_shared {
            return self.parts.placements.update(info_hash, |record| {
                // Files that the other model shares in place in this directory stay in the record.
                let in_dir = record.places.iter_mut().filter(|place| place.dir == dir);
                in_dir.for_each(|place| place.files.retain(|file| !file.ours));
                record.models.remove(model);
            });
        }
        for staging in &record.staging {
            self.staging().close(info_hash, staging)?;
            nofollow::remove_empty_parents(staging, &models);
        }
        self.parts.placements.update(info_hash, |record| *record = PlacementRecord::default())?;
        self.torrents.remove(info_hash)
    }

    /// The files that this program made in the directories for which `is_removed` is true, except edited files and files that
    /// the record of one of `rest` has as well.
    pub(super) fn files_to_remove(
        &self,
        info_hash: &InfoHash,
        record: &PlacementRecord,
        rest: &[Arc<Manifest>],
        is_removed: impl Fn(&Path) -> bool,
    ) -> HashSet<PathBuf> {
        let mut to_remove: HashSet<PathBuf> = record
            .places
            .iter()
            .filter(|place| is_removed(&place.dir))
            .flat_map(|place| {
                place.files.iter().filter(|f| f.ours).map(|f| (place.dir.join(&f.path), f.stamp))
            })
            .filter(|(path, stamp)| match Stamp::at(path) {
                Ok(now) => now == *stamp,
                Err(e) => e.kind() == io::ErrorKind::NotFound,
            })
            .map(|(path, _)| path)
            .collect();
        for other in rest.iter().filter(|other| other.torrent.info_hash != *info_hash) {
            let theirs = self.parts.placements.record(&other.torrent.info_hash);
            for place in &theirs.places {
                for file in &place.files {
                    to_remove.remove(&place.dir.join(&file.path));
                }
            }
        }
        to_remove
    }

    /// The contents of keys; parts of them may be in the staging directories of a record.
    pub(super) fn contents_of(
        self: &Arc<Self>,
        keys: &BTreeSet<ContentKey>,
        record: &PlacementRecord,
    ) -> Result<BTreeMap<ContentKey, Arc<Content>>, StoreError> {
        keys.iter().map(|key| Ok((*key, self.content(*key, &record.staging)?))).collect()
    }

    /// Moves contents of a torrent away from the files `to_remove`; the bytes that one of `rest` uses are kept.
    pub(super) fn release_all(
        &self,
        contents: &BTreeMap<ContentKey, Arc<Content>>,
        to_remove: &HashSet<PathBuf>,
        rest: &[Arc<Manifest>],
    ) -> Result<(), StoreError> {
        let files = rest.iter().flat_map(|manifest| &manifest.files);
        let used: HashSet<ContentKey> =
            files.filter_map(|f| Some(ContentKey { root: f.pieces_root?, len: f.size })).collect();
        for (key, content) in contents {
            self.release(key, content, used.contains(key), to_remove)?;
        }
        Ok(())
    }

    fn release(
        &self,
        key: &ContentKey,
        content: &Content,
        used: bool,
        to_remove: &HashSet<PathBuf>,
    ) -> Result<(), StoreError> {
        let placed = match content.location() {
            Location::Own(_) if used => return Ok(()),
            Location::Own(data) => return content.writer().discard().map_err(|e| StoreError::io(&data, e)),
            Location::Placed(file) if to_remove.contains(&file.path) => file,
            _ => return Ok(()),
        };
        let mut writer = content.writer();
        if let Some(other) =
            self.parts.placements.find_all(key).into_iter().find(|f| !to_remove.contains(&f.path))
        {
            writer.move_to_placed(other);
            return Ok(());
        }
        let data = self.parts.files.cached(key);
        if used {
            self.parts.files.keep(key, &placed).map_err(|e| StoreError::io(&data, e))?;
        }
        let loaded = self.parts.files.load_map(&data, key.len).map_err(|e| StoreError::io(&data, e))?;
        writer.move_to(Location::Own(data), loaded);
        Ok(())
    }
}

/// Whether one of the manifests has a torrent.
pub(super) fn is_known(info_hash: &InfoHash, manifests: &[Arc<Manifest>]) -> bool {
    manifests.iter().any(|manifest| manifest.torrent.info_hash == *info_hash)
}

/// Removes files below `top`, and the directories that are empty then.
pub(super) fn remove_files<'a>(
    files: impl IntoIterator<Item = &'a PathBuf>,
    top: &Path,
) -> Result<(), StoreError> {
    for path in files {
        nofollow::remove_if_there(path).map_err(|e| StoreError::io(path, e))?;
        nofollow::remove_empty_parents(path, top);
    }
    Ok(())
}

/// Removes the manifest of a torrent from its directory, temporary files that a kill left there, and the directory if it is
/// empty.
pub(super) fn remove_manifest_copy(dir: &Path, of: &InfoHash, models: &Path) -> Result<(), StoreError> {
    let path = dir.join(Paths::MODEL_MANIFEST);
    if registry::read_copy(&path).is_ok_and(|manifest| manifest.torrent.info_hash == *of) {
        nofollow::remove_if_there(&path).map_err(|e| StoreError::io(&path, e))?;
    }
    nofollow::remove_temporary(dir).map_err(|e| StoreError::io(dir, e))?;
    nofollow::remove_empty_parents(&path, models);
    Ok(())
}
