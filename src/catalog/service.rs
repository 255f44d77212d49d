//! The catalog of a running node: gossip on the engine, names in the DHT, searches.
//!
//! | module | what it owns |
//! |---|---|
//! | `core` | gossip, inbox, listeners and clock; it does not know the modules below |
//! | `inbox` | messages of peers that wait to be read by threads that may block |
//! | `local_records` | the store and the models of this node, from which questions are answered |
//! | `membership` | joining the catalog's swarm |
//! | `dht_entries` | names and records that are kept in the DHT |
//! | `inquiry` | the loop in which an operation asks peers |
//! | `announcers` | hosts that announced a name in the DHT |
//! | `name_search`, `candidates` | the search for a model by its name |
//! | `searches` | memory that these searches share, and news |
//! | `record_search` | `discover` |
//! | `holders` | peers that hold a manifest or a torrent |
//! | `manifests`, `manifest_transfer`, `model_swarms` | fetching a manifest |
//! | `shared_search` | one search for all callers with the same question |
//! | `successors` | successors of publisher keys |
//!
//! Invariants: events of the engine are accepted without waiting; a caller only receives records with a valid
//! signature and manifests with the right digest; every operation ends by its deadline.

mod announcers;
mod candidates;
mod core;
mod dht_entries;
mod holders;
mod inbox;
mod inquiry;
mod local_records;
mod manifest_transfer;
mod manifests;
mod membership;
mod model_swarms;
mod name_search;
mod record_search;
mod searches;
mod shared_search;
mod successors;
mod types;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) use self::core::Clock;
use self::core::{CatalogEvent, Core, Subscriber};
use crate::catalog::gossip::{GossipConnection, RecordOrigin};
use crate::catalog::query::Query;
use crate::catalog::record::SharedRecord;
use crate::catalog::store::CatalogStore;
use crate::model::{InfoHash, ModelRef, PublisherKey};
use crate::torrent::{Overlay, OverlayEvent};
pub use dht_entries::{ANNOUNCE_EVERY, ANNOUNCE_PAUSE, STORE_EVERY, STORE_PAUSE, topic_of};
use holders::Holders;
use local_records::LocalRecords;
pub use manifest_transfer::PART_WITHIN;
use manifests::ManifestTransfers;
pub use name_search::{GRACE, LAN_SOON, LAN_WITHIN, SearchPatience, WAVE};
pub use record_search::{MAX_PAGES, SETTLED};
pub use searches::MISS;
use searches::Searches;
pub(crate) use types::CatalogStatus;
pub use types::{Candidate, CatalogError, CatalogSettings, FoundModel, HeldModel, Holdings, News};

/// Commands that may wait for the keeper of the DHT's entries. A lost command is noticed at its next regular check.
const MAX_COMMANDS: usize = 1024;

