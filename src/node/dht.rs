//! Saves the known nodes of the DHT, so that the next start depends on no bootstrap node.

use std::sync::Arc;
use std::time::Duration;

use crate::fsutil;
use crate::paths::Paths;
use crate::torrent::Session;

/// The longest file that is read, in bytes: some hundred nodes take a few kilobytes.
const MAX_STATE: u64 = 1 << 20;
/// How long the engine may take to return its nodes.
const SAVED_WITHIN: Duration = Duration::from_secs(2);

/// The saved state; empty if there is none. The engine ignores damaged parts. Blocks.
pub(super) fn load(paths: &Paths) -> Vec<u8> {
    let file = paths.dht_state();
    match fsutil::read_capped(&file, MAX_STATE) {
        Ok(state) => state,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => {
            tracing::warn!(error = %e, path = %file.display(), "could not read the saved nodes of the DHT");
            Vec::new()
        }
    }
}

/// Saves the nodes that the engine knows. A failure is logged: the next start then takes longer.
pub(super) async fn save(session: &Arc<Session>, paths: &Paths) {
    let (session, file) = (session.clone(), paths.dht_state());
    let saving = tokio::task::spawn_blocking(move || {
        let state = session.dht_state().map_err(|e| e.to_string())?;
        fsutil::write_atomic(&file, &state, fsutil::MODE_PRIVATE)
            .map_err(|e| format!("{}: {e}", file.display()))
    });
    let error = match tokio::time::timeout(SAVED_WITHIN, saving).await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(error))) => error,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the engine did not return it in time".to_owned(),
    };
    tracing::warn!(error, "could not save the state of the DHT");
}
