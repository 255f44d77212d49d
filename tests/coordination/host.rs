//! A host: the origin, a reader, or an attacker.

use std::collections::{BTreeMap, VecDeque};

use silmaril::torrent::{Flow, TrialPeer, TrialSupply, trial_place};

use super::net::{BLOCK, Chunk, Event, Net, SECOND, Time};
use super::scenario::Scenario;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A seed.
    Origin,
    /// Reads in order, with a window.
    Mount,
    /// Wants all pieces.
    Get,
    /// Has no piece, announces all but the last, and claims four pieces after four.
    Claimer,
    /// Has no piece, and announces all.
    Liar,
}

impl Kind {
    pub fn reads(self) -> bool {
        matches!(self, Self::Mount | Self::Get)
    }

    pub fn attacks(self) -> bool {
        matches!(self, Self::Claimer | Self::Liar)
    }
}

/// Connections of a host, one bit each.
pub type Links = u128;

/// Chunks of a piece, one bit each.
pub type Chunks = u128;

/// A piece that a reader claims.
pub struct Claim {
    pub piece: u32,
    pub counts: bool,
    /// This host has a lower place for the piece.
    pub later: bool,
}

/// One end of a connection.
pub struct Link {
    pub peer: usize,
    /// The number of the connection at the peer.
    pub back: usize,
    pub open: bool,
    /// What the reader knows of the peer.
    pub rules: TrialPeer,
    pub number: Option<u64>,
    /// Chunks that were requested from the peer, and have not come.
    pub asked: Vec<Chunk>,
    pub received: u64,
    /// Bytes of the current second.
    second: u64,
    rate: u64,
    /// The pieces that the peer has announced.
    pub announced: u32,
    /// The chunks that the peer offers of pieces that it has not announced.
    pub offers: BTreeMap<u32, Chunks>,
    /// When a piece passed of which the peer sent a part.
    pub proven: Option<Time>,
    pub claims: bool,
    /// Nothing could be requested, and nothing has changed since.
    pub dry: bool,
    /// The peer's requests.
    pub queue: VecDeque<Chunk>,
}

impl Link {
    pub fn new(peer: usize, back: usize) -> Self {
        Self {
            peer,
            back,
            open: false,
            rules: TrialPeer::new().unwrap(),
            number: None,
            asked: Vec::new(),
            received: 0,
            second: 0,
            rate: 0,
            announced: 0,
            offers: BTreeMap::new(),
            proven: None,
            claims: false,
            dry: false,
            queue: VecDeque::new(),
        }
    }

    pub fn flow(&self, blocks: u64) -> Flow {
        Flow { requests: self.requests(blocks), received: self.received, rate: self.rate }
    }

    pub fn requests(&self, blocks: u64) -> u32 {
        (self.asked.len() as u64 * blocks) as u32
    }

    pub fn count(&mut self, bytes: u64) {
        self.received += bytes;
        self.second += bytes;
    }

    /// Averages the rate as libtorrent does (`stat_channel::second_tick`).
    pub fn average(&mut self) {
        self.rate = (self.rate * 4 + std::mem::take(&mut self.second)) / 5;
    }
}

/// A piece of which chunks were requested.
pub struct Progress {
    /// Chunks that were not requested and have not come, the last one first.
    pub free: Vec<u16>,
    pub missing: usize,
    pub got: Vec<bool>,
    /// Requested chunks, and the connections.
    pub asked: Vec<(u16, usize)>,
    /// The connections that have sent chunks.
    pub senders: Links,
    /// When its first chunk was requested.
    pub begun: Time,
}

impl Progress {
    fn new(chunks: u64, begun: Time) -> Self {
        Self {
            free: (0..chunks as u16).rev().collect(),
            missing: chunks as usize,
            got: vec![false; chunks as usize],
            asked: Vec::new(),
            senders: 0,
            begun,
        }
    }
}

