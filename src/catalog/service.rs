//! The catalog of a running node: gossip on the engine, names in the DHT, resolving names to manifests.
//!
//! [`Catalog`] owns the tasks. `core` carries out what the gossip says; `inbox` holds what peers say until it is read,
//! on threads that may block; `known` is what is answered from; `company` joins the catalog's swarm; `names` keeps the
//! DHT's entries. `resolve`, `manifests` and `discover` are what callers wait for; each hears the answers to its own
//! questions through a listener, `flights` makes one search of many, and `holders` remembers who said to have what.
//!
//! What always holds: the engine's events are taken without waiting; nothing is handed to a caller but records whose
//! signature was checked and manifests whose digest was; every operation ends by its deadline.

mod company;
mod core;
mod discover;
mod flights;
mod holders;
mod inbox;
mod known;
mod manifests;
mod names;
mod resolve;
mod successors;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::core::Clock;
use self::core::{Core, Heard};
use crate::catalog::gossip::{Connection, Origin};
use crate::catalog::message::HeldManifest;
use crate::catalog::query::Query;
use crate::catalog::record::SharedRecord;
use crate::catalog::store::CatalogStore;
use crate::model::{InfoHash, ModelName, ModelRef, PublisherKey, Sha256Digest};
use crate::torrent::{GivenPeers, Overlay, OverlayEvent};
pub use discover::{MAX_PAGES, SETTLED};
use known::Known;
pub use manifests::PART_WITHIN;
pub use names::{ANNOUNCE_EVERY, ANNOUNCE_PAUSE, STORE_EVERY, STORE_PAUSE, topic_of};
pub use resolve::{GRACE, LAN_SOON, LAN_WITHIN, MISS, Patience, WAVE};

/// What the keeper of the DHT's entries may be told at once; it looks for itself as well.
const MAX_COMMANDS: usize = 1024;

/// Why the catalog could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogError {
    /// Nobody who answered in time knows the name.
    #[error("nobody reached knows {0}")]
    NotFound(ModelRef),
    /// The record is known, but nobody reached handed out its manifest in time.
    #[error("{model} is announced, but nobody reached hands out its manifest")]
    NoManifest {
        /// Which model.
        model: ModelRef,
    },
    /// The database failed.
    #[error("{0}")]
    Store(String),
    /// The node stops.
    #[error("the node is stopping")]
    Stopped,
}

/// A model that this node holds, as the catalog announces and hands it out.
#[derive(Debug, Clone)]
pub struct HeldModel {
    /// Which.
    pub model: ModelRef,
    /// Who signed it. Unsigned ones are not held out to others.
    pub publisher: PublisherKey,
    /// Its torrent.
    pub info_hash: InfoHash,
    /// Bytes of its manifest's JSON, signature included.
    pub manifest_len: u32,
    /// SHA-256 of that JSON.
    pub digest: Sha256Digest,
    /// Whether every byte is here.
    pub complete: bool,
}

/// What this node holds; asked often, answered from memory.
pub trait Holdings: Send + Sync + 'static {
    /// The revisions of a name.
    fn of_name(&self, name: &ModelName) -> Vec<HeldModel>;
    /// The JSON of the manifest with this digest, where it is held. May be made for this.
    fn manifest(&self, digest: &Sha256Digest) -> Option<Arc<[u8]>>;
    /// The names to announce in the DHT: those of models of which something is here and which are seeded.
    fn names(&self) -> Vec<ModelName>;
    /// Whether every byte of a torrent is here.
    fn is_complete(&self, info_hash: &InfoHash) -> bool;
    /// The publishers whose records are kept in preference to those of strangers.
    fn kept(&self) -> Arc<HashSet<PublisherKey>>;
}

/// What has become known since a name was looked for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News<'a> {
    /// A record of the name was stored, or a search that went on has found the name.
    Name(&'a ModelName),
    /// One of few peers has come: it may know any name.
    Peer,
    /// A peer is connected that was connected before, or that is one of many: it may hold what could not be fetched.
    Holder,
}

/// Reads news. Called for each record that is stored: must not block.
pub type NewsReader = dyn Fn(News<'_>) + Send + Sync;

/// How to run the catalog.
#[derive(Debug, Clone)]
pub struct CatalogSettings {
    /// Whether the DHT is used.
    pub dht: bool,
    /// Peers given by hand, called in the catalog's swarm and in those of models looked for.
    pub peers: GivenPeers,
}

/// One answer to the question whose model a name stands for.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Who signed it.
    pub publisher: PublisherKey,
    /// Its torrent.
    pub info_hash: InfoHash,
    /// SHA-256 of its manifest's JSON.
    pub manifest: Sha256Digest,
    /// Length of that JSON in bytes.
    pub manifest_len: u32,
    /// The record, where one is known; else a peer said it holds such a manifest.
    pub record: Option<SharedRecord>,
}

