//! `cache clear`: deletes cached bytes while the node runs.

use std::collections::HashSet;
use std::time::Duration;

use super::{Node, NodeError, blocking};
use crate::model::PiecesRoot;
use crate::store::ContentKey;

/// How long the engine may take to release the torrents whose bytes are deleted.
const RELEASE_WITHIN: Duration = Duration::from_secs(20);

/// Deletes all bytes of the cache for which no reader waits. Returns how many bytes that freed.
pub(super) async fn run(node: &Node) -> Result<u64, NodeError> {
    let usage = || {
        let store = node.library.store.clone();
        blocking::run(move || Ok(store.cache().usage()?))
    };
    let before = usage().await?;
    drop_idle(node).await?;
    Ok(before.saturating_sub(usage().await?))
}

async fn drop_idle(node: &Node) -> Result<(), NodeError> {
    let store = node.library.store.clone();
    let mut entries = blocking::run(move || Ok(store.cache().entries()?)).await?;
    entries.retain(|entry| node.fetch.waited_for(&entry.key).is_empty());
    let keys: Vec<ContentKey> = entries.into_iter().map(|entry| entry.key).collect();
    let held = node.fetch.release_for_eviction(&keys, RELEASE_WITHIN).await?;
    let (store, lock) = (node.library.store.clone(), node.lock.clone());
    // A reader may have begun to wait before the engine released the contents.
    let idle = keys.iter().filter(|key| node.fetch.waited_for(key).is_empty());
    let roots: HashSet<PiecesRoot> = idle.map(|key| key.root).collect();
    let evicted = blocking::run(move || {
        // The thread continues when the future is dropped, and needs both until it ends.
        let _until_done = (held, lock);
        Ok(store.cache().evict(u64::MAX, &|root| !roots.contains(root))?)
    })
    .await?;
    tracing::info!(files = evicted.len(), "cleared the cache");
    Ok(())
}
