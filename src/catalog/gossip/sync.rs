//! Comparing digests with partners, and fetching missing records.
//!
//! A digest is sent page by page in the order of the keys; the receiver asks for the next page (by an empty `want`) when it
//! has processed one. Missing records of a publisher are requested from one partner at a time; each request is answered by
//! one message.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::answers::{PeerRequest, RecordSource, WANT_PAGE};
use super::budget::{Bucket, DIGESTS, WANTS};
use super::{Action, Gossip, RecordOrigin};
use crate::catalog::message::{Have, Message};
use crate::catalog::record::SharedRecord;
use crate::model::PublisherKey;
use crate::torrent::PeerId;

/// Publishers for which a partner's claims are remembered: a few pages. The digest is asked for again when these are
/// processed.
const MAX_CLAIMS: usize = 2048;

/// How long an answer may take before another partner is asked: both sides may be slow and far, and store in between.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// How long a partner that did not answer is left alone, longer each time; and after how many failures it is dropped.
const REST: Duration = Duration::from_secs(30);
const MAX_FAILURES: u32 = 6;

/// How often all records of a publisher may be requested from one partner again, because it has more of them, but no newer
/// ones. It may count records that this node has refused.
const WHOLE_EVERY: Duration = Duration::from_secs(3600);

/// Publishers remembered whose records were requested from the beginning.
const MAX_WHOLE: usize = 4096;

/// Requests in a row that brought none of the claimed records, after which the partner is dropped.
const MAX_FRUITLESS: u32 = 8;

/// The most pages of one digest: enough if every record has its own publisher, and a few more.
const MAX_DIGEST_PAGES: u32 = 300;

/// How long after its hello a partner is asked for a digest that it did not send unasked.
const DIGEST_WITHIN: Duration = Duration::from_secs(10);

/// How often the whole digest of one random partner is compared again. It repairs all losses.
const PULL_EVERY: Duration = Duration::from_secs(600);

/// The new records that a partner's budget must have room for before more are asked for: about one message.
const ROOM: f64 = 128.0;

/// When to compare again.
pub(super) fn pull_after(rng: &mut fastrand::Rng) -> Duration {
    PULL_EVERY.mul_f64(0.5 + rng.f64())
}

/// An open request for records.
struct RecordRequest {
    /// Publishers, each with the sequence after which records are requested.
    after: Vec<(PublisherKey, i64)>,
    due: Instant,
}

/// The state of the exchange with one peer.
pub(super) struct Sync {
    /// Publishers of which the peer claims more records than this node has: highest sequence, and count.
    claims: BTreeMap<PublisherKey, (i64, u32)>,
    /// Whether its digest has another page; and until when that page is awaited.
    more: bool,
    page_due: Option<Instant>,
    /// The last publisher of its last page, and how many pages there were.
    page_after: Option<PublisherKey>,
    pages: u32,
    /// How many digests of more than one page the peer may begin.
    their_digests: Bucket,
    /// Whether it has sent or was asked for a digest.
    digest_seen: bool,
    want: Option<RecordRequest>,
    /// The part of the last request that was not answered.
    rest: Vec<(PublisherKey, i64)>,
    /// Answers that arrived too late, or are still missing.
    late: u32,
    failures: u32,
    fruitless: u32,
    not_before: Option<Instant>,
    /// When all records of a publisher were requested.
    whole: HashMap<PublisherKey, Instant>,
    wants: Bucket,
    /// Where our digest to the peer continues, unless it is at its end; and how many may begin.
    digest_after: Option<PublisherKey>,
    digests: Bucket,
}

impl Sync {
    /// The state for a new peer.
    pub fn new(now: Instant) -> Self {
        Self {
            claims: BTreeMap::new(),
            more: false,
            page_due: None,
            page_after: None,
            pages: 0,
            their_digests: Bucket::new(DIGESTS, now),
            digest_seen: false,
            want: None,
            rest: Vec::new(),
            late: 0,
            failures: 0,
            fruitless: 0,
            not_before: None,
            whole: HashMap::new(),
            wants: Bucket::new(WANTS, now),
            digest_after: None,
            digests: Bucket::new(DIGESTS, now),
        }
    }

    /// Whether the peer claims to have a publisher's record.
    pub fn claims(&self, publisher: &PublisherKey, sequence: i64) -> bool {
        self.claims.get(publisher).is_some_and(|(claimed, _)| *claimed >= sequence)
    }

    /// Whether another page of a digest may follow this one: an honest digest is in the order of the keys, ends, and does
    /// not begin again immediately.
    fn continues(&mut self, now: Instant, page: &[Have], more: bool) -> bool {
        if more && self.pages == 0 && !self.their_digests.take(now, 1.0) {
            return false;
        }
        let ascends = page.windows(2).all(|pair| pair[0].publisher < pair[1].publisher);
        let beyond = |first: &Have| self.page_after.is_none_or(|after| first.publisher > after);
        let continues = more && ascends && page.first().is_some_and(beyond) && self.pages < MAX_DIGEST_PAGES;
        if continues {
            (self.page_after, self.pages) = (page.last().map(|have| have.publisher), self.pages + 1);
        } else {
            (self.page_after, self.pages) = (None, 0);
        }
        continues
    }

