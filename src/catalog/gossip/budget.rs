//! The limits of a peer: token buckets, and the numbers that bound a hostile peer.
//!
//! Every number is for one peer, unless its name begins with `ALL`. An honest peer reaches none of them but the pace of a
//! first exchange. A peer that exceeds its limits is served later, then ignored, then disconnected.

use std::time::{Duration, Instant};

use crate::catalog::message::Message;

/// A rate, and the most that may be saved up.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Tokens a second.
    pub per_second: f64,
    /// The most tokens of a bucket, and its content at the start.
    pub burst: f64,
}

/// Unrequested bytes: hellos, digests of changes, pushed records, questions. A busy network pushes a few
/// records a second, half a kilobyte each.
pub const UNASKED_BYTES: Rate = Rate { per_second: 128.0 * 1024.0, burst: 1024.0 * 1024.0 };

/// Unrequested messages, so that a flood of tiny messages ends as early.
pub const UNASKED_MESSAGES: Rate = Rate { per_second: 50.0, burst: 1000.0 };

/// Bytes beyond the two rates after which a peer is regarded as hostile: the buffers between two honest nodes
/// hold as much while one of them is stopped.
pub const MAX_EXCESS: usize = 4 * 1024 * 1024;

/// The same as a rate: messages of an honest peer that are dropped now and then are forgiven with time.
const EXCESS: Rate = Rate { per_second: 16.0 * 1024.0, burst: MAX_EXCESS as f64 };

/// Records that are new to this node. A first exchange is 100 000 immediately and the rest at the rate. A host that invents
/// records for a minute leaves 112 000, some 27 MB in memory, which are replaced by better ones when the catalog is full.
pub const NEW_RECORDS: Rate = Rate { per_second: 200.0, burst: 100_000.0 };

/// Our requests for records, each answered by up to 48 KiB: a burst of 800 is 100 000 records, 20 a second are 1 MB/s.
pub const WANTS: Rate = Rate { per_second: 20.0, burst: 800.0 };

/// Digests that begin, in each direction: one a minute. A connection that replaces another, because both sides had called,
/// needs a second and a third immediately.
pub const DIGESTS: Rate = Rate { per_second: 1.0 / 60.0, burst: 3.0 };

/// Seconds of work for the searches of a peer. One page may read the whole catalog, some 50 ms for 100 000 records; a search
/// of 32 pages is answered without delay.
const QUERIES: Rate = Rate { per_second: 0.1, burst: 2.0 };

/// The same for all peers together: at most half a core.
const ALL_QUERIES: Rate = Rate { per_second: 0.5, burst: 5.0 };

/// The charge in advance for a page of results, in seconds.
const QUERY_AT_FIRST: f64 = 0.05;

/// The least charge for a page, in seconds.
const QUERY_AT_LEAST: f64 = 0.002;

/// Seconds of work for the lookups of a peer; its user makes a few for each model opened. A lookup of a name with many false
/// records reads 1000 records, which takes 10 ms and more; a common lookup costs the least charge. So a burst may have 47,
/// and a second 10.
const LOOKUPS: Rate = Rate { per_second: 0.05, burst: 0.25 };

/// The same for all peers together: at most half a core.
const ALL_LOOKUPS: Rate = Rate { per_second: 0.5, burst: 5.0 };

/// The charge in advance for a lookup, in seconds.
const LOOKUP_AT_FIRST: f64 = 0.02;

/// The least charge for a lookup, in seconds.
const LOOKUP_AT_LEAST: f64 = 0.005;

/// Bytes of answers. The largest manifest, 16 MiB, takes 6 s.
pub const ANSWERED_BYTES: Rate = Rate { per_second: 2.0 * 1024.0 * 1024.0, burst: 4.0 * 1024.0 * 1024.0 };

/// Bytes of answers to all peers together, so that many new peers cannot use the whole uplink.
pub const ALL_ANSWERED_BYTES: Rate =
    Rate { per_second: 8.0 * 1024.0 * 1024.0, burst: 16.0 * 1024.0 * 1024.0 };

/// Records that are pushed on immediately, from all peers together. Further records are stored, and sent with the next
/// digest: so one peer cannot make the whole network pass on its flood.
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
    /// A full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: rate.burst, at: now }
    }

    /// The tokens in it.
    pub fn available(&mut self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.tokens = (self.tokens + passed * self.rate.per_second).min(self.rate.burst);
        self.tokens
    }

    /// Removes tokens if there are enough.
    pub fn take(&mut self, now: Instant, tokens: f64) -> bool {
        let enough = self.available(now) >= tokens;
        if enough {
            self.tokens -= tokens;
        }
        enough
    }

    /// Removes tokens from a peer's bucket and from the bucket of all peers, if both have enough.
    pub fn take_of_both(of_peer: &mut Self, of_all: &mut Self, now: Instant, tokens: f64) -> bool {
        of_all.available(now) >= tokens && of_peer.take(now, tokens) && of_all.take(now, tokens)
    }

    /// Removes tokens, if necessary into debt.
    pub fn spend(&mut self, now: Instant, tokens: f64) {
        self.available(now);
        self.tokens -= tokens;
    }
}

/// A kind of work with a budget of its own, in seconds.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// A page of search results.
    Query,
    /// The records and manifests of one model.
    Lookup,
}

impl Work {
    /// The charge in advance.
    pub fn at_first(self) -> f64 {
        match self {
            Self::Query => QUERY_AT_FIRST,
            Self::Lookup => LOOKUP_AT_FIRST,
        }
    }

