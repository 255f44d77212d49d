//! Gossip: which records go to which peer, and the limits of each peer. A state machine without I/O and without a clock.
//!
//! Its owner reports events ([`speaks`](Gossip::speaks), [`message`](Gossip::message), [`left`](Gossip::left),
//! [`stored`](Gossip::stored), [`tick`](Gossip::tick)), and carries out the resulting [`Action`]s in their order.
//!
//! Invariants:
//! - Records are exchanged between *partners*: peers of the catalog's swarm, at most [`MAX_PARTNERS`]. All other peers are
//!   answered and can be asked.
//! - A node requests the records that it lacks, one message at a time. So a node that is far behind receives as much as it
//!   can process, and neither side ever holds more than a page for the other.
//! - A publisher's records are requested from one peer at a time, and from another when that one does not answer.
//! - Every table has a bound, every question a deadline, and every answer a budget.
//!
//! `sync` compares digests and fetches missing records, `spread` sends new records, `asks` sends questions of the service,
//! `answers` answers questions of peers, `budget` bounds both, `purse` bounds the records that each host makes this node
//! store. A limit for one address is a limit for its whole [`AddressGroup`](crate::torrent::AddressGroup).

mod action;
pub mod answers;
mod asks;
pub mod budget;
mod purse;
mod spread;
mod sync;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub use action::{Action, GossipConnection, Notice, RecordOrigin};
pub(crate) use action::{NodeId, Speaker, Tag};
use answers::{PeerRequest, RecordSource};
use asks::Asks;
use budget::{Bucket, WorkBuckets};
use purse::Purses;
use spread::Fresh;
pub use spread::SPREAD_EVERY;
use sync::Sync;

use crate::catalog::message::Message;
use crate::catalog::record::SharedRecord;
use crate::catalog::store::StoreOutcome;
use crate::model::PublisherKey;
use crate::torrent::PeerId;

/// The protocol's version.
const VERSION: u32 = 1;

/// The most peers that records are exchanged with: each is a bit of a mask. More would only cost more.
pub const MAX_PARTNERS: usize = 48;

/// Partners with one address, other than this host's own, so that one host cannot become every partner.
const MAX_PARTNERS_OF_ADDRESS: usize = 2;

/// Connections with gossip. The engine's limit is lower, unless the user raises it.
const MAX_PEERS: usize = 500;

/// Connections of the catalog's swarm from one address, other than this host's own: some hosts share one.
const MAX_OF_ADDRESS: usize = 8;

/// Connections of models' swarms with gossip, from one address: a host has a connection for each model that both share.
const MAX_OF_MODELS: usize = 32;

/// How long a peer may take to send its hello.
const HELLO_WITHIN: Duration = Duration::from_secs(30);

/// How often the owner calls [`Gossip::tick`].
pub const TICK: Duration = Duration::from_millis(250);

/// One connection.
struct Peer {
    connection: GossipConnection,
    since: Instant,
    /// The peer's node, after its hello, and how many records it has.
    node: Option<NodeId>,
    records: u32,
    /// Its bit among the partners.
    partner: Option<u64>,
    /// The connection is being closed, or has no gossip any more: messages are ignored.
    closing: bool,
    sync: Sync,
    parked: VecDeque<PeerRequest>,
    work: WorkBuckets,
    answered: Bucket,
}

/// The gossip of one node.
pub struct Gossip {
    node: NodeId,
    rng: fastrand::Rng,
    peers: BTreeMap<PeerId, Peer>,
    /// The peer that a publisher's records are requested from.
    wanted_of: HashMap<PublisherKey, PeerId>,
    fresh: Fresh,
    purses: Purses,
    asks: Asks,
    work: WorkBuckets,
    answered: Bucket,
    next_pull: Instant,
    actions: VecDeque<Action>,
}

