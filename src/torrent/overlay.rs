//! What the catalog needs of the engine: meeting places, messages between peers, and the DHT.
//!
//! As with [`Swarms`](super::Swarms), every method posts a request and returns; answers are [`OverlayEvent`]s.
//! The messages are one BEP 10 extension, `silmaril_catalog`; the engine moves their bytes and knows nothing of what
//! they mean.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha1::{Digest, Sha1};

use super::{EngineError, TorrentId};
use crate::model::{InfoHash, PublisherKey};

/// The longest message, in bytes, that is sent or taken. A peer that sends a longer one is hung up on.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// How many bytes of messages of one peer may wait to be dealt with. A peer that sends faster is hung up on.
pub const MAX_UNREAD: usize = 4 * 1024 * 1024;

/// How many bytes of messages of all peers together may wait; beyond it, a peer of which more than a few messages wait
/// is hung up on when it sends another.
pub const MAX_UNREAD_OF_ALL: usize = 16 * 1024 * 1024;

/// The longest value of a DHT item, in bencoded bytes (BEP 44).
pub const MAX_ITEM: usize = 1000;

/// A place in the DHT (BEP 5), and the v1 info hash of a swarm that has no metadata.
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

/// Where peers meet without moving any data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meeting {
    /// A swarm that nobody has metadata of.
    Topic(Topic),
    /// The swarm of a model whose manifest is not known yet.
    Model(InfoHash),
}

/// A connection to a peer that speaks the extension. Never reused within one engine; the same host has one per swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

/// A message of a peer. While it lives it counts towards what may wait of that peer ([`MAX_UNREAD`]): whoever listens
/// drops it when it is dealt with, and moves it into no queue without a bound.
#[derive(Default)]
pub struct MessageBytes {
    bytes: Vec<u8>,
    _counted: Option<Counted>,
}

/// Takes a message's bytes off a count when dropped.
struct Counted {
    by: usize,
    counts: [Arc<AtomicUsize>; 2],
}

impl Drop for Counted {
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
        Self { bytes, _counted: Some(Counted { by, counts }) }
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
    /// A copy that counts nowhere.
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
    /// Whose it is.
    pub publisher: PublisherKey,
    /// Which of theirs.
    pub salt: [u8; 20],
    /// Grows with every change.
    pub sequence: i64,
    /// Bencoded, in canonical form, at most [`MAX_ITEM`] bytes.
    pub value: Vec<u8>,
    /// Of the BEP 44 signing buffer over salt, sequence and value.
    pub signature: [u8; 64],
}

impl DhtItem {
    /// What the signature of an item with a salt is made of (BEP 44, "signature verification").
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

/// What happens to peers that speak the extension, and in the DHT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverlayEvent {
    /// A peer that speaks the catalog's extension has finished its handshakes.
    Speaks {
        /// In which torrent or meeting.
        torrent: TorrentId,
        /// The connection.
        peer: PeerId,
        /// Its other end. The port is the one it can be called at where that is known.
        address: SocketAddr,
        /// Whether we called.
        outgoing: bool,
    },
    /// A message of such a peer, in order.
    Said(PeerId, MessageBytes),
    /// Such a peer is gone; its `PeerId` is void.
    Left(PeerId),
    /// Some of those who announced at a topic.
    DhtPeers(Topic, Vec<SocketAddr>),
    /// Answer to `get_item`: the newest item found, if any; its signature was checked by the engine. Asking again
    /// before the answer has come is the same question.
    DhtFound(PublisherKey, [u8; 20], Option<DhtItem>),
    /// Answer to `put_item`: how many nodes of the DHT stored it; none when the DHT had a newer one, which stays.
    DhtStored(PublisherKey, [u8; 20], u32),
    /// How many nodes the DHT's routing table holds; told when it changed, at most once a second.
    DhtNodes(u32),
}

/// Meets peers, speaks with them, and uses the DHT.
pub trait Overlay: Send + Sync + 'static {
    /// Joins a swarm to meet its peers, by every way of finding peers that is on. `Event::Added` follows, or
    /// `Event::Failed` where the engine has a torrent or meeting of that place already. It is left by
    /// [`leave`](Self::leave). A model's meeting is to be left before its torrent is added; nothing needs to be waited
    /// for in between. While it has no peers, a meeting looks for some again every ten seconds.
    fn meet(&self, place: Meeting, peers: &[SocketAddr]) -> Result<TorrentId, EngineError>;

    /// Leaves a meeting. `Event::Removed` follows.
    fn leave(&self, id: TorrentId) -> Result<(), EngineError>;

    /// Connects to a peer of a meeting.
    fn call(&self, id: TorrentId, peer: SocketAddr) -> Result<(), EngineError>;

    /// Looks for peers of a meeting again now, on every way that is on.
    fn look_again(&self, id: TorrentId) -> Result<(), EngineError>;

    /// Sends a message of at most [`MAX_MESSAGE`] bytes. One to a peer that is gone is dropped. A peer that leaves more
    /// than 4 MiB of messages unread is hung up on.
    fn send(&self, peer: PeerId, message: &[u8]) -> Result<(), EngineError>;

    /// Hangs up on a peer; `Left` follows. It may come back. With `ban`, nobody in its [`AddressGroup`](super::AddressGroup) is spoken to
    /// for ten minutes, in any swarm, for several nodes may share one; loopback is never banned.
    fn hang_up(&self, peer: PeerId, ban: bool) -> Result<(), EngineError>;

    /// Announces this node, with its listen port, at a topic of the DHT (BEP 5). Without effect while the DHT is off
    /// and with `network.announce: false`. The DHT forgets it after about half an hour.
    fn announce(&self, topic: Topic) -> Result<(), EngineError>;

    /// Asks the DHT who announced at a topic. [`OverlayEvent::DhtPeers`] follows, several times, or never where nobody
    /// did.
    fn find(&self, topic: Topic) -> Result<(), EngineError>;

    /// Stores an item in the DHT, unless that has a newer one. [`OverlayEvent::DhtStored`] follows where the DHT is on
    /// and this node is announced.
    /// An item that is too long, not canonical, or not signed by its publisher is an error.
    fn put_item(&self, item: &DhtItem) -> Result<(), EngineError>;

    /// Asks the DHT for the newest item of a publisher and salt. [`OverlayEvent::DhtFound`] follows, within 15 s; at
    /// once, with nothing, while the DHT is off.
    fn get_item(&self, publisher: PublisherKey, salt: [u8; 20]) -> Result<(), EngineError>;
}
