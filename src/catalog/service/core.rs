//! The gossip on an engine: carries out its actions, and sends events to subscribers and listeners.
//!
//! Locks: the locks of gossip, inbox and listeners are never held together, nor across I/O. Under its lock the gossip reads
//! the store and the holdings from memory.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::inbox::{Inbox, InboxItem};
use super::local_records::LocalRecords;
use super::types::CatalogSettings;
use crate::catalog::UnixTime;
use crate::catalog::gossip::answers::RecordSource;
use crate::catalog::gossip::{Action, Gossip, GossipConnection, NodeId, RecordOrigin, Speaker, TICK, budget};
use crate::catalog::gossip::{Notice, Tag};
use crate::catalog::message::{Message, MessageError, PeerAnswer, PeerQuestion, Unchecked};
use crate::catalog::record::SharedRecord;
use crate::catalog::store::{CatalogStoreError, StoreOutcome};
use crate::model::{InfoHash, ModelRef, PublisherKey};
use crate::torrent::overlay::MessageBytes;
use crate::torrent::{DhtItem, Overlay, PeerId, Topic, TorrentId};

/// Tasks that read messages of peers. They leave other cores to the rest of the node while they check signatures and store.
const READERS: usize = 2;

/// Events that may wait for one listener. Further ones are lost to it, and its questions end by their deadlines.
const MAX_EVENTS: usize = 1024;

/// How often received records are saved to disk. Records lost in a power cut arrive again.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// How often expired records are deleted.
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);

/// An event that parts of the catalog react to, and operations wait for.
#[derive(Debug, Clone)]
pub(super) enum CatalogEvent {
    /// A peer can be asked from now on.
    PeerReady(PeerId),
    /// A peer has left. Its open questions have ended before, without answers.
    PeerLeft(PeerId),
    /// A question to a peer has ended: with its answer, or without one after its deadline. Of the listeners, only the one that
    /// asked receives this.
    Answered(PeerId, Option<PeerAnswer>),
    /// Addresses that announced themselves at a topic of the DHT.
    DhtPeers(Topic, Vec<SocketAddr>),
    /// The DHT's item of a publisher and salt, or none.
    DhtItem(PublisherKey, [u8; 20], Option<DhtItem>),
    /// The DHT's routing table has its first nodes.
    DhtReady,
    /// Records were stored.
    Stored(Arc<[SharedRecord]>),
}

/// A part of the catalog that receives every event, before the listeners do.
pub(super) trait Subscriber: Send + Sync {
    /// Reacts to an event. Must not block.
    fn on_event(&self, core: &Core, event: &CatalogEvent);
}

/// The wall clock.
pub type Clock = Arc<dyn Fn() -> UnixTime + Send + Sync>;

/// The catalog's connection to the network: gossip, inbox, listeners and clock. It does not know the operations that
/// use it.
pub(super) struct Core {
    pub overlay: Arc<dyn Overlay>,
    pub local: LocalRecords,
    pub settings: CatalogSettings,
    pub started: Instant,
    pub swarm: Mutex<Option<TorrentId>>,
    /// Swarms of models that are joined to ask their peers, each with the number of its users.
    pub model_swarms: Mutex<HashMap<InfoHash, (TorrentId, usize)>>,
    pub stopped: watch::Sender<bool>,
    pub dht_nodes: watch::Sender<u32>,
    clock: Clock,
    gossip: Mutex<Gossip>,
    inbox: Inbox,
    subscribers: Vec<Arc<dyn Subscriber>>,
    listeners: Mutex<HashMap<Tag, mpsc::Sender<CatalogEvent>>>,
    last_tag: AtomicU64,
    dropped: AtomicU32,
}

