//! The types of the catalog's interface.

use std::collections::HashSet;
use std::sync::Arc;

use crate::catalog::message::HeldManifest;
use crate::catalog::record::SharedRecord;
use crate::model::{InfoHash, ModelName, ModelRef, PublisherKey, Sha256Digest};
use crate::torrent::GivenPeers;

/// The reason why the catalog could not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogError {
    /// No peer that answered in time knows the name.
    #[error("no peer that answered knows {0}")]
    NotFound(ModelRef),
    /// The record is known, but no peer sent its manifest in time.
    #[error("{model} is announced, but no peer sent its manifest")]
    NoManifest {
        /// The model.
        model: ModelRef,
    },
    /// The database failed.
    #[error("{0}")]
    Store(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// A model that this node holds, announces and sends the manifest of.
#[derive(Debug, Clone)]
pub struct HeldModel {
    /// The name and revision.
    pub model: ModelRef,
    /// The signer. Unsigned models are not announced.
    pub publisher: PublisherKey,
    /// Its torrent.
    pub info_hash: InfoHash,
    /// Bytes of its manifest's JSON, signature included.
    pub manifest_len: u32,
    /// SHA-256 of that JSON.
    pub digest: Sha256Digest,
    /// Whether this node has every byte.
    pub complete: bool,
}

/// The models of this node. Called often, and answered from memory.
pub trait Holdings: Send + Sync + 'static {
    /// The revisions of a name.
    fn of_name(&self, name: &ModelName) -> Vec<HeldModel>;
    /// The JSON of the manifest with this digest, if this node holds it. May be made for this call.
    fn manifest(&self, digest: &Sha256Digest) -> Option<Arc<[u8]>>;
    /// The names to announce in the DHT: seeded models that are not empty.
    fn names(&self) -> Vec<ModelName>;
    /// Whether this node has every byte of a torrent.
    fn is_complete(&self, info_hash: &InfoHash) -> bool;
    /// The publishers whose records are kept in preference to records of unknown publishers.
    fn kept(&self) -> Arc<HashSet<PublisherKey>>;
}

/// News after a name was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News<'a> {
    /// A record of the name was stored, or a search that continued has found the name.
    Name(&'a ModelName),
    /// A new peer can be asked while there are few: it may know any name.
    Peer,
    /// A known peer is connected again, or a new peer while there are many: it may hold data that could not be fetched.
    Holder,
}

/// Receives news. Called for each record that is stored: must not block.
pub type NewsReader = dyn Fn(News<'_>) + Send + Sync;

/// How to run the catalog.
#[derive(Debug, Clone)]
pub struct CatalogSettings {
    /// Whether the DHT is used.
    pub dht: bool,
    /// Peers named by the user. They are called in the catalog's swarm and in the swarms of models that are searched for.
    pub peers: GivenPeers,
}

/// A publisher's version of a model, found by a search.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The signer.
    pub publisher: PublisherKey,
    /// Its torrent.
    pub info_hash: InfoHash,
    /// SHA-256 of its manifest's JSON.
    pub manifest: Sha256Digest,
    /// Length of that JSON in bytes.
    pub manifest_len: u32,
    /// The record, if one is known; else a peer claims to hold this manifest.
    pub record: Option<SharedRecord>,
}

/// A search result.
#[derive(Debug, Clone)]
pub struct FoundModel {
    /// The newest record of its publisher, name and version.
    pub record: SharedRecord,
    /// How many nodes claim to have all bytes, this node included.
    pub seeds: u32,
}

impl Candidate {
    /// The model that a record announces; none for the record of a successor.
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

    /// A manifest that a peer claims to hold. Nothing is proven until the manifest has arrived and its signature is checked.
    pub(super) fn of_held(held: &HeldManifest) -> Self {
        Self {
            publisher: held.publisher,
            info_hash: held.info_hash,
            manifest: held.manifest,
            manifest_len: held.len,
            record: None,
        }
    }
}

/// Figures of the catalog.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CatalogStatus {
    /// Records known.
    pub records: usize,
    /// Peers of the catalog's swarm that can be asked.
    pub peers: usize,
    /// Nodes in the DHT's routing table.
    pub dht_nodes: u32,
}
