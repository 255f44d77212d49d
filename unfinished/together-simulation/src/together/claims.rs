//! The claims of one peer: the pieces that it fetches from a full seed, as it reported. A claim is only a hint.

use super::{MAX_CLAIMS, Time};

/// A claim never lasts shorter than this.
const SHORTEST: Time = 250_000;
/// A claim never lasts longer than this.
const LONGEST: Time = 10_000_000;
/// After so many claims in a row that were not kept, the peer's claims do not count for `IGNORED`.
const MISSES: u32 = 3;
const IGNORED: Time = 30_000_000;

#[derive(Debug, Clone, Copy)]
struct Claim {
    piece: u32,
    since: Time,
    until: Time,
    /// It was not kept in time.
    expired: bool,
}

/// The claims of one peer.
#[derive(Debug, Default)]
pub struct Claims {
    claims: Vec<Claim>,
    /// How long the peer took for a claimed piece: the longest of the last ones; 0 before the first.
    took: Time,
    misses: u32,
    ignored_until: Time,
}

impl Claims {
    /// Replaces the claims. `expected`: how long a piece takes at the peer's rate, as far as it is known.
    pub fn replace(&mut self, pieces: &[u32], expected: Time, now: Time) {
        self.expire(now);
        // The peer has not got a piece that is missing now: `kept` removes the others.
        let before = self.claims.len();
        self.claims.retain(|claim| pieces.contains(&claim.piece));
        self.missed(before - self.claims.len(), now);
        let took = if self.took > 0 { self.took } else { expected };
        let until = now + (2 * took).clamp(SHORTEST, LONGEST);
        for &piece in pieces {
            if self.claims.len() < MAX_CLAIMS && self.claims.iter().all(|claim| claim.piece != piece) {
                self.claims.push(Claim { piece, since: now, until, expired: false });
            }
        }
    }

    /// The peer has the piece.
    pub fn kept(&mut self, piece: u32, now: Time) {
        if let Some(at) = self.claims.iter().position(|claim| claim.piece == piece) {
            let claim = self.claims.swap_remove(at);
            let took = now - claim.since;
            self.took = took.max(self.took - self.took / 8);
            self.misses = 0;
        }
    }

    /// Until when the peer's claim on a piece lasts.
    pub fn until(&mut self, piece: u32, now: Time) -> Option<Time> {
        self.expire(now);
        if now < self.ignored_until {
            return None;
        }
        self.claims.iter().find(|claim| claim.piece == piece && !claim.expired).map(|claim| claim.until)
    }

    /// Whether the peer has a claim that it may still keep.
    pub fn any(&mut self, now: Time) -> bool {
        self.expire(now);
        now >= self.ignored_until && self.claims.iter().any(|claim| !claim.expired)
    }

    /// Whether the peer claims the piece, even if its claims do not count.
    pub fn name(&self, piece: u32) -> bool {
        self.claims.iter().any(|claim| claim.piece == piece)
    }

    fn expire(&mut self, now: Time) {
        // An expired claim stays, so that the same claim does not begin again.
        for i in 0..self.claims.len() {
            let claim = &mut self.claims[i];
            if !claim.expired && now >= claim.until {
                claim.expired = true;
                self.missed(1, now);
            }
        }
    }

    fn missed(&mut self, claims: usize, now: Time) {
        self.misses += claims as u32;
        if self.misses >= MISSES {
            (self.misses, self.ignored_until) = (0, now + IGNORED);
        }
    }
}
