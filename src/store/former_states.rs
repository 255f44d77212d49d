//! Former states of a model: the files that they left after another state replaced them.
//!
//! The record of a torrent names the models of which it was a state. A former state is therefore found even if its manifest
//! is gone or it was never complete.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::placement::PlacementRecord;
use super::remove::{is_known, remove_files, remove_manifest_copy};
use super::staging::staging_dir;
use super::{ContentKey, Store, StoreError, mapfile};
use crate::model::{InfoHash, Manifest, ModelRef};
use crate::nofollow;

/// A former state that has left files or parts of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerState {
    /// Its torrent.
    pub info_hash: InfoHash,
    /// Its contents that have a file outside the cache, or were being fetched.
    pub keys: BTreeSet<ContentKey>,
}

/// Former states of models.
pub struct FormerStates<'a> {
    pub(super) store: &'a Arc<Store>,
}

impl FormerStates<'_> {
    /// The former states of a model that have left files or parts of a download: in the directory `dir`, or in any directory
    /// if there is none. `present` is the torrent of the present state.
    pub fn list(
        &self,
        model: &ModelRef,
        present: &InfoHash,
        dir: Option<&Path>,
    ) -> Result<Vec<FormerState>, StoreError> {
        let dir = dir.map(|dir| self.store.dirs.resolve(dir)).transpose()?;
        let mut former = Vec::new();
        for info_hash in self.store.parts.placements.of(model).into_iter().filter(|of| of != present) {
            let record = self.store.parts.placements.record(&info_hash);
            let is_there = match &dir {
                Some(dir) => {
                    let staging = staging_dir(dir, &info_hash)?;
                    record.places.iter().any(|place| place.dir == *dir) || record.staging.contains(&staging)
                }
                None => true,
            };
            if is_there {
                former.push(FormerState { info_hash, keys: keys(&record) });
            }
        }
        Ok(former)
    }

    /// Removes from a directory the files of a former state of a model that the present state does not have, and the parts
    /// of its download. Only files that this program made and that have not changed are removed. Returns their number.
    /// `known` are all known manifests. A content that one of them uses and that has no other file moves to the cache. A state
    /// that is not among them and has no other directory is forgotten. Does nothing if another model has the same torrent:
    /// the files may be its own. The engine must not have the former state open.
    pub fn clear(
        &self,
        former: &FormerState,
        present: &Manifest,
        dir: &Path,
        known: &[Arc<Manifest>],
    ) -> Result<usize, StoreError> {
        let _moving = self.store.moving.lock();
        let dir = self.store.dirs.resolve(dir)?;
        let info_hash = &former.info_hash;
        let is_shared = is_known(info_hash, known);
        if is_shared && !self.store.dirs.is_own(&present.model_ref(), &dir) {
            return Ok(0);
        }
        let record = self.store.parts.placements.record(info_hash);
        let ours = self.store.parts.placements.ours_below(&dir);
        let stays: HashSet<PathBuf> = present.files.iter().map(|file| dir.join(&file.path)).collect();
        let mut to_remove = self.store.files_to_remove(info_hash, &record, known, |place| place == dir);
        to_remove.retain(|path| !stays.contains(path) && ours.contains_key(path) && nofollow::exists(path));
        let contents = self.store.contents_of(&former.keys, &record)?;
        self.store.release_all(&contents, &to_remove, known)?;
        remove_files(&to_remove, &dir)?;
        remove_manifest_copy(&dir, info_hash, &dir)?;
        self.store.staging().close(info_hash, &staging_dir(&dir, info_hash)?)?;
        self.store.parts.placements.update(info_hash, |record| {
            if is_shared {
                let in_dir = record.places.iter_mut().filter(|place| place.dir == dir);
                in_dir
                    .for_each(|place| place.files.retain(|file| !to_remove.contains(&dir.join(&file.path))));
            } else {
                // Files that the present state has too are in its record. An edited file belongs to the user.
                record.places.retain(|place| place.dir != dir);
            }
        })?;
        if !is_shared && self.store.parts.placements.record(info_hash) == PlacementRecord::default() {
            self.store.torrents.remove(info_hash)?;
        }
        Ok(to_remove.len())
    }

    /// Like [`Store::forget`], for a former state of a model that is being forgotten.
    pub fn forget(
        &self,
        former: &FormerState,
        model: &ModelRef,
        known: &[Arc<Manifest>],
    ) -> Result<(), StoreError> {
        let _moving = self.store.moving.lock();
        let record = self.store.parts.placements.record(&former.info_hash);
        let contents = self.store.contents_of(&former.keys, &record)?;
        self.store.forget_torrent(&former.info_hash, model, &contents, known)
    }
}

/// The contents in a record.
fn keys(record: &PlacementRecord) -> BTreeSet<ContentKey> {
    let placed = record.places.iter().flat_map(|place| &place.files).filter_map(|file| file.key());
    let staged = record.staging.iter().filter_map(|dir| nofollow::read_dir(dir).ok()).flatten();
    let staged = staged.filter_map(|(name, _)| ContentKey::parse(mapfile::data_name(name.to_str()?)));
    placed.chain(staged).collect()
}
