//! The decision: which piece is requested from a peer whose queue has room.

use super::{MAX_CLAIMS_OF_GROUP, UNKNOWN, PeerId, Reader, Time, Want, mix};

/// Probes of untested peers at the same time.
const MAX_PROBES: usize = 4;

/// The longest time for which a read that waits keeps away from a full seed because of other readers.
pub const LONGEST_WAIT: Time = 1_000_000;

/// The time that a claim needs to arrive, in addition to the round trip.
const NOTICE: Time = 10_000;

/// Hosts that read the same piece and are told apart by their turn.
const MAX_TURNS: u64 = 32;

/// The longest turn of a host whose claims do not count.
const LONGEST_TURN: Time = 5_000_000;

/// How late the blocks of a piece may be before they are requested from another sender too, and so much more for each peer.
const LATE: Time = 30_000;
const LATE_FOR_EACH: Time = 8_000;

/// The time for which a sender may be silent before an untested peer is tried as well.
const UNTRIED: Time = 100_000;

/// Pieces in flight at the same time.
const MAX_FLIGHTS: usize = 16;

/// Readers that fetch from full seeds at the same time. A few use its link.
const FETCHERS: usize = 4;

const FLIGHTS: usize = 1;

/// Senders of one piece, as long as all earlier ones are late.
const SENDERS: usize = 8;

/// What to request from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Blocks of this piece that were not requested from any peer.
    Piece(u32),
    /// Blocks of this piece that were requested from other peers and are late.
    Late(u32),
    /// Nothing before this time, unless something changes.
    Wait(Time),
    Nothing,
}

impl Reader {
    /// What to request from the peer next. Called when its queue has room, see [`super::Peer::queue`].
    pub fn next(&mut self, peer: PeerId, now: Time) -> Next {
        let Some(known) = self.peers.get(&peer) else { return Next::Nothing };
        if known.is_paused(now) {
            return Next::Wait(known.paused_until);
        }
        if let Some(at) = known.silent_at()
            && now >= at
        {
            return Next::Nothing;
        }
        let untested = known.is_untested();
        if let Some((&piece, _)) = self.flights.iter().find(|(_, flight)| flight.free && flight.is_from(peer)) {
            return Next::Piece(piece);
        }
        if let Some(piece) = self.finishing(peer, now) {
            return Next::Late(piece);
        }
        if untested && (known.outstanding > 0 || self.probes() >= MAX_PROBES) {
            return Next::Nothing;
        }
        if known.is_seed { self.next_of_seed(peer, now) } else { self.next_of_reader(peer, now) }
    }

    /// A piece of which this peer has sent all that it was asked for, while another sender is late with the rest.
    fn finishing(&self, peer: PeerId, now: Time) -> Option<u32> {
        let rtt = self.peers.get(&peer)?.rtt;
        let waits = self.wants.first().filter(|want| want.waits_since.is_some()).map(|want| want.piece);
        let late = |(piece, flight): (&u32, &super::Flight)| {
            let time = if waits == Some(*piece) { self.late() } else { self.late().max(self.piece_time) };
            !flight.free
                && flight.senders.iter().any(|sender| sender.peer == peer && sender.outstanding == 0)
                && flight.senders.iter().any(|sender| sender.outstanding > 0 && now - sender.last > 2 * rtt + time)
        };
self.flights.iter().find(|&(piece, flight)| late((piece, flight))).map(|(&piece, _)| piece)
    }

    /// How long a sender may be silent because it serves other readers first.
    fn late(&self) -> Time {
        LATE + LATE_FOR_EACH * (self.peers.len() as u64).min(MAX_TURNS * 2)
    }

    fn probes(&self) -> usize {
        self.peers.values().filter(|peer| peer.is_untested() && peer.outstanding > 0).count()
    }

    /// Peers that are silent have lost what was requested from them. Returns them. Must be called about ten times a second.
    pub fn silent(&mut self, now: Time) -> Vec<PeerId> {
        let silent = self.peers.iter().filter(|(_, peer)| peer.silent_at().is_some_and(|at| now >= at));
        let silent: Vec<PeerId> = silent.map(|(&peer, _)| peer).collect();
        for peer in &silent {
            if let Some(known) = self.peers.get_mut(peer) {
                known.pause(now);
            }
            self.ground(*peer);
        }
        silent
    }

