//! The check that no file of the user has the path of a file of a model at a destination. It runs before the download, so that
//! such a file is reported before the first byte is fetched.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::publish::refuse_links;
use super::removable::Removable;
use super::{Staging, Stamp, StoreError, StoredRevision};
use crate::model::ModelRef;
use crate::{fsutil, nofollow};

/// A file of the user at the path of a file that will be published.
#[derive(Debug)]
pub struct ExistingFile {
    /// The index of its path in the list of the caller.
    pub index: usize,
    /// Its real path.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
}

impl Staging<'_> {
    /// Refuses, as [`Store::publish`] would, a destination where a file of the user has the path of a file of the
    /// revision. Does not compare bytes: an existing file of the right length is compared when it is published.
    pub fn check_vacant(
        &self,
        revision: &StoredRevision,
        files: &[usize],
        dest: &Path,
    ) -> Result<(), StoreError> {
        let paths = files.iter().map(|&file| revision.manifest.files[file].path.as_str());
        for ExistingFile { index, path, len } in self.existing(&revision.manifest.model_ref(), dest, paths)? {
            let content = &revision.contents[files[index]];
            if !content.is_complete() || content.len() != len {
                return Err(StoreError::Occupied { path });
            }
        }
        Ok(())
    }

    /// The files of the user at the `paths` below a destination; the caller decides whether they have the right bytes.
    /// Refuses a destination where a directory or special file has one of the paths and may not be removed.
    pub fn existing<'a>(
        &self,
        model: &ModelRef,
        dest: &Path,
        paths: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<ExistingFile>, StoreError> {
        let _moving = self.store.moving.lock();
        // The directory above is created later, and may be behind a link.
        if !fsutil::parent(dest).exists() {
            return Ok(Vec::new());
        }
        let dest = self.store.dirs.resolve(dest)?;
        let targets: Vec<PathBuf> = paths.map(|path| dest.join(path)).collect();
        let (replaceable, removable) = self.replaceable_at(model, &dest, targets.iter().cloned().collect());
        let mut existing = Vec::new();
        for (index, path) in targets.into_iter().enumerate() {
            refuse_links(&dest, &path)?;
            match nofollow::metadata(&path) {
                Ok(found) if found.is_file() => {
                    if !replaceable.contains_key(&path) {
                        existing.push(ExistingFile { index, path, len: found.len() });
                    }
                }
                _ if removable.can_clear(&path).map_err(|e| StoreError::io(&path, e))? => {}
                _ => return Err(StoreError::Occupied { path }),
            }
        }
        Ok(existing)
    }

    /// The files below a resolved destination that may be replaced, with their stamps, and the files that may be removed
    /// to make space for new files at the paths `new`.
    pub(super) fn replaceable_at(
        &self,
        model: &ModelRef,
        dest: &Path,
        new: HashSet<PathBuf>,
    ) -> (HashMap<PathBuf, Vec<Stamp>>, Removable) {
        let mut replaceable = self.store.parts.placements.ours_below(dest);
        let laid_out = self.store.partial_mirrors().files(model, dest);
        for (path, stamp) in &laid_out {
            replaceable.entry(path.clone()).or_default().push(*stamp);
        }
        let unedited = self.store.parts.placements.unedited_at(dest).into_iter().chain(laid_out);
        let removable = Removable::new(dest, unedited.filter(|(path, _)| !new.contains(path)));
        (replaceable, removable)
    }
}
