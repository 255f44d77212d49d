//! The catalog of a node: starts with the node, learns of changes of the local models, and stops before the node.
//!
//! If the catalog cannot be opened, the node runs without it. Commands that need it fail then with `NoCatalog`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Library;
use super::holdings::NodeHoldings;
use crate::catalog::record::SharedRecord;
use crate::catalog::{Catalog, CatalogError, CatalogSettings, CatalogStore, RecordBody, now};
use crate::fetch::Fetch;
use crate::model::PublisherKey;
use crate::torrent::Session;

/// How often opening the store is tried, and the pause between.
const OPEN_ATTEMPTS: u32 = 4;
const OPEN_PAUSE: Duration = Duration::from_millis(300);

/// The catalog of a node.
pub(super) struct NodeCatalog {
    pub store: Arc<CatalogStore>,
    pub catalog: Arc<Catalog>,
    pub holdings: Arc<NodeHoldings>,
    /// Notified when the local models may have changed.
    pub changed: Arc<Notify>,
    /// Publisher, salt and sequence of the records that were published in this run.
    published: Mutex<HashSet<(PublisherKey, [u8; 20], i64)>>,
}

/// Opens the store; none if that fails. The process that had the base directory before may still be closing its files.
async fn open(library: &Library) -> Option<CatalogStore> {
    for _ in 0..OPEN_ATTEMPTS {
        let dir = library.paths.catalog();
        let opened = tokio::task::spawn_blocking(move || CatalogStore::open(&dir, now())).await;
        match opened {
            Ok(Ok(store)) => return Some(store),
            Ok(Err(e)) => tracing::error!(error = %e, "could not open the catalog"),
            Err(e) => tracing::error!(error = %e, "could not open the catalog"),
        }
        tokio::time::sleep(OPEN_PAUSE).await;
    }
    None
}

impl NodeCatalog {
    /// Opens the store and starts. None if the store cannot be opened, which is logged.
    pub async fn start(
        library: &Library,
        session: &Arc<Session>,
        fetch: &Arc<Fetch>,
        settings: CatalogSettings,
    ) -> Option<Arc<Self>> {
        let store = Arc::new(open(library).await?);
        let known = store.clone();
        library.trust.follow(Arc::new(move |key| match known.successor(key)?.record().body {
            RecordBody::Successor(successor) => Some(successor),
            RecordBody::Model(_) => None,
        }));
        let (trust, sharing) = (library.trust.clone(), library.sharing.clone());
        let holdings = NodeHoldings::new(library.registry.clone(), fetch.clone(), trust, sharing);
        let holdings = Arc::new(holdings);
        let catalog = Catalog::start(session.clone(), store.clone(), holdings.clone(), settings);
        let changed = Arc::new(Notify::new());
        // The local models at the start are announced first.
        changed.notify_one();
        Some(Arc::new(Self { store, catalog, holdings, changed, published: Mutex::default() }))
    }

    /// Publishes a record, once in this run; also in the DHT if `in_dht`.
    pub async fn publish_once(&self, record: SharedRecord, in_dht: bool) -> Result<(), CatalogError> {
        let key = (record.record().publisher, record.record().salt(), record.record().sequence);
        let published = || self.published.lock();
        if published().contains(&key) {
            return Ok(());
        }
        self.catalog.publish(record, in_dht).await?;
        published().insert(key);
        Ok(())
    }
}