    /// A request has brought a record that was stored.
    pub fn brought_records(&mut self) {
        self.fruitless = 0;
    }

    fn waits(&self, now: Instant) -> bool {
        self.want.is_some() || self.not_before.is_some_and(|t| now < t)
    }

    /// The sequence after which to request a publisher's records, if the peer claims records that this node lacks.
    fn missing(&self, now: Instant, claim: (i64, u32), have: Option<Have>, of: &PublisherKey) -> Option<i64> {
        match have {
            None => Some(0),
            Some(have) if claim.0 > have.sequence => Some(have.sequence),
            // The newest record may have arrived before older ones.
            Some(have) if claim.1 > have.count => {
                let asked = self.whole.get(of).is_some_and(|at| now < *at + WHOLE_EVERY);
                (!asked && self.whole.len() < MAX_WHOLE).then_some(0)
            }
            Some(_) => None,
        }
    }
}

impl Gossip {
    /// A peer has sent a page of its digest.
    pub(super) fn claims(
        &mut self,
        now: Instant,
        peer: PeerId,
        known: &[Have],
        more: bool,
        source: &dyn RecordSource,
    ) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let Some(bit) = state.partner else { return };
        let sync = &mut state.sync;
        let more = sync.continues(now, known, more);
        (sync.digest_seen, sync.more, sync.page_due) = (true, more, None);
        for claim in known {
            let have = source.have(&claim.publisher);
            if have.is_some_and(|have| claim.sequence >= have.sequence) {
                self.fresh.known_to(&claim.publisher, bit);
            }
            if sync.missing(now, (claim.sequence, claim.count), have, &claim.publisher).is_none() {
                continue;
            }
            if sync.claims.len() >= MAX_CLAIMS {
                sync.more = true;
                break;
            }
            sync.claims.insert(claim.publisher, (claim.sequence, claim.count));
        }
        self.fetch_more(now, peer, source);
    }

    /// Requests the next claimed records of a partner, or the next page of its digest.
    pub(super) fn fetch_more(&mut self, now: Instant, peer: PeerId, source: &dyn RecordSource) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let (Some(bit), sync) = (state.partner, &mut state.sync) else { return };
        let purse = self.purses.of(now, peer, state.connection.address);
        if sync.waits(now) || purse.available(now) < ROOM || sync.wants.available(now) < 1.0 {
            return;
        }
        let mut after = std::mem::take(&mut sync.rest);
        if after.is_empty() {
            let mut over = Vec::new();
            for (publisher, claim) in &sync.claims {
                if after.len() == WANT_PAGE {
                    break;
                }
                if self.wanted_of.contains_key(publisher) {
                    continue;
                }
                let have = source.have(publisher);
                match sync.missing(now, *claim, have, publisher) {
                    Some(sequence) => {
                        if have.is_some() && sequence == 0 {
                            sync.whole.insert(*publisher, now);
                        }
                        after.push((*publisher, sequence));
                    }
                    None => {
                        if have.is_some_and(|have| claim.0 >= have.sequence) {
                            self.fresh.known_to(publisher, bit);
                        }
                        over.push(*publisher);
                    }
                }
            }
            for publisher in over {
                sync.claims.remove(&publisher);
            }
        }
        if after.is_empty() {
            if sync.claims.is_empty() && sync.more && sync.page_due.is_none() {
                sync.wants.spend(now, 1.0);
                sync.page_due = Some(now + ANSWER_WITHIN);
                self.send(peer, Message::Want { after });
            }
            return;
        }
        sync.wants.spend(now, 1.0);
        for (publisher, _) in &after {
            self.wanted_of.insert(*publisher, peer);
        }
        sync.want = Some(RecordRequest { after: after.clone(), due: now + ANSWER_WITHIN });
        self.send(peer, Message::Want { after });
    }

    /// The answer to a request for records.
    pub(super) fn wanted(
        &mut self,
        now: Instant,
        peer: PeerId,
        mut records: Vec<SharedRecord>,
        more: bool,
        source: &dyn RecordSource,
    ) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let sync = &mut state.sync;
        let position = |want: &RecordRequest, record: &SharedRecord| {
            want.after.iter().position(|(publisher, _)| *publisher == record.record().publisher)
        };
        let belongs = |want: &RecordRequest| match records.last() {
            Some(last) => position(want, last).is_some(),
            None => sync.late == 0,
        };
        let Some(want) = sync.want.take_if(|want| belongs(want)) else {
            sync.late = sync.late.saturating_sub(1);
            return;
        };
        // Records at or below the requested sequence are not an answer.
        records.retain(|record| {
            position(&want, record).is_some_and(|at| record.record().sequence > want.after[at].1)
        });
        sync.failures = 0;
        if let Some(last) = records.last()
            && more
            && let Some(at) = position(&want, last)
            && last.record().sequence > want.after[at].1
        {
            let (publisher, sequence) = (want.after[at].0, last.record().sequence);
            sync.rest =
                [(publisher, sequence)].into_iter().chain(want.after[at + 1..].iter().copied()).collect();
        }
        let done = want.after.len() - sync.rest.len();
        for (publisher, _) in &want.after[..done] {
            self.wanted_of.remove(publisher);
            sync.claims.remove(publisher);
        }
        if records.is_empty() {
            sync.fruitless += 1;
            if sync.fruitless > MAX_FRUITLESS {
                return self.disconnect(peer, false, "it does not have what it claims");
            }
            return self.fetch_more(now, peer, source);
        }
        self.actions.push_back(Action::Store(RecordOrigin::Wanted(peer), records));
    }

    /// A peer has pushed records.
    pub(super) fn pushed(&mut self, now: Instant, peer: PeerId, records: Vec<SharedRecord>) {
        if self.peers.get(&peer).is_some_and(|p| p.connection.of_catalog) {
            self.learn(now, RecordOrigin::Pushed(peer), records);
        }
    }

    /// Stores records that were not requested by the exchange, within the peer's budget.
    pub(super) fn learn(&mut self, now: Instant, origin: RecordOrigin, mut records: Vec<SharedRecord>) {
        if let Some((peer, state)) = origin.peer().and_then(|peer| Some((peer, self.peers.get(&peer)?))) {
            let purse = self.purses.of(now, peer, state.connection.address);
            records.truncate(purse.available(now).max(0.0) as usize);
        }
        if !records.is_empty() {
            self.actions.push_back(Action::Store(origin, records));
        }
    }

    /// Gives up missing answers, and continues with publishers that another partner did not send.
    pub(super) fn sync_tick(&mut self, now: Instant, peer: PeerId, source: &dyn RecordSource) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let since = state.since;
        let sync = &mut state.sync;
        if sync.page_due.is_some_and(|due| due <= now) {
            (sync.page_due, sync.more) = (None, false);
        }
        if let Some(want) = sync.want.take_if(|want| want.due <= now) {
            for (publisher, _) in &want.after {
                self.wanted_of.remove(publisher);
            }
            sync.rest.clear();
            sync.late += 1;
            sync.failures += 1;
            sync.not_before = Some(now + REST * sync.failures);
            if sync.failures >= MAX_FAILURES {
                return self.disconnect(peer, false, "it does not answer");
            }
        }
        if state.partner.is_some() && !sync.digest_seen && state.records > 0 && now >= since + DIGEST_WITHIN {
            return self.ask_digest(now, peer);
        }
        if !sync.claims.is_empty() || !sync.rest.is_empty() || sync.more {
            self.fetch_more(now, peer, source);
        }
    }

    /// Compares the whole digest of one partner.
    pub(super) fn pull(&mut self, now: Instant) {
        for state in self.peers.values_mut() {
            state.sync.whole.retain(|_, at| now < *at + WHOLE_EVERY);
        }
        let idle =
            |p: &super::Peer| p.partner.is_some() && p.sync.claims.is_empty() && p.sync.page_due.is_none();
        let partners: Vec<PeerId> = self.peers.iter().filter(|(_, p)| idle(p)).map(|(id, _)| *id).collect();
        if let Some(peer) = self.rng.choice(partners) {
            self.ask_digest(now, peer);
        }
    }

    /// Asks a partner for its digest, from the beginning.
    pub(super) fn ask_digest(&mut self, now: Instant, peer: PeerId) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let sync = &mut state.sync;
        (sync.digest_seen, sync.page_due) = (true, Some(now + ANSWER_WITHIN));
        (sync.page_after, sync.pages) = (None, 0);
        self.send(peer, Message::Want { after: Vec::new() });
    }

    /// A peer asks for the next page of our digest.
    pub(super) fn digest_wanted(&mut self, now: Instant, peer: PeerId) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if !state.connection.of_catalog {
            return;
        }
        let sync = &mut state.sync;
        let after = sync.digest_after.take();
        if after.is_none() && !sync.digests.take(now, 1.0) {
            return self.send(peer, Message::Have { known: Vec::new(), more: false });
        }
        self.request(now, peer, PeerRequest::Digest(after));
    }

    /// Whether a peer is reading our digest page by page: it would mistake any other digest for the next page.
    pub(super) fn reads_digest(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|state| state.sync.digest_after.is_some())
    }

    /// Reports that a request of a peer was answered by this message, and how long that took.
    pub fn answered(
        &mut self,
        now: Instant,
        peer: PeerId,
        request: &PeerRequest,
        answer: &Message,
        took: Duration,
    ) {
        let mut state = self.peers.get_mut(&peer);
        if let Some(work) = request.work() {
            // The charge in advance was an estimate.
            let more = took.as_secs_f64().max(work.at_least()) - work.at_first();
            self.work.of(work).spend(now, more);
            if let Some(state) = &mut state {
                state.work.of(work).spend(now, more);
            }
        }
        if let (PeerRequest::Digest(_), Message::Have { known, more: true }, Some(state)) =
            (request, answer, state)
        {
            state.sync.digest_after = known.last().map(|have| have.publisher);
        }
    }
}
