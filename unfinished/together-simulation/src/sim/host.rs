//! A host: a seed, a reader that reads in order, a `get`, or an attacker.

use super::{Event, HASHED, Link, Net};
use crate::together::{Next, Reader, Sender, Time, Want};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A silmaril seed.
    Seed,
    /// A seed of another program.
    Foreign,
    /// Reads in order with a window.
    Mount,
    /// Wants all pieces.
    Get,
    /// Has nothing and claims all.
    Claimer,
    /// Pretends to have all pieces and sends nothing, or slowly.
    Liar,
}

/// The blocks of a piece.
#[derive(Debug, Clone)]
pub struct PieceState {
    /// The peers from which each block was requested.
    pub asked: Vec<Vec<u32>>,
    pub got: Vec<bool>,
    pub from: Vec<u32>,
}

pub struct Host {
    pub kind: Kind,
    pub up: u64,
    pub down: u64,
    pub links: Vec<Link>,
    pub reader: Reader,
    pub sender: Sender,
    pub last_link: usize,
    pub sending: bool,
    pub down_free: Time,
    pub has: Vec<bool>,
    pub progress: Vec<Option<PieceState>>,
    /// The next piece to read.
    pub head: u32,
    pub head_since: Time,
    pub joined: Option<Time>,
    pub done: Option<Time>,
    pub gone: bool,
    pub vanishes: bool,
    pub turn_at: Option<Time>,
    pub told_window: (u32, u32),
    pub received: u64,
    /// Time that the uplink was used.
    pub busy: Time,
    pub bits_count: u32,
}

impl Host {
    pub fn is_reader(&self) -> bool {
        matches!(self.kind, Kind::Mount | Kind::Get)
    }

    pub fn is_over(&self) -> bool {
        !self.is_reader() || self.done.is_some() || self.gone || self.vanishes
    }

    pub fn serves(&self) -> bool {
        self.kind != Kind::Claimer && self.up > 1
    }
}

impl Net {
    pub(super) fn join(&mut self, id: u32) {
        let now = self.now;
        let (rtt, pieces) = (self.scenario.rtt, self.scenario.pieces);
        let host = &mut self.hosts[id as usize];
        host.joined = Some(now);
        host.head_since = now;
        // The connections are open as soon as both ends are there.
        for slot in 0..self.hosts[id as usize].links.len() {
            let Link { peer, slot: back, .. } = self.hosts[id as usize].links[slot];
            if self.hosts[peer as usize].joined.is_none() || self.hosts[peer as usize].gone {
                continue;
            }
            for (me, at, you) in [(id, slot as u32, peer), (peer, back, id)] {
                let other = &self.hosts[you as usize];
                let speaks = matches!(other.kind, Kind::Mount | Kind::Get | Kind::Claimer | Kind::Liar);
                let pieces_had: Vec<u32> = match other.kind {
                    Kind::Seed | Kind::Foreign | Kind::Liar => (0..pieces).collect(),
                    _ => (0..pieces).filter(|&p| other.has[p as usize]).collect(),
                };
                let window = other.told_window;
                let reader = &mut self.hosts[me as usize].reader;
                reader.peer_came(at, crate::together::mix(u64::from(you) + 1), u64::from(you), speaks, rtt, now);
                if pieces_had.len() == pieces as usize {
                    reader.peer_has_all(at);
                } else {
                    pieces_had.into_iter().for_each(|p| reader.peer_has(at, p, now));
                }
                reader.peer_claims(at, &[], window, now);
                if self.hosts[you as usize].kind == Kind::Claimer {
                    self.at(now + 1, Event::Claims { from: you, pieces: (0..pieces).collect(), window: (0, pieces) });
                }
            }
            self.turn_soon(peer, now + rtt);
        }
        if self.hosts[id as usize].is_reader() {
            self.update_wants(id);
            self.turn_soon(id, now + rtt);
            self.at(now + 100_000, Event::Tick(id));
        }
    }

    pub(super) fn vanish(&mut self, id: u32) {
        self.hosts[id as usize].gone = true;
        // The connections break a while later.
        for slot in 0..self.hosts[id as usize].links.len() {
            let Link { peer, slot: back, .. } = self.hosts[id as usize].links[slot];
            self.hosts[peer as usize].reader.peer_left(back);
            self.hosts[peer as usize].links[back as usize].asked.clear();
            self.forget(peer, back);
            self.turn_soon(peer, self.now);
        }
    }

