//! The successors of publisher keys, from the DHT and from peers.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::{CatalogEvent, Core};
use crate::catalog::gossip::RecordOrigin;
use crate::catalog::record::{RecordBody, SharedRecord, SignedRecord, successor_salt};
use crate::model::PublisherKey;

/// How often the records are checked without an event.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The successor of a publisher, if the DHT has it within a time; its record is stored. None while the DHT is off.
pub(super) async fn look_up(
    core: &Arc<Core>,
    publisher: PublisherKey,
    within: Duration,
) -> Option<PublisherKey> {
    if !core.settings.dht {
        return None;
    }
    let (deadline, salt) = (Instant::now() + within, successor_salt());
    let mut nodes = core.dht_nodes.subscribe();
    // Wait for the first nodes.
    tokio::time::timeout_at(deadline, nodes.wait_for(|nodes| *nodes > 0)).await.ok()?.ok()?;
    let mut listener = core.listen();
    if let Err(error) = core.overlay.get_item(publisher, salt) {
        tracing::debug!(%error, "could not ask the DHT for a successor");
        return None;
    }
    let item = loop {
        match listener.until(deadline).await? {
            CatalogEvent::DhtItem(of, at, item) if (of, at) == (publisher, salt) => break item?,
            _ => {}
        }
    };
    let record = SignedRecord::from_item(&item).ok()?;
    let RecordBody::Successor(next) = record.record().body else { return None };
    let (core, records) = (Arc::clone(core), vec![SharedRecord::new(record)]);
    let _ = tokio::task::spawn_blocking(move || core.store_or_log(RecordOrigin::Dht, &records)).await;
    Some(next)
}

/// Waits for a record that names a publisher's successor.
pub(super) async fn wait_for(core: &Arc<Core>, publisher: PublisherKey) {
    let mut listener = core.listen();
    while core.local.store.successor(&publisher).is_none() {
        listener.stored(CHECK_EVERY).await;
    }
}
