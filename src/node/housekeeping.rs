//! What a running node does now and then: make what came safe on disk, save what is known of the DHT.

use std::collections::HashSet;
use std::sync::Weak;
use std::time::Duration;

use super::Node;

/// How long writing resume data may hold up the rest.
const FLUSH_WITHIN: Duration = Duration::from_secs(10);

/// Every how many turns what is known of the DHT is saved, in case the node is killed.
const DHT_TURNS: u32 = 20;

/// Runs until the node is gone.
pub(super) async fn run(node: Weak<Node>, every: Duration) {
    let mut clock = tokio::time::interval(every);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for turn in 1u32.. {
        clock.tick().await;
        let Some(node) = node.upgrade() else { return };
        if !node.has_base() {
            return;
        }
        node.fetch.flush(FLUSH_WITHIN).await;
        let store = node.library.store.clone();
        match tokio::task::spawn_blocking(move || store.sync()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!("the cache could not be synced: {e}"),
            Err(e) => tracing::error!("syncing the cache failed: {e}"),
        }
        let looking = node.clone();
        match tokio::task::spawn_blocking(move || looking.disputes.have_changed()).await {
            // The mount shows names that are disputed by now in another way, unless they were read.
            Ok(true) => node.changed(),
            Ok(false) => {}
            Err(e) => tracing::error!("looking for disputed names failed: {e}"),
        }
        if turn % DHT_TURNS == 0 {
            node.save_dht().await;
            let known: HashSet<_> = node.library.manifests().iter().map(|m| m.torrent.info_hash).collect();
            let store = node.library.store.clone();
            store.retain_passes(|info_hash| known.contains(info_hash));
            match tokio::task::spawn_blocking(move || store.prune_granules()).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::warn!("saved hashes could not be deleted: {e}"),
                Err(e) => tracing::error!("deleting saved hashes failed: {e}"),
            }
        }
    }
}
