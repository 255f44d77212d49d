//! What a peer may cost: token buckets, and the numbers that bound a hostile one.
//!
//! Every number is for one peer, unless it says `ALL`. An honest peer meets none of them but the pacing of a first
//! exchange; whoever spends more than they allow is served later, then not at all, then hung up on.

use std::time::{Duration, Instant};

use crate::catalog::message::Message;

/// A rate, and how much may be saved up.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Tokens a second.
    pub per_second: f64,
    /// The most that a bucket holds, and what it begins with.
    pub burst: f64,
}

/// Bytes that nobody asked for: hellos, digests that changed, pushed records, questions. A busy network pushes a few
/// records a second, half a kilobyte each.
pub const UNASKED_BYTES: Rate = Rate { per_second: 128.0 * 1024.0, burst: 1024.0 * 1024.0 };

/// Messages that nobody asked for, so that a flood of tiny ones ends as early.
pub const UNASKED_MESSAGES: Rate = Rate { per_second: 50.0, burst: 1000.0 };

/// Bytes beyond the two rates after which a peer is taken for hostile and banned: what fits into the buffers between
/// two honest nodes one of which stood still.
pub const MAX_EXCESS: usize = 4 * 1024 * 1024;

/// The same as a rate: what is dropped of an honest peer now and then is forgiven in time.
const EXCESS: Rate = Rate { per_second: 16.0 * 1024.0, burst: MAX_EXCESS as f64 };

/// Records that are new to us. A first exchange is 100 000 at once and the rest at the rate; a host that makes up
/// records for a minute leaves 112 000, some 27 MB in memory, which go for better ones when the catalog is full.
pub const NEW_RECORDS: Rate = Rate { per_second: 200.0, burst: 100_000.0 };

/// Our requests for records, each answered by up to 48 KiB: 800 at once are 100 000 records, 20 a second 1 MB/s.
pub const WANTS: Rate = Rate { per_second: 20.0, burst: 800.0 };

/// Digests that we tell from their beginning, and that we let a peer tell: one a minute. A connection that takes the place of another, because both
/// sides had called, needs a second and a third at once.
pub const DIGESTS: Rate = Rate { per_second: 1.0 / 60.0, burst: 3.0 };

/// Seconds that answering the searches of a peer takes. One page may read the whole catalog, some 50 ms for 100 000
/// records; a search of 32 pages is let in at once.
pub const QUERIES: Rate = Rate { per_second: 0.1, burst: 2.0 };

/// The same of all peers together: at most half a core, however many ask.
pub const ALL_QUERIES: Rate = Rate { per_second: 0.5, burst: 5.0 };

/// What a page of results is taken to take before that is known, in seconds.
pub const QUERY_AT_FIRST: f64 = 0.05;

/// What it is charged with at least, in seconds.
pub const QUERY_AT_LEAST: f64 = 0.002;

/// Seconds that answering the lookups of a peer takes; its user makes a few per model opened. One of a name that strangers
/// have squatted reads 1000 records, which takes 10 ms and more; a common one is charged with the least. So 47 are let in
/// at once, and 10 a second.
pub const LOOKUPS: Rate = Rate { per_second: 0.05, burst: 0.25 };

/// The same of all peers together: at most half a core, however many ask.
pub const ALL_LOOKUPS: Rate = Rate { per_second: 0.5, burst: 5.0 };

/// What a lookup is taken to take before that is known, in seconds.
pub const LOOKUP_AT_FIRST: f64 = 0.02;

/// What it is charged with at least, in seconds.
pub const LOOKUP_AT_LEAST: f64 = 0.005;

/// Bytes of answers. The largest manifest, 16 MiB, takes 6 s.
pub const ANSWERED_BYTES: Rate = Rate { per_second: 2.0 * 1024.0 * 1024.0, burst: 4.0 * 1024.0 * 1024.0 };

/// Bytes of answers to all peers together, so that a crowd of newcomers does not take the whole uplink.
pub const ALL_ANSWERED_BYTES: Rate =
    Rate { per_second: 8.0 * 1024.0 * 1024.0, burst: 16.0 * 1024.0 * 1024.0 };

/// Records passed on at once on arrival, of all peers together. What comes faster is stored, and told with the next
/// digest: so one peer cannot have the whole network pass on its flood.
pub const ALL_PUSHED: Rate = Rate { per_second: 20.0, burst: 500.0 };

/// Questions of one peer that wait for its budget; more are dropped.
pub const MAX_PARKED: usize = 32;

/// Saves up tokens at a rate.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: rate.burst, at: now }
    }

    /// What is in it.
    pub fn available(&mut self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.rate.per_second).min(self.rate.burst);
        self.tokens
    }

    /// Takes tokens out if there are as many.
    pub fn take(&mut self, now: Instant, tokens: f64) -> bool {
        let enough = self.available(now) >= tokens;
        if enough {
            self.tokens -= tokens;
        }
        enough
    }

    /// Takes tokens out of a peer's bucket and out of that of all peers, if there are as many in both.
    pub fn take_of_both(of_peer: &mut Self, of_all: &mut Self, now: Instant, tokens: f64) -> bool {
        of_all.available(now) >= tokens && of_peer.take(now, tokens) && of_all.take(now, tokens)
    }

    /// Takes tokens out, into debt if need be.
    pub fn spend(&mut self, now: Instant, tokens: f64) {
        self.available(now);
        self.tokens -= tokens;
    }
}