/// The catalog of a running node.
pub struct Catalog {
    core: Arc<Core>,
    searches: Arc<Searches>,
    holders: Arc<Holders>,
    transfers: Arc<ManifestTransfers>,
    dht_entries: mpsc::Sender<dht_entries::EntryCommand>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Catalog {
    /// Joins the catalog's swarm and begins to announce the models of this node. Must run inside a tokio runtime; its tasks
    /// end with [`stop`](Self::stop).
    pub fn start(
        overlay: Arc<dyn Overlay>,
        store: Arc<CatalogStore>,
        holdings: Arc<dyn Holdings>,
        settings: CatalogSettings,
    ) -> Arc<Self> {
        Self::start_at(overlay, store, holdings, settings, Arc::new(super::now))
    }

    /// The same with another wall clock, by which records expire. Everything else uses tokio's clock.
    pub fn start_at(
        overlay: Arc<dyn Overlay>,
        store: Arc<CatalogStore>,
        holdings: Arc<dyn Holdings>,
        settings: CatalogSettings,
        clock: Clock,
    ) -> Arc<Self> {
        let (searches, holders) = (Arc::new(Searches::default()), Arc::new(Holders::default()));
        let transfers = Arc::new(ManifestTransfers::new(Arc::clone(&holders)));
        let subscribers: Vec<Arc<dyn Subscriber>> =
            vec![Arc::clone(&searches) as _, Arc::clone(&holders) as _];
        let local = LocalRecords::new(store, holdings);
        let core = Arc::new(Core::new(overlay, local, settings, clock, subscribers));
        membership::join(&core);
        let (dht_entries, commands) = mpsc::channel(MAX_COMMANDS);
        let tasks = vec![
            tokio::spawn(Arc::clone(&core).read_all()),
            tokio::spawn(Arc::clone(&core).tick_all()),
            tokio::spawn(membership::keep(Arc::clone(&core))),
            tokio::spawn(dht_entries::run(Arc::clone(&core), commands)),
        ];
        Arc::new(Self { core, searches, holders, transfers, dht_entries, tasks: Mutex::new(tasks) })
    }

    /// Accepts an event of the engine. Returns immediately.
    pub fn handle(&self, event: OverlayEvent) {
        let core = &self.core;
        match event {
            OverlayEvent::Speaks { torrent, peer, address, .. } => {
                core.connected(peer, GossipConnection { of_catalog: core.swarm() == Some(torrent), address });
            }
            OverlayEvent::Received(peer, bytes) => core.received(peer, bytes),
            OverlayEvent::Left(peer) => core.left(peer),
            OverlayEvent::DhtPeers(topic, peers) => core.emit(&CatalogEvent::DhtPeers(topic, peers)),
            OverlayEvent::DhtFound(publisher, salt, item) => {
                core.emit(&CatalogEvent::DhtItem(publisher, salt, item));
            }
            OverlayEvent::DhtStored(publisher, salt, nodes) => {
                self.keep_in_dht(dht_entries::EntryCommand::Stored(publisher, salt, nodes));
            }
            OverlayEvent::DhtNodes(nodes) => {
                if core.dht_nodes.send_replace(nodes) == 0 && nodes > 0 {
                    core.emit(&CatalogEvent::DhtReady);
                }
            }
        }
    }

    /// Leaves the catalog's swarm, and stops announcing. Waiting callers receive [`CatalogError::Stopped`].
    pub fn stop(&self) {
        if self.core.stopped.send_replace(true) {
            return;
        }
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        membership::leave(&self.core);
    }

    /// Connects to peers that the user names later.
    pub fn introduce(&self, peers: &[SocketAddr]) {
        peers.iter().for_each(|peer| self.core.connect(*peer));
    }

    /// Announces an own record: stores it, sends it to peers, and with `in_dht` keeps it in the DHT.
    pub async fn publish(&self, record: SharedRecord, in_dht: bool) -> Result<(), CatalogError> {
        if *self.core.stopped.borrow() {
            return Err(CatalogError::Stopped);
        }
        let (core, own) = (Arc::clone(&self.core), SharedRecord::clone(&record));
        tokio::task::spawn_blocking(move || core.store(RecordOrigin::Own, &[own]))
            .await
            .map_err(|_| CatalogError::Stopped)?
            .map_err(|error| CatalogError::Store(error.to_string()))?;
        if in_dht {
            self.keep_in_dht(dht_entries::EntryCommand::Own(record));
        }
        Ok(())
    }

    /// The models of this node have changed: names are announced again.
    pub fn holdings_changed(&self) {
        self.keep_in_dht(dht_entries::EntryCommand::Held);
    }

    /// The candidates for a model: from the store, the peers and the DHT. Ends when there is a candidate and every peer asked
    /// has answered, or [`GRACE`] has passed since the first; at the latest after `within`. A name that no peer has is
    /// reported as soon as the caller's `patience` allows. Concurrent calls for a model share one search. A miss is
    /// remembered for [`MISS`], unless there are [`News`].
    pub async fn resolve(
        &self,
        model: &ModelRef,
        within: Duration,
        patience: SearchPatience,
    ) -> Result<Vec<Candidate>, CatalogError> {
        name_search::resolve(&self.core, &self.searches, model, within, patience).await
    }

    /// Reports news to `reader` from now on. Only the first call has an effect.
    pub fn report_news(&self, reader: impl Fn(News<'_>) + Send + Sync + 'static) {
        self.searches.report_news(Box::new(reader));
    }

    /// The newest record of a known publisher, from the DHT, the store and the peers. Without a record, a manifest of that
    /// publisher that a peer claims to hold.
    pub async fn resolve_of(
        &self,
        publisher: PublisherKey,
        model: &ModelRef,
        within: Duration,
    ) -> Result<Candidate, CatalogError> {
        name_search::resolve_of(&self.core, &self.searches, publisher, model, within).await
    }

    /// The key that a publisher has named as successor, from the DHT. None if the DHT is off or has none within the time.
    pub async fn successor(&self, publisher: PublisherKey, within: Duration) -> Option<PublisherKey> {
        let mut stopped = self.core.stopped.subscribe();
        tokio::select! {
            next = successors::look_up(&self.core, publisher, within) => next,
            _ = stopped.wait_for(|stopped| *stopped) => None,
        }
    }

    /// Waits until a publisher is known to have named a successor. Never ends for a publisher without one.
    pub async fn succeeded(&self, publisher: PublisherKey) {
        successors::wait_for(&self.core, publisher).await;
    }

    /// The manifest's JSON, compared with its SHA-256, from any peer that sends it: of the catalog's swarm, of the hosts that
    /// announced the name, of the model's own swarm. The caller must check the signature, the model and the torrent.
    pub async fn manifest(
        &self,
        model: &ModelRef,
        candidate: &Candidate,
        within: Duration,
    ) -> Result<Vec<u8>, CatalogError> {
        self.transfers.fetch(&self.core, model, candidate, within).await
    }

    /// The addresses of peers that claimed in this run to hold a model with this torrent. Peers that have sent its manifest
    /// come first. From memory.
    pub fn holders(&self, info_hash: &InfoHash) -> Vec<SocketAddr> {
        self.holders.of_torrent(info_hash)
    }

    /// Asks all peers, also later ones, whether they hold a model, and reports the address of each holder of this torrent
    /// once. Continues until it is dropped or the catalog stops.
    pub async fn look_for_holders(
        &self,
        model: &ModelRef,
        info_hash: &InfoHash,
        found: impl FnMut(SocketAddr) + Send,
    ) {
        holders::look_for(&self.core, &self.holders, model, info_hash, found).await;
    }

    /// Waits until the publisher of a candidate has announced a newer version of the model, whose manifest is easier to find.
    /// Never ends for a candidate without a record.
    pub async fn replaced(&self, model: &ModelRef, candidate: &Candidate) {
        name_search::replaced(&self.core, model, candidate).await;
    }

    /// Searches the store and, live, the peers, for at most `within`; ends earlier when all peers have answered and there was
    /// no new peer for [`SETTLED`]. `found` receives each result, and again when it is newer or has more seeds.
    pub async fn discover(
        &self,
        query: &Query,
        within: Duration,
        found: impl FnMut(&FoundModel) + Send,
    ) -> Result<(), CatalogError> {
        record_search::discover(&self.core, query, Instant::now() + within, found).await
    }

    /// Commands the keeper of the DHT's entries, if the DHT is on.
    fn keep_in_dht(&self, command: dht_entries::EntryCommand) {
        let _ = self.dht_entries.try_send(command);
    }

    /// Figures for `status`: records known, peers in the catalog's swarm, nodes in the DHT's routing table.
    pub fn status(&self) -> CatalogStatus {
        CatalogStatus {
            records: self.core.local.store.len(),
            peers: self.core.members(),
            dht_nodes: *self.core.dht_nodes.borrow(),
        }
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        self.stop();
    }
}
