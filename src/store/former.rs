//! Former states of a model: what they have left where another state has taken their place.
//!
//! The record of a torrent names the models that it was a state of. So it tells of a former state whatever has become
//! of its manifest, and of one that never was whole.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::placement::Record;
use super::remove::{is_known, remove_files, remove_manifest_copy};
use super::staging::staging_dir;
use super::{ContentKey, Store, StoreError, mapfile};
use crate::model::{InfoHash, Manifest, ModelRef};
use crate::nofollow;

/// A former state that has left something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    /// Its torrent.
    pub info_hash: InfoHash,
    /// What of it stands anywhere, or was being fetched.
    pub keys: BTreeSet<ContentKey>,
}

impl Store {
    /// The states of a model that have left files or parts of a download, all but that of the torrent `present`: in a
    /// directory, or anywhere.
    pub fn former(
        &self,
        model: &ModelRef,
        present: &InfoHash,
        dir: Option<&Path>,
    ) -> Result<Vec<Former>, StoreError> {
        let dir = dir.map(|dir| self.resolve(dir)).transpose()?;
        let mut former = Vec::new();
        for info_hash in self.shared.placements.of(model).into_iter().filter(|of| of != present) {
            let record = self.shared.placements.record(&info_hash);
            let is_there = match &dir {
                Some(dir) => {
                    let staging = staging_dir(dir, &info_hash)?;
                    record.places.iter().any(|place| place.dir == *dir) || record.staging.contains(&staging)
                }
                None => true,
            };
            if is_there {
                former.push(Former { info_hash, keys: keys(&record) });
            }
        }
        Ok(former)
    }

    /// Removes from a directory the files of a former state of a model that `present`, which took its place, has not:
    /// those that this program put there and nobody has changed; and what came of its download. Returns how many files.
    /// `others` are all manifests known; contents that one of them uses and that stand nowhere else go to the cache. A
    /// state that is none of them and stands nowhere else is forgotten. Does nothing where its torrent is another
    /// model's, too, whose files these may be. The engine must not have the former state open.
    pub fn clear_former(
        &self,
        former: &Former,
        present: &Manifest,
        dir: &Path,
        others: &[Arc<Manifest>],
    ) -> Result<usize, StoreError> {
        let _moving = self.moving();
        let dir = self.resolve(dir)?;
        let info_hash = &former.info_hash;
        let twin = is_known(info_hash, others);
        if twin && !self.is_own(&present.model_ref(), &dir) {
            return Ok(0);
        }
        let record = self.shared.placements.record(info_hash);
        let ours = self.shared.placements.ours_below(&dir);
        let stays: HashSet<PathBuf> = present.files.iter().map(|file| dir.join(&file.path)).collect();
        let mut doomed = self.doomed(info_hash, &record, others, |place| place == dir);
        doomed.retain(|path| !stays.contains(path) && ours.contains_key(path) && nofollow::exists(path));
        let contents = self.contents_of(&former.keys, &record)?;
        self.release_all(&contents, &doomed, others)?;
        remove_files(&doomed, &dir)?;
        remove_manifest_copy(&dir, info_hash, &dir)?;
        self.close_staging(info_hash, &staging_dir(&dir, info_hash)?)?;
        self.shared.placements.update(info_hash, |record| match twin {
            true => {
                let here = record.places.iter_mut().filter(|place| place.dir == dir);
                here.for_each(|place| place.files.retain(|file| !doomed.contains(&dir.join(&file.path))));
            }
            // What it had in common with the present state is that one's, what was edited its editor's.
            false => record.places.retain(|place| place.dir != dir),
        })?;
        if !twin && self.shared.placements.record(info_hash) == Record::default() {
            self.remove_metainfo(info_hash)?;
        }
        Ok(doomed.len())
    }

    /// [`Store::forget`] for a former state of a model that is being forgotten.
    pub fn forget_former(
        &self,
        former: &Former,
        model: &ModelRef,
        others: &[Arc<Manifest>],
    ) -> Result<(), StoreError> {
        let _moving = self.moving();
        let record = self.shared.placements.record(&former.info_hash);
        let contents = self.contents_of(&former.keys, &record)?;
        self.forget_torrent(&former.info_hash, model, &contents, others)
    }
}

/// The contents that a record tells of.
fn keys(record: &Record) -> BTreeSet<ContentKey> {
    let placed = record.places.iter().flat_map(|place| &place.files).filter_map(|file| file.key());
    let staged = record.staging.iter().filter_map(|dir| nofollow::read_dir(dir).ok()).flatten();
    let staged = staged.filter_map(|(name, _)| ContentKey::parse(mapfile::data_name(name.to_str()?)));
    placed.chain(staged).collect()
}
