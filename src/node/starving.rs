//! Finds hosts for torrents for which a read waits and whose peers send nothing, by asking the peers of the catalog.
//!
//! Without this, a reader depends on discovery by the swarm of the torrent, which takes seconds on a local network, and
//! longer when the address of a host has changed.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use futures_util::future::{AbortHandle, abortable};

use super::Node;
use super::node_catalog::NodeCatalog;
use crate::fetch::Exposure;
use crate::model::InfoHash;

/// Searches at a time. Each is a few short messages to the peers of the catalog.
const MAX_SEARCHES: usize = 32;

/// A running search. Dropping this ends it.
struct RunningSearch(AbortHandle);

impl Drop for RunningSearch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Searches for hosts while reads starve. Runs until the node is gone.
pub(super) async fn run(node: Weak<Node>, part: Arc<NodeCatalog>) {
    let Some(mut starving) = node.upgrade().map(|node| node.fetch.starving()) else { return };
    let mut searches: HashMap<InfoHash, RunningSearch> = HashMap::new();
    while starving.changed().await.is_ok() {
        let now = starving.borrow_and_update().clone();
        searches.retain(|info_hash, _| now.contains(info_hash));
        for info_hash in now {
            if searches.len() >= MAX_SEARCHES {
                break;
            }
            let Some(node) = node.upgrade() else { return };
            if !searches.contains_key(&info_hash)
                && let Some(search) = begin(&node, &part, info_hash)
            {
                searches.insert(info_hash, search);
            }
        }
    }
}

/// None for a torrent that is not public.
fn begin(node: &Arc<Node>, part: &Arc<NodeCatalog>, info_hash: InfoHash) -> Option<RunningSearch> {
    if node.fetch.exposure(&info_hash) != Exposure::Public {
        return None;
    }
    let model = node.fetch.joined_as(&info_hash)?.manifest.model_ref();
    let (part, fetch) = (part.clone(), Arc::downgrade(&node.fetch));
    let (search, handle) = abortable(async move {
        let introduce = |holder| {
            if let Some(fetch) = fetch.upgrade() {
                fetch.introduce(&info_hash, &[holder]);
            }
        };
        part.catalog.look_for_holders(&model, &info_hash, introduce).await;
    });
    tokio::spawn(search);
    Some(RunningSearch(handle))
}
