//! A swarm simulated on paper: links, queues and messages of many hosts that read one model at the same time.
//!
//! The model: an uplink sends one block after another, chosen among the connections with requests; a downlink receives one block
//! after another. Requests, HAVEs, claims and cancels take half a round trip. A piece counts when its last block came and it was
//! hashed. A reader knows only what these messages told it.

mod host;
mod scenario;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::together::{Sender, Time, mix};
pub use host::{Host, Kind};
pub use scenario::*;

/// The time to hash and store a piece before it is announced.
const HASHED: Time = 5_000;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Join(u32),
    Vanish(u32),
    /// Requests reach a sender.
    Requests { to: u32, slot: u32, piece: u32, blocks: Vec<u16> },
    Cancels { to: u32, slot: u32, piece: u32, block: u16 },
    /// An uplink has sent its block.
    Sent(u32),
    /// A block begins to arrive at a downlink.
    Arrives { to: u32, slot: u32, piece: u32, block: u16 },
    /// A block was received.
    Block { to: u32, slot: u32, piece: u32, block: u16 },
    Passed { host: u32, piece: u32 },
    /// Reaches all neighbours.
    Have { from: u32, piece: u32 },
    Claims { from: u32, pieces: Vec<u32>, window: (u32, u32) },
    Turn(u32),
    Tick(u32),
}

/// A connection, seen from one end.
#[derive(Debug, Clone)]
pub struct Link {
    pub peer: u32,
    /// The number of this connection at the peer.
    pub slot: u32,
    /// Requests of the peer: piece, block, when they came.
    pub asked: std::collections::VecDeque<(u32, u16, Time)>,
    /// The pieces that the peer requests, and since when.
    pub pieces: Vec<(u32, Time)>,
}

pub struct Net {
    pub now: Time,
    seq: u64,
    queue: BinaryHeap<Reverse<(Time, u64, Event)>>,
    pub hosts: Vec<Host>,
    pub scenario: Scenario,
    pub events: u64,
    pub sent_by_origin: u64,
}

impl Net {
    pub fn at(&mut self, time: Time, event: Event) {
        self.seq += 1;
        self.queue.push(Reverse((time, self.seq, event)));
    }

    pub fn half(&self) -> Time {
        self.scenario.rtt / 2
    }

    pub fn block_bytes(&self) -> u64 {
        self.scenario.piece_length / u64::from(self.scenario.blocks)
    }

    /// Runs until all honest readers are done. Returns false if that takes longer than `limit`.
    pub fn run(&mut self, limit: Time) -> bool {
        while let Some(Reverse((time, _, event))) = self.queue.pop() {
            if time > limit {
                return false;
            }
            self.now = time;
            self.events += 1;
            self.handle(event);
            if self.hosts.iter().all(Host::is_over) {
                return true;
            }
        }
        self.hosts.iter().all(Host::is_over)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Join(host) => self.join(host),
            Event::Vanish(host) => self.vanish(host),
            Event::Requests { to, slot, piece, blocks } => {
                let now = self.now;
                let host = &mut self.hosts[to as usize];
                if host.gone || !host.serves() {
                    return;
                }
                let link = &mut host.links[slot as usize];
                if !link.pieces.iter().any(|&(p, _)| p == piece) {
                    if link.pieces.len() >= 8 {
                        link.pieces.remove(0);
                    }
                    link.pieces.push((piece, now));
                }
                link.asked.extend(blocks.iter().map(|&block| (piece, block, now)));
                self.send_next(to);
            }
            Event::Cancels { to, slot, piece, block } => {
                let asked = &mut self.hosts[to as usize].links[slot as usize].asked;
                asked.retain(|&(p, b, _)| (p, b) != (piece, block));
            }
            Event::Sent(host) => {
                self.hosts[host as usize].sending = false;
                self.send_next(host);
            }
            Event::Arrives { to, slot, piece, block } => {
                let bytes = self.block_bytes();
                let host = &mut self.hosts[to as usize];
                host.down_free = host.down_free.max(self.now) + bytes * 1_000_000 / host.down;
                let at = host.down_free;
                self.at(at, Event::Block { to, slot, piece, block });
            }
            Event::Block { to, slot, piece, block } => self.block(to, slot, piece, block),
            Event::Passed { host, piece } => self.passed(host, piece),
            Event::Have { from, piece } => {
                for i in 0..self.hosts[from as usize].links.len() {
                    let Link { peer, slot, .. } = self.hosts[from as usize].links[i];
                    self.have(peer, slot, piece);
                }
            }
            Event::Claims { from, pieces, window } => {
                for i in 0..self.hosts[from as usize].links.len() {
                    let Link { peer, slot, .. } = self.hosts[from as usize].links[i];
                    self.claims(peer, slot, &pieces, window);
                }
            }
            Event::Turn(host) => {
                if self.hosts[host as usize].turn_at == Some(self.now) {
                    self.hosts[host as usize].turn_at = None;
                }
                self.turn(host);
            }
            Event::Tick(host) => self.tick(host),
        }
    }

    /// Starts the next block of an uplink.
    fn send_next(&mut self, from: u32) {
        let bytes = self.block_bytes();
        let (now, half) = (self.now, self.half());
        let host = &mut self.hosts[from as usize];
        if host.sending || host.gone {
            return;
        }
        let Some(slot) = host.choose_link() else { return };
        let Some((piece, block, since)) = host.links[slot].asked.pop_front() else { return };
        let request = crate::together::Request { copies: 0, connection: slot as u64, piece, waited: false, since, piece_since: since };
        host.sender.sent(&request, bytes);
        host.last_link = slot;
        host.sending = true;
        host.busy += bytes * 1_000_000 / host.up;
        let done = now + (bytes * 1_000_000 / host.up).max(1);
        let Link { peer, slot, .. } = host.links[slot];
        if from == 0 {
            self.sent_by_origin += bytes;
        }
        self.at(done, Event::Sent(from));
        // The first bytes arrive while the last ones are sent.
        let takes = bytes * 1_000_000 / self.hosts[peer as usize].down;
        let begins = (done + half).saturating_sub(takes).max(now);
        self.at(begins, Event::Arrives { to: peer, slot, piece, block });
    }
}

/// A random number below `below`, the same for the same arguments.
pub fn random(seed: u64, below: u64) -> u64 {
    mix(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d) % below.max(1)
}

impl Host {
    /// The connection whose first request is sent next.
    fn choose_link(&self) -> Option<usize> {
        if self.kind != Kind::Foreign {
            let mut requests = Vec::new();
            let mut slots = Vec::new();
            for (slot, link) in self.links.iter().enumerate() {
                if let Some(&(piece, _, since)) = link.asked.front() {
                    let piece_since = link.pieces.iter().find(|&&(p, _)| p == piece).map_or(since, |&(_, at)| at);
                    requests.push(crate::together::Request { copies: self.reader.copies(piece), connection: slot as u64, piece, waited: self.reader.peer(slot as u32).is_some_and(|peer| peer.window.0 == piece && peer.window.1 > 0), since, piece_since });
                    slots.push(slot);
                }
            }
            let next = if self.kind == Kind::Seed { self.sender.next(&requests) } else { Sender::first(&requests) };
            return next.map(|i| slots[i]);
        }
        // One connection after another.
        let len = self.links.len();
        (1..=len).map(|i| (self.last_link + i) % len).find(|&i| !self.links[i].asked.is_empty())
    }
}

pub fn sender(scenario: &Scenario) -> Sender {
    Sender::new(scenario.pieces, scenario.piece_length)
}