/// Whether a message of ours asks for an answer.
pub fn is_question(message: &Message) -> bool {
    matches!(
        message,
        Message::Want { .. } | Message::Query { .. } | Message::Lookup { .. } | Message::GetManifest { .. }
    )
}

/// What becomes of a message before anybody reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is read.
    Take,
    /// It is thrown away.
    Drop,
    /// Its sender floods us.
    Ban,
}

/// Weighs what a peer sends before it costs anything to read.
#[derive(Debug)]
pub struct Intake {
    bytes: Bucket,
    messages: Bucket,
    /// How many answers we asked for and have not got, and until when they are awaited.
    asked: u32,
    asked_until: Instant,
    excess: Bucket,
}

/// How long an answer is let in beside the budget.
const ANSWER_IN: Duration = Duration::from_secs(60);

/// The most answers that are let in beside the budget: 4 MiB.
const MAX_ASKED: u32 = 64;

/// Up to so many bytes a message is let in on the budget first, since it may as well be no answer.
const SMALL: usize = 2048;

impl Intake {
    /// That of a new connection.
    pub fn new(now: Instant) -> Self {
        Self {
            bytes: Bucket::new(UNASKED_BYTES, now),
            messages: Bucket::new(UNASKED_MESSAGES, now),
            asked: 0,
            asked_until: now,
            excess: Bucket::new(EXCESS, now),
        }
    }

    /// We have asked for something.
    pub fn asked(&mut self, now: Instant) {
        if now > self.asked_until {
            self.asked = 0;
        }
        self.asked_until = now + ANSWER_IN;
        self.asked = (self.asked + 1).min(MAX_ASKED);
    }

    /// A message has come.
    pub fn weigh(&mut self, now: Instant, len: usize) -> Verdict {
        let large = len > SMALL;
        if (large && self.is_answer(now)) || self.is_within(now, len) || self.is_answer(now) {
            return Verdict::Take;
        }
        // A message costs something even when it is empty.
        if self.excess.take(now, len.max(1024) as f64) { Verdict::Drop } else { Verdict::Ban }
    }

    fn is_answer(&mut self, now: Instant) -> bool {
        let awaited = self.asked > 0 && now <= self.asked_until;
        if awaited {
            self.asked -= 1;
        }
        awaited
    }

    fn is_within(&mut self, now: Instant, len: usize) -> bool {
        let within = self.messages.available(now) >= 1.0 && self.bytes.available(now) >= len as f64;
        if within {
            self.messages.spend(now, 1.0);
            self.bytes.spend(now, len as f64);
        }
        within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_refills_at_its_rate_and_not_above_its_burst() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Rate { per_second: 2.0, burst: 3.0 }, now);
        assert!(bucket.take(now, 3.0) && !bucket.take(now, 0.5));
        assert!(bucket.take(now + Duration::from_millis(500), 1.0));
        assert!(!bucket.take(now + Duration::from_millis(500), 0.1));
        assert_eq!(bucket.available(now + Duration::from_secs(3600)), 3.0);
    }

    #[test]
    fn a_flood_is_dropped_then_banned_and_answers_pass_beside_the_budget() {
        let now = Instant::now();
        let mut intake = Intake::new(now);
        let large = 60 * 1024;
        let mut verdicts = Vec::new();
        while verdicts.last() != Some(&Verdict::Ban) {
            verdicts.push(intake.weigh(now, large));
        }
        let count = |verdict| verdicts.iter().filter(|v| **v == verdict).count();
        assert_eq!(count(Verdict::Take), UNASKED_BYTES.burst as usize / large);
        assert_eq!(count(Verdict::Drop), MAX_EXCESS / large);

        let mut intake = Intake::new(now);
        for _ in 0..1000 {
            intake.asked(now);
            assert_eq!(intake.weigh(now, large), Verdict::Take);
        }
        assert_eq!(intake.weigh(now + ANSWER_IN, large), Verdict::Take);
    }

    #[test]
    fn a_peer_that_says_too_much_now_and_then_is_not_banned_in_the_end() {
        let mut now = Instant::now();
        let mut intake = Intake::new(now);
        let mut dropped = 0;
        for _ in 0..20 {
            for _ in 0..50 {
                let verdict = intake.weigh(now, 60 * 1024);
                assert_ne!(verdict, Verdict::Ban);
                dropped += if verdict == Verdict::Drop { 60 * 1024 } else { 0 };
            }
            now += Duration::from_secs(600);
        }
        assert!(dropped > 2 * MAX_EXCESS);
    }

    #[test]
    fn tiny_messages_count_as_well() {
        let now = Instant::now();
        let mut intake = Intake::new(now);
        let banned_after = (1..).find(|_| intake.weigh(now, 1) == Verdict::Ban).unwrap();
        assert_eq!(banned_after, UNASKED_MESSAGES.burst as usize + MAX_EXCESS / 1024 + 1);
    }
}
