//! Metainfo and resume data of torrents, as opaque bytes: `torrents/<info hash>.torrent`, `resume/<info hash>.resume`.
//!
//! Whoever loads them checks what they say; here only their length is bounded.

use std::io;
use std::path::Path;

use super::{Store, StoreError};
use crate::fsutil;
use crate::model::InfoHash;

/// Longest file loaded: the layers of a hundred terabytes at 4 MiB a piece are 800 MB; nobody sends us more than
/// a fraction of that.
const MAX_FILE: u64 = 256 << 20;

impl Store {
    /// Keeps the metainfo of a torrent.
    pub fn save_metainfo(&self, info_hash: &InfoHash, bytes: &[u8]) -> Result<(), StoreError> {
        save(&self.shared.paths.metainfo(info_hash), bytes, fsutil::MODE_SHARED)
    }

    /// The metainfo kept, if any.
    pub fn load_metainfo(&self, info_hash: &InfoHash) -> Result<Option<Vec<u8>>, StoreError> {
        load(&self.shared.paths.metainfo(info_hash))
    }

    /// Removes the metainfo and the resume data of a torrent.
    pub(super) fn remove_metainfo(&self, info_hash: &InfoHash) -> Result<(), StoreError> {
        for path in [self.shared.paths.metainfo(info_hash), self.shared.paths.resume(info_hash)] {
            fsutil::remove_if_there(&path).map_err(|e| StoreError::io(&path, e))?;
        }
        Ok(())
    }

    /// Keeps the engine's resume data of a torrent.
    pub fn save_resume(&self, info_hash: &InfoHash, bytes: &[u8]) -> Result<(), StoreError> {
        save(&self.shared.paths.resume(info_hash), bytes, fsutil::MODE_PRIVATE)
    }

    /// The resume data kept, if any.
    pub fn load_resume(&self, info_hash: &InfoHash) -> Result<Option<Vec<u8>>, StoreError> {
        load(&self.shared.paths.resume(info_hash))
    }
}

fn save(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    fsutil::write_atomic(path, bytes, mode).map_err(|e| StoreError::io(path, e))
}

fn load(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fsutil::read_capped(path, MAX_FILE) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::io(path, e)),
    }
}
