//! Metainfo and resume data of torrents: `torrents/<info hash>.torrent`, `resume/<info hash>.resume`.
//!
//! Only their length is bounded when they are read as bytes; the caller checks them.

use std::path::Path;
use std::sync::Arc;

use super::StoreError;
use crate::fsutil;
use crate::model::merkle::PieceLayers;
use crate::model::{InfoHash, Manifest, PieceHashes, metainfo, saved_layers};
use crate::paths::Paths;

/// Longest file loaded, in bytes: the layers of 32 TiB in pieces of 4 MiB, at 32 bytes a piece.
const MAX_FILE: u64 = 256 << 20;

/// The files of torrents.
pub(crate) struct TorrentFiles {
    pub(super) paths: Paths,
}

impl TorrentFiles {
    /// Saves the metainfo of a torrent.
    pub fn save_metainfo(&self, info_hash: &InfoHash, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.paths.metainfo(info_hash);
        fsutil::write_atomic(&path, bytes, fsutil::MODE_SHARED).map_err(|e| StoreError::io(&path, e))
    }

    /// The saved metainfo, if any.
    pub fn load_metainfo(&self, info_hash: &InfoHash) -> Result<Option<Vec<u8>>, StoreError> {
        load(&self.paths.metainfo(info_hash))
    }

    /// Removes the metainfo and the resume data of a torrent.
    pub(crate) fn remove(&self, info_hash: &InfoHash) -> Result<(), StoreError> {
        for path in [self.paths.metainfo(info_hash), self.paths.resume(info_hash)] {
            fsutil::remove_if_there(&path).map_err(|e| StoreError::io(&path, e))?;
        }
        Ok(())
    }

    /// The piece layers of a torrent, as far as its metainfo is saved and has them.
    pub fn layers(&self, manifest: &Manifest) -> Result<PieceLayers, StoreError> {
        let info_hash = &manifest.torrent.info_hash;
        let Some(bytes) = self.load_metainfo(info_hash)? else { return Ok(PieceLayers::default()) };
        let parsed = metainfo::parse_metainfo(&bytes).map(|parsed| parsed.layers);
        Ok(parsed.unwrap_or_else(|error| {
            tracing::warn!(%error, file = %self.paths.metainfo(info_hash).display(), "the metainfo cannot be used");
            PieceLayers::default()
        }))
    }

    /// The hashes of the pieces of a torrent: `layers` (see [`TorrentFiles::layers`]), the layers in the manifest, and the
    /// single hashes that were saved while it was fetched. All are proved.
    pub fn piece_hashes(
        &self,
        manifest: &Arc<Manifest>,
        layers: PieceLayers,
    ) -> Result<PieceHashes, StoreError> {
        let saved = load(&self.paths.resume(&manifest.torrent.info_hash))?;
        let partial = saved.map(|bytes| saved_layers::parse(&bytes, manifest)).unwrap_or_default();
        Ok(PieceHashes::new(manifest.clone(), layers).with_partial(partial))
    }
}

fn load(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    fsutil::existing(fsutil::read_capped(path, MAX_FILE)).map_err(|e| StoreError::io(path, e))
}
