//! The engine: swarms behind a trait that is narrow enough to be replaced by an in-memory one in tests.
//!
//! Every method of [`Swarms`] posts a request and returns; no method waits for the network. [`Event`]s report what happens, in
//! order per torrent, on the channel given when the engine was made.

pub mod create;
mod dht;
mod given_peers;
mod group;
pub mod overlay;
mod pump;
mod quiet;
mod session;
mod settings;
mod swarms;
mod talk;
mod trial;
mod trial_peer;

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use fixedbitset::FixedBitSet;

use crate::model::{InfoHash, PieceIndex};
pub use given_peers::GivenPeers;
pub(crate) use given_peers::PeersGuard;
pub(crate) use group::AddressGroup;
pub use overlay::{DhtItem, Meeting, Overlay, OverlayEvent, PeerId, Topic};
pub use session::Session;
pub use settings::SessionSettings;
pub use trial::{
    ChoicePiece, ChosenPeer, ClaimStep, Rumour, Trial, TriedSlots, Upload, Visitor, Worth, try_choose,
    try_claims, try_gate, try_group, try_lies, try_offers, try_rumours, try_slots, try_waste,
};
pub use trial_peer::{Flow, TrialPeer, TrialSupply, trial_claims, trial_patience, trial_place};

/// A torrent of the running engine. Never reused within one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TorrentId(pub u64);

/// The work of a torrent after it was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Fetch nothing until asked (all pieces at priority 0).
    Lazy,
    /// All pieces are on the disk; upload.
    Seed,
}

/// The ways of finding peers that a torrent uses. `--peer` works with all of them off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discovery {
    /// Announce to and search the DHT.
    pub dht: bool,
    /// BEP 14 local service discovery.
    pub lan: bool,
    /// BEP 11 peer exchange.
    pub pex: bool,
}

/// Everything the engine needs to join a swarm.
#[derive(Debug, Clone)]
pub struct AddTorrent {
    /// The expected v2 info hash; the engine refuses metainfo that does not have it.
    pub info_hash: InfoHash,
    /// Bencoded metainfo: at least `info`; `piece layers` where they are known (BEP 52). Layers that are
    /// missing are fetched from peers.
    pub metainfo: Vec<u8>,
    /// Absolute path of each file, in canonical order, pad files left out. Parent directories are created
    /// when first written to.
    pub file_paths: Vec<PathBuf>,
    /// The stamps of files that are never written, one per file, or an empty list: a file with another stamp is not read.
    pub file_stamps: Vec<Option<FileStamp>>,
    /// How uploads of each file are checked, one per file, or an empty list.
    pub file_care: Vec<FileCare>,
    /// Pieces that are already verified in those files; never hashed again. Length = piece count.
    pub have: FixedBitSet,
    /// Verified blocks of the other pieces. The engine neither fetches nor replaces them.
    pub blocks: Vec<(PieceIndex, Range<u32>)>,
    /// The data of an earlier `Event::ResumeData`: known piece layers. Ignored if damaged.
    pub resume: Option<Vec<u8>>,
    /// Lazy or seed.
    pub mode: Mode,
    /// Peers to connect to immediately.
    pub peers: Vec<SocketAddr>,
    /// The ways of finding peers.
    pub discovery: Discovery,
    /// Whether no data of the torrent is sent: no connection is accepted, no data is sent to a peer that this node connected
    /// to, and no way of finding peers is used. See [`Swarms::set_withheld`].
    pub withheld: bool,
}

/// The identity of a file when its bytes were verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileStamp {
    /// Length in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Inode number.
    pub inode: u64,
    /// Change time, nanoseconds since 1970, where it is known. If only the change time differs, the file is read, and each
    /// part of it is proved before it is sent.
    pub changed_ns: Option<i64>,
}

/// How verified bytes are checked before they are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileCare {
    /// Whether each part of the file is proved before it is first sent, because another program may have changed it.
    pub doubted: bool,
    /// A file with the hash of each 64 KiB, with which a part can be proved without reading its whole piece.
    pub granules: Option<PathBuf>,
}

