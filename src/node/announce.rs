//! Publishes records of the models that this node's publisher signed, so that other hosts find them.
//!
//! A record is signed again when the manifest has changed or the record is old. Until then each run publishes the same
//! record again, so that the DHT keeps it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::node_catalog::NodeCatalog;
use super::{Library, NodeError, blocking};
use crate::catalog::record::{Record, SharedRecord, SignedRecord};
use crate::catalog::{UnixTime, now};
use crate::model::keys::PublisherKeypair;
use crate::model::{Manifest, Sha256Digest};
use crate::trust::rotation;

/// A record older than this, in seconds, is signed again: well before it expires.
const REFRESH_AFTER: UnixTime = 7 * 24 * 3600;

/// Changes within this time are reported as one.
const GATHER: Duration = Duration::from_millis(200);

/// How often the records of own models are checked: old ones are signed again.
const REFRESH_EVERY: Duration = Duration::from_secs(3600);

/// Reports changes of the local models to the catalog, and signs old records of own models again. Runs until the node
/// is gone.
pub(super) async fn run(library: Weak<Library>, part: Arc<NodeCatalog>) {
    let mut clock = tokio::time::interval(REFRESH_EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = part.changed.notified() => tokio::time::sleep(GATHER).await,
            _ = clock.tick() => {}
        }
        let holdings = part.holdings.clone();
        if let Err(e) = tokio::task::spawn_blocking(move || holdings.refresh()).await {
            tracing::error!(error = %e, "could not read the local models");
            continue;
        }
        part.catalog.holdings_changed();
        let Some(library) = library.upgrade() else { return };
        if let Err(e) = publish_due(&library, &part).await {
            tracing::error!(error = super::chain(&e), "could not announce the own models");
        }
    }
}

/// Publishes the records of own models with stored bytes, and successions of keys, unless this run has published them.
async fn publish_due(library: &Arc<Library>, part: &Arc<NodeCatalog>) -> Result<(), NodeError> {
    let (own, of) = (library.clone(), part.clone());
    for (record, in_dht) in blocking::cancellable(move |_| due(&own, &of)).await? {
        if let Err(e) = part.publish_once(record, in_dht).await {
            tracing::error!(error = %e, "could not publish a record");
        }
    }
    Ok(())
}

/// The records to publish, and whether each is also stored in the DHT. Signs records that are missing or old. Blocks.
fn due(library: &Library, part: &NodeCatalog) -> Result<Vec<(SharedRecord, bool)>, NodeError> {
    let successions = rotation::successions(&library.paths);
    let mut due: Vec<_> = successions.into_iter().map(|record| (record, true)).collect();
    let Some(own) = library.trust.own() else { return Ok(due) };
    let ours = library.registry.all().into_iter().filter(|m| m.signed_by() == Some(own));
    let mut key = None;
    let mut last = part.store.have(&own).map_or(0, |have| have.sequence);
    for manifest in ours {
        if !library.sharing.is_announced(&manifest.model_ref()) || !has_stored_bytes(library, &manifest) {
            continue;
        }
        let in_dht = library.sharing.is_in_dht(&manifest.model_ref());
        // A manifest that is too long for peers is not announced.
        let Some(digest) = part.holdings.digest(&manifest) else { continue };
        if let Some(fresh) = fresh(part, &manifest, &digest) {
            due.push((fresh, in_dht));
            continue;
        }
        let key = match &key {
            Some(key) => key,
            None => key.insert(PublisherKeypair::load(&library.paths.publisher_key())?),
        };
        let time = now();
        // Milliseconds, so that the same key on two machines rarely gives one sequence to two records.
        last = i64::try_from(time.saturating_mul(1000)).unwrap_or(i64::MAX).max(last.saturating_add(1));
        let record = Record::of_manifest(&manifest, own, last, time);
        match SignedRecord::sign(record, key) {
            Ok(record) => due.push((Arc::new(record), in_dht)),
            Err(e) => tracing::warn!(error = %e, model = %manifest.model_ref(), "could not sign a record"),
        }
    }
    Ok(due)
}

fn has_stored_bytes(library: &Library, manifest: &Arc<Manifest>) -> bool {
    match library.store.revision(manifest.clone()) {
        Ok(revision) => revision.held_bytes() > 0,
        Err(e) => {
            tracing::warn!(error = %e, model = %manifest.model_ref(), "could not read which bytes are stored");
            false
        }
    }
}

/// The known record of an own manifest, unless it is old.
fn fresh(part: &NodeCatalog, manifest: &Manifest, digest: &Sha256Digest) -> Option<SharedRecord> {
    let known = part.store.of(&manifest.publisher?, &manifest.model_ref())?;
    let current = known.model().is_some_and(|model| model.manifest == *digest);
    // Peers refuse a record with a future timestamp, from when the clock of this host was ahead.
    let timely = known.check_time(now()).is_ok();
    let recent = known.record().time.saturating_add(REFRESH_AFTER) > now();
    (current && timely && recent).then_some(known)
}