pub struct Host {
    pub kind: Kind,
    pub up: u64,
    pub down: u64,
    /// The number in its claims.
    pub number: u64,
    pub links: Vec<Link>,
    /// For each piece: the connections whose peers have it, and those whose peers fetch it rather than this host.
    pub holders: Vec<Links>,
    pub ahead: Vec<Links>,
    pub has: Vec<bool>,
    pub count: u32,
    pub progress: BTreeMap<u32, Progress>,
    /// The first missing piece.
    pub head: u32,
    /// Since when a read waits for it.
    pub head_since: Time,
    /// Bytes that were read before the window opened.
    pub opened: u64,
    /// Milliseconds, averaged; 0 before the first.
    pub piece_time: u64,
    /// Verified chunks that were not offered yet.
    pub fresh: Vec<Chunk>,
    pub claimed: Vec<u32>,
    pub messages: f64,
    pub messages_at: Time,
    /// The readers, the peers that keep up, and those of them that have sent something, when they were last looked at.
    pub readers: Links,
    pub good: Links,
    pub senders: Links,
    pub looked: Option<Time>,
    pub supply: TrialSupply,
    /// The claims of readers, when they were last looked at.
    pub claims: Vec<Claim>,
    pub claims_at: Option<Time>,
    pub turns: bool,
    pub started: Option<Time>,
    pub done: Option<Time>,
    pub gone: bool,
    pub vanishes: bool,
    pub received: u64,
    /// The uplink: whether it sends, and connections with requests, the next one first.
    pub sends: bool,
    pub ready: VecDeque<usize>,
    pub down_free: Time,
}

impl Host {
    pub fn new(kind: Kind, rate: u64, number: u64, scenario: &Scenario) -> Self {
        let pieces = scenario.pieces as usize;
        Self {
            kind,
            up: rate,
            down: rate,
            number,
            links: Vec::new(),
            holders: vec![0; pieces],
            ahead: vec![0; pieces],
            has: vec![kind == Kind::Origin; pieces],
            count: if kind == Kind::Origin { scenario.pieces } else { 0 },
            progress: BTreeMap::new(),
            head: 0,
            head_since: 0,
            opened: 0,
            piece_time: 0,
            fresh: Vec::new(),
            claimed: Vec::new(),
            messages: 64.0,
            messages_at: 0,
            readers: 0,
            good: 0,
            senders: 0,
            looked: None,
            supply: TrialSupply::new().unwrap(),
            claims: Vec::new(),
            claims_at: None,
            turns: false,
            started: None,
            done: None,
            gone: false,
            vanishes: false,
            received: 0,
            sends: false,
            ready: VecDeque::new(),
            down_free: 0,
        }
    }

    pub fn must_finish(&self) -> bool {
        self.kind.reads() && !self.vanishes
    }

    /// Whether it requests chunks now.
    pub fn is_reading(&self) -> bool {
        self.kind.reads() && self.started.is_some() && self.done.is_none() && !self.gone
    }

    /// The chunk that the uplink sends next. The connections take turns.
    pub fn next_to_send(&mut self) -> Option<(usize, Chunk)> {
        while let Some(link) = self.ready.pop_front() {
            let queue = &mut self.links[link].queue;
            let Some(chunk) = queue.pop_front() else { continue };
            if !queue.is_empty() {
                self.ready.push_back(link);
            }
            return Some((link, chunk));
        }
        None
    }

    /// The pieces that a reader announced to all: an attacker announces what it does not have.
    fn announces(&self, piece: u32, pieces: u32) -> bool {
        match self.kind {
            Kind::Liar => true,
            Kind::Claimer => piece + 1 < pieces,
            _ => self.has[piece as usize],
        }
    }

    /// A piece of which chunks may be requested.
    pub fn begin(&mut self, piece: u32, chunks: u64, now: Time) -> &mut Progress {
        self.progress.entry(piece).or_insert_with(|| Progress::new(chunks, now))
    }

    /// The requests to a peer are free again.
    pub fn forget(&mut self, link: usize) {
        for (piece, chunk) in std::mem::take(&mut self.links[link].asked) {
            if let Some(progress) = self.progress.get_mut(&piece) {
                progress.asked.retain(|one| *one != (chunk, link));
                if !progress.asked.iter().any(|(one, _)| *one == chunk) {
                    progress.free.push(chunk);
                }
            }
        }
        self.stir();
    }

    /// Every connection is looked at again.
    pub fn stir(&mut self) {
        self.links.iter_mut().for_each(|link| link.dry = false);
        self.looked = None;
    }
}

