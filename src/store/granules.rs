//! The hashes of granules, 64 KiB each: `granules/<xx>/<root>.<length>`, 32 bytes a granule, in order.
//!
//! A part of an upload is proved with them by reading 64 KiB in place of a whole piece. They lead to the pieces root, so
//! a file written here was proved. The engine adds those of pieces that it fetches. A hash that is missing or damaged
//! condemns no bytes: the piece's own hash decides.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::{ContentKey, Shared, Store, StoreError};
use crate::model::GRANULE_LEN;
use crate::model::merkle::{self, Hash};
use crate::{fsutil, nofollow};

/// The levels between the leaves and the granules.
const HEIGHT: u32 = 2;

impl Shared {
    /// Where the hashes of a content's granules are, or go; none for one of a single granule.
    pub(super) fn granules(&self, key: &ContentKey) -> Option<PathBuf> {
        let name = key.file_name();
        (key.len > GRANULE_LEN).then(|| self.paths.granules().join(&name[..2]).join(name))
    }
}

impl Store {
    /// Saves the hashes of a content's granules, if they lead to its pieces root. It is no loss but time if that fails.
    pub fn save_granules(&self, key: &ContentKey, granules: &[Hash]) {
        let Some(path) = self.shared.granules(key) else { return };
        let fits = granules.len() as u64 == key.len.div_ceil(GRANULE_LEN)
            && merkle::root(granules.to_vec(), HEIGHT, 0) == key.root.0;
        if !fits {
            return;
        }
        let written = nofollow::create_dir_all(fsutil::parent(&path))
            .and_then(|()| nofollow::write_volatile(&path, granules.as_flattened(), fsutil::MODE_PRIVATE));
        if let Err(e) = written {
            tracing::warn!("{} could not be written: {e}.", path.display());
        }
    }

    /// Whether the hashes of all granules of a content are saved.
    pub fn has_granules(&self, key: &ContentKey) -> bool {
        let expected = key.len.div_ceil(GRANULE_LEN) * size_of::<Hash>() as u64;
        self.shared
            .granules(key)
            .is_none_or(|path| nofollow::metadata(&path).is_ok_and(|meta| meta.len() == expected))
    }

    /// Deletes the hashes of contents of which nothing is here any more.
    pub fn prune_granules(&self) -> Result<(), StoreError> {
        let top = self.shared.paths.granules();
        let fail = |e| StoreError::io(&top, e);
        let dirs = match fs::read_dir(&top) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            dirs => dirs.map_err(fail)?,
        };
        let placed: HashSet<ContentKey> = self.shared.placements.keys();
        for dir in dirs {
            for file in fs::read_dir(dir.map_err(fail)?.path()).map_err(fail)? {
                let path = file.map_err(fail)?.path();
                let key = path.file_name().and_then(|name| name.to_str()).and_then(ContentKey::parse);
                let Some(key) = key else { continue };
                let is_used = placed.contains(&key)
                    || self.live_content(&key).is_some_and(|content| content.cached_bytes() > 0)
                    || nofollow::exists(&self.shared.cached(&key));
                if !is_used {
                    nofollow::remove_if_there(&path).map_err(|e| StoreError::io(&path, e))?;
                }
            }
        }
        Ok(())
    }
}
