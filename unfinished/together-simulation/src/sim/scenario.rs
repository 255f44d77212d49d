//! What is simulated, and its result.

use std::collections::{BinaryHeap, VecDeque};

use super::{Event, Host, Kind, Link, Net, random, sender};
use crate::together::{Reader, Time, mix};

pub const MIB: u64 = 1 << 20;

#[derive(Debug, Clone)]
pub struct Scenario {
    pub hosts: u32,
    pub get: bool,
    pub foreign: bool,
    pub pieces: u32,
    pub piece_length: u64,
    pub blocks: u16,
    /// Bytes per second of every link.
    pub rate: u64,
    pub rtt: Time,
    /// Most pieces of a window.
    pub window: u32,
    /// Connections of a host; all if there are not more hosts.
    pub degree: u32,
    /// Readers with other links: their number, and the divisor of their rate.
    pub slower: (u32, u64),
    /// Links of different rates, from 1/2 to 2.
    pub unequal: bool,
    pub vanishing: u32,
    /// The last host starts so much later than the first one; each at its own time.
    pub spread: Time,
    /// Attackers in addition to the readers: their number, their kind, and bytes per second.
    pub attackers: (u32, Kind, u64),
    pub seed: u64,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            hosts: 8,
            get: false,
            foreign: false,
            pieces: 64,
            piece_length: 4 * MIB,
            blocks: 16,
            rate: 25_000_000,
            rtt: 1_000,
            window: 16,
            degree: 50,
            slower: (0, 1),
            unequal: false,
            vanishing: 0,
            spread: 0,
            attackers: (0, Kind::Liar, 0),
            seed: 1,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// The slowest, and the median host: the time to read all, in units of one host alone.
    pub slowest: f64,
    pub median: f64,
    /// Bytes that the origin sent ÷ bytes of the model.
    pub origin: f64,
    /// Bytes received by readers ÷ bytes of the model, at the worst reader.
    pub received: f64,
    pub finished: bool,
    pub events: u64,
}

impl Scenario {
    fn host(&self, id: u32, kind: Kind, up: u64, down: u64) -> Host {
        let is_full = matches!(kind, Kind::Seed | Kind::Foreign);
        Host {
            kind,
            up,
            down,
            links: Vec::new(),
            reader: Reader::new(self.pieces, self.piece_length, mix(u64::from(id) + 1), mix(self.seed ^ u64::from(id) << 20)),
            sender: sender(self),
            last_link: 0,
            sending: false,
            down_free: 0,
            has: vec![is_full; self.pieces as usize],
            progress: vec![None; self.pieces as usize],
            head: 0,
            head_since: 0,
            joined: None,
            done: None,
            gone: false,
            vanishes: false,
            turn_at: None,
            told_window: (0, 0),
            received: 0,
            busy: 0,
            bits_count: 0,
        }
    }

    pub fn build(&self) -> Net {
        let mut hosts = vec![self.host(0, if self.foreign { Kind::Foreign } else { Kind::Seed }, self.rate, self.rate)];
        for id in 1..=self.hosts {
            let mut rate = self.rate;
            if id <= self.slower.0 {
                rate /= self.slower.1;
            } else if self.unequal {
                rate = rate / 2 + random(self.seed ^ u64::from(id) << 8, rate * 3 / 2);
            }
            let mut host = self.host(id, if self.get { Kind::Get } else { Kind::Mount }, rate, rate);
            host.vanishes = id > self.hosts - self.vanishing;
            hosts.push(host);
        }
        for i in 0..self.attackers.0 {
            hosts.push(self.host(self.hosts + 1 + i, self.attackers.1, self.attackers.2.max(1), self.rate));
        }
        let total = hosts.len() as u32;
        let mut net = Net {
            now: 0,
            seq: 0,
            queue: BinaryHeap::new(),
            hosts,
            scenario: self.clone(),
            events: 0,
            sent_by_origin: 0,
        };
        for a in 0..total {
            for b in a + 1..total {
                let all = total - 1 <= self.degree;
                // Each host chooses half of its connections; the origin has as many as the others, or the first ones.
                let near = random(self.seed ^ (u64::from(a) << 32 | u64::from(b)), u64::from(total)) < u64::from(self.degree);
                let origin = a == 0 && (total <= 200 || random(self.seed ^ u64::from(b) << 16, u64::from(total)) < 200);
                if all || origin || (a > 0 && near) {
                    let (sa, sb) = (net.hosts[a as usize].links.len() as u32, net.hosts[b as usize].links.len() as u32);
                    net.hosts[a as usize].links.push(Link { peer: b, slot: sb, asked: VecDeque::new(), pieces: Vec::new() });
                    net.hosts[b as usize].links.push(Link { peer: a, slot: sa, asked: VecDeque::new(), pieces: Vec::new() });
                }
            }
        }
        for id in 0..total {
            let is_reader = net.hosts[id as usize].is_reader();
            let late = if is_reader { random(self.seed ^ 77 ^ u64::from(id), self.spread + 1) } else { 0 };
            net.at(late, Event::Join(id));
            if net.hosts[id as usize].vanishes {
                let alone = self.alone_at_least();
                net.at(late + alone / 8 + random(self.seed ^ 99 ^ u64::from(id), alone), Event::Vanish(id));
            }
        }
        net
    }

    fn alone_at_least(&self) -> Time {
        u64::from(self.pieces) * self.piece_length * 1_000_000 / self.rate
    }

    pub fn run(&self) -> Outcome {
        let alone = self.alone_at_least() as f64;
        let mut net = self.build();
        let finished = net.run(60 * self.alone_at_least() + self.spread);
        // A host with a slower link is compared with itself alone.
        let mut times: Vec<f64> = net
            .hosts
            .iter()
            .filter(|host| host.is_reader() && !host.vanishes)
            .map(|host| {
                let scale = (self.rate as f64 / host.down as f64).max(1.0);
                let took = host.done.unwrap_or(net.now) - host.joined.unwrap_or(0);
                took as f64 / alone / scale
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let model = (u64::from(self.pieces) * self.piece_length) as f64;
        let received = net.hosts.iter().filter(|h| h.is_reader()).map(|h| h.received).max().unwrap_or(0);
        Outcome {
            slowest: *times.last().unwrap(),
            median: times[times.len() / 2],
            origin: net.sent_by_origin as f64 / model,
            received: received as f64 / model,
            finished,
            events: net.events,
        }
    }
}
