//! The gossip on an engine: carries out its actions, and lets those who wait hear what peers answer.
//!
//! Locks: the gossip's, the inbox's and the listeners' are never held together, nor across I/O, but that the gossip
//! reads the store and the holdings from memory under its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::holders::Holders;
use super::inbox::{Inbox, Item};
use super::known::Known;
use super::manifests::Transfers;
use super::resolve::Searches;
use super::{CatalogSettings, News, NewsReader, names};
use crate::catalog::UnixTime;
use crate::catalog::gossip::answers::Source;
use crate::catalog::gossip::asks::{Answer, Ask, Notice, Tag};
use crate::catalog::gossip::{Action, Connection, Gossip, NodeId, Origin, Speaker, TICK, budget};
use crate::catalog::message::{Message, MessageError, Unchecked};
use crate::catalog::record::SharedRecord;
use crate::catalog::store::{Outcome, StoreError};
use crate::model::{ModelName, ModelRef, PublisherKey};
use crate::torrent::overlay::MessageBytes;
use crate::torrent::{DhtItem, Overlay, PeerId, Topic, TorrentId};

/// Tasks that read what peers say. Checking signatures and storing leaves the other core to the rest of the node.
const READERS: usize = 2;

/// What may wait for one listener. What is beyond is lost to it, and its questions run into their deadlines.
const MAX_HEARD: usize = 1024;

/// How often what peers told is put on the disk. What a power cut takes comes again.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// How often what has expired goes.
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);

/// Something heard that an operation may wait for.
#[derive(Debug, Clone)]
pub(super) enum Heard {
    /// Another peer can be asked.
    Ready,
    /// A peer is gone.
    Gone(PeerId),
    /// A question of the listener is answered.
    Answered(PeerId, Answer),
    /// Who announced at a topic of the DHT.
    DhtPeers(Topic, Vec<SocketAddr>),
    /// What the DHT has of a publisher and salt.
    DhtItem(PublisherKey, [u8; 20], Option<DhtItem>),
    /// The DHT's routing table has its first nodes.
    DhtReady,
    /// Records were stored.
    Stored,
}

/// The wall clock.
pub type Clock = Arc<dyn Fn() -> UnixTime + Send + Sync>;

/// All that the tasks of a catalog share.
pub(super) struct Core {
    pub overlay: Arc<dyn Overlay>,
    pub known: Known,
    pub settings: CatalogSettings,
    pub started: Instant,
    pub searches: Searches,
    pub transfers: Transfers,
    pub holders: Holders,
    pub names: mpsc::Sender<names::Command>,
    pub swarm: Mutex<Option<TorrentId>>,
    pub stopped: watch::Sender<bool>,
    pub dht_nodes: watch::Sender<u32>,
    /// Reads what has become known.
    pub news: OnceLock<Box<NewsReader>>,
    clock: Clock,
    gossip: Mutex<Gossip>,
    inbox: Inbox,
    listeners: Mutex<HashMap<Tag, mpsc::Sender<Heard>>>,
    last_tag: AtomicU64,
    dropped: AtomicU32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

impl Core {
    pub fn new(
        overlay: Arc<dyn Overlay>,
        known: Known,
        settings: CatalogSettings,
        clock: Clock,
        names: mpsc::Sender<names::Command>,
    ) -> Self {
        let now = Instant::now();
        let mut node: NodeId = [0; 20];
        let mut seed = [0; 8];
        // Without the system's randomness two nodes could take each other for one; the time tells them apart.
        if getrandom::fill(&mut node).and(getrandom::fill(&mut seed)).is_err() {
            seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64).to_be_bytes();
            node[..8].copy_from_slice(&seed);
        }
        Self {
            overlay,
            known,
            settings,
            started: now,
            searches: Searches::default(),
            transfers: Transfers::default(),
            holders: Holders::default(),
            names,
            swarm: Mutex::new(None),
            stopped: watch::Sender::new(false),
            dht_nodes: watch::Sender::new(0),
            news: OnceLock::new(),
            clock,
            gossip: Mutex::new(Gossip::new(node, u64::from_be_bytes(seed), now.into_std())),
            inbox: Inbox::default(),
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
        *lock(&self.swarm)
    }

    /// Everybody who can be asked, members of the catalog's swarm first, each group in an order of chance.
    pub fn speakers(&self) -> Vec<Speaker> {
        let mut speakers = lock(&self.gossip).speakers();
        fastrand::shuffle(&mut speakers);
        speakers.sort_by_key(|speaker| !speaker.connection.of_catalog);
        speakers
    }

    /// How many members of the catalog's swarm speak with us.
    pub fn members(&self) -> usize {
        lock(&self.gossip).members()
    }

    /// A peer can be spoken to.
    pub fn speaks(&self, peer: PeerId, connection: Connection) {
        // What a peer without a line says is dropped. A model's data goes on over its connection.
        let heard = self.inbox.speaks(Instant::now().into_std(), peer, connection);
        if !heard && connection.of_catalog {
            self.hang_up(peer, false, "there are too many connections");
        }
    }

