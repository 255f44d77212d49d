//! An engine in memory: its peers stall, send bad pieces, vanish and return as the test chooses.
//!
//! It keeps the promises of the real engine: a piece's bytes are in their file before the piece is reported as
//! verified, events of a torrent are in order, and only requested pieces arrive. It records all calls.

mod commands;
mod state;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use silmaril::model::{InfoHash, Layout};
use silmaril::torrent::{AddTorrent, DiskErrorKind, EngineError, Event, Priority, TorrentId};
use tokio::sync::mpsc;

pub use state::Peer;
use state::{Inner, Published};

/// A call of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Add(InfoHash),
    Remove(InfoHash),
    Request(InfoHash, u32, Duration),
    /// Blocks of a piece, by their numbers.
    Blocks(InfoHash, u32, Duration, Vec<Range<u32>>),
    Priority(InfoHash, u32, Priority),
    Connect(InfoHash, SocketAddr),
    Redial(InfoHash),
    Withdraw(InfoHash, Vec<u32>),
    SetWithheld(InfoHash, bool),
    Reannounce(InfoHash),
    SaveResume(InfoHash),
    Export(InfoHash),
    Give(InfoHash, u32),
}

/// The time at which a requested piece arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As soon as it is requested and a peer has it.
    Immediate,
    /// This long after the request.
    After(Duration),
    /// When the test calls `deliver`.
    ByHand,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedPiece {
    Priority(Priority),
    Requested,
}

/// The engine.
pub struct FakeSwarm {
    inner: Mutex<Inner>,
    myself: std::sync::Weak<FakeSwarm>,
}

impl FakeSwarm {
    /// An engine without torrents and peers, and its events.
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Event>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let inner = Inner {
            events,
            next_id: 0,
            torrents: BTreeMap::new(),
            published: HashMap::new(),
            peers: HashMap::new(),
            calls: Vec::new(),
            delivery: Delivery::Immediate,
            lies: 0,
            refusals: Vec::new(),
            starts: true,
            removes: true,
            layers_known: true,
            takes_pieces: true,
            refuses: 0,
            judges: false,
            parts: false,
        };
        let swarm = Arc::new_cyclic(|myself| Self { inner: Mutex::new(inner), myself: myself.clone() });
        (swarm, receiver)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Gives the bytes of a torrent to its peers.
    pub fn publish(&self, info_hash: InfoHash, layout: Layout, files: Vec<Arc<Vec<u8>>>) {
        self.inner().published.insert(info_hash, Published { layout, files });
    }

    /// Sets the time at which requested pieces arrive.
    pub fn delivery(&self, delivery: Delivery) {
        self.inner().delivery = delivery;
        self.pump();
    }

    /// Adds a peer to the swarm, with all pieces or these.
    pub fn peer(&self, info_hash: InfoHash, addr: &str, has: Option<&[u32]>) {
        let peer = Peer { addr: addr.parse().unwrap(), has: has.map(|h| h.iter().copied().collect()) };
        let mut inner = self.inner();
        let addr = peer.addr;
        inner.peers.entry(info_hash).or_default().push(peer);
        inner.send_to_all(info_hash, |id| Event::PeerConnected(id, addr));
        drop(inner);
        self.pump();
    }

    /// Removes a peer from the swarm.
    pub fn vanish(&self, info_hash: InfoHash, addr: &str) {
        let addr: SocketAddr = addr.parse().unwrap();
        let mut inner = self.inner();
        inner.peers.entry(info_hash).or_default().retain(|p| p.addr != addr);
        inner.send_to_all(info_hash, |id| Event::PeerDisconnected(id, addr, "gone".into()));
    }

    /// Makes the next `n` pieces bad.
    pub fn lie(&self, n: usize) {
        self.inner().lies = n;
    }

    /// Makes the next `add` fail.
    pub fn refuse(&self, error: EngineError) {
        self.inner().refusals.push(error);
    }

    /// Sets whether torrents start when they are added. Otherwise `start` starts them.
    pub fn starts(&self, yes: bool) {
        self.inner().starts = yes;
    }

    /// Sets whether torrents leave when they are removed. Otherwise `finish_removals` completes the removals.
    pub fn removes(&self, yes: bool) {
        self.inner().removes = yes;
    }

    /// Sets whether `export_metainfo` has an answer.
    pub fn layers_known(&self, yes: bool) {
        self.inner().layers_known = yes;
    }

    /// Sets whether `give_piece` has an effect.
    pub fn takes_pieces(&self, yes: bool) {
        self.inner().takes_pieces = yes;
    }

    /// Makes the next `n` calls of `give_piece` fail.
    pub fn refuse_pieces(&self, n: usize) {
        self.inner().refuses = n;
    }

    /// Makes `give_piece` refuse pieces with wrong bytes.
    pub fn judges_pieces(&self) {
        self.inner().judges = true;
    }

    /// Makes peers supply the hashes of blocks.
    pub fn sends_parts(&self) {
        self.inner().parts = true;
    }

    /// The requests for blocks since the last call of `calls`, in order.
    pub fn block_requests(&self, of: InfoHash) -> Vec<(u32, Vec<Range<u32>>)> {
        let blocks = |c: &Call| match c {
            Call::Blocks(info_hash, piece, _, blocks) if *info_hash == of => Some((*piece, blocks.clone())),
            _ => None,
        };
        self.inner().calls.iter().filter_map(blocks).collect()
    }

