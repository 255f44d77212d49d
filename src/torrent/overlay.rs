//! The part of the engine for the catalog: meetings, messages between peers, and the DHT.
//!
//! As with [`Swarms`](super::Swarms), every method posts a request and returns; answers are [`OverlayEvent`]s. The messages are
//! one BEP 10 extension, `silmaril_catalog`; the engine transfers their bytes and does not interpret them.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha1::{Digest, Sha1};

use super::{EngineError, TorrentId};
use crate::model::{InfoHash, PublisherKey};

/// The longest message that is sent or accepted, in bytes. A peer that sends a longer one is disconnected.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// The most bytes of unread messages of one peer. A peer that exceeds it is disconnected.
pub const MAX_UNREAD: usize = 4 * 1024 * 1024;

/// The most bytes of unread messages of all peers. Beyond it, a peer with more than a few unread messages is disconnected when
/// it sends another one.
pub const MAX_UNREAD_OF_ALL: usize = 16 * 1024 * 1024;

/// The longest value of a DHT item, in bencoded bytes (BEP 44).
pub const MAX_ITEM: usize = 1000;

/// The first port that is not one of a system service. Any node of the DHT and any peer can name any port of any host, so this
/// node does not connect to a host that is named with a lower one. The engine has the same rule.
pub const FIRST_PORT: u16 = 1024;

/// A key of the DHT (BEP 5), and the v1 info hash of a swarm that has no metadata.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(pub [u8; 20]);

impl Topic {
    /// The topic of a text: its SHA-1.
    pub fn of(text: &str) -> Self {
        Self(Sha1::digest(text.as_bytes()).into())
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", hex::encode(self.0))
    }
}

/// A swarm in which peers meet without transferring pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meeting {
    /// A swarm without metadata.
    Topic(Topic),
    /// The swarm of a model whose manifest is not known yet.
    Model(InfoHash),
}

/// A connection to a peer that speaks the extension. Never reused within one engine; the same host has one per swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

/// A message of a peer. While it lives it counts as unread ([`MAX_UNREAD`]): the receiver drops it when it is processed, and
/// must not move it to an unbounded queue.
#[derive(Default)]
pub struct MessageBytes {
    bytes: Vec<u8>,
    _counted: Option<CountedBytes>,
}

/// Subtracts the bytes of a message from the counts when dropped.
struct CountedBytes {
    by: usize,
    counts: [Arc<AtomicUsize>; 2],
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        for count in &self.counts {
            count.fetch_sub(self.by, Ordering::Relaxed);
        }
    }
}

impl MessageBytes {
    /// A message that counts, with `overhead` on top of its length, in both counts until it is dropped.
    pub(super) fn counted(bytes: Vec<u8>, overhead: usize, counts: [Arc<AtomicUsize>; 2]) -> Self {
        let by = bytes.len() + overhead;
        for count in &counts {
            count.fetch_add(by, Ordering::Relaxed);
        }
        Self { bytes, _counted: Some(CountedBytes { by, counts }) }
    }
}

impl From<Vec<u8>> for MessageBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, _counted: None }
    }
}

impl Deref for MessageBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Clone for MessageBytes {
    /// A copy that is not counted.
    fn clone(&self) -> Self {
        self.bytes.clone().into()
    }
}

impl PartialEq for MessageBytes {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for MessageBytes {}

impl fmt::Debug for MessageBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageBytes({} bytes)", self.bytes.len())
    }
}

/// A mutable item of the DHT (BEP 44).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhtItem {
    /// The publisher that signs it.
    pub publisher: PublisherKey,
    /// Distinguishes the items of one publisher.
    pub salt: [u8; 20],
    /// Increases with every change.
    pub sequence: i64,
    /// Bencoded, in canonical form, at most [`MAX_ITEM`] bytes.
    pub value: Vec<u8>,
    /// The signature of the BEP 44 signing buffer over salt, sequence and value.
    pub signature: [u8; 64],
}

impl DhtItem {
    /// The signed text of an item with a salt (BEP 44, "signature verification").
    pub fn to_sign(salt: &[u8], sequence: i64, value: &[u8]) -> Vec<u8> {
        let mut text = format!("4:salt{}:", salt.len()).into_bytes();
        text.extend_from_slice(salt);
        text.extend_from_slice(format!("3:seqi{sequence}e1:v").as_bytes());
        text.extend_from_slice(value);
        text
    }