    /// The least charge.
    pub fn at_least(self) -> f64 {
        match self {
            Self::Query => QUERY_AT_LEAST,
            Self::Lookup => LOOKUP_AT_LEAST,
        }
    }
}

/// The budgets for the work of answers, of one peer or of all peers together.
#[derive(Debug)]
pub struct WorkBuckets {
    queries: Bucket,
    lookups: Bucket,
}

impl WorkBuckets {
    /// The full budgets of one peer.
    pub fn of_peer(now: Instant) -> Self {
        Self { queries: Bucket::new(QUERIES, now), lookups: Bucket::new(LOOKUPS, now) }
    }

    /// The full budgets of all peers together.
    pub fn of_all(now: Instant) -> Self {
        Self { queries: Bucket::new(ALL_QUERIES, now), lookups: Bucket::new(ALL_LOOKUPS, now) }
    }

    /// The budget for a kind of work.
    pub fn of(&mut self, work: Work) -> &mut Bucket {
        match work {
            Work::Query => &mut self.queries,
            Work::Lookup => &mut self.lookups,
        }
    }
}

/// Whether a message of this node asks for an answer.
pub fn is_question(message: &Message) -> bool {
    matches!(message, Message::Want { .. } | Message::Question(..))
}

/// The decision about a message before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The message is decoded.
    Accept,
    /// The message is dropped.
    Drop,
    /// The message is dropped, and its sender floods.
    Hostile,
}

/// Decides about the messages of a peer before they are decoded.
#[derive(Debug)]
pub struct Intake {
    bytes: Bucket,
    messages: Bucket,
    /// How many answers are missing, and until when they are awaited.
    asked: u32,
    asked_until: Instant,
    excess: Bucket,
}

/// How long an answer is accepted outside the budget.
const ANSWER_IN: Duration = Duration::from_secs(60);

/// The most answers that are accepted outside the budget: 4 MiB.
const MAX_ASKED: u32 = 64;

/// A message of at most this many bytes is charged to the budget first, since it may not be an answer.
const SMALL: usize = 2048;

impl Intake {
    /// The intake of a new connection.
    pub fn new(now: Instant) -> Self {
        Self {
            bytes: Bucket::new(UNASKED_BYTES, now),
            messages: Bucket::new(UNASKED_MESSAGES, now),
            asked: 0,
            asked_until: now,
            excess: Bucket::new(EXCESS, now),
        }
    }

    /// This node has asked the peer a question.
    pub fn asked(&mut self, now: Instant) {
        if now > self.asked_until {
            self.asked = 0;
        }
        self.asked_until = now + ANSWER_IN;
        self.asked = (self.asked + 1).min(MAX_ASKED);
    }

    /// Decides about a message of `len` bytes.
    pub fn weigh(&mut self, now: Instant, len: usize) -> Verdict {
        let large = len > SMALL;
        if (large && self.is_answer(now)) || self.is_within(now, len) || self.is_answer(now) {
            return Verdict::Accept;
        }
        // A message costs something even when it is empty.
        if self.excess.take(now, len.max(1024) as f64) { Verdict::Drop } else { Verdict::Hostile }
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
    fn bucket_refills_at_its_rate_up_to_its_burst() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Rate { per_second: 2.0, burst: 3.0 }, now);
        assert!(bucket.take(now, 3.0) && !bucket.take(now, 0.5));
        assert!(bucket.take(now + Duration::from_millis(500), 1.0));
        assert!(!bucket.take(now + Duration::from_millis(500), 0.1));
        assert_eq!(bucket.available(now + Duration::from_secs(3600)), 3.0);
    }

    #[test]
    fn flood_is_dropped_then_hostile_but_answers_pass() {
        let now = Instant::now();
        let mut intake = Intake::new(now);
        let large = 60 * 1024;
        let mut verdicts = Vec::new();
        while verdicts.last() != Some(&Verdict::Hostile) {
            verdicts.push(intake.weigh(now, large));
        }
        let count = |verdict| verdicts.iter().filter(|v| **v == verdict).count();
        assert_eq!(count(Verdict::Accept), UNASKED_BYTES.burst as usize / large);
        assert_eq!(count(Verdict::Drop), MAX_EXCESS / large);

        let mut intake = Intake::new(now);
        for _ in 0..1000 {
            intake.asked(now);
            assert_eq!(intake.weigh(now, large), Verdict::Accept);
        }
        assert_eq!(intake.weigh(now + ANSWER_IN, large), Verdict::Accept);
    }

    #[test]
    fn occasional_excess_is_not_hostile() {
        let mut now = Instant::now();
        let mut intake = Intake::new(now);
        let mut dropped = 0;
        for _ in 0..20 {
            for _ in 0..50 {
                let verdict = intake.weigh(now, 60 * 1024);
                assert_ne!(verdict, Verdict::Hostile);
                dropped += if verdict == Verdict::Drop { 60 * 1024 } else { 0 };
            }
            now += Duration::from_secs(600);
        }
        assert!(dropped > 2 * MAX_EXCESS);
    }

    #[test]
    fn tiny_messages_count() {
        let now = Instant::now();
        let mut intake = Intake::new(now);
        let hostile_after = (1..).find(|_| intake.weigh(now, 1) == Verdict::Hostile).unwrap();
        assert_eq!(hostile_after, UNASKED_MESSAGES.burst as usize + MAX_EXCESS / 1024 + 1);
    }
}
