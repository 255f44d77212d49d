//! Which key a publisher has named as successor, from the DHT and the peers.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::{Core, Heard};
use crate::catalog::gossip::Origin;
use crate::catalog::record::{Body, SharedRecord, SignedRecord, successor_salt};
use crate::model::PublisherKey;

/// After so long the records are looked at again, whatever is heard.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The key that a publisher has named, if the DHT has it within a time; it is kept among the records. None while the DHT
/// is off.
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
    // Nobody is asked while there are no nodes.
    tokio::time::timeout_at(deadline, nodes.wait_for(|nodes| *nodes > 0)).await.ok()?.ok()?;
    let mut listener = core.listen();
    if let Err(error) = core.overlay.get_item(publisher, salt) {
        tracing::debug!(%error, "the DHT is not asked for a successor");
        return None;
    }
    let item = loop {
        match listener.until(deadline).await? {
            Heard::DhtItem(of, at, item) if (of, at) == (publisher, salt) => break item?,
            _ => {}
        }
    };
    let record = SignedRecord::from_item(&item).ok()?;
    let Body::Successor(next) = record.record().body else { return None };
    let (core, records) = (Arc::clone(core), vec![SharedRecord::new(record)]);
    let stored = tokio::task::spawn_blocking(move || core.store(Origin::Dht, &records));
    if let Ok(Err(error)) = stored.await {
        tracing::debug!(%error, "a succession is not kept");
    }
    Some(next)
}

/// Waits for a record that names a publisher's successor.
pub(super) async fn heard(core: &Arc<Core>, publisher: PublisherKey) {
    let mut listener = core.listen();
    while core.known.store.successor(&publisher).is_none() {
        listener.stored(LOOK_AGAIN).await;
    }
}