impl Core {
    pub fn new(
        overlay: Arc<dyn Overlay>,
        local: LocalRecords,
        settings: CatalogSettings,
        clock: Clock,
        subscribers: Vec<Arc<dyn Subscriber>>,
    ) -> Self {
        let now = Instant::now();
        let mut node: NodeId = [0; 20];
        let mut seed = [0; 8];
        // Without the system's randomness two nodes could have the same number; the time makes them differ.
        if getrandom::fill(&mut node).and(getrandom::fill(&mut seed)).is_err() {
            seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64).to_be_bytes();
            node[..8].copy_from_slice(&seed);
        }
        Self {
            overlay,
            local,
            settings,
            started: now,
            swarm: Mutex::default(),
            model_swarms: Mutex::default(),
            stopped: watch::Sender::new(false),
            dht_nodes: watch::Sender::new(0),
            clock,
            gossip: Mutex::new(Gossip::new(node, u64::from_be_bytes(seed), now.into_std())),
            inbox: Inbox::default(),
            subscribers,
            listeners: Mutex::default(),
            last_tag: AtomicU64::new(0),
            dropped: AtomicU32::new(0),
        }
    }

    /// The wall clock's time.
    pub fn unix_time(&self) -> UnixTime {
        (self.clock)()
    }

    /// The torrent of the catalog's swarm.
    pub fn swarm(&self) -> Option<TorrentId> {
        *self.swarm.lock()
    }

    /// Connects to a host in the catalog's swarm, unless it is connected.
    pub fn connect(&self, address: SocketAddr) {
        if let Some(swarm) = self.swarm()
            && let Err(error) = self.overlay.connect(swarm, address)
        {
            tracing::debug!(%address, %error, "could not connect to a peer");
        }
    }

    /// All peers that can be asked: members of the catalog's swarm first, each group in a random order.
    pub fn speakers(&self) -> Vec<Speaker> {
        let mut speakers = self.gossip.lock().speakers();
        fastrand::shuffle(&mut speakers);
        speakers.sort_by_key(|speaker| !speaker.connection.of_catalog);
        speakers
    }

    /// How many members of the catalog's swarm can be asked.
    pub fn members(&self) -> usize {
        self.gossip.lock().members()
    }

    /// A peer is connected and supports gossip.
    pub fn connected(&self, peer: PeerId, connection: GossipConnection) {
        // Messages of a peer without a queue are dropped. A model's data continues over its connection.
        let accepted = self.inbox.connected(Instant::now().into_std(), peer, connection);
        if !accepted && connection.of_catalog {
            self.disconnect(peer, false, "there are too many connections");
        }
    }

    /// A peer has sent a message.
    pub fn received(&self, peer: PeerId, bytes: MessageBytes) {
        match self.inbox.push(Instant::now().into_std(), peer, bytes) {
            budget::Verdict::Accept => {}
            budget::Verdict::Drop => {
                let dropped = self.dropped.fetch_add(1, Ordering::Relaxed);
                tracing::trace!(peer = peer.0, dropped, "a message is dropped unread");
            }
            budget::Verdict::Hostile => self.disconnect(peer, true, "it sends too many messages"),
        }
    }

    /// A peer has left.
    pub fn left(&self, peer: PeerId) {
        self.inbox.left(peer);
    }

    /// Sends an event to the subscribers, then to all listeners.
    pub fn emit(&self, event: &CatalogEvent) {
        self.notify(event);
        for listener in self.listeners.lock().values() {
            // A listener whose channel is full loses the event, and continues at its deadline.
            let _ = listener.try_send(event.clone());
        }
    }

    fn notify(&self, event: &CatalogEvent) {
        self.subscribers.iter().for_each(|subscriber| subscriber.on_event(self, event));
    }

    /// A listener for the answers to its own questions, and for all other events.
    pub fn listen(self: &Arc<Self>) -> EventListener {
        let tag = self.last_tag.fetch_add(1, Ordering::Relaxed);
        let (sender, events) = mpsc::channel(MAX_EVENTS);
        self.listeners.lock().insert(tag, sender);
        EventListener { core: Arc::clone(self), tag, events }
    }

    /// The address of a peer; with the port on which the peer listens, if it is known.
    pub fn address(&self, peer: PeerId) -> Option<SocketAddr> {
        self.gossip.lock().address(peer)
    }

    /// Disconnects and mutes a peer that has proved hostile.
    pub fn accuse(&self, peer: PeerId, why: &'static str) {
        self.step(|gossip, _| gossip.hostile(peer, why));
    }

    /// Stores records and spreads the new ones. Blocks for the disk.
    pub fn store(&self, origin: RecordOrigin, records: &[SharedRecord]) -> Result<(), CatalogStoreError> {
        let kept = self.local.holdings.kept();
        let kept = |publisher: &PublisherKey| kept.contains(publisher);
        let (store, now) = (&self.local.store, self.unix_time());
        let outcomes = match origin {
            RecordOrigin::Own => store.insert(records, now, &kept)?,
            _ => store.insert_soon(records, now, &kept)?,
        };
        let stored = records.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == StoreOutcome::Stored);
        let stored: Arc<[SharedRecord]> = stored.map(|(record, _)| SharedRecord::clone(record)).collect();
        if !stored.is_empty() {
            self.emit(&CatalogEvent::Stored(stored));
        }
        self.step(|gossip, now| gossip.stored(now, origin, records, &outcomes, &self.local));
        Ok(())
    }

    /// The same for received records: a failure is only logged.
    pub fn store_or_log(&self, origin: RecordOrigin, records: &[SharedRecord]) {
        if let Err(error) = self.store(origin, records) {
            tracing::debug!(%error, ?origin, "could not store received records");
        }
    }

    /// Runs a step of the gossip, and carries out the resulting actions in order before it returns. So a peer's messages are
    /// answered in their order.
    fn step(&self, step: impl FnOnce(&mut Gossip, std::time::Instant)) {
        let actions: Vec<Action> = {
            let mut gossip = self.gossip.lock();
            step(&mut gossip, Instant::now().into_std());
            std::iter::from_fn(|| gossip.next_action()).collect()
        };
        for action in actions {
            self.act(action);
        }
    }

    fn act(&self, action: Action) {
        match action {
            Action::Send(peer, message) => self.send(peer, &message),
            Action::Answer(peer, request) => {
                // Real time, not tokio's clock, since the work is charged.
                let begun = std::time::Instant::now();
                let answer = request.answer(&self.local);
                let took = begun.elapsed();
                self.step(|gossip, now| gossip.answered(now, peer, &request, &answer, took));
                self.send(peer, &answer);
            }
            Action::Disconnect { peer, hostile, why } => self.disconnect(peer, hostile, why),
            Action::Store(origin, records) => self.store_or_log(origin, &records),
            Action::Notify(Notice::Ready(peer)) => self.emit(&CatalogEvent::PeerReady(peer)),
            Action::Notify(Notice::Gone(peer)) => self.emit(&CatalogEvent::PeerLeft(peer)),
            Action::Notify(Notice::Answered { tag, peer, answer }) => {
                let event = CatalogEvent::Answered(peer, answer);
                self.notify(&event);
                if let Some(listener) = self.listeners.lock().get(&tag) {
                    let _ = listener.try_send(event);
                }
            }
        }
    }

    fn send(&self, peer: PeerId, message: &Message) {
        if budget::is_question(message) {
            self.inbox.asked(Instant::now().into_std(), peer);
        }
        if let Err(error) = self.overlay.send(peer, &message.encode()) {
            tracing::debug!(peer = peer.0, %error, "could not send a message");
        }
    }

    fn disconnect(&self, peer: PeerId, hostile: bool, why: &'static str) {
        let address = self.address(peer);
        tracing::debug!(peer = peer.0, ?address, hostile, why, "closing the connection to a peer");
        self.inbox.mute(peer);
        if let Err(error) = self.overlay.disconnect(peer, hostile) {
            tracing::debug!(peer = peer.0, %error, "could not close the connection to a peer");
        }
    }

    /// Processes an item of a peer. Checks signatures, and blocks for the disk.
    fn read(&self, peer: PeerId, item: InboxItem) {
        match item {
            InboxItem::Connected(connection) => {
                self.step(|gossip, now| gossip.speaks(now, peer, connection, &self.local));
            }
            InboxItem::Left => self.step(|gossip, now| gossip.left(now, peer, &self.local)),
            InboxItem::Message(bytes) => match self.decode(&bytes) {
                Ok(Some(message)) => {
                    drop(bytes);
                    self.step(|gossip, now| gossip.message(now, peer, message, &self.local));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(peer = peer.0, %error, "a peer sent a malformed message");
                    self.step(|gossip, _| gossip.hostile(peer, "it sent a forged or malformed message"));
                }
            },
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<Option<Message>, MessageError> {
        let Some(unchecked) = Unchecked::decode(bytes)? else { return Ok(None) };
        unchecked.verify(|record| self.local.store.known(record)).map(Some)
    }

    /// Reads messages of peers until the catalog stops.
    pub async fn read_all(self: Arc<Self>) {
        let reader = || {
            let core = Arc::clone(&self);
            async move {
                loop {
                    let (peer, item) = core.inbox.next().await;
                    let left = matches!(item, InboxItem::Left);
                    let reading = Arc::clone(&core);
                    // A panic in this thread must not end the reader; the runtime logs it.
                    let _ = tokio::task::spawn_blocking(move || reading.read(peer, item)).await;
                    core.inbox.done(peer, left);
                }
            }
        };
        let readers: [_; READERS] = std::array::from_fn(|_| reader());
        let [first, second] = readers;
        tokio::join!(first, second);
    }

    /// Calls the gossip's tick, saves records, and deletes expired ones, until the catalog stops.
    pub async fn tick_all(self: Arc<Self>) {
        let (mut next_expiry, mut next_flush) = (Instant::now(), Instant::now() + FLUSH_EVERY);
        loop {
            tokio::time::sleep(TICK).await;
            let is_due = |next: &mut Instant, interval| {
                let is_due = Instant::now() >= *next;
                if is_due {
                    *next = Instant::now() + interval;
                }
                is_due
            };
            let flush = is_due(&mut next_flush, FLUSH_EVERY);
            let expire = is_due(&mut next_expiry, EXPIRE_EVERY);
            let core = Arc::clone(&self);
            let ticked = move || {
                if flush && let Err(error) = core.local.store.flush() {
                    tracing::debug!(%error, "could not save received records to disk");
                }
                if expire && let Err(error) = core.expire() {
                    tracing::warn!(%error, "could not delete expired records");
                }
                core.step(|gossip, now| gossip.tick(now, &core.local));
            };
            let _ = tokio::task::spawn_blocking(ticked).await;
        }
    }

    /// Deletes expired records. Blocks for the disk.
    fn expire(&self) -> Result<usize, CatalogStoreError> {
        let kept = self.local.holdings.kept();
        let kept = |publisher: &PublisherKey| kept.contains(publisher);
        self.local.store.expire(self.unix_time(), &kept)
    }

    /// Records of a model that are valid now.
    pub fn valid_records(&self, model: &ModelRef) -> Vec<SharedRecord> {
        let now = self.unix_time();
        let mut records = self.local.records_of(model);
        records.retain(|record| record.check_time(now).is_ok());
        records
    }
}

/// Receives the answers to its questions and all other events, until it is dropped.
pub(super) struct EventListener {
    core: Arc<Core>,
    tag: Tag,
    events: mpsc::Receiver<CatalogEvent>,
}

impl EventListener {
    /// Asks a peer; `false` if the peer cannot be asked now.
    pub fn ask(&self, peer: PeerId, question: PeerQuestion, timeout: Duration) -> bool {
        let mut asked = false;
        self.core.step(|gossip, now| asked = gossip.ask(now, peer, question, self.tag, timeout));
        asked
    }

    /// The next event; none after the deadline.
    pub async fn until(&mut self, deadline: Instant) -> Option<CatalogEvent> {
        tokio::time::timeout_at(deadline, self.events.recv()).await.ok().flatten()
    }

    /// Waits until records were stored, at most `within`: an event can be lost when too many arrive.
    pub async fn stored(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        while !matches!(self.until(deadline).await, None | Some(CatalogEvent::Stored(_))) {}
    }
}

impl Drop for EventListener {
    fn drop(&mut self) {
        self.core.listeners.lock().remove(&self.tag);
    }
}
