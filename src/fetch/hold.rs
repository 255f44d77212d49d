//! Torrents that are kept out of the engine while bytes of theirs are deleted or moved.

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use crate::model::InfoHash;
use crate::store::ContentKey;

/// The engine still has the torrent at the end of the time that it had to release it.
#[derive(Debug, thiserror::Error)]
#[error("the engine does not release the torrent")]
pub struct NotReleased;

/// Keeps torrents out of the engine. When it is dropped they are added again, with the remaining bytes.
#[must_use]
pub struct EvictionHold {
    core: Arc<Core>,
    keys: Vec<ContentKey>,
}

impl EvictionHold {
    pub(super) async fn begin(
        core: Arc<Core>,
        keys: &[ContentKey],
        within: Duration,
    ) -> Result<Self, NotReleased> {
        let torrents = core.with(|state| {
            let uses = keys.iter().flat_map(|key| state.contents.uses(key));
            let mut torrents: Vec<InfoHash> = uses.map(|(info_hash, _)| info_hash).collect();
            torrents.sort_unstable();
            torrents.dedup();
            state.transfers.hold(keys, &torrents);
            torrents
        });
        let hold = Self { core: core.clone(), keys: keys.to_vec() };
        // After this, a torrent that was just being added has its number.
        core.issuer.issue(&core.state);
        let released =
            core.state.wait_until(|state| !state.transfers.ids.values().any(|of| torrents.contains(of)));
        match tokio::time::timeout(within, released).await {
            Ok(()) => Ok(hold),
            Err(_) => Err(NotReleased),
        }
    }
}

impl Drop for EvictionHold {
    fn drop(&mut self) {
        self.core.with(|state| state.transfers.end_hold(&self.keys));
    }
}
