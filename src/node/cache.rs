//! The cache, emptied while the node runs.

use std::collections::HashSet;
use std::time::Duration;

use super::{Node, NodeError, blocking};
use crate::model::PiecesRoot;
use crate::store::ContentKey;

/// How long the engine may take to let go of the torrents whose bytes go.
const RELEASE_WITHIN: Duration = Duration::from_secs(20);

/// Throws everything in the cache away that nobody waits for. Tells how many bytes that freed.
pub async fn clear(node: &Node) -> Result<u64, NodeError> {
    let usage = || {
        let store = node.library.store.clone();
        blocking::run(move || Ok(store.cache_usage()?))
    };
    let before = usage().await?;
    drop_idle(node).await?;
    Ok(before.saturating_sub(usage().await?))
}

async fn drop_idle(node: &Node) -> Result<(), NodeError> {
    let store = node.library.store.clone();
    let mut entries = blocking::run(move || Ok(store.cache_entries()?)).await?;
    entries.retain(|entry| node.fetch.waited_for(&entry.key).is_empty());
    let keys: Vec<ContentKey> = entries.into_iter().map(|entry| entry.key).collect();
    let held = node.fetch.release_for_eviction(&keys, RELEASE_WITHIN).await?;
    let (store, lock) = (node.library.store.clone(), node.lock.clone());
    // Somebody may have begun to wait until the engine had let go.
    let idle = keys.iter().filter(|key| node.fetch.waited_for(key).is_empty());
    let roots: HashSet<PiecesRoot> = idle.map(|key| key.root).collect();
    let evicted = blocking::run(move || {
        // Both outlive the future: the thread goes on when nobody waits for it any more.
        let _until_done = (held, lock);
        Ok(store.evict(u64::MAX, &|root| !roots.contains(root))?)
    })
    .await?;
    tracing::info!("dropped bytes of {} files from the cache", evicted.len());
    Ok(())
}
