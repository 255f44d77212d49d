//! Reads one piece for the engine.

use std::sync::Weak;

use super::Proof;
use crate::fetch::core::Core;
use crate::model::BLOCK_LEN;

/// Reads a piece, and gives it to the engine.
pub(in crate::fetch) async fn run(core: Weak<Core>, proof: Proof) {
    let Proof { info_hash, id, piece, content, range, memory, reads } = proof;
    let blocks = u32::try_from((range.end - range.start).div_ceil(BLOCK_LEN)).unwrap_or(u32::MAX);
    // Neither semaphore is ever closed. Each holder of memory has a deadline.
    let Ok(memory) = memory.acquire_many_owned(blocks).await else { return };
    let Ok(reading) = reads.acquire_owned().await else { return };
    let path = content.path();
    let read = tokio::task::spawn_blocking(move || content.read_unproved(range)).await;
    drop(reading);
    let bytes = match read {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            tracing::warn!(path = %path.display(), %error, "could not read cached bytes");
            None
        }
        // The panic was reported.
        Err(_) => None,
    };
    if let Some(core) = core.upgrade() {
        core.with(|state| state.transfers.cached_piece_read(info_hash, id, piece, bytes, memory));
    }
}
