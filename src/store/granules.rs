//! The hashes of granules, 64 KiB each: `granules/<xx>/<root>.<length>`, 32 bytes a granule, in order.
//!
//! A part of an upload is proved with them by reading 64 KiB instead of a whole piece. They lead to the pieces root, so
//! every hash that is written here was proved. The engine adds the hashes of pieces that it fetches. A hash that is missing or
//! damaged makes no bytes wrong: the piece's own hash decides.

use std::fs;
use std::path::PathBuf;

use super::{ContentKey, StoreError};
use crate::model::GRANULE_LEN;
use crate::model::merkle::{self, Hash};
use crate::{fsutil, nofollow};

/// The levels between the leaves and the granules.
const HEIGHT: u32 = 2;

/// The files with the hashes of granules.
pub(crate) struct Granules {
    pub(super) dir: PathBuf,
}

impl Granules {
    /// The path of the hashes of a content's granules; none for a content of a single granule.
    pub(super) fn path(&self, key: &ContentKey) -> Option<PathBuf> {
        let name = key.file_name();
        (key.len > GRANULE_LEN).then(|| self.dir.join(&name[..2]).join(name))
    }

    /// Saves the hashes of a content's granules, if they lead to its pieces root. A failure is logged: without the hashes,
    /// whole pieces are read instead.
    pub fn save(&self, key: &ContentKey, granules: &[Hash]) {
        let Some(path) = self.path(key) else { return };
        let fits = granules.len() as u64 == key.len.div_ceil(GRANULE_LEN)
            && merkle::root(granules.to_vec(), HEIGHT, 0) == key.root.0;
        if !fits {
            return;
        }
        let written = nofollow::create_dir_all(fsutil::parent(&path))
            .and_then(|()| nofollow::write_volatile(&path, granules.as_flattened(), fsutil::MODE_PRIVATE));
        if let Err(error) = written {
            tracing::warn!(%error, file = %path.display(), "could not save the hashes of granules");
        }
    }

    /// Whether the hashes of all granules of a content are saved.
    #[cfg(test)]
    pub fn has(&self, key: &ContentKey) -> bool {
        let expected = key.len.div_ceil(GRANULE_LEN) * size_of::<Hash>() as u64;
        self.path(key).is_none_or(|path| nofollow::metadata(&path).is_ok_and(|meta| meta.len() == expected))
    }

    /// Deletes the hashes of contents for which `is_used` is false.
    pub(super) fn retain(&self, is_used: impl Fn(&ContentKey) -> bool) -> Result<(), StoreError> {
        let fail = |e| StoreError::io(&self.dir, e);
        let dirs = fsutil::existing(fs::read_dir(&self.dir)).map_err(fail)?;
        for dir in dirs.into_iter().flatten() {
            for file in fs::read_dir(dir.map_err(fail)?.path()).map_err(fail)? {
                let path = file.map_err(fail)?.path();
                let key = path.file_name().and_then(|name| name.to_str()).and_then(ContentKey::parse);
                if key.is_some_and(|key| !is_used(&key)) {
                    nofollow::remove_if_there(&path).map_err(|e| StoreError::io(&path, e))?;
                }
            }
        }
        Ok(())
    }
}