    /// A peer has said something.
    pub fn said(&self, peer: PeerId, bytes: MessageBytes) {
        match self.inbox.said(Instant::now().into_std(), peer, bytes) {
            budget::Verdict::Take => {}
            budget::Verdict::Drop => {
                let dropped = self.dropped.fetch_add(1, Ordering::Relaxed);
                tracing::trace!(peer = peer.0, dropped, "a message is dropped unread");
            }
            budget::Verdict::Ban => self.hang_up(peer, true, "it floods us with messages"),
        }
    }

    /// A peer is gone.
    pub fn left(&self, peer: PeerId) {
        self.inbox.left(peer);
    }

    /// Tells everybody who listens.
    pub fn tell_all(&self, heard: &Heard) {
        for listener in lock(&self.listeners).values() {
            // A listener that is so far behind runs into its deadline.
            let _ = listener.try_send(heard.clone());
        }
    }

    /// Listens to what peers answer to this listener, and to what everybody hears.
    pub fn listen(self: &Arc<Self>) -> Listener {
        let tag = self.last_tag.fetch_add(1, Ordering::Relaxed);
        let (sender, heard) = mpsc::channel(MAX_HEARD);
        lock(&self.listeners).insert(tag, sender);
        Listener { core: Arc::clone(self), tag, heard }
    }

    /// The other end of a connection that is spoken on; with the port that can be called, where it is known.
    pub fn address(&self, peer: PeerId) -> Option<SocketAddr> {
        lock(&self.gossip).address(peer)
    }

    /// Whether the catalog has stopped.
    pub fn has_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Drops and bans a peer that has proved hostile.
    pub fn accuse(&self, peer: PeerId, why: &'static str) {
        self.step(|gossip, _| gossip.hostile(peer, why));
    }

    /// A name that may have been looked for in vain is known now.
    pub fn appeared(&self, name: &ModelName) {
        self.searches.forget_miss(name);
        self.report(News::Name(name));
    }

    fn report(&self, news: News<'_>) {
        if let Some(reader) = self.news.get() {
            reader(news);
        }
    }

    /// Stores records as if a peer had told them, and spreads them. Blocks for the disk.
    pub fn store(&self, origin: Origin, records: &[SharedRecord]) -> Result<(), StoreError> {
        let kept = self.known.holdings.kept();
        let kept = |publisher: &PublisherKey| kept.contains(publisher);
        let (store, now) = (&self.known.store, self.unix_time());
        let outcomes = match origin {
            Origin::Own => store.insert(records, now, &kept)?,
            _ => store.insert_soon(records, now, &kept)?,
        };
        for (record, _) in records.iter().zip(&outcomes).filter(|(_, o)| **o == Outcome::Stored) {
            if let Some(model) = record.model() {
                self.appeared(&model.name);
            }
        }
        if outcomes.contains(&Outcome::Stored) {
            self.tell_all(&Heard::Stored);
        }
        self.step(|gossip, now| gossip.stored(now, origin, records, &outcomes, &self.known));
        Ok(())
    }

    /// Moves the gossip on, and does what it says. What one step says is done in order and before its caller goes on,
    /// so a peer's messages are answered in theirs.
    fn step(&self, step: impl FnOnce(&mut Gossip, std::time::Instant)) {
        let actions: Vec<Action> = {
            let mut gossip = lock(&self.gossip);
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
            Action::Answer(peer, question) => {
                // The clock on the wall, whatever tokio's says: it is the work that is charged.
                let begun = std::time::Instant::now();
                let answer = question.answer(&self.known);
                let took = begun.elapsed();
                self.step(|gossip, now| gossip.answered(now, peer, &question, &answer, took));
                self.send(peer, &answer);
            }
            Action::HangUp { peer, ban, why } => self.hang_up(peer, ban, why),
            Action::Store(origin, records) => {
                if let Err(error) = self.store(origin, &records) {
                    tracing::debug!(%error, "records of peers are not kept");
                }
            }
            Action::Tell(Notice::Ready(peer)) => {
                let speaker = self.speakers();
                let node = speaker.iter().find(|speaker| speaker.peer == peer).map(|speaker| speaker.node);
                if let Some(node) = node {
                    let may_know = self.searches.met(node, speaker.len());
                    self.report(if may_know { News::Peer } else { News::Holder });
                }
                self.tell_all(&Heard::Ready);
            }
            Action::Tell(Notice::Gone(peer)) => {
                self.holders.left(peer);
                self.searches.left(peer);
                self.tell_all(&Heard::Gone(peer));
            }
            Action::Tell(Notice::Answered { tag, peer, answer }) => {
                if let (Answer::Holds { held, .. }, Some(address)) = (&answer, self.address(peer)) {
                    self.holders.claims_to_hold(peer, address, held);
                }
                if let Some(listener) = lock(&self.listeners).get(&tag) {
                    let _ = listener.try_send(Heard::Answered(peer, answer));
                }
            }
        }
    }

    fn send(&self, peer: PeerId, message: &Message) {
        if budget::is_question(message) {
            self.inbox.asked(Instant::now().into_std(), peer);
        }
        if let Err(error) = self.overlay.send(peer, &message.encode()) {
            tracing::debug!(peer = peer.0, %error, "a message is not sent");
        }
    }