/// The priority of a piece for which no reader waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Not fetched.
    None,
    /// Whole-file fetching.
    Normal,
    /// The window ahead of a reader.
    Ahead,
}

/// The reason why the engine refused a request.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The metainfo is malformed or has another info hash.
    #[error("bad torrent: {0}")]
    BadTorrent(String),
    /// The torrent is not (or no longer) in the engine.
    #[error("the torrent is no longer in the engine")]
    UnknownTorrent,
    /// The engine could not listen on a configured address.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason, for people.
        reason: String,
        /// Whether another program uses the port.
        in_use: bool,
    },
    /// More than [`overlay::MAX_MESSAGE`] bytes.
    #[error("a message of {0} bytes is too long")]
    MessageTooLong(usize),
    /// An item cannot be stored in the DHT.
    #[error("bad DHT item: {0}")]
    BadItem(String),
    /// Too many requests are under way.
    #[error("too many requests are under way")]
    Busy,
    /// The engine itself failed.
    #[error("engine: {0}")]
    Internal(String),
}

/// The cause of a disk failure, as far as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskErrorKind {
    /// No space left, or over quota.
    Full,
    /// The file system is read-only or permission was denied.
    ReadOnly,
    /// The file is missing or too short.
    Missing,
    /// No descriptor is free; the file may be intact.
    Shortage,
    /// Anything else.
    Other,
}

/// A swarm's figures; sent about once a second if they changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwarmStats {
    /// Payload bytes received since the torrent was added.
    pub downloaded: u64,
    /// Payload bytes sent since the torrent was added.
    pub uploaded: u64,
    /// Payload bytes received per second.
    pub download_rate: u64,
    /// Payload bytes sent per second.
    pub upload_rate: u64,
    /// Connected peers.
    pub peers: u32,
    /// Connected peers that have everything.
    pub seeds: u32,
}

/// An event of the engine.
#[derive(Debug, Clone)]
pub enum Event {
    /// The torrent is running.
    Added(TorrentId),
    /// The torrent could not be added, or has stopped and cannot continue. The text is the reason.
    Failed(TorrentId, String),
    /// The piece is verified and its bytes are readable by `pread`.
    PieceVerified(TorrentId, PieceIndex),
    /// These blocks of a piece are verified and readable by `pread`, although the piece is not. The piece may still follow.
    BlocksVerified(TorrentId, PieceIndex, Range<u32>),
    /// No connected peer supplies the hashes of the requested blocks of this piece: only the whole piece can be verified.
    BlocksRefused(TorrentId, PieceIndex),
    /// Answer to `withdraw`, one for each piece: events that concern the piece and came before this one do not count any more.
    Withdrawn(TorrentId, PieceIndex),
    /// The piece's bytes did not match their hash and were discarded; the piece remains requested.
    PieceRejected(TorrentId, PieceIndex),
    /// The bytes of a verified piece are wrong on the disk. The piece is no longer sent; the torrent still counts it until
    /// [`Swarms::withdraw`].
    PieceDamaged(TorrentId, PieceIndex),
    /// A peer finished its handshake.
    PeerConnected(TorrentId, SocketAddr),
    /// A peer disconnected; the text is the reason.
    PeerDisconnected(TorrentId, SocketAddr, String),
    /// New figures.
    Stats(TorrentId, SwarmStats),
    /// How many of the connected peers that have everything have sent nothing for 10 seconds although pieces are wanted.
    SilentSeeds(TorrentId, u32),
    /// How many of the connected peers are readers: they lack pieces, and have announced some in the last 10 seconds or have
    /// just connected.
    Readers(TorrentId, u32),
    /// Reading or writing one of the torrent's files failed. Pieces in flight are lost; the engine clears the torrent's
    /// error, so that it continues when the cause is removed.
    DiskError(TorrentId, PathBuf, DiskErrorKind, String),
    /// Answer to `save_resume`: piece layers known so far, a few kilobytes per GiB.
    ResumeData(TorrentId, Vec<u8>),
    /// Answer to `export_metainfo`: the metainfo with all piece layers, or none if some are unknown.
    Metainfo(TorrentId, Option<Vec<u8>>),
    /// Answer to `fetch_metadata`: the bencoded info dictionary found through a magnet link.
    Metadata(TorrentId, Vec<u8>),
    /// The torrent is out of the engine and its files are closed.
    Removed(TorrentId),
    /// The engine listens on this address.
    Listening(SocketAddr),
    /// The engine could not listen on this address; the text is the reason.
    ListenFailed(SocketAddr, String),
    /// An event for the catalog.
    Overlay(OverlayEvent),
    /// The engine dropped events because its queue overflowed; earlier events do not describe the torrents any more.
    EventsLost,
}

