//! A swarm on one clock: links, queues and messages of hosts that read one model at the same time.
//!
//! An uplink sends one chunk after another, taking turns among the connections with requests; a downlink receives one
//! chunk after another. A chunk is one or more blocks. Requests, announcements, claims and cancels take half a round
//! trip. A piece counts when its last chunk has come and was hashed. A reader knows only what these messages report.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::host::{Host, Kind};
use super::scenario::Scenario;

/// Microseconds since the first host started.
pub type Time = u64;

/// Bytes of a block.
pub const BLOCK: u64 = 16 << 10;

/// One second.
pub const SECOND: Time = 1_000_000;

/// The time to hash and store a piece before it is announced.
pub const HASHED: Time = 5_000;

/// A chunk of a piece: the piece, and the number of the chunk in it.
pub type Chunk = (u32, u16);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A host starts.
    Starts(usize),
    /// A host disappears.
    Vanishes(usize),
    /// A connection of a host opens; its number there.
    Opens(usize, usize),
    /// Both ends of a connection of a host learn that it is closed.
    Closes(usize, usize),
    /// Requests reach the other end of a connection of this host.
    Requests(usize, usize, Vec<Chunk>),
    /// So do cancels.
    Cancels(usize, usize, Chunk),
    /// An uplink has sent its chunk.
    Sent(usize),
    /// The first bytes of a chunk reach a host.
    Arrives(usize, usize, Chunk),
    /// A host has received a chunk.
    Received(usize, usize, Chunk),
    /// A host has verified a piece.
    Passed(usize, u32),
    /// The announcement of a piece reaches the neighbours of a host.
    Have(usize, u32),
    /// A host offers the chunks that it has verified since its last offers.
    Offers(usize),
    /// The offers of a host reach its neighbours.
    Offered(usize, Vec<Chunk>),
    /// The claims of a host reach its neighbours.
    Claims(usize, Vec<u32>),
    /// A host fills the queues of its peers.
    Turn(usize),
    /// A second of a host has passed.
    Tick(usize),
}

pub struct Net {
    pub now: Time,
    pub hosts: Vec<Host>,
    pub scenario: Scenario,
    pub rng: fastrand::Rng,
    /// Bytes that the origin, which is host 0, has sent.
    pub origin: u64,
    pub events: u64,
    last: u64,
    queue: BinaryHeap<Reverse<(Time, u64, Event)>>,
}

impl Net {
    pub fn new(scenario: Scenario) -> Self {
        Self {
            now: 0,
            hosts: Vec::new(),
            rng: fastrand::Rng::with_seed(scenario.seed),
            origin: 0,
            events: 0,
            last: 0,
            queue: BinaryHeap::new(),
            scenario,
        }
    }

    pub fn at(&mut self, time: Time, event: Event) {
        self.last += 1;
        self.queue.push(Reverse((time, self.last, event)));
    }

    /// How long a message takes.
    pub fn half(&self) -> Time {
        self.scenario.round_trip / 2
    }

    /// Runs until all honest readers are done. False if that takes longer than `limit`.
    pub fn run(&mut self, limit: Time) -> bool {
        let mut left = self.hosts.iter().filter(|host| host.must_finish()).count();
        while let Some(Reverse((time, _, event))) = self.queue.pop() {
            if time > limit {
                return false;
            }
            self.now = time;
            self.events += 1;
            if self.handle(event) {
                left -= 1;
                if left == 0 {
                    return true;
                }
            }
        }
        false
    }

    /// Returns whether a host that must finish has read everything.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Starts(host) => self.start(host),
            Event::Vanishes(host) => self.vanish(host),
            Event::Opens(host, link) => self.open(host, link),
            Event::Closes(host, link) => self.close(host, link),
            Event::Requests(host, link, chunks) => {
                let (peer, back) = self.other_end(host, link);
                self.requests(peer, back, chunks);
            }
            Event::Cancels(host, link, chunk) => {
                let (peer, back) = self.other_end(host, link);
                self.hosts[peer].links[back].queue.retain(|one| *one != chunk);
            }
            Event::Sent(host) => {
                self.hosts[host].sends = false;
                self.send_next(host);
            }
            Event::Arrives(host, link, chunk) => {
                let takes = self.scenario.chunk() * SECOND / self.hosts[host].down;
                let free = self.hosts[host].down_free.max(self.now) + takes;
                self.hosts[host].down_free = free;
                self.at(free, Event::Received(host, link, chunk));
            }
            Event::Received(host, link, chunk) => self.received(host, link, chunk, self.scenario.chunk()),
            Event::Passed(host, piece) => return self.passed(host, piece),
            Event::Have(host, piece) => {
                for link in 0..self.hosts[host].links.len() {
                    let (peer, back) = self.other_end(host, link);
                    self.announced(peer, back, piece);
                }
            }
            Event::Offers(host) => self.offer(host),
            Event::Offered(host, chunks) => {
                for link in 0..self.hosts[host].links.len() {
                    let (peer, back) = self.other_end(host, link);
                    self.offered(peer, back, &chunks);
                }
            }
            Event::Claims(host, pieces) => {
                let body = silmaril::torrent::trial_claims(self.hosts[host].number, &pieces).unwrap();
                for link in 0..self.hosts[host].links.len() {
                    let (peer, back) = self.other_end(host, link);
                    self.claimed(peer, back, &body, !pieces.is_empty());
                }
            }
            Event::Turn(host) => self.turn(host),
            Event::Tick(host) => self.tick(host),
        }
        false
    }

    fn other_end(&self, host: usize, link: usize) -> (usize, usize) {
        let link = &self.hosts[host].links[link];
        (link.peer, link.back)
    }

    fn requests(&mut self, id: usize, link: usize, chunks: Vec<Chunk>) {
        let host = &mut self.hosts[id];
        if host.gone || host.kind.attacks() {
            return;
        }
        if host.links[link].queue.is_empty() && !chunks.is_empty() {
            host.ready.push_back(link);
        }
        host.links[link].queue.extend(chunks);
        self.send_next(id);
    }

    /// Sends the next chunk of an uplink, if it is free.
    fn send_next(&mut self, id: usize) {
        let bytes = self.scenario.chunk();
        let (now, half) = (self.now, self.half());
        let host = &mut self.hosts[id];
        if host.sends || host.gone {
            return;
        }
        let Some((link, chunk)) = host.next_to_send() else { return };
        host.sends = true;
        let (peer, back) = (host.links[link].peer, host.links[link].back);
        let done = now + bytes * SECOND / host.up;
        if host.kind == Kind::Origin {
            self.origin += bytes;
        }
        self.at(done, Event::Sent(id));
        // The first bytes arrive while the last ones are sent.
        let takes = bytes * SECOND / self.hosts[peer].down;
        self.at((done + half).saturating_sub(takes).max(now), Event::Arrives(peer, back, chunk));
    }
}