impl Net {
    pub fn start(&mut self, id: usize) {
        let now = self.now;
        self.hosts[id].started = Some(now);
        self.hosts[id].head_since = now;
        for link in 0..self.hosts[id].links.len() {
            let peer = self.hosts[id].links[link].peer;
            if self.hosts[peer].started.is_none() || self.hosts[peer].gone {
                continue;
            }
            // A host is connected to the origin first, and meets further readers there.
            let met = if peer == 0 || id == 0 { 0 } else { self.rng.u64(0..=self.scenario.meeting) };
            self.at(now + 2 * self.scenario.round_trip + met, Event::Opens(id, link));
        }
        let first = now + self.rng.u64(0..SECOND);
        self.at(first, Event::Tick(id));
    }

    pub fn open(&mut self, id: usize, link: usize) {
        let (peer, back) = (self.hosts[id].links[link].peer, self.hosts[id].links[link].back);
        if self.hosts[id].gone || self.hosts[peer].gone {
            return;
        }
        let (pieces, now) = (self.scenario.pieces, self.now);
        for (me, at, other) in [(id, link, peer), (peer, back, id)] {
            let number = self.hosts[other].number;
            let has: Vec<u32> = (0..pieces).filter(|p| self.hosts[other].announces(*p, pieces)).collect();
            let speaks = self.hosts[other].kind != Kind::Origin && self.hosts[other].kind != Kind::Liar;
            let host = &mut self.hosts[me];
            host.links[at].open = true;
            host.links[at].announced = has.len() as u32;
            host.links[at].rules.announced(now).unwrap();
            has.iter().for_each(|piece| host.holders[*piece as usize] |= 1 << at);
            if speaks && host.kind.reads() {
                host.links[at].number = Some(number);
                for piece in 0..pieces {
                    if trial_place(number, piece).unwrap() < trial_place(host.number, piece).unwrap() {
                        host.ahead[piece as usize] |= 1 << at;
                    }
                }
            }
            host.stir();
            self.turn_soon(me);
        }
    }

    pub fn vanish(&mut self, id: usize) {
        self.hosts[id].gone = true;
        if self.scenario.silently {
            return;
        }
        for link in 0..self.hosts[id].links.len() {
            self.at(self.now + self.half(), Event::Closes(id, link));
        }
    }

    pub fn close(&mut self, id: usize, link: usize) {
        let (peer, back) = (self.hosts[id].links[link].peer, self.hosts[id].links[link].back);
        for (me, at) in [(id, link), (peer, back)] {
            let host = &mut self.hosts[me];
            host.links[at].open = false;
            host.links[at].queue.clear();
            host.holders.iter_mut().for_each(|links| *links &= !(1 << at));
            host.forget(at);
            self.turn_soon(me);
        }
    }

    /// A chunk, or a part of a chunk that an attacker sends, has come.
    pub fn received(&mut self, id: usize, link: usize, chunk: Chunk, bytes: u64) {
        let (now, half) = (self.now, self.half());
        let host = &mut self.hosts[id];
        if host.gone {
            return;
        }
        host.links[link].count(bytes);
        host.received += bytes;
        host.links[link].asked.retain(|one| *one != chunk);
        let mut cancels = Vec::new();
        let mut first = false;
        let (piece, at) = chunk;
        if let Some(progress) = host.progress.get_mut(&piece)
            && !progress.got[at as usize]
        {
            progress.got[at as usize] = true;
            progress.missing -= 1;
            progress.senders |= 1 << link;
            progress.free.retain(|one| *one != at);
            let late = progress.asked.iter().filter(|(one, from)| *one == at && *from != link);
            cancels.extend(late.map(|(_, from)| *from));
            progress.asked.retain(|(one, _)| *one != at);
            first = host.fresh.is_empty();
            host.fresh.push(chunk);
            if progress.missing == 0 {
                self.at(now + super::net::HASHED, Event::Passed(id, piece));
            }
            if host_opens(&self.hosts[id], piece) {
                self.hosts[id].opened += self.scenario.chunk();
                self.hosts[id].stir();
                self.turn_soon(id);
            }
        }
        if first {
            self.at(now + self.scenario.offers, Event::Offers(id));
        }
        for other in cancels {
            self.hosts[id].links[other].asked.retain(|one| *one != chunk);
            self.at(now + half, Event::Cancels(id, other, chunk));
        }
        if self.hosts[id].is_reading() {
            self.ask(id, link);
        }
    }