impl Gossip {
    /// The gossip of a node without peers. `seed` determines all random choices.
    pub fn new(node: NodeId, seed: u64, now: Instant) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            node,
            fresh: Fresh::new(now, &mut rng),
            next_pull: now + sync::pull_after(&mut rng),
            rng,
            peers: BTreeMap::new(),
            wanted_of: HashMap::new(),
            purses: Purses::default(),
            asks: Asks::default(),
            work: WorkBuckets::of_all(now),
            answered: Bucket::new(budget::ALL_ANSWERED_BYTES, now),
            actions: VecDeque::new(),
        }
    }

    /// The next task.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// All peers that have sent their hello, one connection for each node: preferably of the catalog's swarm.
    pub fn speakers(&self) -> Vec<Speaker> {
        // The address is part of the key, so that a host cannot replace another node by using its number.
        let mut nodes: BTreeMap<(NodeId, IpAddr), Speaker> = BTreeMap::new();
        for (&peer, state) in self.peers.iter().filter(|(_, p)| !p.closing) {
            let Some(node) = state.node else { continue };
            let speaker = Speaker { peer, node, connection: state.connection };
            let known = nodes.entry((node, state.connection.address.ip())).or_insert(speaker);
            if !known.connection.of_catalog && speaker.connection.of_catalog {
                *known = speaker;
            }
        }
        nodes.into_values().collect()
    }

    /// The address of a peer.
    pub fn address(&self, peer: PeerId) -> Option<SocketAddr> {
        self.peers.get(&peer).map(|state| state.connection.address)
    }

    /// How many nodes of the catalog's swarm can be asked.
    pub fn members(&self) -> usize {
        self.speakers().iter().filter(|s| s.connection.of_catalog).count()
    }

    /// A peer is connected and supports gossip.
    pub fn speaks(
        &mut self,
        now: Instant,
        peer: PeerId,
        connection: GossipConnection,
        source: &dyn RecordSource,
    ) {
        let group = connection.group();
        let alike =
            |p: &&Peer| p.connection.group() == group && p.connection.of_catalog == connection.of_catalog;
        let bound = if connection.of_catalog { MAX_OF_ADDRESS } else { MAX_OF_MODELS };
        let of_address = self.peers.values().filter(alike).count();
        if self.peers.len() >= MAX_PEERS || (of_address >= bound && !group.is_loopback()) {
            // A model's data continues over a connection without gossip.
            if connection.of_catalog {
                self.disconnect(peer, false, "there are too many connections");
            }
            return;
        }
        let state = Peer {
            connection,
            since: now,
            node: None,
            records: 0,
            partner: None,
            closing: false,
            sync: Sync::new(now),
            parked: VecDeque::new(),
            work: WorkBuckets::of_peer(now),
            answered: Bucket::new(budget::ANSWERED_BYTES, now),
        };
        self.peers.insert(peer, state);
        let records = u32::try_from(source.count()).unwrap_or(u32::MAX);
        self.send(peer, Message::Hello { version: VERSION, node: self.node, records });
    }

    /// A peer has left.
    pub fn left(&mut self, now: Instant, peer: PeerId, source: &dyn RecordSource) {
        let Some(gone) = self.peers.remove(&peer) else { return };
        self.wanted_of.retain(|_, of| *of != peer);
        for notice in self.asks.left(peer) {
            self.actions.push_back(Action::Notify(notice));
        }
        self.actions.push_back(Action::Notify(Notice::Gone(peer)));
        if gone.partner.is_some() {
            let next = self.peers.iter().find(|(_, p)| self.could_be_partner(p)).map(|(id, _)| *id);
            if let Some(next) = next {
                self.make_partner(now, next, source);
                // Its earlier digests went to its other connection, or were ignored on this one.
                self.ask_digest(now, next);
            }
        }
    }

    /// A peer has proved hostile: it sent a malformed message, or a check outside the gossip failed.
    pub fn hostile(&mut self, peer: PeerId, why: &'static str) {
        self.disconnect(peer, true, why);
    }

    /// A peer has sent a message.
    pub fn message(&mut self, now: Instant, peer: PeerId, message: Message, source: &dyn RecordSource) {
        let Some(state) = self.peers.get_mut(&peer).filter(|p| !p.closing) else { return };
        if let Message::Hello { version, node, records } = message {
            return self.hello(now, peer, (version, node, records), source);
        }
        if state.node.is_none() {
            return self.disconnect(peer, true, "it did not begin with a hello");
        }
        match message {
            Message::Hello { .. } => {}
            Message::Have { known, more } => self.claims(now, peer, &known, more, source),
            Message::Want { after } if after.is_empty() => self.digest_wanted(now, peer),
            Message::Want { after } => self.request(now, peer, PeerRequest::Want(after)),
            Message::Question(id, question) => {
                self.request(now, peer, PeerRequest::Question(id, question));
            }
            Message::Pushed(records) => self.pushed(now, peer, records),
            Message::Wanted { records, more } => self.wanted(now, peer, records, more, source),
            Message::Answer(id, answer) => self.answered_by(now, peer, id, answer),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant, source: &dyn RecordSource) {
        for notice in self.asks.overdue(now) {
            self.actions.push_back(Action::Notify(notice));
        }
        let ids: Vec<PeerId> = self.peers.iter().filter(|(_, p)| !p.closing).map(|(id, _)| *id).collect();
        for peer in ids {
            let state = &self.peers[&peer];
            if state.node.is_none() && now >= state.since + HELLO_WITHIN {
                self.disconnect(peer, false, "it sent no hello");
                continue;
            }
            self.answer_parked(now, peer);
            self.sync_tick(now, peer, source);
        }
        if now >= self.next_pull {
            self.next_pull = now + sync::pull_after(&mut self.rng);
            self.purses.tidy(now);
            self.pull(now);
        }
        self.spread_tick(now, source);
    }

    /// Reports the outcomes of storing records.
    pub fn stored(
        &mut self,
        now: Instant,
        origin: RecordOrigin,
        records: &[SharedRecord],
        outcomes: &[StoreOutcome],
        source: &dyn RecordSource,
    ) {
        let cost = outcomes.iter().filter(|o| !matches!(o, StoreOutcome::Known)).count();
        if let Some((peer, state)) = origin.peer().and_then(|peer| Some((peer, self.peers.get(&peer)?))) {
            let address = state.connection.address;
            self.purses.of(now, peer, address).spend(now, cost as f64);
        }
        let bit = origin.peer().and_then(|peer| self.peers.get(&peer)?.partner);
        for (record, _) in records.iter().zip(outcomes).filter(|(_, o)| **o == StoreOutcome::Known) {
            let record = record.record();
            let newest = source.have(&record.publisher).is_some_and(|have| have.sequence <= record.sequence);
            if let Some(bit) = bit.filter(|_| newest) {
                self.fresh.known_to(&record.publisher, bit);
            }
        }
        let new = records.iter().zip(outcomes).filter(|(_, o)| **o == StoreOutcome::Stored).map(|(r, _)| r);
        self.spread(now, origin, new.cloned().collect());
        if let RecordOrigin::Wanted(peer) = origin {
            if outcomes.contains(&StoreOutcome::Stored)
                && let Some(state) = self.peers.get_mut(&peer)
            {
                state.sync.brought_records();
            }
            self.fetch_more(now, peer, source);
        }
    }

    fn hello(
        &mut self,
        now: Instant,
        peer: PeerId,
        (version, node, records): (u32, NodeId, u32),
        source: &dyn RecordSource,
    ) {
        if node == self.node {
            return self.disconnect(peer, false, "it is this node");
        }
        if version < VERSION {
            return self.disconnect(peer, false, "its protocol version is too old");
        }
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if state.node.is_some() {
            return;
        }
        state.node = Some(node);
        state.records = records;
        if self.could_be_partner(&self.peers[&peer]) {
            self.make_partner(now, peer, source);
        }
        self.actions.push_back(Action::Notify(Notice::Ready(peer)));
    }

    /// Whether a peer can become a partner. A node with two connections is one partner. Two connections count as the same
    /// node only if they have the same address, so that a host cannot exclude another node by using its number.
    fn could_be_partner(&self, candidate: &Peer) -> bool {
        let (ip, group) = (candidate.connection.address.ip(), candidate.connection.group());
        let neighbours =
            || self.peers.values().filter(|p| p.partner.is_some() && p.connection.group() == group);
        candidate.partner.is_none()
            && !candidate.closing
            && candidate.connection.of_catalog
            && candidate.node.is_some()
            && (group.is_loopback() || neighbours().count() < MAX_PARTNERS_OF_ADDRESS)
            && !neighbours().any(|p| p.connection.address.ip() == ip && p.node == candidate.node)
    }

    fn make_partner(&mut self, now: Instant, peer: PeerId, source: &dyn RecordSource) {
        let taken = self.peers.values().filter_map(|p| p.partner).fold(0, |all, bit| all | bit);
        let free = (0..MAX_PARTNERS).map(|i| 1u64 << i).find(|bit| taken & bit == 0);
        let (Some(bit), Some(state)) = (free, self.peers.get_mut(&peer)) else { return };
        state.partner = Some(bit);
        self.fresh.unknown_to(bit);
        if source.count() > 0 {
            self.digest_wanted(now, peer);
        }
    }

    /// Accepts a request of a peer. It is answered now or later, within the peer's budget, or dropped if too many wait.
    fn request(&mut self, now: Instant, peer: PeerId, request: PeerRequest) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if state.parked.len() < budget::MAX_PARKED {
            state.parked.push_back(request);
            self.answer_parked(now, peer);
        }
    }

    fn answer_parked(&mut self, now: Instant, peer: PeerId) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        while let Some(request) = state.parked.front() {
            let cost = request.cost();
            let bytes = state.answered.available(now) >= cost && self.answered.available(now) >= cost;
            let is_allowed = |work| {
                let (of_peer, of_all) = (state.work.of(work), self.work.of(work));
                Bucket::take_of_both(of_peer, of_all, now, work.at_first())
            };
            if !bytes || !request.work().is_none_or(is_allowed) {
                return;
            }
            state.answered.spend(now, cost);
            self.answered.spend(now, cost);
            let request = state.parked.pop_front().expect("it is in front");
            self.actions.push_back(Action::Answer(peer, request));
        }
    }

    fn send(&mut self, peer: PeerId, message: Message) {
        self.actions.push_back(Action::Send(peer, message));
    }

    /// Ignores the peer from now on; [`left`](Self::left) follows. A connection of a model's swarm also carries the model's
    /// data: it stays open without gossip, unless the peer is hostile.
    fn disconnect(&mut self, peer: PeerId, hostile: bool, why: &'static str) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.closing = true;
            if !hostile && !state.connection.of_catalog {
                return;
            }
        }
        self.actions.push_back(Action::Disconnect { peer, hostile, why });
    }
}

#[cfg(test)]
mod tests;
