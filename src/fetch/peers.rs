//! The peers of one torrent: which are connected, when they last sent something, and when they are searched.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::search::{Attempts, DIAL, SEARCH};
use crate::torrent::SwarmStats;

/// The connected peers are called again immediately after the last connection ended, at most once in this time.
const CALL_AGAIN_EVERY: Duration = Duration::from_secs(1);

/// How long a new connection has before its peer should have sent something. Only the first connections after a reason to send
/// get this time: strangers can connect without end.
const TIME_TO_SEND: Duration = Duration::from_secs(2);

/// How long a whole piece is requested after no peer supplied the hashes of its blocks.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// After so many refusals without an answer in between, no hashes of blocks are expected for any piece.
const REFUSALS: usize = 3;

/// Most pieces whose refusal is remembered.
const MAX_REFUSED: usize = 64;

/// Peers and what the engine reports of them.
#[derive(Debug)]
pub(super) struct Peers {
    pub connected: HashSet<SocketAddr>,
    pub stats: SwarmStats,
    /// Peers counted in `stats.seeds` that send nothing although pieces are wanted.
    pub silent_seeds: u32,
    /// Connected peers that read too.
    pub readers: u32,
    /// Bytes received and sent before the torrent was last added.
    past: (u64, u64),
    /// Bytes of pieces that came from peers since the torrent was last added. `stats` is up to a second older.
    piece_bytes: u64,
    /// The last bytes from a peer.
    pub last_sent: Option<Instant>,
    /// The last verified piece from a peer.
    last_piece: Option<Instant>,
    last_connected: Option<Instant>,
    /// Searches for more peers.
    pub search: Attempts,
    /// Calls to the known peers.
    pub dial: Attempts,
    called_again: Option<Instant>,
    /// Pieces the hashes of whose blocks no connected peer supplied, and when that was, in order. Peers are asked again after
    /// some time, or when another peer connects.
    refused: VecDeque<(u32, Instant)>,
    /// How many of the last ones were refused since blocks came.
    refused_in_a_row: usize,
}

impl Peers {
    pub(super) fn new() -> Self {
        Self {
            connected: HashSet::new(),
            stats: SwarmStats::default(),
            silent_seeds: 0,
            readers: 0,
            past: (0, 0),
            piece_bytes: 0,
            last_sent: None,
            last_piece: None,
            last_connected: None,
            search: Attempts::new(SEARCH),
            dial: Attempts::new(DIAL),
            called_again: None,
            refused: VecDeque::new(),
            refused_in_a_row: 0,
        }
    }

    /// A peer is connected. Returns whether it is the only one.
    pub(super) fn insert(&mut self, peer: SocketAddr, now: Instant) -> bool {
        let first = self.connected.is_empty();
        self.last_connected = Some(now);
        self.refused.clear();
        self.refused_in_a_row = 0;
        self.connected.insert(peer);
        first
    }

    /// The last connection has ended while a read waits: the known peers are called immediately, at most once a second.
    /// Two hosts that call each other at the same time may each end the connection of the other one. Returns when they
    /// are called.
    pub(super) fn call_again(&mut self, now: Instant) -> Option<Instant> {
        if self.called_again.is_none_or(|at| now >= at + CALL_AGAIN_EVERY) {
            self.called_again = Some(now);
            self.dial.hasten(now);
        }
        self.dial.next
    }

    /// The last time at which a peer had a reason to send, or did.
    pub(super) fn last_activity(&self, wanting_since: Option<Instant>) -> Option<Instant> {
        let Some(reason) = wanting_since.max(self.last_sent) else { return self.last_connected };
        let connected = self.last_connected.unwrap_or(reason);
        Some(connected.clamp(reason, reason + TIME_TO_SEND))
    }

    /// Since when a wanted piece has been awaited without one that is verified. Peers may send useless bytes without end.
    pub(super) fn without_piece_since(&self, wanting_since: Option<Instant>) -> Option<Instant> {
        wanting_since.max(self.last_piece)
    }

    /// Replaces the figures. Returns whether bytes came.
    pub(super) fn update(&mut self, stats: SwarmStats) -> bool {
        let more = stats.downloaded > self.stats.downloaded;
        self.stats = stats;
        more
    }

    /// Adds the bytes of a piece that peers sent.
    pub(super) fn add_piece(&mut self, bytes: u64, now: Instant) {
        self.piece_bytes += bytes;
        self.last_piece = Some(now);
    }

    /// Records that blocks came that are verified without their piece.
    pub(super) fn blocks_came(&mut self, now: Instant) {
        self.last_piece = Some(now);
        self.refused_in_a_row = 0;
    }

