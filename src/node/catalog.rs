//! The catalog inside the node: opened and started with it, told when what is here changes, stopped before it.
//!
//! A catalog that cannot be opened is no obstacle to anything else: the node runs without, and says so when somebody
//! asks for a name.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::holdings::NodeHoldings;
use super::{Library, Node, announce};
use crate::catalog::record::SharedRecord;
use crate::catalog::{Body, Catalog, CatalogError, CatalogSettings, CatalogStore, UnixTime};
use crate::fetch::Fetch;
use crate::model::PublisherKey;
use crate::torrent::Session;

/// Changes that come within this time are told as one.
const GATHER: Duration = Duration::from_millis(200);

/// How often opening the store is tried, and the pause between.
const OPEN_ATTEMPTS: u32 = 4;
const OPEN_PAUSE: Duration = Duration::from_millis(300);

/// How often the records of our own models are looked at: those that grew old are made anew.
const REFRESH_EVERY: Duration = Duration::from_secs(3600);

/// The catalog of a node.
pub(super) struct NodeCatalog {
    pub store: Arc<CatalogStore>,
    pub catalog: Arc<Catalog>,
    pub holdings: Arc<NodeHoldings>,
    /// What is here may have changed.
    pub changed: Arc<Notify>,
    /// Publisher, salt and sequence of the records that were published in this run.
    published: Mutex<HashSet<(PublisherKey, [u8; 20], i64)>>,
}

/// The clock, in seconds.
pub(super) fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Opens the store; none where that fails. The base directory is ours, but what the process that had it before wrote
/// there last may still be closing.
async fn open(library: &Library) -> Option<CatalogStore> {
    for _ in 0..OPEN_ATTEMPTS {
        let dir = library.paths.catalog();
        let opened = tokio::task::spawn_blocking(move || CatalogStore::open(&dir, now())).await;
        match opened {
            Ok(Ok(store)) => return Some(store),
            Ok(Err(e)) => tracing::error!("the catalog cannot be opened: {e}"),
            Err(e) => tracing::error!("the catalog cannot be opened: {e}"),
        }
        tokio::time::sleep(OPEN_PAUSE).await;
    }
    None
}

impl NodeCatalog {
    /// Opens the store and starts. None where the store cannot be opened, which is logged.
    pub async fn start(
        library: &Library,
        session: &Arc<Session>,
        fetch: &Arc<Fetch>,
        settings: CatalogSettings,
    ) -> Option<Arc<Self>> {
        let store = Arc::new(open(library).await?);
        let known = store.clone();
        library.trust.follow(Arc::new(move |key| match known.successor(key)?.record().body {
            Body::Successor(successor) => Some(successor),
            Body::Model(_) => None,
        }));
        let (trust, sharing) = (library.trust.clone(), library.sharing.clone());
        let holdings = NodeHoldings::new(library.registry.clone(), fetch.clone(), trust, sharing);
        let holdings = Arc::new(holdings);
        let catalog = Catalog::start(session.clone(), store.clone(), holdings.clone(), settings);
        let changed = Arc::new(Notify::new());
        // What is here at the start is looked at first.
        changed.notify_one();
        Some(Arc::new(Self { store, catalog, holdings, changed, published: Mutex::default() }))
    }

    /// Publishes a record, once in this run; in the DHT too, if `in_dht`.
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

/// Tells the catalog what changed here, and keeps the records of our own models fresh. Runs until the node is gone.
pub(super) async fn attend(node: Weak<Node>, part: Arc<NodeCatalog>) {
    let mut clock = tokio::time::interval(REFRESH_EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = part.changed.notified() => tokio::time::sleep(GATHER).await,
            _ = clock.tick() => {}
        }
        let holdings = part.holdings.clone();
        if let Err(e) = tokio::task::spawn_blocking(move || holdings.refresh()).await {
            tracing::error!("what is here could not be looked at: {e}");
            continue;
        }
        part.catalog.holdings_changed();
        let Some(node) = node.upgrade() else { return };
        if let Err(e) = announce::publish_due(&node.library, &part).await {
            tracing::error!("our own models could not be announced: {}", super::chain(&e));
        }
    }
}