    /// Whether the signature is the publisher's.
    pub fn is_signed(&self) -> bool {
        let text = Self::to_sign(&self.salt, self.sequence, &self.value);
        self.publisher.verify_strict(&text, &self.signature).is_ok()
    }
}

/// Events of peers that speak the extension, and of the DHT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverlayEvent {
    /// A peer that speaks the catalog's extension has finished its handshakes.
    Speaks {
        /// The torrent or meeting.
        torrent: TorrentId,
        /// The connection.
        peer: PeerId,
        /// The peer's address. The port is the one on which it listens, if known.
        address: SocketAddr,
        /// Whether this node made the connection.
        outgoing: bool,
    },
    /// A message of such a peer, in order.
    Received(PeerId, MessageBytes),
    /// Such a peer has disconnected; its `PeerId` is invalid.
    Left(PeerId),
    /// Some of the hosts that announced at a topic.
    DhtPeers(Topic, Vec<SocketAddr>),
    /// Answer to `get_item`: the newest item found, if any, with a verified signature. A repeated query gets one answer.
    DhtFound(PublisherKey, [u8; 20], Option<DhtItem>),
    /// Answer to `put_item`: how many nodes of the DHT stored it; 0 if the DHT had a newer one, which remains.
    DhtStored(PublisherKey, [u8; 20], u32),
    /// The number of nodes in the DHT's routing table; sent when it changed, at most once a second.
    DhtNodes(u32),
}

/// Meets peers, exchanges messages with them, and uses the DHT.
pub trait Overlay: Send + Sync + 'static {
    /// Joins a swarm to meet its peers, in every enabled way of finding peers. `Event::Added` follows, or `Event::Failed` if
    /// the engine already has a torrent or meeting of that swarm. [`leave`](Self::leave) ends it. A model's meeting must be
    /// left before its torrent is added, without waiting in between. While it has no peers, a meeting searches for some every
    /// ten seconds.
    fn meet(&self, place: Meeting, peers: &[SocketAddr]) -> Result<TorrentId, EngineError>;

    /// Leaves a meeting. `Event::Removed` follows.
    fn leave(&self, id: TorrentId) -> Result<(), EngineError>;

    /// Connects to a peer of a meeting.
    fn connect(&self, id: TorrentId, peer: SocketAddr) -> Result<(), EngineError>;

    /// Searches for peers of a meeting again now, in every enabled way.
    fn search_again(&self, id: TorrentId) -> Result<(), EngineError>;

    /// Sends a message of at most [`MAX_MESSAGE`] bytes. A message to a peer that has left is dropped. A peer that leaves more
    /// than 4 MiB of messages unread is disconnected.
    fn send(&self, peer: PeerId, message: &[u8]) -> Result<(), EngineError>;

    /// Disconnects a peer; `Left` follows. A peer that misbehaved is refused for ten minutes, and messages on new connections of
    /// its [`AddressGroup`](super::AddressGroup) are ignored for a minute, except on loopback. Other connections of the group,
    /// and data, are not affected: several nodes may share an address.
    fn disconnect(&self, peer: PeerId, misbehaved: bool) -> Result<(), EngineError>;

    /// Announces this node, with its listen port, at a topic of the DHT (BEP 5). Without effect if the DHT is off or with
    /// `network.announce: false`. The DHT forgets the announcement after about half an hour.
    fn announce(&self, topic: Topic) -> Result<(), EngineError>;

    /// Asks the DHT which hosts announced at a topic. [`OverlayEvent::DhtPeers`] follows, several times, or never if no host
    /// did.
    fn find(&self, topic: Topic) -> Result<(), EngineError>;

    /// Stores an item in the DHT, unless it has a newer one. [`OverlayEvent::DhtStored`] follows if the DHT is on and this node
    /// is announced. An item that is too long, not canonical, or not signed by its publisher is an error.
    fn put_item(&self, item: &DhtItem) -> Result<(), EngineError>;

    /// Asks the DHT for the newest item of a publisher and salt. [`OverlayEvent::DhtFound`] follows within 15 s; immediately and
    /// without an item if the DHT is off.
    fn get_item(&self, publisher: PublisherKey, salt: [u8; 20]) -> Result<(), EngineError>;
}
