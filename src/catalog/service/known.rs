//! What gossip answers from: the store, and what this node holds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::catalog::gossip::answers::Source;
use crate::catalog::message::{Have, HeldManifest};
use crate::catalog::query::Query;
use crate::catalog::record::SharedRecord;
use crate::catalog::service::Holdings;
use crate::catalog::store::{CatalogStore, Page};
use crate::model::{InfoHash, ModelRef, PublisherKey, Sha256Digest};

/// How old the digest may be of which pages are told. What changes meanwhile is told by the digests of changes.
const DIGEST_AGE: Duration = Duration::from_secs(10);

/// The store, and what this node holds.
pub(super) struct Known {
    pub store: Arc<CatalogStore>,
    pub holdings: Arc<dyn Holdings>,
    digest: Mutex<Option<(Instant, Arc<[Have]>)>>,
}

impl Known {
    pub fn new(store: Arc<CatalogStore>, holdings: Arc<dyn Holdings>) -> Self {
        Self { store, holdings, digest: Mutex::new(None) }
    }

    /// The digest in the order of keys; one for all peers that ask at about the same time.
    fn digest(&self) -> Arc<[Have]> {
        let now = Instant::now();
        let mut kept = self.digest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, digest)) = &*kept
            && now < *made + DIGEST_AGE
        {
            return Arc::clone(digest);
        }
        let mut digest = self.store.digest();
        digest.sort_unstable_by_key(|have| have.publisher);
        let digest: Arc<[Have]> = digest.into();
        *kept = Some((now, Arc::clone(&digest)));
        digest
    }
}

impl Source for Known {
    fn count(&self) -> usize {
        self.store.len()
    }

    fn have(&self, publisher: &PublisherKey) -> Option<Have> {
        self.store.have(publisher)
    }

    fn page(&self, after: Option<&PublisherKey>, limit: usize) -> Vec<Have> {
        let digest = self.digest();
        let from = after.map_or(0, |after| digest.partition_point(|have| have.publisher <= *after));
        digest[from..].iter().take(limit).copied().collect()
    }

    fn after(&self, publisher: &PublisherKey, sequence: i64, limit: usize) -> Vec<SharedRecord> {
        self.store.after(publisher, sequence, limit)
    }

    fn search(&self, query: &Query, from: Option<&[u8]>, limit: usize) -> Page {
        self.store.search(query, from, limit)
    }

    fn records_of(&self, model: &ModelRef) -> Vec<SharedRecord> {
        self.store.of_model(model, &|publisher| self.holdings.is_kept(publisher))
    }

    fn successor(&self, publisher: &PublisherKey) -> Option<SharedRecord> {
        self.store.successor(publisher)
    }

    fn held(&self, model: &ModelRef) -> Vec<HeldManifest> {
        let held = self.holdings.of_name(&model.name);
        let of_revision = held.into_iter().filter(|held| held.model == *model);
        of_revision
            .filter_map(|held| {
                Some(HeldManifest {
                    publisher: held.publisher,
                    manifest: held.digest,
                    len: u32::try_from(held.manifest.len()).ok()?,
                    info_hash: held.info_hash,
                    complete: held.complete,
                })
            })
            .collect()
    }

    fn is_complete(&self, info_hash: &InfoHash) -> bool {
        self.holdings.is_complete(info_hash)
    }

    fn manifest(&self, digest: &Sha256Digest) -> Option<Arc<[u8]>> {
        self.holdings.by_manifest(digest).map(|held| held.manifest)
    }
}
