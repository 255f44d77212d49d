//! Records of our own models, so that others find them.
//!
//! A model is ours when our key signed its manifest. Its record is made anew when the manifest changed or the record
//! grows old; until then the same one is published again in every run, so that the DHT keeps it.

use std::sync::Arc;

use super::catalog::{NodeCatalog, now};
use super::{Library, NodeError, blocking};
use crate::catalog::record::{Record, SharedRecord, SignedRecord};
use crate::catalog::{UnixTime, rotation};
use crate::keys::PublisherKeypair;
use crate::model::{Manifest, Sha256Digest};

/// A record older than this, in seconds, is made anew: well before it expires.
const REFRESH_AFTER: UnixTime = 7 * 24 * 3600;

/// Publishes what has not been published in this run: the records of our models that are here, and successions.
pub(super) async fn publish_due(library: &Arc<Library>, part: &Arc<NodeCatalog>) -> Result<(), NodeError> {
    let (own, of) = (library.clone(), part.clone());
    for (record, in_dht) in blocking::cancellable(move |_| due(&own, &of)).await? {
        if let Err(e) = part.publish_once(record, in_dht).await {
            tracing::error!("a record could not be published: {e}");
        }
    }
    Ok(())
}

/// The records that there are to be, those made again that are missing or old, and whether each goes into the DHT.
/// Blocks.
fn due(library: &Library, part: &NodeCatalog) -> Result<Vec<(SharedRecord, bool)>, NodeError> {
    let successions = rotation::successions(&library.paths);
    let mut due: Vec<_> = successions.into_iter().map(|record| (record, true)).collect();
    let Some(own) = library.trust.own() else { return Ok(due) };
    let ours = library.registry.all().into_iter().filter(|m| m.signed_by() == Some(own));
    let mut key = None;
    let mut last = part.store.have(&own).map_or(0, |have| have.sequence);
    for manifest in ours {
        if !library.sharing.is_announced(&manifest.model_ref()) || !is_here(library, &manifest) {
            continue;
        }
        let in_dht = library.sharing.is_in_dht(&manifest.model_ref());
        // One that is too long to be handed out is not announced either.
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
            Err(e) => tracing::warn!("{} cannot be announced: {e}", manifest.model_ref()),
        }
    }
    Ok(due)
}

fn is_here(library: &Library, manifest: &Arc<Manifest>) -> bool {
    match library.store.revision(manifest.clone()) {
        Ok(revision) => revision.held_bytes() > 0,
        Err(e) => {
            tracing::warn!("cannot tell what of {} is here: {e}", manifest.model_ref());
            false
        }
    }
}

/// The record of a manifest of ours that is known and not old.
fn fresh(part: &NodeCatalog, manifest: &Manifest, digest: &Sha256Digest) -> Option<SharedRecord> {
    let known = part.store.of(&manifest.publisher?, &manifest.model_ref())?;
    let current = known.model().is_some_and(|model| model.manifest == *digest);
    // One from when our clock was ahead is taken by nobody.
    let timely = known.check_time(now()).is_ok();
    let recent = known.record().time.saturating_add(REFRESH_AFTER) > now();
    (current && timely && recent).then_some(known)
}
