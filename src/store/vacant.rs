//! Whether the paths of a model are free at a destination. Checked before the download, so that a file of the user in
//! the way is reported before the first byte is fetched.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::publish::refuse_links;
use super::yielding::Yielding;
use super::{Stamp, Store, StoreError, StoredRevision};
use crate::model::ModelRef;
use crate::{fsutil, nofollow};

/// A file of the user at the path of a file that will be published.
#[derive(Debug)]
pub struct Standing {
    /// The index of its path in the list that was given.
    pub index: usize,
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
}

impl Store {
    /// Refuses, as [`Store::publish`] would, a destination where a file of the user has the path of a file of the
    /// revision. Does not compare bytes: an existing file of the right length is compared when it is published.
    pub fn check_vacant(
        &self,
        revision: &StoredRevision,
        files: &[usize],
        dest: &Path,
    ) -> Result<(), StoreError> {
        let paths = files.iter().map(|&file| revision.manifest.files[file].path.as_str());
        for Standing { index, path, len } in self.standing(&revision.manifest.model_ref(), dest, paths)? {
            let content = &revision.contents[files[index]];
            if !content.is_complete() || content.len() != len {
                return Err(StoreError::Occupied { path });
            }
        }
        Ok(())
    }

    /// The files of the user at the `paths` below a destination: the caller decides whether they have the right bytes.
    /// Refuses a destination where a directory or special file is in the way and may not be removed.
    pub fn standing<'a>(
        &self,
        model: &ModelRef,
        dest: &Path,
        paths: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<Standing>, StoreError> {
        let _moving = self.moving();
        // The directory above is created later, and may be behind a link.
        if !fsutil::parent(dest).exists() {
            return Ok(Vec::new());
        }
        let dest = self.resolve(dest)?;
        let targets: Vec<PathBuf> = paths.map(|path| dest.join(path)).collect();
        let (replaceable, goes) = self.gives_way_at(model, &dest, targets.iter().cloned().collect());
        let mut standing = Vec::new();
        for (index, path) in targets.into_iter().enumerate() {
            refuse_links(&dest, &path)?;
            match nofollow::metadata(&path) {
                Ok(found) if found.is_file() => {
                    if !replaceable.contains_key(&path) {
                        standing.push(Standing { index, path, len: found.len() });
                    }
                }
                _ if goes.gives_way(&path).map_err(|e| StoreError::io(&path, e))? => {}
                _ => return Err(StoreError::Occupied { path }),
            }
        }
        Ok(standing)
    }

    /// The files below a resolved destination that may be replaced, with their stamps, and the files that may be removed
    /// where they are in the way of the paths in `comes`.
    pub(super) fn gives_way_at(
        &self,
        model: &ModelRef,
        dest: &Path,
        comes: HashSet<PathBuf>,
    ) -> (HashMap<PathBuf, Vec<Stamp>>, Yielding) {
        let mut replaceable = self.shared.placements.ours_below(dest);
        let laid_out = self.laid_out(model, dest);
        for (path, stamp) in &laid_out {
            replaceable.entry(path.clone()).or_default().push(*stamp);
        }
        let unedited = self.shared.placements.unedited_at(dest).into_iter().chain(laid_out);
        let goes = Yielding::new(dest, unedited.filter(|(path, _)| !comes.contains(path)));
        (replaceable, goes)
    }
}