/// A search result.
#[derive(Debug, Clone)]
pub struct Found {
    /// The newest record of its publisher, name and version.
    pub record: SharedRecord,
    /// How many nodes, this one included, said that they have all of it.
    pub seeds: u32,
}

impl Candidate {
    /// What a record announces; none for one that announces no model.
    pub fn of_record(record: &SharedRecord) -> Option<Self> {
        let model = record.model()?;
        Some(Self {
            publisher: record.record().publisher,
            info_hash: model.info_hash,
            manifest: model.manifest,
            manifest_len: model.manifest_len,
            record: Some(SharedRecord::clone(record)),
        })
    }

    /// What a peer says it holds. Nothing of it is proven until its manifest is here and its signature checked.
    fn of_held(held: &HeldManifest) -> Self {
        Self {
            publisher: held.publisher,
            info_hash: held.info_hash,
            manifest: held.manifest,
            manifest_len: held.len,
            record: None,
        }
    }
}

/// The catalog of a running node.
pub struct Catalog {
    core: Arc<Core>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Catalog {
    /// Joins the catalog's swarm and begins to announce what is held. Must run inside a tokio runtime; its tasks end
    /// with [`stop`](Self::stop).
    pub fn start(
        overlay: Arc<dyn Overlay>,
        store: Arc<CatalogStore>,
        holdings: Arc<dyn Holdings>,
        settings: CatalogSettings,
    ) -> Arc<Self> {
        let clock = || UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
        Self::start_at(overlay, store, holdings, settings, Arc::new(clock))
    }

    /// The same with another wall clock, by which records expire. Everything else goes by tokio's clock.
    pub fn start_at(
        overlay: Arc<dyn Overlay>,
        store: Arc<CatalogStore>,
        holdings: Arc<dyn Holdings>,
        settings: CatalogSettings,
        clock: Clock,
    ) -> Arc<Self> {
        let (names, commands) = mpsc::channel(MAX_COMMANDS);
        let core = Arc::new(Core::new(overlay, Known::new(store, holdings), settings, clock, names));
        company::join(&core);
        let tasks = vec![
            tokio::spawn(Arc::clone(&core).read_all()),
            tokio::spawn(Arc::clone(&core).tick_all()),
            tokio::spawn(company::keep(Arc::clone(&core))),
            tokio::spawn(names::run(Arc::clone(&core), commands)),
        ];
        Arc::new(Self { core, tasks: Mutex::new(tasks) })
    }

    /// Takes one of the engine's events. Returns at once.
    pub fn handle(&self, event: OverlayEvent) {
        let core = &self.core;
        match event {
            OverlayEvent::Speaks { torrent, peer, address, .. } => {
                core.speaks(peer, Connection { of_catalog: core.swarm() == Some(torrent), address });
            }
            OverlayEvent::Said(peer, bytes) => core.said(peer, bytes),
            OverlayEvent::Left(peer) => core.left(peer),
            OverlayEvent::DhtPeers(topic, peers) => core.tell_all(&Heard::DhtPeers(topic, peers)),
            OverlayEvent::DhtFound(publisher, salt, item) => {
                core.tell_all(&Heard::DhtItem(publisher, salt, item));
            }
            OverlayEvent::DhtStored(publisher, salt, nodes) => {
                core.keep_in_dht(names::Command::Stored(publisher, salt, nodes));
            }
            OverlayEvent::DhtNodes(nodes) => {
                if core.dht_nodes.send_replace(nodes) == 0 && nodes > 0 {
                    core.tell_all(&Heard::DhtReady);
                }
            }
        }
    }

    /// Leaves the catalog's swarm, and stops announcing. Whoever waits is told [`CatalogError::Stopped`].
    pub fn stop(&self) {
        if self.core.stopped.send_replace(true) {
            return;
        }
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        company::leave(&self.core);
    }

    /// Connects to peers given later by hand.
    pub fn introduce(&self, peers: &[SocketAddr]) {
        company::introduce(&self.core, peers);
    }

    /// Announces a record of our own: stores it, tells the peers, stores it in the DHT, and keeps it there.
    pub async fn publish(&self, record: SharedRecord, in_dht: bool) -> Result<(), CatalogError> {
        if *self.core.stopped.borrow() {
            return Err(CatalogError::Stopped);
        }
        let (core, own) = (Arc::clone(&self.core), SharedRecord::clone(&record));
        tokio::task::spawn_blocking(move || core.store(Origin::Own, &[own]))
            .await
            .map_err(|_| CatalogError::Stopped)?
            .map_err(|error| CatalogError::Store(error.to_string()))?;
        if in_dht {
            self.core.keep_in_dht(names::Command::Own(record));
        }
        Ok(())
    }

    /// The models held have changed: names are announced anew.
    pub fn holdings_changed(&self) {
        self.core.keep_in_dht(names::Command::Held);
    }

    /// Everything that is known of a name within a time: from the store, the peers and the DHT. Ends when there is a
    /// candidate and every peer asked has answered, or [`GRACE`] has passed since the first; at the latest after
    /// `within`. A name that no peer has is reported as soon as the caller's `patience` allows. Looking for the same model
    /// twice is one search, and that no peer knows it is remembered for [`MISS`], unless there are [`News`].
    pub async fn resolve(
        &self,
        model: &ModelRef,
        within: Duration,
        patience: Patience,
    ) -> Result<Vec<Candidate>, CatalogError> {
        resolve::resolve(&self.core, model, within, patience).await
    }

    /// Reports what becomes known from now on. The first call counts.
    pub fn report_news(&self, reader: impl Fn(News<'_>) + Send + Sync + 'static) {
        let _ = self.core.news.set(Box::new(reader));
    }

    /// The record of a known publisher, from the DHT, and from the store and the peers where theirs is newer. Where
    /// there is none, a manifest of that publisher that a peer says it holds.
    pub async fn resolve_of(
        &self,
        publisher: PublisherKey,
        model: &ModelRef,
        within: Duration,
    ) -> Result<Candidate, CatalogError> {
        resolve::resolve_of(&self.core, publisher, model, within).await
    }

    /// The key that a publisher has named as successor, from the DHT. None where it has none within the time, or is off.
    pub async fn successor(&self, publisher: PublisherKey, within: Duration) -> Option<PublisherKey> {
        let mut stopped = self.core.stopped.subscribe();
        tokio::select! {
            next = successors::look_up(&self.core, publisher, within) => next,
            _ = stopped.wait_for(|stopped| *stopped) => None,
        }
    }

    /// Waits until a publisher is known to have named a successor, whoever says so. Never ends for one who has none.
    pub async fn succeeded(&self, publisher: PublisherKey) {
        successors::heard(&self.core, publisher).await;
    }

    /// The manifest's JSON, checked against its SHA-256, from any peer that hands it out: of the catalog's swarm, of
    /// those who announced the name, of the model's own swarm. Whether its signature is the candidate's publisher's,
    /// and whether it is of that model and torrent, is for the caller to check.
    pub async fn manifest(
        &self,
        model: &ModelRef,
        candidate: &Candidate,
        within: Duration,
    ) -> Result<Vec<u8>, CatalogError> {
        manifests::fetch(&self.core, model, candidate, within).await
    }

    /// The addresses of peers that said in this run that they hold a model with this torrent, whoever handed out its manifest first.
    /// Answered from memory.
    pub fn holders(&self, info_hash: &InfoHash) -> Vec<SocketAddr> {
        self.core.holders.of_torrent(info_hash)
    }

    /// Asks the peers, also those who come later, who holds a model, and tells the address of each that says it
    /// holds it with this torrent, once. Goes on until it is dropped or the catalog stops.
    pub async fn look_for_holders(
        &self,
        model: &ModelRef,
        info_hash: &InfoHash,
        found: impl FnMut(SocketAddr) + Send,
    ) {
        holders::look_for(&self.core, model, info_hash, found).await;
    }

    /// Waits until the publisher of a candidate is known to have announced another state of the model, of which the
    /// manifest is to be had more likely. Never ends for a candidate without a record.
    pub async fn replaced(&self, model: &ModelRef, candidate: &Candidate) {
        resolve::replaced(&self.core, model, candidate).await;
    }

    /// Searches here and, live, among the peers, for at most `within`; ends earlier when everybody has answered and
    /// nobody new has come for [`SETTLED`]. `found` is told each result, and again when it is newer or its seeds grow.
    pub async fn discover(
        &self,
        query: &Query,
        within: Duration,
        found: impl FnMut(&Found) + Send,
    ) -> Result<(), CatalogError> {
        discover::discover(&self.core, query, Instant::now() + within, found).await
    }

    /// Figures for `status`: records known, peers in the catalog's swarm, nodes in the DHT's routing table.
    pub fn status(&self) -> CatalogStatus {
        CatalogStatus {
            records: self.core.records(),
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

/// What the catalog says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CatalogStatus {
    /// Records known.
    pub records: usize,
    /// Peers in the catalog's swarm that speak.
    pub peers: usize,
    /// Nodes in the DHT's routing table.
    pub dht_nodes: u32,
}
