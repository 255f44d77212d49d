//! What a reader knows of one peer: its pieces, how fast it sends, and whether its data was correct.

use super::claims::Claims;
use super::{BLOCK, Bits, Time};

/// Most bytes that are requested from a peer that has not sent anything yet.
const PROBE: u64 = 4 * BLOCK;

/// Bytes that are requested in addition to those that are on their way, so that the sender always has the next one.
const SPARE: u64 = 16 * BLOCK;

/// A peer counts as proven for this long after its last verified piece.
pub const PROVEN_FOR: Time = 60_000_000;

/// After twice the round trip and this time without a requested block, a peer is silent. A peer that sent blocks before has more
/// time, because it may send to other hosts first.
const SILENT_AT_FIRST: Time = 2_000_000;
const SILENT: Time = 5_000_000;

/// The pause before a silent peer is asked again, doubled each time up to 64 times.
const PAUSE: Time = 5_000_000;

/// Bytes over which the rate of a peer is averaged.
const AVERAGED: u64 = 1 << 20;

/// One connection.
#[derive(Debug)]
pub struct Peer {
    pub bits: Bits,
    /// The peer had all pieces when it came. A reader that finishes is none.
    pub is_seed: bool,
    /// Hash of the peer's id. Both sides know it.
    pub id: u64,
    /// The address group.
    pub group: u64,
    /// Whether the peer sends and reads claims.
    pub speaks: bool,
    /// The pieces that the peer wants to read, as it reported: the first one, and their number.
    pub window: (u32, u32),
    pub claims: Claims,
    /// The shortest measured round trip.
    pub rtt: Time,
    /// Bytes per second while requests were waiting; 0 before the first block.
    pub rate: u64,
    /// Bytes that were requested and have not come.
    pub outstanding: u64,
    busy_since: Time,
    /// The last block, or the request that ended a pause.
    last_block: Time,
    proven_at: Option<Time>,
    /// Until then the peer is not asked.
    pub paused_until: Time,
    silences: u32,
}

impl Peer {
    pub fn new(pieces: u32, id: u64, group: u64, speaks: bool, rtt: Time) -> Self {
        Self {
            bits: Bits::new(pieces),
            is_seed: false,
            id,
            group,
            speaks,
            window: (0, 0),
            claims: Claims::default(),
            rtt,
            rate: 0,
            outstanding: 0,
            busy_since: 0,
            last_block: 0,
            proven_at: None,
            paused_until: 0,
            silences: 0,
        }
    }

    /// Whether the peer has sent no block yet, or none since it was silent.
    pub fn is_untested(&self) -> bool {
        self.rate == 0 || self.silences > 0
    }

    pub fn is_full_now(&self) -> bool { self.bits.is_full() }
    pub fn is_proven(&self, now: Time) -> bool {
        self.proven_at.is_some_and(|at| now < at + PROVEN_FOR)
    }

    pub fn is_paused(&self, now: Time) -> bool {
        now < self.paused_until
    }

    /// Most bytes to have requested from the peer: never fewer than its rate times its round trip.
    pub fn queue(&self) -> u64 {
        if self.is_untested() {
            return PROBE;
        }
        let on_their_way = u128::from(self.rate) * u128::from(self.rtt) / 1_000_000;
        2 * u64::try_from(on_their_way).unwrap_or(u64::MAX / 4).min(u64::MAX / 4) + SPARE
    }

    /// How long `bytes` would take if they were requested now, after all that was requested before.
    pub fn time_for(&self, bytes: u64) -> Time {
        let rate = self.rate.max(1);
        self.rtt + (self.outstanding.saturating_add(bytes)).saturating_mul(1_000_000) / rate
    }

    pub fn requested(&mut self, bytes: u64, now: Time) {
        if self.outstanding == 0 {
            self.busy_since = now;
            self.last_block = now;
        }
        self.outstanding += bytes;
    }

    pub fn cancelled(&mut self, bytes: u64) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
    }

    pub fn received(&mut self, bytes: u64, now: Time) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
        let took = now.saturating_sub(self.last_block).max(1);
        let rate = (bytes.saturating_mul(1_000_000) / took).max(1);
        let weight = bytes.min(AVERAGED);
        self.rate = if self.rate == 0 || self.silences > 0 {
            // The first block contains a round trip.
            let sent = took.saturating_sub(self.rtt).max(1);
            (bytes.saturating_mul(1_000_000) / sent).clamp(1, 16 << 20)
        } else {
            (self.rate.saturating_mul(AVERAGED - weight) + rate.min(1 << 40).saturating_mul(weight)) / AVERAGED
        };
        self.silences = 0;
        self.last_block = now;
    }

    pub fn proved(&mut self, now: Time) {
        self.proven_at = Some(now);
    }

    /// When the peer counts as silent, if nothing comes.
    pub fn silent_at(&self) -> Option<Time> {
        let time = if self.is_untested() { SILENT_AT_FIRST } else { SILENT };
        (self.outstanding > 0).then_some(self.last_block + 2 * self.rtt + time)
    }

    /// Pauses a silent peer. Its requests are no longer counted on.
    pub fn pause(&mut self, now: Time) {
        self.paused_until = now + (PAUSE << self.silences.min(6));
        self.silences += 1;
        self.outstanding = 0;
    }
}