    pub(super) fn turn_soon(&mut self, id: u32, at: Time) {
        let host = &mut self.hosts[id as usize];
        if !host.is_reader() || host.done.is_some() || host.gone {
            return;
        }
        if host.turn_at.is_none_or(|planned| planned > at || planned < self.now) {
            host.turn_at = Some(at);
            self.at(at, Event::Turn(id));
        }
    }

    /// The blocks that were requested from a peer are free again.
    fn forget(&mut self, id: u32, slot: u32) {
        for state in self.hosts[id as usize].progress.iter_mut().flatten() {
            state.asked.iter_mut().for_each(|peers| peers.retain(|&peer| peer != slot));
        }
    }

    pub(super) fn tick(&mut self, id: u32) {
        let now = self.now;
        let host = &mut self.hosts[id as usize];
        if host.done.is_some() || host.gone {
            return;
        }
        for slot in host.reader.silent(now) {
            self.forget(id, slot);
        }
        self.turn(id);
        self.at(now + 100_000, Event::Tick(id));
    }

    /// The pieces that the host wants now, and what it reports of them.
    fn update_wants(&mut self, id: u32) {
        let (pieces, most) = (self.scenario.pieces, self.scenario.window);
        let host = &mut self.hosts[id as usize];
        let end = match host.kind {
            Kind::Get => pieces,
            // The window grows with the bytes that were read.
            _ => (host.head + (8 * host.head).clamp(1, most)).min(pieces),
        };
        let start = host.head;
        let waits = (host.kind == Kind::Mount).then_some(host.head_since);
        let wants = (start..end).filter(|&p| !host.has[p as usize]);
        let wants = wants.map(|piece| Want { piece, waits_since: waits.filter(|_| piece == start) }).collect();
        host.reader.want(wants);
        self.tell(id, (start, end - start));
    }

    fn tell(&mut self, id: u32, window: (u32, u32)) {
        let half = self.half();
        let now = self.now;
        let host = &mut self.hosts[id as usize];
        let claims = host.reader.claims();
        let moved = host.told_window != window;
        if claims.is_none() && !moved {
            return;
        }
        host.told_window = window;
        let pieces = host.reader.told().to_vec();
        self.at(now + half, Event::Claims { from: id, pieces, window });
    }

    pub(super) fn have(&mut self, id: u32, slot: u32, piece: u32) {
        let now = self.now;
        if !self.hosts[id as usize].is_reader() || self.hosts[id as usize].joined.is_none() {
            return;
        }
        self.hosts[id as usize].reader.peer_has(slot, piece, now);
        if self.hosts[id as usize].done.is_none() && !self.hosts[id as usize].has[piece as usize] {
            self.ask(id, slot);
        }
    }

    pub(super) fn claims(&mut self, id: u32, slot: u32, pieces: &[u32], window: (u32, u32)) {
        let now = self.now;
        if self.hosts[id as usize].is_reader() {
            self.hosts[id as usize].reader.peer_claims(slot, pieces, window, now);
            self.turn_soon(id, now + 10_000);
        }
    }

    pub(super) fn turn(&mut self, id: u32) {
        let host = &self.hosts[id as usize];
        if host.gone || host.done.is_some() || !host.is_reader() {
            return;
        }
        // Readers first: a full seed is asked for what they do not have.
        for seeds in [false, true] {
            for slot in 0..self.hosts[id as usize].links.len() as u32 {
                let peer = self.hosts[id as usize].reader.peer(slot);
                if peer.is_some_and(|peer| peer.is_seed == seeds && peer.bits.count() > 0) {
                    self.ask(id, slot);
                }
            }
        }
        let window = self.hosts[id as usize].told_window;
        self.tell(id, window);
    }