    /// Returns whether the host has everything now, and had to finish.
    pub fn passed(&mut self, id: usize, piece: u32) -> bool {
        let (now, pieces) = (self.now, self.scenario.pieces);
        let before = self.window(id);
        let host = &mut self.hosts[id];
        if host.gone || host.has[piece as usize] {
            return false;
        }
        host.has[piece as usize] = true;
        host.count += 1;
        if let Some(progress) = host.progress.remove(&piece) {
            let took = (now - progress.begun) / 1000;
            host.piece_time = if host.piece_time == 0 { took } else { (3 * host.piece_time + took) / 4 };
            for (link, end) in host.links.iter_mut().enumerate() {
                if progress.senders >> link & 1 == 1 {
                    end.proven = Some(now);
                }
            }
        }
        if host.head == piece {
            while host.head < pieces && host.has[host.head as usize] {
                host.head += 1;
            }
            host.head_since = now;
        }
        if host.count == pieces {
            host.done = Some(now);
        }
        self.at(now + self.half(), Event::Have(id, piece));
        for new in before.end..self.window(id).end {
            let holders = self.hosts[id].holders[new as usize];
            let links = self.hosts[id].links.iter_mut().enumerate();
            links.filter(|(at, _)| holders >> at & 1 == 1).for_each(|(_, link)| link.dry = false);
        }
        self.turn_soon(id);
        self.hosts[id].must_finish() && self.hosts[id].done.is_some()
    }

    /// A peer has announced a piece.
    pub fn announced(&mut self, id: usize, link: usize, piece: u32) {
        let now = self.now;
        let host = &mut self.hosts[id];
        if !host.links[link].open || host.holders[piece as usize] >> link & 1 == 1 {
            return;
        }
        host.holders[piece as usize] |= 1 << link;
        let end = &mut host.links[link];
        end.announced += 1;
        end.offers.remove(&piece);
        if host.is_reading() {
            let end = &mut self.hosts[id].links[link];
            end.rules.announced(now).unwrap();
            end.rules.kept(piece, now).unwrap();
            end.dry = false;
            self.hosts[id].claims_at = None;
            self.turn_soon(id);
        }
    }

    /// Offers chunks of pieces that this host has not announced.
    pub fn offer(&mut self, id: usize) {
        let host = &mut self.hosts[id];
        let fresh = std::mem::take(&mut host.fresh);
        let chunks: Vec<Chunk> = fresh.into_iter().filter(|(piece, _)| !host.has[*piece as usize]).collect();
        if !chunks.is_empty() && !host.gone {
            self.at(self.now + self.half(), Event::Offered(id, chunks));
        }
    }

    /// A peer offers chunks.
    pub fn offered(&mut self, id: usize, link: usize, chunks: &[Chunk]) {
        let host = &mut self.hosts[id];
        if !host.links[link].open || !host.is_reading() {
            return;
        }
        for (piece, chunk) in chunks {
            if host.holders[*piece as usize] >> link & 1 == 0 && !host.has[*piece as usize] {
                let end = &mut host.links[link];
                *end.offers.entry(*piece).or_default() |= 1 << chunk;
                end.dry = false;
            }
        }
        self.hosts[id].links[link].rules.announced(self.now).unwrap();
        self.turn_soon(id);
    }

    pub fn claimed(&mut self, id: usize, link: usize, body: &[u8], any: bool) {
        let now = self.now;
        let host = &mut self.hosts[id];
        if host.is_reading() && host.links[link].open {
            let piece_time = if host.piece_time == 0 { 1000 } else { host.piece_time };
            host.links[link].rules.claim(body, piece_time, now).unwrap();
            host.links[link].claims = any;
            host.claims_at = None;
        }
    }

    /// An attacker sends a little of the first chunk that was requested from it.
    pub fn trickle(&mut self, id: usize, link: usize) {
        let (peer, bytes) = (self.hosts[id].links[link].peer, self.scenario.attackers.2);
        let Some(&chunk) = self.hosts[id].links[link].asked.first() else { return };
        if bytes == 0 || !self.hosts[peer].kind.attacks() {
            return;
        }
        let end = &mut self.hosts[id].links[link];
        let whole = (end.received + bytes) / self.scenario.chunk() > end.received / self.scenario.chunk();
        if whole {
            self.received(id, link, chunk, bytes);
        } else {
            end.count(bytes);
        }
    }
}

/// Whether a chunk of the piece opens the window of a mount.
fn host_opens(host: &Host, piece: u32) -> bool {
    host.kind == Kind::Mount && piece == 0 && host.opened < 64 * BLOCK
}
