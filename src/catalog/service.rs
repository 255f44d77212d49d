//! The catalog of a running node: gossip on the engine, names in the DHT, resolving names to manifests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::query::Query;
use crate::catalog::record::SharedRecord;
use crate::catalog::store::CatalogStore;
use crate::model::{InfoHash, ModelName, ModelRef, PublisherKey, Sha256Digest};
use crate::torrent::{Overlay, OverlayEvent};

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
    /// Its manifest's JSON, signature included.
    pub manifest: Arc<[u8]>,
    /// SHA-256 of that JSON.
    pub digest: Sha256Digest,
    /// Whether every byte is here.
    pub complete: bool,
}

/// What this node holds; asked often, answered from memory.
pub trait Holdings: Send + Sync + 'static {
    /// The revisions of a name.
    fn of_name(&self, name: &ModelName) -> Vec<HeldModel>;
    /// The model with this manifest.
    fn by_manifest(&self, digest: &Sha256Digest) -> Option<HeldModel>;
    /// The names to announce in the DHT: those of models of which something is here and which are seeded.
    fn names(&self) -> Vec<ModelName>;
    /// Whether every byte of a torrent is here.
    fn is_complete(&self, info_hash: &InfoHash) -> bool;
    /// Whether a publisher's records are kept in preference to those of strangers.
    fn is_kept(&self, publisher: &PublisherKey) -> bool;
}

/// How to run the catalog.
#[derive(Debug, Clone)]
pub struct CatalogSettings {
    /// Whether the DHT is used.
    pub dht: bool,
    /// Peers given by hand, called in the catalog's swarm and in those of models looked for.
    pub peers: Vec<SocketAddr>,
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

/// The catalog of a running node.
pub struct Catalog {}

impl Catalog {
    /// Joins the catalog's swarm and begins to announce what is held. Must run inside a tokio runtime; its tasks end
    /// with [`stop`](Self::stop).
    pub fn start(
        overlay: Arc<dyn Overlay>,
        store: Arc<CatalogStore>,
        holdings: Arc<dyn Holdings>,
        settings: CatalogSettings,
    ) -> Arc<Self> {
        todo!()
    }

    /// Takes one of the engine's events. Returns at once.
    pub fn handle(&self, event: OverlayEvent) {
        todo!()
    }

    /// Leaves the catalog's swarm, and stops announcing.
    pub fn stop(&self) {
        todo!()
    }

    /// Connects to peers given later by hand.
    pub fn introduce(&self, peers: &[SocketAddr]) {
        todo!()
    }

    /// Announces a record of our own: stores it, tells the peers, stores it in the DHT, and keeps it there.
    pub async fn publish(&self, record: SharedRecord) -> Result<(), CatalogError> {
        todo!()
    }

    /// The models held have changed: names are announced anew.
    pub fn holdings_changed(&self) {
        todo!()
    }

    /// Everything that is known of a name within a time: from the store, the peers and the DHT. Ends as soon as an
    /// answer is certain enough (see the implementation's rules), at the latest after `within`. Looking for the
    /// same model twice at once is one search.
    pub async fn resolve(&self, model: &ModelRef, within: Duration) -> Result<Vec<Candidate>, CatalogError> {
        todo!()
    }

    /// The record of a known publisher, from the DHT (and the store, where it is newer).
    pub async fn resolve_of(
        &self,
        publisher: PublisherKey,
        model: &ModelRef,
        within: Duration,
    ) -> Result<Candidate, CatalogError> {
        todo!()
    }

    /// The manifest's JSON, checked against its SHA-256, from any peer that hands it out: of the catalog's swarm, of
    /// those who announced the name, of the model's own swarm.
    pub async fn manifest(
        &self,
        model: &ModelRef,
        candidate: &Candidate,
        within: Duration,
    ) -> Result<Vec<u8>, CatalogError> {
        todo!()
    }

    /// Searches here and, live, among the peers, for at most `within`; ends earlier when everybody has answered.
    /// `found` is told each result, and again when its seeds grow.
    pub async fn discover(
        &self,
        query: &Query,
        within: Duration,
        found: impl FnMut(&Found) + Send,
    ) -> Result<(), CatalogError> {
        todo!()
    }

    /// Figures for `status`: records known, peers in the catalog's swarm, nodes in the DHT's routing table.
    pub fn status(&self) -> CatalogStatus {
        todo!()
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