    /// Delivers the requested blocks of a piece.
    pub fn deliver_blocks(&self, info_hash: InfoHash, piece: u32) {
        self.inner().deliver_blocks(info_hash, piece);
    }

    /// The pieces that `give_piece` received since the last call of `calls`, in order.
    pub fn given(&self, of: InfoHash) -> Vec<u32> {
        let give = |c: &Call| match c {
            Call::Give(info_hash, piece) if *info_hash == of => Some(*piece),
            _ => None,
        };
        self.inner().calls.iter().filter_map(give).collect()
    }

    /// Starts a torrent that was added.
    pub fn start(&self, info_hash: InfoHash) {
        let mut inner = self.inner();
        inner.start(info_hash);
        drop(inner);
        self.pump();
    }

    /// Makes a torrent fail, started or not.
    pub fn fail(&self, info_hash: InfoHash, why: &str) {
        let mut inner = self.inner();
        let Some((&id, _)) = inner.find(info_hash) else { return };
        inner.torrents.remove(&id);
        inner.send(Event::Failed(id, why.into()));
    }

    /// Makes the local disk fail under a torrent. The deadlines of pieces in flight are lost.
    pub fn disk_error(&self, info_hash: InfoHash, kind: DiskErrorKind) {
        let mut inner = self.inner();
        let path = inner.find(info_hash).map(|(_, t)| t.add.file_paths[0].clone()).unwrap();
        let torrents = inner.torrents.values_mut().filter(|t| t.add.info_hash == info_hash);
        for want in torrents.flat_map(|t| t.wanted.values_mut()) {
            *want = WantedPiece::Priority(Priority::Normal);
        }
        inner.send_to_all(info_hash, |id| Event::DiskError(id, path.clone(), kind, format!("{kind:?}")));
    }

    /// Reports received payload without a complete piece.
    pub fn trickle(&self, info_hash: InfoHash, bytes: u64) {
        let mut inner = self.inner();
        let Some(torrent) = inner.torrents.values_mut().find(|t| t.add.info_hash == info_hash) else {
            return;
        };
        torrent.stats.downloaded += bytes;
        let stats = torrent.stats;
        inner.send_to_all(info_hash, |id| Event::Stats(id, stats));
    }

    /// Drops all queued events, and reports the loss.
    pub fn lose_events(&self) {
        self.inner().send(Event::EventsLost);
    }

    /// Sends an event.
    pub fn send_event(&self, event: impl FnOnce(TorrentId) -> Event, info_hash: InfoHash) {
        let mut inner = self.inner();
        let id = *inner.find(info_hash).expect("the torrent is in the engine").0;
        inner.send(event(id));
    }

    /// Delivers one piece immediately if it is requested. Returns whether it was.
    pub fn deliver(&self, info_hash: InfoHash, piece: u32) -> bool {
        self.inner().deliver(info_hash, piece)
    }

    /// Delivers all pieces that are requested and that a peer has, the most urgent first.
    fn pump(&self) {
        let mut inner = self.inner();
        if inner.delivery == Delivery::Immediate {
            for (info_hash, piece) in inner.deliverable() {
                inner.deliver(info_hash, piece);
            }
        }
    }

    /// All calls since the last call of this.
    pub fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.inner().calls)
    }

    /// The pieces requested with a deadline since the last call of `calls`, in order.
    pub fn requests(&self, of: InfoHash) -> Vec<u32> {
        let calls = &self.inner().calls;
        let request = |c: &Call| match c {
            Call::Request(info_hash, piece, _) if *info_hash == of => Some(*piece),
            _ => None,
        };
        calls.iter().filter_map(request).collect()
    }

    /// The requested pieces of a torrent.
    pub fn wanted(&self, info_hash: InfoHash) -> BTreeMap<u32, WantedPiece> {
        self.inner().find(info_hash).map(|(_, t)| t.wanted.clone()).unwrap_or_default()
    }

    /// The pieces that the engine has of a torrent, if the torrent is in it.
    pub fn holds(&self, info_hash: InfoHash) -> Option<BTreeSet<u32>> {
        self.inner().find(info_hash).map(|(_, t)| t.has.clone())
    }

    /// The last `add` of a torrent.
    pub fn added(&self, info_hash: InfoHash) -> Option<AddTorrent> {
        self.inner().find(info_hash).map(|(_, t)| t.add.clone())
    }

    fn wanted_changed(&self, id: TorrentId, pieces: impl Iterator<Item = u32>) {
        let delivery = self.inner().delivery;
        match delivery {
            Delivery::ByHand => {}
            Delivery::Immediate => self.pump(),
            Delivery::After(latency) => {
                for piece in pieces {
                    let Some(myself) = self.myself.upgrade() else { return };
                    tokio::spawn(async move {
                        tokio::time::sleep(latency).await;
                        let mut inner = myself.inner();
                        let Some(info_hash) = inner.torrents.get(&id).map(|t| t.add.info_hash) else {
                            return;
                        };
                        if inner.deliverable().contains(&(info_hash, piece)) {
                            inner.deliver(info_hash, piece);
                        }
                    });
                }
            }
        }
    }
}
