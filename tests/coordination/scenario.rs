//! What is simulated, and its result.

use super::host::{Chunks, Host, Kind, Link, Links};
use super::net::{BLOCK, Event, Net, SECOND, Time};

pub const MIB: u64 = 1 << 20;

#[derive(Debug, Clone)]
pub struct Scenario {
    /// Readers.
    pub hosts: usize,
    pub kind: Kind,
    pub pieces: u32,
    pub piece_length: u64,
    /// Blocks of a chunk: the unit that is requested and sent.
    pub blocks: u64,
    /// Bytes per second of each link, up and down.
    pub rate: u64,
    pub round_trip: Time,
    /// How long verified chunks are collected before they are offered.
    pub offers: Time,
    /// Pieces of a window.
    pub window: u32,
    /// Connections of a host; all, if there are not more hosts.
    pub connections: usize,
    /// Readers with slower links: their number, and the divisor of their rate.
    pub slower: (usize, u64),
    /// Links of different rates, from half to twice the rate.
    pub unequal: bool,
    /// Readers that disappear while they read.
    pub vanishing: usize,
    /// Their connections stay open.
    pub silently: bool,
    /// Each reader starts at its own time within this time, and connects to another one within `meeting`.
    pub spread: Time,
    pub meeting: Time,
    /// Hosts in addition to the readers: their number, their kind, and the bytes that they send per second and connection.
    pub attackers: (usize, Kind, u64),
    pub seed: u64,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            hosts: 8,
            kind: Kind::Get,
            pieces: 64,
            piece_length: 4 * MIB,
            blocks: 4,
            rate: 25_000_000,
            round_trip: 1_000,
            offers: 20_000,
            window: 32,
            connections: 50,
            slower: (0, 1),
            unequal: false,
            vanishing: 0,
            silently: false,
            spread: 0,
            meeting: SECOND / 4,
            attackers: (0, Kind::Liar, 0),
            seed: 1,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// The slowest and the median reader: its time ÷ the time that the model needs on its link alone.
    pub slowest: f64,
    pub median: f64,
    /// Bytes that the origin sent ÷ bytes of the model.
    pub origin: f64,
    /// Bytes that the reader with the most bytes received ÷ bytes of the model.
    pub received: f64,
    pub finished: bool,
    pub events: u64,
}

impl Scenario {
    /// Bytes of a chunk.
    pub fn chunk(&self) -> u64 {
        self.blocks * BLOCK
    }

    /// Chunks of a piece.
    pub fn chunks(&self) -> u64 {
        self.piece_length / self.chunk()
    }

    fn bytes(&self) -> u64 {
        u64::from(self.pieces) * self.piece_length
    }

    fn alone(&self, rate: u64) -> f64 {
        self.bytes() as f64 / rate as f64 * SECOND as f64
    }

    fn build(&self) -> Net {
        assert!(self.chunks() <= u64::from(Chunks::BITS));
        let mut net = Net::new(self.clone());
        for id in 0..=self.hosts + self.attackers.0 {
            let kind = match id {
                0 => Kind::Origin,
                _ if id <= self.hosts => self.kind,
                _ => self.attackers.1,
            };
            let rate = match id {
                0 => self.rate,
                _ if id <= self.slower.0 => self.rate / self.slower.1,
                _ if self.unequal => net.rng.u64(self.rate / 2..=2 * self.rate),
                _ => self.rate,
            };
            let number = net.rng.u64(..);
            let mut host = Host::new(kind, rate, number, self);
            host.vanishes = kind.reads() && id > self.hosts - self.vanishing;
            net.hosts.push(host);
        }
        self.connect(&mut net);
        for id in 0..net.hosts.len() {
            let late = if net.hosts[id].kind.reads() { net.rng.u64(0..=self.spread) } else { 0 };
            net.at(late, Event::Starts(id));
            if net.hosts[id].vanishes {
                let alone = self.alone(self.rate) as Time;
                let gone = late + alone / 8 + net.rng.u64(0..alone);
                net.at(gone, Event::Vanishes(id));
            }
        }
        net
    }

    /// Each host connects to random hosts until it has its connections.
    fn connect(&self, net: &mut Net) {
        let total = net.hosts.len();
        let most = self.connections.min(Links::BITS as usize);
        let mut order: Vec<usize> = (1..total).collect();
        net.rng.shuffle(&mut order);
        let link = |net: &mut Net, a: usize, b: usize| {
            let free = |host: &Host| host.links.len() < most;
            let known = net.hosts[a].links.iter().any(|link| link.peer == b);
            if a != b && !known && free(&net.hosts[a]) && free(&net.hosts[b]) {
                let (at_a, at_b) = (net.hosts[a].links.len(), net.hosts[b].links.len());
                net.hosts[a].links.push(Link::new(b, at_b));
                net.hosts[b].links.push(Link::new(a, at_a));
            }
        };
        for host in &order {
            link(net, 0, *host);
        }
        for a in order {
            if total <= most + 1 {
                (1..total).for_each(|b| link(net, a, b));
                continue;
            }
            for _ in 0..4 * most {
                let b = net.rng.usize(1..total);
                link(net, a, b);
            }
        }
    }

    pub fn run(&self) -> Outcome {
        let mut net = self.build();
        let finished = net.run(self.spread + 30 * self.alone(self.rate) as Time);
        // A host with a slower link is compared with itself.
        let mut times: Vec<f64> = net
            .hosts
            .iter()
            .filter(|host| host.must_finish())
            .map(|host| {
                let took = host.done.unwrap_or(net.now) - host.started.unwrap_or(0);
                took as f64 / self.alone(host.down.min(self.rate))
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let received = net.hosts.iter().map(|host| host.received).max().unwrap_or(0);
        Outcome {
            slowest: *times.last().unwrap(),
            median: times[times.len() / 2],
            origin: net.origin as f64 / self.bytes() as f64,
            received: received as f64 / self.bytes() as f64,
            finished,
            events: net.events,
        }
    }
}