/// Joins swarms and transfers pieces. All methods return immediately; answers are events.
pub trait Swarms: Send + Sync + 'static {
    /// Joins a swarm. `Event::Added` or `Event::Failed` follows.
    fn add(&self, torrent: AddTorrent) -> Result<TorrentId, EngineError>;

    /// Finds the info dictionary of a magnet link from peers, storing nothing. `Event::Metadata` follows when some peer has
    /// it; the caller then removes the torrent.
    fn fetch_metadata(&self, magnet: &str, peers: &[SocketAddr]) -> Result<TorrentId, EngineError>;

    /// Leaves a swarm, keeping the files. `Event::Removed` follows.
    fn remove(&self, id: TorrentId) -> Result<(), EngineError>;

    /// Requests a piece for a reader that waits; pieces with an earlier `deadline` come first.
    fn request(&self, id: TorrentId, piece: PieceIndex, deadline: Duration) -> Result<(), EngineError>;

    /// Requests blocks of a piece for a reader that waits, in addition to blocks requested before; blocks of 16 KiB, by their
    /// numbers in the piece. `BlocksVerified` follows for groups of four blocks, or `BlocksRefused`. `request` and
    /// `set_priority` end the restriction to these blocks.
    fn request_blocks(
        &self,
        id: TorrentId,
        piece: PieceIndex,
        blocks: &[Range<u32>],
        deadline: Duration,
    ) -> Result<(), EngineError>;

    /// Sets the priority of pieces. `Priority::None` also cancels `request`.
    fn set_priority(&self, id: TorrentId, pieces: &[(PieceIndex, Priority)]) -> Result<(), EngineError>;

    /// Connects to a peer now, however often that failed before.
    fn connect_peer(&self, id: TorrentId, peer: SocketAddr) -> Result<(), EngineError>;

    /// Connects now to all known peers of a torrent that are not connected, however often that failed before. The engine
    /// limits the number of calls.
    fn redial(&self, id: TorrentId) -> Result<(), EngineError>;

    /// Withdraws pieces that the torrent has: their bytes are about to be deleted. When this returns, none of them is sent any
    /// more, and nothing is written to them; peers with the extension learn of it, and the pieces are not fetched until they
    /// are requested again. The pieces may be incomplete. `Event::Withdrawn` follows for each.
    fn withdraw(&self, id: TorrentId, pieces: &[PieceIndex]) -> Result<(), EngineError>;

    /// Withholds a running torrent, or ends that. All its connections end when it is withheld.
    fn set_withheld(&self, id: TorrentId, withheld: bool) -> Result<(), EngineError>;

    /// Announces and searches for peers again now, in every enabled way.
    fn reannounce(&self, id: TorrentId) -> Result<(), EngineError>;

    /// Gives the engine a piece that did not come from a peer. The engine hashes it: `PieceVerified` or `PieceRejected`
    /// follows.
    fn give_piece(&self, id: TorrentId, piece: PieceIndex, bytes: Vec<u8>) -> Result<(), EngineError>;

    /// Asks for the torrent's resume data.
    fn save_resume(&self, id: TorrentId) -> Result<(), EngineError>;

    /// Asks for the metainfo with piece layers.
    fn export_metainfo(&self, id: TorrentId) -> Result<(), EngineError>;
}
