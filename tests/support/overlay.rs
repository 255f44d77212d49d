//! A network in memory for many catalogs in one process: swarms, messages with delay and loss, and a DHT.
//!
//! It keeps the promises of the engine: a peer's messages arrive in order, after `Speaks` and before `Left`; nothing
//! arrives on a connection after a hang-up; a muted address is not connected again. It records calls for the tests.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use silmaril::model::PublisherKey;
use silmaril::torrent::overlay::MAX_MESSAGE;
use silmaril::torrent::{DhtItem, EngineError, Meeting, Overlay, OverlayEvent, PeerId, Topic, TorrentId};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
struct End {
    node: usize,
    torrent: TorrentId,
    peer: PeerId,
}

struct Host {
    address: SocketAddr,
    events: mpsc::UnboundedSender<OverlayEvent>,
    torrents: BTreeMap<TorrentId, Meeting>,
    muted: HashSet<IpAddr>,
}

struct Inner {
    hosts: Vec<Host>,
    /// By peer id: the end that has this id, and the opposite end.
    links: HashMap<PeerId, (End, End)>,
    last_id: u64,
    /// Messages in flight, by the time of their arrival.
    under_way: BTreeMap<(Instant, u64), (usize, OverlayEvent)>,
    delay: Duration,
    /// One message in this many is lost; 0 means none.
    loses_one_in: usize,
    /// Whether members of a swarm find each other without the DHT.
    lan: bool,
    dht: bool,
    announced: HashMap<Topic, BTreeSet<SocketAddr>>,
    items: HashMap<(PublisherKey, [u8; 20]), DhtItem>,
    announcements: Vec<(Instant, Topic)>,
    puts: Vec<(Instant, DhtItem)>,
    calls: Vec<(SocketAddr, SocketAddr)>,
    sent: Vec<(SocketAddr, usize)>,
}

/// The network.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Mutex<Inner>>,
    wake: Arc<Notify>,
}

/// The engine of one host.
pub struct Node {
    network: Network,
    index: usize,
}

impl Network {
    /// A network whose swarm members find each other, without a DHT. A message takes 20 ms.
    pub fn new() -> Self {
        let inner = Inner {
            hosts: Vec::new(),
            links: HashMap::new(),
            last_id: 0,
            under_way: BTreeMap::new(),
            delay: Duration::from_millis(20),
            loses_one_in: 0,
            lan: true,
            dht: false,
            announced: HashMap::new(),
            items: HashMap::new(),
            announcements: Vec::new(),
            puts: Vec::new(),
            calls: Vec::new(),
            sent: Vec::new(),
        };
        let network = Self { inner: Arc::new(Mutex::new(inner)), wake: Arc::new(Notify::new()) };
        tokio::spawn(network.clone().carry());
        network
    }

