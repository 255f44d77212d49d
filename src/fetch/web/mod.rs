//! The web as the seed of last resort: pieces over HTTP where peers do not deliver them.
//!
//! Peers come first. A piece is fetched over HTTP when it was wanted for `PATIENCE` and no peer of its torrent sent
//! anything in that time, or when a reader waited that long for it, even if peers send other pieces. Once the web was
//! needed, it is asked immediately for as long as no peer is connected.
//!
//! Invariants:
//! - A piece is verified against its hash before the engine gets it, and the engine verifies it again, stores it and
//!   seeds it like any other. Pieces whose hashes are not known are not fetched.
//! - A piece is under way once. A request ends when none of its pieces is claimed, when its torrent leaves the engine, and
//!   when `Fetch` is dropped or stopped: its task ends when its entry in the state is dropped.
//! - Requests, and the bytes that they and the engine hold in memory, are bounded for each torrent and for the node.
//! - A server that fails is skipped for growing pauses; one that sent wrong bytes, for the rest of the run.
//!
//! Parts: `sources` (addresses and their health), `choose` (the policy: the next request), `merge` (of pieces), `requests`
//! (under way, in the state; of one torrent: `transfer_web`), `shared` (their limits), `run` (one request), `http` (the real web), `meter`.

mod choose;
mod http;
mod merge;
mod meter;
mod requests;
mod run;
mod shared;
mod sources;
mod transfer_web;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::{Semaphore, oneshot};
use url::Url;

use super::claim::ClaimId;
use crate::model::{InfoHash, PieceHashes};

pub(crate) use http::{HttpSource, Lent};
pub(super) use run::run;
pub(super) use shared::WebShared;
pub(super) use transfer_web::TransferWeb;

/// How long only peers are asked: connecting and a first piece take well under a second where peers are good, and a person
/// who waits for a file notices more than this.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The least length of a request where so much is missing, in bytes: below it, the latency of the response costs more time
/// than its bytes.
const MIN_REQUEST: u64 = 1 << 20;

/// The greatest length of a request, unless a piece is longer, in bytes: so a failed or cancelled request costs little, and
/// several requests share the work.
const MAX_REQUEST: u64 = 16 << 20;

/// Requests at a time for one torrent. One connection seldom fills the line, and more than a few burden the server.
const PER_TORRENT: usize = 4;

/// Requests at a time for the node.
const PER_NODE: usize = 8;

/// So many of a torrent's requests, and twice as many of the node's, are kept for readers: whole files are less urgent.
const FOR_READERS: usize = 1;

/// The most bytes of pieces that are on their way through this process, in blocks of 16 KiB: one piece of the greatest
/// length.
const MEMORY_BLOCKS: usize = (128 << 20) / (16 << 10);

/// How long a server may take to begin its response, redirects included.
const OPEN_WITHIN: Duration = Duration::from_secs(60);

/// How long the next 16 KiB of a response may take.
const BLOCK_WITHIN: Duration = Duration::from_secs(20);

/// How often the engine may refuse a piece before the piece is no longer fetched over HTTP.
const MAX_REFUSED: u32 = 3;

/// A request for bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebRequest {
    /// The address of the file.
    pub url: String,
    /// The bytes wanted; never empty.
    pub range: Range<u64>,
    /// The length of the file.
    pub file_len: u64,
}

/// The requested bytes, as they come, from the first one on. More bytes may follow the last.
pub type WebBody = BoxStream<'static, Result<Bytes, WebError>>;

/// The reason why bytes did not come over HTTP. The texts are for people, and contain the address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebError {
    /// The server cannot be reached, has an internal fault, or the transfer ended early.
    #[error("{0}")]
    Unreachable(String),
    /// The server is overloaded.
    #[error("{why}")]
    Busy {
        /// The response, for people.
        why: String,
        /// The pause that it asks for.
        retry_after: Option<Duration>,
    },
    /// The server needs other credentials.
    #[error("{0}")]
    Denied(String),
    /// The server does not have this file, has another version of it, or does not send parts of it.
    #[error("{0}")]
    Unfit(String),
    /// The bytes do not match their hash.
    #[error("{0}")]
    Lied(String),
}

/// Fetches bytes over HTTP.
pub trait WebSource: Send + Sync + 'static {
    /// Sends the request. Dropping the future or the body ends the transfer.
    fn open(&self, request: WebRequest) -> BoxFuture<'static, Result<WebBody, WebError>>;
}

/// The parts that `Fetch` needs to use the web.
#[derive(Clone)]
pub struct WebSettings {
    /// Sends the requests.
    pub source: Arc<dyn WebSource>,
    /// The address of the hub.
    pub endpoint: Url,
}

impl fmt::Debug for WebSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSettings").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A request for pieces of one file.
#[derive(Debug)]
pub(in crate::fetch) struct PieceDownload {
    pub info_hash: InfoHash,
    /// The request's name in the state.
    pub id: ClaimId,
    pub file: usize,
    pub request: WebRequest,
    /// The file's first piece.
    pub first_piece: u32,
    /// The pieces of the torrent that the range holds.
    pub pieces: Range<u32>,
    pub piece_length: u64,
    pub hashes: Arc<PieceHashes>,
    /// Bounds the bytes in memory, in blocks.
    pub memory: Arc<Semaphore>,
    /// Ends with an error when the request is no longer needed.
    pub ended: oneshot::Receiver<()>,
}
