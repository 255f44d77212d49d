//! The bound of the cache, kept while the node runs.

use std::collections::HashSet;
use std::time::Duration;

use super::{Node, NodeError};
use crate::model::PiecesRoot;
use crate::store::{ContentKey, StoreError};

/// How long the engine may take to let go of the torrents whose bytes go.
const RELEASE_WITHIN: Duration = Duration::from_secs(20);

impl Node {
    /// Throws the least recently read bytes of the cache away until `cache.max_size` and `cache.min_free` hold.
    /// What somebody waits for stays.
    pub(super) async fn bound_cache(&self) -> Result<(), NodeError> {
        let (store, config) = (self.library.store.clone(), self.library.config.cache.clone());
        let excess = blocking(move || store.cache_excess(&config)).await?;
        if excess == 0 {
            return Ok(());
        }
        if let Err(e) = self.drop_cached(excess).await {
            tracing::warn!("the cache stays above its bound for now: {e}");
        }
        Ok(())
    }

    /// Throws everything in the cache away that nobody waits for. Tells how many bytes that freed.
    pub async fn clear_cache(&self) -> Result<u64, NodeError> {
        let usage = || {
            let store = self.library.store.clone();
            blocking(move || store.cache_usage())
        };
        let before = usage().await?;
        self.drop_cached(u64::MAX).await?;
        Ok(before.saturating_sub(usage().await?))
    }

    async fn drop_cached(&self, target: u64) -> Result<(), NodeError> {
        let store = self.library.store.clone();
        let mut entries = blocking(move || store.cache_entries()).await?;
        entries.retain(|entry| self.fetch.waited_for(&entry.key).is_empty());
        let mut freed = 0u64;
        let keys: Vec<ContentKey> = entries
            .into_iter()
            .take_while(|entry| {
                let needed = freed < target;
                freed += entry.allocated;
                needed
            })
            .map(|entry| entry.key)
            .collect();
        let held = self.fetch.release_for_eviction(&keys, RELEASE_WITHIN).await;
        let held = held.map_err(|e| NodeError::Request(format!("the cache is in use: {e}")))?;
        let (store, lock) = (self.library.store.clone(), self.lock.clone());
        // Somebody may have begun to wait until the engine had let go.
        let idle = keys.iter().filter(|key| self.fetch.waited_for(key).is_empty());
        let roots: HashSet<PiecesRoot> = idle.map(|key| key.root).collect();
        let evicted = blocking(move || {
            // Both outlive the future: the thread goes on when nobody waits for it any more.
            let _until_done = (held, lock);
            store.evict(target, &|root| !roots.contains(root))
        })
        .await?;
        tracing::info!("dropped bytes of {} files from the cache", evicted.len());
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, NodeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(e) => Err(NodeError::Request(format!("the cache could not be looked at: {e}"))),
    }
}