    fn next_of_reader(&mut self, peer: PeerId, now: Time) -> Next {
        let known = &self.peers[&peer];
        let full = self.flights.len() >= MAX_FLIGHTS;
        let untested = known.is_untested();
        let mut best: Option<((u32, u64), u32)> = None;
        // A block of a piece that another peer sends is enough to learn whether an untested peer sends.
        let mut probe = None;
        for (i, want) in self.wants.iter().enumerate() {
            if !known.bits.has(want.piece) {
                continue;
            }
            if let Some(flight) = self.flights.get(&want.piece) {
                if self.is_late(want, i, flight, peer, now) {
                    return if flight.free { Next::Piece(want.piece) } else { Next::Late(want.piece) };
                }
                if untested && flight.free && want.waits_since.is_none() {
                    probe = probe.or(Some(want.piece));
                }
                continue;
            }
            if full && i > 0 {
                break;
            }
            if want.waits_since.is_some() && !untested {
                return Next::Piece(want.piece);
            }
            let score = (self.copies[want.piece as usize], mix(self.id ^ u64::from(want.piece)));
            if best.is_none_or(|(least, _)| score < least) {
                best = Some((score, want.piece));
            }
        }
        if untested && probe.is_some() {
            return probe.map_or(Next::Nothing, Next::Piece);
        }
        best.map_or(Next::Nothing, |(_, piece)| Next::Piece(piece))
    }

    /// Whether the senders of a piece take much longer than this peer would.
    fn is_late(&self, want: &Want, i: usize, flight: &super::Flight, peer: PeerId, now: Time) -> bool {
        if flight.is_from(peer) || flight.senders.len() >= SENDERS {
            return false;
        }
        let left = self.piece_length.saturating_sub(flight.got);
        let known = &self.peers[&peer];
        let soon = i <= 2 || want.waits_since.is_some();
        // An untested peer is used if nothing comes from the others.
        let here = if known.is_untested() { UNTRIED } else { known.time_for(left) };
        flight.senders.iter().all(|sender| {
            let Some(other) = self.peers.get(&sender.peer) else { return true };
            let expected = left.saturating_mul(1_000_000) / other.rate.max(1);
            let stalled = now - sender.last > 2 * other.rtt + if soon { here + self.late() } else { 2 * here + (4 * self.late()).max(self.piece_time) };
            stalled || (soon && !known.is_untested() && expected > 3 * here + 200_000)
        })
    }

    fn next_of_seed(&mut self, peer: PeerId, now: Time) -> Next {
        let contenders = self.peers.values().filter(|p| !p.is_seed && !p.is_full_now()).count() as u64;
        let from_seed = self.flights.values().filter(|f| f.senders.iter().any(|s| s.outstanding > 0 && self.peers.get(&s.peer).is_some_and(|p| p.is_seed))).count();
        let mut wake: Option<Time> = None;
        let mut best: Option<(u64, u32)> = None;
        for i in 0..self.wants.len() {
            let want = self.wants[i];
            if let Some(flight) = self.flights.get(&want.piece) {
                if want.waits_since.is_some() && self.is_late(&want, i, flight, peer, now) {
                    return if flight.free { Next::Piece(want.piece) } else { Next::Late(want.piece) };
                }
                continue;
            }
            if contenders == 0 { return Next::Piece(want.piece); }
            if let Some(since) = want.waits_since {
                let random = mix(self.random ^ mix(u64::from(want.piece) ^ since)) % 1024;
                let spread = self.piece_time.max(100_000) * contenders.min(32);
                let at = since + spread / 4 + spread * random / 1024;
                if at <= now { return Next::Piece(want.piece); }
                wake = Some(at);
            }
            if from_seed >= FLIGHTS { continue; }
            if self.copies[want.piece as usize] > 0 { continue; }
            if self.claimed(want.piece, now) { continue; }
            let mine = mix(self.id ^ u64::from(want.piece));
            let before = self.peers.values().filter(|p| !p.is_seed && !p.bits.has(want.piece) && mix(p.id ^ u64::from(want.piece)) < mine).count();
            let order = ((before as u64) << 56) | mine >> 8;
            if best.is_none_or(|(least, _)| order < least) { best = Some((order, want.piece)); }
        }
        match (best, wake) {
            (Some((_, piece)), _) => Next::Piece(piece),
            (None, Some(at)) => Next::Wait(at),
            (None, None) => Next::Nothing,
        }
    }

    fn claimed(&mut self, piece: u32, now: Time) -> bool { self.peers.values_mut().any(|p| !p.is_seed && p.claims.until(piece, now).is_some()) }
    /// How many readers fetch from full seeds now, as far as they are known.
    fn crowd(&mut self, now: Time) -> usize {
        let fetching = |peer: &mut super::Peer| !peer.is_seed && !peer.is_paused(now) && peer.claims.any(now);
        let crowd = self.peers.values_mut().filter_map(|peer| fetching(peer).then_some(())).count();
        if crowd >= FETCHERS {
            self.crowded_at = now;
            self.crowded_since.get_or_insert(now);
        } else {
            self.crowded_since = None;
        }
        crowd
    }

