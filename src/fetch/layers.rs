//! The piece layers of a torrent, from the bytes on disk.
//!
//! The engine learns the layers from the peers that it fetches pieces from. A torrent whose files were completed in
//! another way (through other torrents, or by finding them on disk) has all bytes and no layers, and a peer that
//! knows only the info hash could not verify what we send. So they are computed, and the torrent starts again with
//! them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::oneshot;

use super::saving::Save;
use super::{ATTEMPTS, Fetch};
use crate::model::hash::{Control, FileHashes, HashError, hash_file};
use crate::model::merkle::LayerError;
use crate::model::{InfoHash, PieceLayers};
use crate::store::{Content, StoredRevision};

/// Why there are none.
#[derive(Debug, thiserror::Error)]
enum LayersError {
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The bytes are not those that were verified.
    #[error("a file has other bytes than the manifest says: {0}")]
    Differs(#[from] LayerError),
}

fn compute(revision: &StoredRevision, cancel: &AtomicBool) -> Result<PieceLayers, LayersError> {
    let control = Control { progress: &|_| {}, cancel };
    let mut layers = PieceLayers::default();
    let piece_length = revision.layout.piece_length();
    for content in &revision.contents {
        let Some(key) = content.key().filter(|key| key.len > u64::from(piece_length)) else { continue };
        let hashes = hash_content(content, piece_length, control)?;
        layers.insert(key.root, key.len, piece_length, hashes.layer)?;
    }
    Ok(layers)
}

/// Hashes the file of a content, again if it is renamed meanwhile.
fn hash_content(content: &Content, piece_length: u32, control: Control<'_>) -> Result<FileHashes, HashError> {
    let mut attempts = 1..ATTEMPTS;
    loop {
        let moves = content.moves();
        match hash_file(&content.path(), piece_length, control) {
            Err(HashError::Io { .. } | HashError::Changed(_))
                if content.has_moved(moves) && attempts.next().is_some() => {}
            hashed => return hashed,
        }
    }
}

impl Fetch {
    /// Computes the layers of a complete revision in the background, keeps them on disk, and has the engine start
    /// the torrent with them.
    pub(super) fn compute_layers(&self, ih: InfoHash, revision: Arc<StoredRevision>) {
        let (fetch, cancel) = (self.myself.clone(), self.cancelled.clone());
        tokio::spawn(async move {
            let computed = tokio::task::spawn_blocking(move || {
                let layers = compute(&revision, &cancel)?;
                Ok::<_, LayersError>(revision.manifest.metainfo(Some(&layers)))
            });
            // A panic in there was reported.
            let Ok(computed) = computed.await else { return };
            let Some(fetch) = fetch.upgrade() else { return };
            match computed {
                Ok(metainfo) => {
                    let (written, on_disk) = oneshot::channel();
                    fetch.saver.save(Save::Metainfo(ih, metainfo));
                    fetch.saver.save(Save::Barrier(written));
                    if on_disk.await.is_ok() {
                        fetch.with(|state, now| state.add_anew(ih, now));
                    }
                }
                Err(LayersError::Hash(HashError::Cancelled)) => {}
                Err(error) => {
                    tracing::warn!(%ih, %error, "The piece layers could not be computed; `silmaril verify` checks the files.");
                }
            }
        });
    }
}
