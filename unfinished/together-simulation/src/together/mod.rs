//! Coordinated reading: which piece a reader requests from which peer, so that hosts that read the same bytes pass pieces on
//! and do not all load the one full seed. Pure: no I/O, no clock, no lock. The engine asks when a peer's queue has room.
//!
//! A full seed is asked only for pieces that no other usable peer has and no trusted peer claims. Between readers, the hash of
//! the piece and of the peer's id decides who asks first. A read that waits is never delayed by claims for longer than
//! [`LONGEST_WAIT`].

mod bits;
mod choose;
mod claims;
mod flights;
mod peers;
mod send;

use std::collections::BTreeMap;

pub use bits::Bits;
pub use choose::Next;
pub use flights::Flight;
pub use peers::Peer;
pub use send::{Request, Sender};

/// Microseconds since any fixed moment.
pub type Time = u64;

/// The unit of a request, in bytes.
pub const BLOCK: u64 = 16 << 10;

/// Claims that count of one peer.
pub const MAX_CLAIMS: usize = 4;

/// Claims that count of the peers of one address group.
pub const MAX_CLAIMS_OF_GROUP: usize = 8;

/// The time that a piece takes, before one has come.
const UNKNOWN: Time = 1_000_000;

/// A number of a peer that the caller chose.
pub type PeerId = u32;

/// A wanted piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    pub piece: u32,
    /// Since when a read waits for it.
    pub waits_since: Option<Time>,
}

/// One torrent that is being read.
#[derive(Debug)]
pub struct Reader {
    peers: BTreeMap<PeerId, Peer>,
    /// In the order in which they are read.
    wants: Vec<Want>,
    flights: BTreeMap<u32, Flight>,
    /// Since when a wanted piece has had no source but full seeds.
    novel_since: BTreeMap<u32, Time>,
    /// Since when a peer that is not trusted has or claims such a piece. Such a hint delays a piece once.
    hinted_since: BTreeMap<u32, Time>,
    /// How many peers that are no full seeds have each piece, usable or not.
    copies: Vec<u32>,
    pieces: u32,
    piece_length: u64,
    /// Hash of the own peer id.
    id: u64,
    random: u64,
    /// How long a piece took from its first request, averaged.
    piece_time: Time,
    told: Vec<u32>,
    /// When the first peer came.
    peers_since: Time,
    crowded_at: Time,
    crowded_since: Option<Time>,
}

impl Reader {
    /// `id`: hash of the own peer id. `seed` of random delays must not be known to peers.
    pub fn new(pieces: u32, piece_length: u64, id: u64, seed: u64) -> Self {
        Self {
            peers: BTreeMap::new(),
            wants: Vec::new(),
            flights: BTreeMap::new(),
            novel_since: BTreeMap::new(),
            hinted_since: BTreeMap::new(),
            copies: vec![0; pieces as usize],
            pieces,
            piece_length,
            id,
            random: seed | 1,
            piece_time: 0,
            told: Vec::new(),
            peers_since: 0,
            crowded_at: 0,
            crowded_since: None,
        }
    }

    pub fn peer_came(&mut self, peer: PeerId, id: u64, group: u64, speaks: bool, rtt: Time, now: Time) {
        if self.peers.is_empty() {
            self.peers_since = now;
        }
        self.peers.insert(peer, Peer::new(self.pieces, id, group, speaks, rtt));
    }

    /// Returns the pieces whose flights have ended.
    pub fn peer_left(&mut self, peer: PeerId) {
        if let Some(gone) = self.peers.remove(&peer)
            && !gone.is_seed
        {
            gone.bits.each(|piece| self.copies[piece as usize] -= 1);
        }
        self.ground(peer);
    }

    /// Nothing is requested from the peer any more.
    fn ground(&mut self, peer: PeerId) {
        for flight in self.flights.values_mut() {
            // The blocks that were requested from it are free again.
            flight.free |= flight.senders.iter().any(|sender| sender.peer == peer && sender.outstanding > 0);
            flight.senders.retain(|sender| sender.peer != peer);
        }
        self.flights.retain(|_, flight| !flight.senders.is_empty());
    }

