//! Periodic work of a running node: syncs received bytes to the disk, and saves the known nodes of the DHT.

use std::collections::HashSet;
use std::sync::Weak;
use std::time::Duration;

use super::{Node, looked_up};

/// How long writing resume data may delay the rest.
const FLUSH_WITHIN: Duration = Duration::from_secs(10);

/// After how many rounds the known nodes of the DHT are saved, in case the node is killed.
const DHT_ROUNDS: u32 = 20;

/// Runs until the node is gone.
pub(super) async fn run(node: Weak<Node>, every: Duration) {
    let mut clock = tokio::time::interval(every);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 1u32.. {
        clock.tick().await;
        let Some(node) = node.upgrade() else { return };
        if !node.has_base() {
            return;
        }
        node.fetch.flush(FLUSH_WITHIN).await;
        let store = node.library.store.clone();
        match tokio::task::spawn_blocking(move || {
            store.close_idle_files();
            store.sync()
        })
        .await
        {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!(error = %e, "could not sync the cache"),
            Err(e) => tracing::error!(error = %e, "could not sync the cache"),
        }
        let saving = node.library.clone();
        match tokio::task::spawn_blocking(move || saving.save_unsaved()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!(error = %e, "could not save the manifests of models that are read"),
            Err(e) => tracing::error!(error = %e, "could not save the manifests of models that are read"),
        }
        looked_up::keep_bounds(&node).await;
        let looking = node.clone();
        match tokio::task::spawn_blocking(move || looking.disputes.have_changed()).await {
            // The mounts show disputed names in another way, unless they were read before.
            Ok(true) => node.changed(),
            Ok(false) => {}
            Err(e) => tracing::error!(error = %e, "could not search for disputed names"),
        }
        if round % DHT_ROUNDS == 0 {
            node.save_dht().await;
            let known: HashSet<_> = node.library.manifests().iter().map(|m| m.torrent.info_hash).collect();
            let store = node.library.store.clone();
            store.parts.scrub.retain(|info_hash| known.contains(info_hash));
            match tokio::task::spawn_blocking(move || store.prune_granules()).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::warn!(error = %e, "could not delete saved hashes"),
                Err(e) => tracing::error!(error = %e, "could not delete saved hashes"),
            }
        }
    }
}