    /// Fills the queue of requests to a peer.
    fn ask(&mut self, id: u32, slot: u32) {
        let bytes = self.block_bytes();
        let (now, half) = (self.now, self.half());
        let to = self.hosts[id as usize].links[slot as usize].peer;
        let back = self.hosts[id as usize].links[slot as usize].slot;
        loop {
            let host = &mut self.hosts[id as usize];
            let Some(peer) = host.reader.peer(slot) else { return };
            // Blocks on paper are larger than real ones: one is sent while the next one waits.
            let queue = if peer.is_untested() { 1 } else { peer.queue().max(2 * bytes) };
            if peer.outstanding >= queue {
                return;
            }
            let room = (queue - peer.outstanding).div_ceil(bytes) as usize;
            let (piece, late) = match host.reader.next(slot, now) {
                Next::Piece(piece) => (piece, false),
                Next::Late(piece) => (piece, true),
                Next::Wait(at) => {
                    if at < Time::MAX {
                        self.turn_soon(id, at.max(now + 1_000));
                    }
                    return;
                }
                Next::Nothing => return,
            };
            let host = &mut self.hosts[id as usize];
            let blocks = usize::from(self.scenario.blocks);
            let state = host.progress[piece as usize].get_or_insert_with(|| PieceState {
                asked: vec![Vec::new(); blocks],
                got: vec![false; blocks],
                from: vec![u32::MAX; blocks],
            });
            let free = |state: &PieceState, b: &usize| !state.got[*b] && state.asked[*b].is_empty();
            let mut chosen: Vec<u16> =
                (0..blocks).filter(|b| free(state, b)).take(room).map(|b| b as u16).collect();
            if chosen.is_empty() && late {
                let late = |b: &usize| !state.got[*b] && !state.asked[*b].contains(&slot);
                chosen = (0..blocks).filter(late).take(room).map(|b| b as u16).collect();
            }
            if chosen.is_empty() {
                let free = false;
                host.reader.requested(piece, slot, 0, free, now);
                if late { return; }
                continue;
            }
            for &block in &chosen {
                state.asked[usize::from(block)].push(slot);
            }
            let left = (0..blocks).any(|b| free(state, &b));
            host.reader.requested(piece, slot, chosen.len() as u64 * bytes, left, now);
            self.at(now + half, Event::Requests { to, slot: back, piece, blocks: chosen });
        }
    }

    pub(super) fn block(&mut self, id: u32, slot: u32, piece: u32, block: u16) {
        let bytes = self.block_bytes();
        let (now, half) = (self.now, self.half());
        let host = &mut self.hosts[id as usize];
        if host.gone {
            return;
        }
        host.received += bytes;
        host.reader.received(piece, slot, bytes, now);
        let at = usize::from(block);
        let mut cancels = Vec::new();
        if let Some(state) = &mut host.progress[piece as usize]
            && !state.got[at]
        {
            state.got[at] = true;
            state.from[at] = slot;
            let others = std::mem::take(&mut state.asked[at]);
            cancels.extend(others.into_iter().filter(|&other| other != slot));
            if state.got.iter().all(|&got| got) {
                self.at(now + HASHED, Event::Passed { host: id, piece });
            }
        }
        for other in cancels {
            self.hosts[id as usize].reader.cancelled(piece, other, bytes);
            let Link { peer, slot: back, .. } = self.hosts[id as usize].links[other as usize];
            self.at(now + half, Event::Cancels { to: peer, slot: back, piece, block });
        }
        if self.hosts[id as usize].done.is_none() {
            self.ask(id, slot);
        }
    }

    pub(super) fn passed(&mut self, id: u32, piece: u32) {
        let now = self.now;
        let half = self.half();
        let pieces = self.scenario.pieces;
        let host = &mut self.hosts[id as usize];
        if host.gone || host.has[piece as usize] {
            return;
        }
        host.has[piece as usize] = true;
        host.bits_count += 1;
        let state = host.progress[piece as usize].take();
        let senders = state.map_or_else(Vec::new, |state| state.from);
        host.reader.passed(piece, &senders, now);
        let before = host.head;
        while host.head < pieces && host.has[host.head as usize] {
            host.head += 1;
        }
        if host.head != before {
            host.head_since = now;
        }
        if host.bits_count == pieces {
            host.done = Some(now);
        }
        self.at(now + half, Event::Have { from: id, piece });
        self.update_wants(id);
        self.turn_soon(id, now);
    }
}