    fn hang_up(&self, peer: PeerId, ban: bool, why: &'static str) {
        let address = self.address(peer);
        tracing::debug!(peer = peer.0, ?address, ban, "hanging up on a peer: {why}");
        self.inbox.mute(peer);
        if let Err(error) = self.overlay.hang_up(peer, ban) {
            tracing::debug!(peer = peer.0, %error, "a peer is not hung up on");
        }
    }

    /// Reads one item of a peer. Checks signatures, and blocks for the disk.
    fn read(&self, peer: PeerId, item: Item) {
        match item {
            Item::Speaks(connection) => {
                self.step(|gossip, now| gossip.speaks(now, peer, connection, &self.known));
            }
            Item::Left => self.step(|gossip, now| gossip.left(now, peer, &self.known)),
            Item::Said(bytes) => match self.decode(&bytes) {
                Ok(Some(message)) => {
                    drop(bytes);
                    self.step(|gossip, now| gossip.message(now, peer, message, &self.known));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(peer = peer.0, %error, "a peer says what cannot be");
                    self.step(|gossip, _| gossip.malformed(peer));
                }
            },
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<Option<Message>, MessageError> {
        let Some(unchecked) = Unchecked::decode(bytes)? else { return Ok(None) };
        unchecked.verify(|record| self.known.store.known(record)).map(Some)
    }

    /// Reads what peers say, until the catalog stops.
    pub async fn read_all(self: Arc<Self>) {
        let reader = || {
            let core = Arc::clone(&self);
            async move {
                loop {
                    let (peer, item) = core.inbox.next().await;
                    let left = matches!(item, Item::Left);
                    let reading = Arc::clone(&core);
                    // A panic there must not end the node's ears; it is logged by the runtime.
                    let _ = tokio::task::spawn_blocking(move || reading.read(peer, item)).await;
                    core.inbox.done(peer, left);
                }
            }
        };
        let readers: [_; READERS] = std::array::from_fn(|_| reader());
        let [first, second] = readers;
        tokio::join!(first, second);
    }

    /// Lets the gossip look at the clock.
    pub async fn tick_all(self: Arc<Self>) {
        let (mut next_expiry, mut next_flush) = (Instant::now(), Instant::now() + FLUSH_EVERY);
        loop {
            tokio::time::sleep(TICK).await;
            let flush = Instant::now() >= next_flush;
            if flush {
                next_flush = Instant::now() + FLUSH_EVERY;
            }
            let expire = Instant::now() >= next_expiry;
            if expire {
                next_expiry = Instant::now() + EXPIRE_EVERY;
            }
            let core = Arc::clone(&self);
            let ticked = move || {
                if flush && let Err(error) = core.known.store.flush() {
                    tracing::debug!(%error, "what peers told is not on the disk");
                }
                if expire && let Err(error) = core.expire() {
                    tracing::warn!(%error, "what has expired is not dropped");
                }
                core.step(|gossip, now| gossip.tick(now, &core.known));
            };
            let _ = tokio::task::spawn_blocking(ticked).await;
        }
    }

    /// Drops what has expired. Blocks for the disk.
    fn expire(&self) -> Result<usize, StoreError> {
        let kept = self.known.holdings.kept();
        let kept = |publisher: &PublisherKey| kept.contains(publisher);
        self.known.store.expire(self.unix_time(), &kept)
    }

    /// Tells the keeper of the DHT's entries. While the DHT is off nobody listens; what is lost because too much came at
    /// once, it sees at its next look.
    pub fn keep_in_dht(&self, command: names::Command) {
        let _ = self.names.try_send(command);
    }

    /// How many records are known.
    pub fn records(&self) -> usize {
        self.known.count()
    }

    /// Records of a model that are valid now.
    pub fn valid_records(&self, model: &ModelRef) -> Vec<SharedRecord> {
        let now = self.unix_time();
        let mut records = self.known.records_of(model);
        records.retain(|record| record.check_time(now).is_ok());
        records
    }
}

/// Hears the answers to its questions, and what everybody hears, until it is dropped.
pub(super) struct Listener {
    core: Arc<Core>,
    tag: Tag,
    heard: mpsc::Receiver<Heard>,
}

impl Listener {
    /// Asks a peer; `false` if it cannot be asked now.
    pub fn ask(&self, peer: PeerId, ask: Ask, patience: Duration) -> bool {
        let mut asked = false;
        self.core.step(|gossip, now| asked = gossip.ask(now, peer, ask, self.tag, patience));
        asked
    }

    /// The next thing heard; none after the deadline.
    pub async fn until(&mut self, deadline: Instant) -> Option<Heard> {
        tokio::time::timeout_at(deadline, self.heard.recv()).await.ok().flatten()
    }

    /// Waits until records were stored, or for so long: what is heard can be lost where too much comes at once.
    pub async fn stored(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        while !matches!(self.until(deadline).await, None | Some(Heard::Stored)) {}
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        lock(&self.core.listeners).remove(&self.tag);
    }
}
