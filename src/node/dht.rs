//! What was known of the DHT when the node ran last, so that the next start depends on no bootstrap node.

use std::sync::Arc;
use std::time::Duration;

use crate::fsutil;
use crate::paths::Paths;
use crate::torrent::Session;

/// The longest file that is read, in bytes: some hundred nodes take a few kilobytes.
const MAX_STATE: u64 = 1 << 20;
/// How long the engine may take to tell its nodes.
const TELL_WITHIN: Duration = Duration::from_secs(2);

/// What was saved; nothing where there is none. The engine ignores what is damaged. Blocks.
pub(super) fn load(paths: &Paths) -> Vec<u8> {
    let file = paths.dht_state();
    match fsutil::read_capped(&file, MAX_STATE) {
        Ok(state) => state,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => {
            tracing::warn!("the DHT begins anew: {}: {e}", file.display());
            Vec::new()
        }
    }
}

/// Saves what the engine knows now. A failure is logged: the next start then takes longer.
pub(super) async fn save(session: &Arc<Session>, paths: &Paths) {
    let (session, file) = (session.clone(), paths.dht_state());
    let saving = tokio::task::spawn_blocking(move || {
        let state = session.dht_state().map_err(|e| e.to_string())?;
        fsutil::write_atomic(&file, &state, fsutil::MODE_PRIVATE)
            .map_err(|e| format!("{}: {e}", file.display()))
    });
    match tokio::time::timeout(TELL_WITHIN, saving).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(e))) => tracing::warn!("what is known of the DHT is not saved: {e}"),
        Ok(Err(e)) => tracing::warn!("what is known of the DHT is not saved: {e}"),
        Err(_) => {
            tracing::warn!("what is known of the DHT is not saved: the engine does not tell it in time")
        }
    }
}