    /// A network in which no host finds a peer by itself.
    pub fn without_lan() -> Self {
        let network = Self::new();
        network.inner().lan = false;
        network
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Adds a host, and returns its engine and events.
    pub fn host(&self) -> (Arc<Node>, mpsc::UnboundedReceiver<OverlayEvent>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let mut inner = self.inner();
        let index = inner.hosts.len();
        let address = SocketAddr::from(([10, 0, (index / 200) as u8, (index % 200) as u8 + 1], 6881));
        inner.hosts.push(Host { address, events, torrents: BTreeMap::new(), muted: HashSet::new() });
        if inner.dht {
            inner.later(index, OverlayEvent::DhtNodes(8));
        }
        drop(inner);
        self.wake.notify_one();
        (Arc::new(Node { network: self.clone(), index }), receiver)
    }

    /// Turns the DHT on, for present and future hosts.
    pub fn turn_on_dht(&self) {
        let mut inner = self.inner();
        inner.dht = true;
        for index in 0..inner.hosts.len() {
            inner.later(index, OverlayEvent::DhtNodes(8));
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Makes the network lose one message in `messages`.
    pub fn lose_one_in(&self, messages: usize) {
        self.inner().loses_one_in = messages;
    }

    /// Disconnects a host without any message to its peers.
    pub fn cut_off(&self, node: &Node) {
        let mut inner = self.inner();
        let peers: Vec<PeerId> =
            inner.links.iter().filter(|(_, (near, _))| near.node == node.index).map(|(id, _)| *id).collect();
        for peer in peers {
            inner.disconnect(peer);
        }
        inner.hosts[node.index].torrents.clear();
        let address = inner.hosts[node.index].address;
        inner.announced.values_mut().for_each(|all| {
            all.remove(&address);
        });
        drop(inner);
        self.wake.notify_one();
    }

    /// Adds an address to a topic in the DHT although no host there has announced the topic.
    pub fn announce_falsely(&self, topic: Topic, address: SocketAddr) {
        self.inner().announced.entry(topic).or_default().insert(address);
    }

    /// Stores an item in the DHT.
    pub fn put(&self, item: DhtItem) {
        self.inner().items.insert((item.publisher, item.salt), item);
    }

    /// All announcements of topics, with their times.
    pub fn announcements(&self) -> Vec<(Instant, Topic)> {
        self.inner().announcements.clone()
    }

    /// All stored items, with their times.
    pub fn puts(&self) -> Vec<(Instant, DhtItem)> {
        self.inner().puts.clone()
    }

    /// All calls: the caller's and the called address.
    pub fn calls(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.inner().calls.clone()
    }

    /// The lengths of the messages that a host has sent.
    pub fn sent_by(&self, node: &Node) -> Vec<usize> {
        let inner = self.inner();
        let address = inner.hosts[node.index].address;
        inner.sent.iter().filter(|(from, _)| *from == address).map(|(_, len)| *len).collect()
    }

    async fn carry(self) {
        loop {
            let woken = self.wake.notified();
            let next = {
                let mut inner = self.inner();
                let now = Instant::now();
                while let Some(entry) = inner.under_way.first_entry().filter(|e| e.key().0 <= now) {
                    let (host, event) = entry.remove();
                    inner.arrive(host, event);
                }
                inner.under_way.keys().next().map(|(at, _)| *at)
            };
            let far = Instant::now() + Duration::from_secs(86_400);
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep_until(next.unwrap_or(far)) => {}
            }
        }
    }
}

impl Inner {
    fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn later(&mut self, host: usize, event: OverlayEvent) {
        let id = self.id();
        let at = Instant::now() + self.delay;
        self.under_way.insert((at, id), (host, event));
    }

    fn arrive(&mut self, host: usize, event: OverlayEvent) {
        let is_connected = match &event {
            OverlayEvent::Received(peer, _) | OverlayEvent::Speaks { peer, .. } => {
                self.links.contains_key(peer)
            }
            _ => true,
        };
        if is_connected {
            // A closed receiver means that the host has ended.
            let _ = self.hosts[host].events.send(event);
        }
    }

    fn member(&self, node: usize, meeting: Meeting) -> Option<TorrentId> {
        self.hosts[node].torrents.iter().find(|(_, m)| **m == meeting).map(|(id, _)| *id)
    }

    fn connect(&mut self, caller: usize, called: usize, meeting: Meeting) {
        let muted = |a: usize, b: usize| self.hosts[a].muted.contains(&self.hosts[b].address.ip());
        let linked = |a: usize, b: usize, torrent| {
            self.links.values().any(|(near, far)| near.node == a && far.node == b && near.torrent == torrent)
        };
        let (Some(here), Some(there)) = (self.member(caller, meeting), self.member(called, meeting)) else {
            return;
        };
        if caller == called || muted(caller, called) || muted(called, caller) || linked(caller, called, here)
        {
            return;
        }
        let near = End { node: caller, torrent: here, peer: PeerId(self.id()) };
        let far = End { node: called, torrent: there, peer: PeerId(self.id()) };
        self.links.insert(near.peer, (near, far));
        self.links.insert(far.peer, (far, near));
        for (end, other, outgoing) in [(near, called, true), (far, caller, false)] {
            let address = self.hosts[other].address;
            let event = OverlayEvent::Speaks { torrent: end.torrent, peer: end.peer, address, outgoing };
            self.later(end.node, event);
        }
    }

    fn disconnect(&mut self, peer: PeerId) {
        let Some((near, far)) = self.links.remove(&peer) else { return };
        self.links.remove(&far.peer);
        self.later(near.node, OverlayEvent::Left(near.peer));
        self.later(far.node, OverlayEvent::Left(far.peer));
    }

    fn find_members(&mut self, node: usize, meeting: Meeting) {
        if self.lan {
            for other in 0..self.hosts.len() {
                self.connect(node, other, meeting);
            }
        }
    }

    fn host_at(&self, address: SocketAddr) -> Option<usize> {
        self.hosts.iter().position(|host| host.address == address)
    }
}

impl Node {
    /// The address at which this host can be called.
    pub fn address(&self) -> SocketAddr {
        self.network.inner().hosts[self.index].address
    }

    /// The addresses that this host has muted.
    pub fn muted(&self) -> HashSet<IpAddr> {
        self.network.inner().hosts[self.index].muted.clone()
    }

    /// The addresses of connected peers, one entry for each connection.
    pub fn connected(&self) -> Vec<SocketAddr> {
        let inner = self.network.inner();
        let near = inner.links.values().filter(|(near, _)| near.node == self.index);
        near.map(|(_, far)| inner.hosts[far.node].address).collect()
    }

    /// The swarms that this host is in.
    pub fn meetings(&self) -> Vec<Meeting> {
        self.network.inner().hosts[self.index].torrents.values().copied().collect()
    }

    fn act<T>(&self, action: impl FnOnce(&mut Inner, usize) -> T) -> Result<T, EngineError> {
        let done = action(&mut self.network.inner(), self.index);
        self.network.wake.notify_one();
        Ok(done)
    }
}

impl Overlay for Node {
    fn meet(&self, place: Meeting, peers: &[SocketAddr]) -> Result<TorrentId, EngineError> {
        self.act(|inner, node| {
            let id = TorrentId(inner.id());
            inner.hosts[node].torrents.insert(id, place);
            for peer in peers {
                if let Some(peer) = inner.host_at(*peer) {
                    inner.connect(node, peer, place);
                }
            }
            inner.find_members(node, place);
            id
        })
    }

    fn leave(&self, id: TorrentId) -> Result<(), EngineError> {
        self.act(|inner, node| {
            inner.hosts[node].torrents.remove(&id);
            let of_torrent = |(_, (near, _)): &(&PeerId, &(End, End))| near.torrent == id;
            let peers: Vec<PeerId> = inner.links.iter().filter(of_torrent).map(|(id, _)| *id).collect();
            peers.into_iter().for_each(|peer| inner.disconnect(peer));
        })
    }

    fn connect(&self, id: TorrentId, peer: SocketAddr) -> Result<(), EngineError> {
        self.act(|inner, node| {
            let from = inner.hosts[node].address;
            inner.calls.push((from, peer));
            if let (Some(peer), Some(meeting)) = (inner.host_at(peer), inner.hosts[node].torrents.get(&id)) {
                inner.connect(node, peer, *meeting);
            }
        })
    }

    fn search_again(&self, id: TorrentId) -> Result<(), EngineError> {
        self.act(|inner, node| {
            if let Some(meeting) = inner.hosts[node].torrents.get(&id).copied() {
                inner.find_members(node, meeting);
            }
        })
    }

    fn send(&self, peer: PeerId, message: &[u8]) -> Result<(), EngineError> {
        assert!(message.len() <= MAX_MESSAGE, "a message of {} bytes", message.len());
        self.act(|inner, node| {
            let Some((near, far)) = inner.links.get(&peer).copied() else { return };
            assert_eq!(near.node, node, "a peer of another host");
            let from = inner.hosts[node].address;
            inner.sent.push((from, message.len()));
            let lost = inner.loses_one_in > 0 && inner.sent.len() % inner.loses_one_in == 0;
            if !lost {
                inner.later(far.node, OverlayEvent::Received(far.peer, message.to_vec().into()));
            }
        })
    }

    fn disconnect(&self, peer: PeerId, hostile: bool) -> Result<(), EngineError> {
        self.act(|inner, node| {
            let Some((_, far)) = inner.links.get(&peer).copied() else { return };
            if hostile {
                let ip = inner.hosts[far.node].address.ip();
                inner.hosts[node].muted.insert(ip);
            }
            inner.disconnect(peer);
        })
    }

    fn announce(&self, topic: Topic) -> Result<(), EngineError> {
        self.act(|inner, node| {
            let address = inner.hosts[node].address;
            inner.announced.entry(topic).or_default().insert(address);
            inner.announcements.push((Instant::now(), topic));
        })
    }

    fn find(&self, topic: Topic) -> Result<(), EngineError> {
        self.act(|inner, node| {
            if inner.dht {
                let peers = inner.announced.get(&topic).into_iter().flatten().copied().collect();
                inner.later(node, OverlayEvent::DhtPeers(topic, peers));
            }
        })
    }

    fn put_item(&self, item: &DhtItem) -> Result<(), EngineError> {
        self.act(|inner, node| {
            inner.puts.push((Instant::now(), item.clone()));
            if inner.dht {
                inner.items.insert((item.publisher, item.salt), item.clone());
                inner.later(node, OverlayEvent::DhtStored(item.publisher, item.salt, 8));
            }
        })
    }

    fn get_item(&self, publisher: PublisherKey, salt: [u8; 20]) -> Result<(), EngineError> {
        self.act(|inner, node| {
            if inner.dht {
                let item = inner.items.get(&(publisher, salt)).cloned();
                inner.later(node, OverlayEvent::DhtFound(publisher, salt, item));
            }
        })
    }
}