    pub fn peer_has(&mut self, peer: PeerId, piece: u32, now: Time) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if piece >= self.pieces || !known.bits.set(piece) {
            return;
        }
        known.claims.kept(piece, now);
        self.copies[piece as usize] += 1;
    }

    pub fn peer_has_all(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if known.bits.count() == 0 {
            known.is_seed = true;
            known.bits.fill();
            return;
        }
        for piece in 0..self.pieces {
            self.copies[piece as usize] += u32::from(known.bits.set(piece));
        }
    }

    /// A peer's message of claims, and the pieces that it wants to read: the first one, and their number.
    pub fn peer_claims(&mut self, peer: PeerId, pieces: &[u32], window: (u32, u32), now: Time) {
        let piece_time = self.piece_time;
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let at_rate = (self.piece_length * 1_000_000).checked_div(known.rate);
        let expected = at_rate.unwrap_or(UNKNOWN).max(piece_time);
        let lacks: Vec<u32> = pieces.iter().copied().filter(|&piece| piece < self.pieces && !known.bits.has(piece)).collect();
        known.claims.replace(&lacks, expected, now);
        known.window = window;
    }

    /// Replaces the wanted pieces, in the order in which they are read.
    pub fn want(&mut self, wants: Vec<Want>) {
        self.wants = wants;
    }

    /// Blocks of a piece were requested. `free`: there are blocks of it that were not requested from any peer.
    pub fn requested(&mut self, piece: u32, peer: PeerId, bytes: u64, free: bool, now: Time) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.requested(bytes, now);
        }
        let flight = self.flights.entry(piece).or_insert_with(|| Flight::new(now));
        flight.add(peer, bytes, now);
        flight.free = free;
        self.novel_since.remove(&piece);
    }

    /// A requested block came.
    pub fn received(&mut self, piece: u32, peer: PeerId, bytes: u64, now: Time) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.received(bytes, now);
        }
        if let Some(flight) = self.flights.get_mut(&piece) {
            flight.got(peer, bytes, now);
        }
    }

    /// A request was cancelled.
    pub fn cancelled(&mut self, piece: u32, peer: PeerId, bytes: u64) {
        if let Some(flight) = self.flights.get_mut(&piece) {
            flight.cancelled(peer, bytes);
        }
        if let Some(known) = self.peers.get_mut(&peer) {
            known.cancelled(bytes);
        }
    }

    /// A piece is verified. `senders`: the peers that sent blocks of it.
    pub fn passed(&mut self, piece: u32, senders: &[PeerId], now: Time) {
        for peer in senders {
            if let Some(known) = self.peers.get_mut(peer) {
                known.proved(now);
            }
        }
        self.novel_since.remove(&piece);
        self.hinted_since.remove(&piece);
        if let Some(flight) = self.flights.remove(&piece) {
            let took = now - flight.since;
            self.piece_time = if self.piece_time == 0 { took } else { (3 * self.piece_time + took) / 4 };
        }
    }

    /// The claims to send to the peers, if they are not those that were last returned.
    pub fn claims(&mut self) -> Option<Vec<u32>> {
        let peers = &self.peers;
        let from_seed = |flight: &Flight| {
            flight.senders.iter().any(|sender| peers.get(&sender.peer).is_some_and(|peer| peer.is_seed))
        };
        let mine: Vec<u32> =
            self.flights.iter().filter(|(_, flight)| from_seed(flight)).map(|(&piece, _)| piece).take(MAX_CLAIMS).collect();
        if mine == self.told {
            return None;
        }
        self.told.clone_from(&mine);
        Some(mine)
    }

    pub fn told(&self) -> &[u32] {
        &self.told
    }

    /// Pieces that are being fetched.
    pub fn flights(&self) -> usize {
        self.flights.len()
    }

    /// Other peers that have a piece.
    pub fn copies(&self, piece: u32) -> u32 {
        self.copies[piece as usize]
    }

    pub fn flight(&self, piece: u32) -> Option<&Flight> {
        self.flights.get(&piece)
    }

    pub fn peer(&self, peer: PeerId) -> Option<&Peer> {
        self.peers.get(&peer)
    }

    fn random(&mut self) -> u64 {
        self.random = mix(self.random.wrapping_add(0x9e37_79b9_7f4a_7c15));
        self.random
    }
}

/// Mixes the bits of a number (the finalizer of splitmix64).
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
