//! Which pieces, when: reads that wait, the windows ahead of them, whole-file fetching.
//!
//! Readers name a revision and a file; [`Fetch`] joins the swarm when it is first needed, asks for the pieces
//! that are missing, and wakes whoever waits when a piece is verified. All state is on our side and fed by
//! events; the engine is never asked.

use std::sync::Arc;
use std::time::Duration;

use crate::model::InfoHash;
use crate::store::StoredRevision;
use crate::torrent::{Discovery, Event, Swarms};

/// What `Fetch` needs to know of the configuration.
#[derive(Debug, Clone)]
pub struct FetchSettings {
    /// How long a read waits; progress by any byte of the swarm postpones it up to twice.
    pub read_timeout: Duration,
    /// The widest window, in bytes.
    pub readahead_max: u64,
    /// Trackers of every torrent.
    pub trackers: Vec<String>,
    /// Discovery of every torrent.
    pub discovery: Discovery,
    /// Peers given by hand, for every torrent.
    pub peers: Vec<std::net::SocketAddr>,
}

/// Why a read failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// No piece came in time; the text says what was missing (no peers, no peer with the piece, …).
    #[error("timed out: {0}")]
    TimedOut(String),
    /// The node is stopping or the model was removed.
    #[error("stopped")]
    Stopped,
    /// The local disk failed.
    #[error("disk: {0}")]
    Disk(String),
    /// The torrent cannot be used (metainfo refused by the engine).
    #[error("{0}")]
    Broken(String),
}

/// One file of one revision.
#[derive(Debug, Clone)]
pub struct FileRef {
    /// The revision.
    pub revision: Arc<StoredRevision>,
    /// Index into its manifest's files.
    pub file: usize,
}

/// A revision's figures for `status` and progress bars.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TransferStatus {
    /// The torrent.
    pub info_hash: InfoHash,
    /// `org/name@revision`.
    pub model: String,
    /// Verified bytes here.
    pub cached_bytes: u64,
    /// Bytes in all.
    pub total_size: u64,
    /// Payload bytes received by this node.
    pub downloaded: u64,
    /// Payload bytes sent by this node.
    pub uploaded: u64,
    /// Payload bytes per second.
    pub download_rate: u64,
    /// Payload bytes per second.
    pub upload_rate: u64,
    /// Connected peers.
    pub peers: u32,
    /// Connected peers that have everything.
    pub seeds: u32,
    /// Reads that wait now.
    pub waiting_reads: usize,
    /// The last thing that went wrong, for people.
    pub last_error: Option<String>,
}

/// The scheduler of all transfers of one node.
pub struct Fetch;

impl Fetch {
    /// Makes the scheduler. Nothing happens until a revision is read, fetched or seeded.
    pub fn new(_engine: Arc<dyn Swarms>, _paths: crate::paths::Paths, _settings: FetchSettings) -> Arc<Self> {
        todo!()
    }

    /// Takes in what happened in the engine. Called by one task, in order.
    pub fn handle(&self, _event: Event) {
        todo!()
    }

    /// Joins the swarm of a revision, to upload what is here. Idempotent.
    pub fn join(&self, _revision: &Arc<StoredRevision>) -> Result<(), ReadError> {
        todo!()
    }

    /// Leaves a swarm and fails its waiting reads.
    pub fn leave(&self, _info_hash: &InfoHash) {
        todo!()
    }

    /// Reads bytes `offset..offset + len` of a file (cut at its end) when all are already here.
    pub fn try_read(&self, _file: &FileRef, _offset: u64, _len: u64) -> Option<Vec<u8>> {
        todo!()
    }

    /// Reads bytes `offset..offset + len` of a file, cut at its end, waiting for pieces up to the read timeout.
    pub async fn read(
        self: &Arc<Self>,
        _file: &FileRef,
        _offset: u64,
        _len: u64,
    ) -> Result<Vec<u8>, ReadError> {
        todo!()
    }

    /// Fetches whole files (indices into the manifest). Returns when all are verified, or fails when nothing has
    /// come for `stall_timeout`. Dropping the future stops the fetching.
    pub async fn fetch_files(
        self: &Arc<Self>,
        _revision: &Arc<StoredRevision>,
        _files: &[usize],
        _stall_timeout: Duration,
    ) -> Result<(), ReadError> {
        todo!()
    }

    /// Figures of all joined revisions, by name.
    pub fn status(&self) -> Vec<TransferStatus> {
        todo!()
    }

    /// Writes resume data of everything that changed; done when all is on disk or `within` has passed.
    pub async fn flush(&self, _within: Duration) {
        todo!()
    }

    /// Fails all waiting reads with `Stopped`, and every later one.
    pub fn stop(&self) {
        todo!()
    }
}