    /// No connected peer supplies the hashes of blocks of a piece.
    pub(super) fn refuse_blocks(&mut self, piece: u32, now: Instant) {
        self.refused.retain(|&(other, at)| other != piece && now < at + REFUSED_FOR);
        if self.refused.len() == MAX_REFUSED {
            self.refused.pop_front();
        }
        self.refused.push_back((piece, now));
        self.refused_in_a_row += 1;
    }

    /// Whether the hashes of blocks of a piece can be expected from peers.
    pub(super) fn supply_blocks(&self, piece: u32, now: Instant) -> bool {
        let mut recent = self.refused.iter().rev().take_while(|(_, at)| now < *at + REFUSED_FOR).enumerate();
        let refusals = self.refused_in_a_row;
        !recent
            .any(|(number, &(other, _))| other == piece || (number + 1 >= REFUSALS && refusals >= REFUSALS))
    }

    /// Connected peers that have everything and answer.
    pub(super) fn full(&self) -> u32 {
        self.stats.seeds.saturating_sub(self.silent_seeds)
    }

    /// The torrent leaves the engine; its last figures may still come.
    pub(super) fn left_engine(&mut self) {
        let SwarmStats { downloaded, uploaded, .. } = self.stats;
        self.stats = SwarmStats { downloaded, uploaded, ..SwarmStats::default() };
        self.connected.clear();
        self.silent_seeds = 0;
        self.readers = 0;
    }

    /// The torrent is in the engine again, which counts from zero.
    pub(super) fn entered_engine(&mut self) {
        self.past = self.totals();
        self.piece_bytes = 0;
        self.stats = SwarmStats::default();
    }

    /// Payload bytes received from peers and sent since the torrent was joined.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.past.0 + self.stats.downloaded.max(self.piece_bytes), self.past.1 + self.stats.uploaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_survive_a_new_start_of_the_torrent() {
        let mut peers = Peers::new();
        peers.add_piece(100, Instant::now());
        assert_eq!(peers.totals(), (100, 0));
        assert!(peers.update(SwarmStats { downloaded: 150, uploaded: 7, ..SwarmStats::default() }));
        peers.left_engine();
        peers.entered_engine();
        assert_eq!(peers.totals(), (150, 7));
        assert!(peers.update(SwarmStats { downloaded: 10, ..SwarmStats::default() }));
        assert_eq!(peers.totals(), (160, 7));
    }

    #[test]
    fn connections_of_strangers_are_no_activity() {
        let start = Instant::now();
        let mut peers = Peers::new();
        let stranger = |port| SocketAddr::from(([198, 51, 100, 1], port));
        for seconds in 0..20 {
            peers.insert(stranger(seconds), start + Duration::from_secs(seconds.into()));
        }
        assert_eq!(peers.last_activity(Some(start)), Some(start + TIME_TO_SEND));
        peers.last_sent = Some(start + Duration::from_secs(5));
        assert_eq!(peers.last_activity(Some(start)), Some(start + Duration::from_secs(5) + TIME_TO_SEND));
    }

    #[test]
    fn known_peers_are_called_again_once_a_second() {
        let start = Instant::now();
        let mut peers = Peers::new();
        assert_eq!(peers.call_again(start), Some(start));
        peers.dial.made(start);
        let next = peers.dial.next;
        assert_eq!(peers.call_again(start + CALL_AGAIN_EVERY / 2), next);
        let later = start + CALL_AGAIN_EVERY;
        assert_eq!(peers.call_again(later), Some(later.min(next.unwrap())));
    }

    #[test]
    fn hashes_of_blocks_are_expected_again_from_a_new_peer() {
        let start = Instant::now();
        let mut peers = Peers::new();
        let refused =
            |peers: &Peers, after| [0, 1, 2, 9].map(|piece| !peers.supply_blocks(piece, start + after));
        let (soon, later) = (REFUSED_FOR / 2, REFUSED_FOR);
        peers.refuse_blocks(0, start);
        peers.refuse_blocks(1, start);
        assert_eq!(refused(&peers, soon), [true, true, false, false]);
        // A peer answers for another piece.
        peers.blocks_came(start);
        peers.refuse_blocks(2, start);
        assert_eq!(refused(&peers, soon), [true, true, true, false]);
        assert_eq!(refused(&peers, later), [false; 4]);
        peers.refuse_blocks(0, start);
        peers.refuse_blocks(1, start);
        assert_eq!(refused(&peers, soon), [true; 4], "three in a row");
        assert_eq!(refused(&peers, later), [false; 4]);
        peers.insert(SocketAddr::from(([198, 51, 100, 1], 1)), start);
        assert_eq!(refused(&peers, Duration::ZERO), [false; 4]);
    }
}