    /// When one more reader may fetch from a full seed. A few are enough to use its link, and with fewer each piece is there sooner.
    fn room_from(&self, crowd: usize, before: u64, _seed: PeerId) -> Time {
        let turn = 2 * NOTICE;
        if self.flights.values().any(|f| f.senders.iter().any(|s| self.peers.get(&s.peer).is_some_and(|p| p.is_seed))) {
            return 0;
        }
        match self.crowded_since {
            Some(since) if crowd >= FETCHERS => {
                let hosts = self.peers.len() as u64;
                since + LONGEST_WAIT + mix(self.random ^ since) % (LONGEST_WAIT * (1 + hosts / FETCHERS as u64))
            }
            _ => {
                // At the start there are no claims: the hosts begin in an order that all of them know.
                let first = self.peers.values().filter(|peer| peer.speaks && peer.id < self.id).count() as u64;
                let start = self.peers_since + (first / FETCHERS as u64) * turn;
                start.max(self.crowded_at + before.min(MAX_TURNS) * turn)
            }
        }
    }

    fn claims_on(&self, piece: u32) -> usize {
        self.peers.values().filter(|peer| peer.claims.name(piece)).count()
    }

    /// When a full seed may be asked for a piece that is not in flight.
    fn allowed_from(&mut self, want: &Want, seed: PeerId, now: Time) -> (Time, u64) {
        let piece = want.piece;
        let (mut contenders, mut before, mut claimed_until, mut rtt) = (0u64, 0u64, None::<Time>, 0);
        let mine = mix(self.id ^ u64::from(piece));
        let mut hint = false;
        let mut available = false;
        let mut groups: Vec<(u64, usize)> = Vec::new();
        for peer in self.peers.values_mut() {
            if peer.is_seed || peer.is_paused(now) {
                continue;
            }
            if peer.bits.has(piece) {
                available |= !peer.is_untested();
                hint |= peer.is_untested();
                continue;
            }
            if !peer.speaks {
                continue;
            }
            let (first, count) = peer.window;
            if piece >= first && piece - first < count {
                contenders += 1;
                rtt = rtt.max(peer.rtt);
                let rank = mix(peer.id ^ u64::from(piece));
                before += u64::from(rank < mine);
            }
            if !peer.is_proven(now) {
                hint |= peer.claims.name(piece);
            } else if let Some(until) = peer.claims.until(piece, now)
            {
                let at = groups.iter().position(|(group, _)| *group == peer.group);
                let at = at.unwrap_or_else(|| {
                    groups.push((peer.group, 0));
                    groups.len() - 1
                });
                groups[at].1 += 1;
                if groups[at].1 <= MAX_CLAIMS_OF_GROUP {
                    claimed_until = Some(claimed_until.map_or(until, |known| known.max(until)));
                }
            }
        }
        let turn = rtt / 2 + NOTICE;
        let from = if available || claimed_until.is_some() {
            self.novel_since.remove(&piece);
            claimed_until.unwrap_or(Time::MAX).max(if available { Time::MAX } else { 0 })
        } else {
            let since = *self.novel_since.entry(piece).or_insert(now);
            let turn = since + before.min(MAX_TURNS) * turn;
            if hint && contenders > 0 {
                let hinted = *self.hinted_since.entry(piece).or_insert(now);
                turn.max(hinted + 2 * self.expected(seed).min(LONGEST_TURN / 2))
            } else {
                turn
            }
        };
        let Some(since) = want.waits_since else { return (from, before) };
        let _ = contenders;
        let patience = self.patience(piece, seed, since, turn, contenders, available || hint || claimed_until.is_some());
        (from.min(since + patience), before)
    }

    /// How long a piece takes from this peer.
    fn expected(&self, peer: PeerId) -> Time {
        let at_rate = self.peers.get(&peer).and_then(|peer| (self.piece_length * 1_000_000).checked_div(peer.rate));
        at_rate.unwrap_or(UNKNOWN).max(self.piece_time)
    }

    /// The random delay of a read that waits for a piece.
    fn patience(&self, piece: u32, seed: PeerId, since: Time, turn: Time, contenders: u64, known: bool) -> Time {
        let random = mix(self.random ^ mix(u64::from(piece) ^ since)) % 1024;
        if contenders == 0 {
            return 0;
        }
        let turns = contenders.min(MAX_TURNS) * turn;
        // A piece that another reader has or fetches needs time to be passed on.
        let spread = if known { turns.max(2 * self.expected(seed)).min(LONGEST_WAIT * (1 + contenders / 16)) } else { turns.max(100_000) };
        spread / 2 + spread * random / 1024
    }
}
