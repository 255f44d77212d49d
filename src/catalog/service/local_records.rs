//! The data that questions of peers are answered from: the store, and the models of this node.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::types::Holdings;
use crate::catalog::gossip::answers::RecordSource;
use crate::catalog::message::{Have, HeldManifest};
use crate::catalog::query::Query;
use crate::catalog::record::SharedRecord;
use crate::catalog::store::{CatalogStore, Page};
use crate::model::{InfoHash, ModelRef, PublisherKey, Sha256Digest};

/// How old a digest may be when a page of it is sent. Later changes are sent by the digests of changes.
const DIGEST_AGE: Duration = Duration::from_secs(10);

/// The store, and the models of this node.
pub(super) struct LocalRecords {
    pub store: Arc<CatalogStore>,
    pub holdings: Arc<dyn Holdings>,
    digest: Mutex<Option<(Instant, Arc<[Have]>)>>,
}

impl LocalRecords {
    pub fn new(store: Arc<CatalogStore>, holdings: Arc<dyn Holdings>) -> Self {
        Self { store, holdings, digest: Mutex::new(None) }
    }

    /// The digest in the order of keys; shared by peers that ask at about the same time.
    fn digest(&self) -> Arc<[Have]> {
        let now = Instant::now();
        let mut kept = self.digest.lock();
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

impl RecordSource for LocalRecords {
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
        self.store.of_model(model, &self.holdings.kept())
    }

    fn successor(&self, publisher: &PublisherKey) -> Option<SharedRecord> {
        self.store.successor(publisher)
    }

    fn held(&self, model: &ModelRef) -> Vec<HeldManifest> {
        let held = self.holdings.of_name(&model.name);
        let of_revision = held.into_iter().filter(|held| held.model == *model);
        of_revision
            .map(|held| HeldManifest {
                publisher: held.publisher,
                manifest: held.digest,
                len: held.manifest_len,
                info_hash: held.info_hash,
                complete: held.complete,
            })
            .collect()
    }

    fn is_complete(&self, info_hash: &InfoHash) -> bool {
        self.holdings.is_complete(info_hash)
    }

    fn manifest(&self, digest: &Sha256Digest) -> Option<Arc<[u8]>> {
        self.holdings.manifest(digest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::catalog::gossip::answers::PeerRequest;
    use crate::catalog::message::{Message, PeerAnswer, PeerQuestion};
    use crate::catalog::record::{SignedRecord, tests::model};
    use crate::catalog::service::types::HeldModel;
    use crate::model::ModelName;
    use crate::model::keys::PublisherKeypair;

    const NOW: u64 = 1_800_000_000;

    /// Holds a model, and counts calls.
    struct Counted {
        held: HeldModel,
        kept: Arc<HashSet<PublisherKey>>,
        asked_for_kept: AtomicUsize,
        manifests_made: AtomicUsize,
    }

    impl Holdings for Counted {
        fn of_name(&self, _: &ModelName) -> Vec<HeldModel> {
            vec![self.held.clone()]
        }
        fn manifest(&self, _: &Sha256Digest) -> Option<Arc<[u8]>> {
            self.manifests_made.fetch_add(1, Ordering::Relaxed);
            None
        }
        fn names(&self) -> Vec<ModelName> {
            Vec::new()
        }
        fn is_complete(&self, _: &InfoHash) -> bool {
            true
        }
        fn kept(&self) -> Arc<HashSet<PublisherKey>> {
            self.asked_for_kept.fetch_add(1, Ordering::Relaxed);
            Arc::clone(&self.kept)
        }
    }

    #[test]
    fn lookup_asks_holdings_once_and_makes_no_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let store = CatalogStore::open(dir.path(), NOW).unwrap();
        let record = || {
            let key = PublisherKeypair::generate().unwrap();
            SharedRecord::new(SignedRecord::sign(model(key.public(), "x/one", 1, NOW), &key).unwrap())
        };
        let records: Vec<SharedRecord> = (0..100).map(|_| record()).collect();
        store.insert(&records, NOW, &|_| false).unwrap();
        let kept = records[70].record().publisher;
        let announced = records[70].model().unwrap();
        let held = HeldModel {
            model: announced.model_ref(),
            publisher: kept,
            info_hash: InfoHash([1; 32]),
            manifest_len: 77,
            digest: Sha256Digest([2; 32]),
            complete: true,
        };
        let holdings = Arc::new(Counted {
            held,
            kept: Arc::new(HashSet::from([kept])),
            asked_for_kept: AtomicUsize::default(),
            manifests_made: AtomicUsize::default(),
        });
        let known = LocalRecords::new(Arc::new(store), holdings.clone());
        let lookup = PeerRequest::Question(1, PeerQuestion::Lookup(announced.model_ref()));
        let Message::Answer(1, PeerAnswer::Holds { records, held }) = lookup.answer(&known) else {
            panic!("another answer")
        };
        assert_eq!((records[0].record().publisher, held[0].len), (kept, 77));
        assert_eq!(holdings.asked_for_kept.load(Ordering::Relaxed), 1);
        assert_eq!(holdings.manifests_made.load(Ordering::Relaxed), 0);
    }
}
