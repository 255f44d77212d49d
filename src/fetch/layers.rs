//! The piece layers of a torrent, computed from the files.
//!
//! The engine receives the layers from the peers from which it fetches pieces. A torrent whose files were completed in
//! another way (through other torrents, or from files on the disk) has all bytes and no layers, and a peer that knows only
//! the info hash could not verify the pieces that this node sends. So the layers are computed, and the torrent starts again
//! with them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::Fetch;
use super::reads::ATTEMPTS;
use super::saving::Save;
use crate::model::PieceLayers;
use crate::model::hash::{Control, FileHashes, HashError, hash_file};
use crate::model::merkle::LayerError;
use crate::store::{Content, StoredRevision};

/// The reason why layers could not be computed.
#[derive(Debug, thiserror::Error)]
enum LayersError {
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The bytes changed after they were verified.
    #[error("a file does not match the manifest: {0}")]
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

/// Computes the layers of a complete revision in the background, stores them on disk, and makes the engine start the torrent
/// with them.
pub(super) fn compute_in_background(fetch: &Fetch, revision: Arc<StoredRevision>) {
    let info_hash = revision.manifest.torrent.info_hash;
    let (core, cancel) = (fetch.core.issuer.core.clone(), fetch.cancelled.clone());
    tokio::spawn(async move {
        let computed = tokio::task::spawn_blocking(move || {
            let layers = compute(&revision, &cancel)?;
            Ok::<_, LayersError>(revision.manifest.metainfo(Some(&layers)))
        });
        // A panic was reported.
        let Ok(computed) = computed.await else { return };
        let Some(core) = core.upgrade() else { return };
        match computed {
            Ok(metainfo) => {
                let saver = &core.issuer.saver;
                saver.save(Save::Metainfo(info_hash, metainfo));
                if saver.flush().await {
                    core.with(|state| state.transfers.add_again(info_hash));
                }
            }
            Err(LayersError::Hash(HashError::Cancelled)) => {}
            Err(error) => {
                tracing::warn!(%info_hash, %error, "could not compute the piece layers; `silmaril verify` checks the files");
            }
        }
    });
}
