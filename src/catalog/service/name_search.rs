//! Finding the records and manifests of a model: in the store, at the peers, and at hosts that announced the name in the DHT.
//!
//! All callers that look for the same model share one search. It ends
//! - when there is a candidate, and every peer asked has answered or [`GRACE`] has passed since the first question. A
//!   record of an earlier run may be out of date, so a node that has just started waits [`LAN_WITHIN`] for a peer to ask;
//! - without a candidate: when its time is over; when no peer can be asked, and LAN discovery and the DHT have had their
//!   time; or when each peer that can be asked has answered that it has nothing, and the DHT has named no host in its
//!   time. The DHT never answers that a name is unknown.
//!
//! A search for one publisher also waits for the DHT's item of that publisher.
//!
//! A caller with [`SearchPatience::Peers`] does not wait for the DHT: its search is over when each connected peer has answered,
//! but not in the first second after the start ([`LAN_SOON`]), nor while a host that announced the name is being called.
//! The search continues without the caller, and reports the name as [news](super::News) when it is found. Where no peer
//! is connected, the caller waits for LAN discovery and the DHT.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::announcers::Announcers;
use super::candidates::Candidates;
use super::core::{CatalogEvent, Core};
use super::inquiry::{self, AskedPeers, Inquiry};
use super::searches::{MISS, Searches};
use super::shared_search::{ProgressSender, SearchEnd, SearchProgress};
use super::types::{Candidate, CatalogError};
use crate::catalog::gossip::RecordOrigin;
use crate::catalog::message::{PeerAnswer, PeerQuestion};
use crate::catalog::record::{SharedRecord, SignedRecord, salt_of};
use crate::model::{ModelRef, PublisherKey};
use crate::torrent::DhtItem;

/// How long further answers are awaited after the first candidate.
pub const GRACE: Duration = Duration::from_millis(1500);

/// How long after the start a node without peers is still regarded as looking for its network, even without a DHT: peers
/// of the same LAN are met within a second or two.
pub const LAN_WITHIN: Duration = Duration::from_secs(5);

/// How long after the start LAN discovery is awaited although each connected peer has answered that it does not know the
/// name.
pub const LAN_SOON: Duration = Duration::from_secs(1);

/// Peers asked at the same time. All know nearly the same; more are asked while there is no candidate.
pub const WAVE: usize = 12;

/// How long a peer may take to answer a lookup.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How soon the DHT is asked again while nothing is found; doubled each time.
const DHT_AGAIN: Duration = Duration::from_secs(2);

/// How long the DHT may take to name a host: two lookups, of some seconds each. It has no answer for "none".
const DHT_WITHIN: Duration = Duration::from_secs(5);

/// The same where there is no peer to ask.
const DHT_ALONE_WITHIN: Duration = Duration::from_secs(10);

/// How long after the start a DHT without a single node is waited for.
const DHT_NODES_WITHIN: Duration = Duration::from_secs(10);

/// How long a host that announced the name may take until it can be asked.
const MET_WITHIN: Duration = Duration::from_secs(3);

/// How long a caller waits for a name that no peer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SearchPatience {
    /// Until every connected peer has answered; names that the DHT finds later are [news](super::News).
    Peers,
    /// Until the DHT has had its time as well.
    All,
}

/// Waits for the search for a model, which several callers share.
pub(super) async fn resolve(
    core: &Arc<Core>,
    searches: &Arc<Searches>,
    model: &ModelRef,
    within: Duration,
    patience: SearchPatience,
) -> Result<Vec<Candidate>, CatalogError> {
    let deadline = Instant::now() + within;
    let not_found = || CatalogError::NotFound(model.clone());
    if searches.is_missed(model, within) && core.valid_records(model).is_empty() {
        return Err(not_found());
    }
    let is_enough = |progress: &SearchProgress<Vec<Candidate>>| {
        patience == SearchPatience::Peers && progress.peers_have_none && progress.found.is_empty()
    };
    let begin = |progress| search(core, searches, model, None, deadline, progress);
    let key = (model.clone(), None);
    let outcome =
        searches.running.wait(&key, deadline, &core.stopped, is_enough, Vec::is_empty, begin).await?;
    if !outcome.found.is_empty() {
        return Ok(outcome.found);
    }
    match outcome.rest {
        Some(rest) => detach(core, searches, model, rest, within),
        None => searches.remember_miss(model, within),
    }
    Err(not_found())
}

/// The record of one publisher: the newest of the DHT, the store and the peers.
pub(super) async fn resolve_of(
    core: &Arc<Core>,
    searches: &Arc<Searches>,
    publisher: PublisherKey,
    model: &ModelRef,
    within: Duration,
) -> Result<Candidate, CatalogError> {
    let deadline = Instant::now() + within;
    let begin = |progress| search(core, searches, model, Some(publisher), deadline, progress);
    let key = (model.clone(), Some(publisher));
    let outcome =
        searches.running.wait(&key, deadline, &core.stopped, |_| false, Vec::is_empty, begin).await?;
    outcome.found.into_iter().next().ok_or_else(|| CatalogError::NotFound(model.clone()))
}

/// Lets a search continue whose caller has returned.
fn detach(
    core: &Arc<Core>,
    searches: &Arc<Searches>,
    model: &ModelRef,
    mut rest: watch::Receiver<SearchProgress<Vec<Candidate>>>,
    within: Duration,
) {
    let Ok(permit) = Arc::clone(&searches.detached).try_acquire_owned() else { return };
    let (searches, model) = (Arc::clone(searches), model.clone());
    let mut stopped = core.stopped.subscribe();
    tokio::spawn(async move {
        let _permit = permit;
        let found = tokio::select! {
            ended = rest.wait_for(|p| p.over.is_some() || !p.found.is_empty()) => match ended {
                Ok(progress) => !progress.found.is_empty(),
                Err(_) => return,
            },
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        if found {
            searches.appeared(&model.name);
        } else {
            searches.remember_miss(&model, within);
        }
    });
}

/// Waits until a record is known that replaces a candidate's; forever for a candidate without a record.
pub(super) async fn replaced(core: &Arc<Core>, model: &ModelRef, candidate: &Candidate) {
    let Some(record) = &candidate.record else { return std::future::pending().await };
    let mut listener = core.listen();
    let newest = || core.local.store.of(&candidate.publisher, model);
    while newest().is_none_or(|newest| newest.record().sequence <= record.record().sequence) {
        listener.stored(MISS).await;
    }
}

/// Searches for a model, by all publishers or by one, and reports its progress.
fn search(
    core: &Arc<Core>,
    searches: &Arc<Searches>,
    model: &ModelRef,
    publisher: Option<PublisherKey>,
    deadline: Instant,
    progress: Arc<ProgressSender<Vec<Candidate>>>,
) -> impl Future<Output = ()> + Send + use<> {
    let (core, searches, model) = (Arc::clone(core), Arc::clone(searches), model.clone());
    async move {
        let mut peers = AskedPeers::new(&core);
        let item = publisher.map(|publisher| (publisher, salt_of(&model)));
        let mut announcers = Announcers::new(&core, &model.name, item);
        announcers.look_up();
        let mut search = NameSearch {
            candidates: Candidates::new(model.clone(), core.unix_time(), publisher),
            announcers,
            awaits_item: item.is_some() && core.settings.dht,
            dht_pause: DHT_AGAIN,
            first_asked: None,
            first_found: None,
            answered: false,
            core,
            searches,
            model,
            deadline,
            progress,
        };
        // A stopped catalog ends the task.
        let _ = inquiry::run(&mut peers, &mut search).await;
        let timed_out = search.candidates.is_empty() && Instant::now() >= deadline;
        let end = if timed_out { SearchEnd::Time } else { SearchEnd::Certain };
        search.progress.send_modify(|p| p.over = Some(end));
    }
}

struct NameSearch {
    core: Arc<Core>,
    searches: Arc<Searches>,
    model: ModelRef,
    deadline: Instant,
    progress: Arc<ProgressSender<Vec<Candidate>>>,
    candidates: Candidates,
    announcers: Announcers,
    /// Whether the DHT has not answered yet about the one publisher's item.
    awaits_item: bool,
    /// The time between two lookups in the DHT.
    dht_pause: Duration,
    first_asked: Option<Instant>,
    first_found: Option<Instant>,
    /// Whether a peer has answered.
    answered: bool,
}

impl Inquiry for NameSearch {
    fn ask(&mut self, peers: &mut AskedPeers, now: Instant) -> Option<Instant> {
        // Peers that knew nothing when they were asked may have sent records since.
        self.candidates.add_records(&self.core.valid_records(&self.model));
        if self.candidates.take_changed() {
            self.first_found.get_or_insert(now);
            self.progress.send_modify(|p| p.found = self.candidates.list());
        }
        let nothing_found = self.candidates.is_empty();
        let dht_again = self.ask_dht_again(nothing_found, now);
        self.ask_peers(peers, nothing_found, now);
        if let Some(first) = self.first_found {
            let end = self.enough_at(first).min(self.deadline);
            let is_complete = self.all_answered(peers) && !self.awaits_item;
            return (now < end && !is_complete).then_some(end);
        }
        if self.peers_have_none(peers, now) {
            self.progress.send_if_modified(|p| !std::mem::replace(&mut p.peers_have_none, true));
        }
        let have_none = self.all_have_none(peers, now) && !self.awaits_item;
        if have_none || self.no_peer(peers, now) || now >= self.deadline {
            return None;
        }
        let moments = [
            self.heard_all_at(DHT_WITHIN),
            self.heard_all_at(DHT_ALONE_WITHIN),
            self.met_all_at(LAN_WITHIN),
            self.met_all_at(LAN_SOON),
        ];
        let moments = moments.into_iter().filter(|at| now < *at).chain(dht_again);
        Some(moments.fold(self.deadline, Instant::min))
    }

    fn on_event(&mut self, _: &mut AskedPeers, event: CatalogEvent) {
        match event {
            CatalogEvent::Answered(peer, answer) => {
                let in_time = answer.is_some();
                self.answered |= in_time;
                self.searches.note_answer(peer, in_time);
                if let Some(PeerAnswer::Holds { records, held }) = answer {
                    self.candidates.add_records(&records);
                    self.candidates.add_held(&held);
                }
            }
            CatalogEvent::DhtItem(publisher, salt, item)
                if self.announcers.item == Some((publisher, salt)) =>
            {
                self.awaits_item = false;
                if let Some(item) = item {
                    self.add_item(&item);
                }
            }
            event => self.announcers.on_event(&event),
        }
    }
}

impl NameSearch {
    /// Asks the next peers: while nothing is found, up to [`WAVE`]; hosts that announced the name in any case.
    fn ask_peers(&mut self, peers: &mut AskedPeers, nothing_found: bool, now: Instant) {
        let all = nothing_found || peers.none_asked();
        let limit = WAVE.saturating_sub(peers.awaited().len());
        let question = PeerQuestion::Lookup(self.model.clone());
        let asked = peers.ask_new(limit, &question, ANSWER_WITHIN, |speaker| {
            all || self.announcers.has_called(&speaker.connection.address)
        });
        if !asked.is_empty() {
            self.first_asked.get_or_insert(now);
        }
    }

    /// Repeats the lookup in the DHT when it is due. Returns when the next is due, while nothing is found.
    fn ask_dht_again(&mut self, nothing_found: bool, now: Instant) -> Option<Instant> {
        let looked_up_at =
            self.announcers.looked_up_at.filter(|_| nothing_found && self.core.settings.dht)?;
        if now < looked_up_at + self.dht_pause {
            return Some(looked_up_at + self.dht_pause);
        }
        self.dht_pause *= 2;
        self.announcers.look_up();
        Some(now + self.dht_pause)
    }

    fn add_item(&mut self, item: &DhtItem) {
        let Ok(record) = SignedRecord::from_item(item) else { return };
        let records = vec![SharedRecord::new(record)];
        self.candidates.add_records(&records);
        let core = Arc::clone(&self.core);
        tokio::task::spawn_blocking(move || core.store_or_log(RecordOrigin::Dht, &records));
    }

    /// When the hosts of the LAN have had this long since the start, and the hosts that are being called their time.
    fn met_all_at(&self, lan_within: Duration) -> Instant {
        let lan = self.core.started + lan_within;
        self.announcers.called_at.map_or(lan, |at| lan.max(at + MET_WITHIN))
    }

    fn dht_heard_at(&self, within: Duration) -> Instant {
        match self.announcers.dht_asked_at {
            _ if !self.core.settings.dht => self.core.started,
            Some(asked) => asked + within,
            None => self.core.started + DHT_NODES_WITHIN,
        }
    }

    /// When the hosts that are being called, and the DHT, have had their time.
    fn heard_all_at(&self, dht_within: Duration) -> Instant {
        self.dht_heard_at(dht_within).max(self.met_all_at(LAN_WITHIN))
    }

    /// When the candidates found are enough although answers are missing. While no peer was asked: when peers of the LAN
    /// should have been met.
    fn enough_at(&self, first_found: Instant) -> Instant {
        match self.first_asked {
            Some(asked) => asked.max(first_found) + GRACE,
            None => self.core.started + LAN_WITHIN,
        }
    }

    /// Whether a peer was asked, and no answer is missing.
    fn all_answered(&self, peers: &AskedPeers) -> bool {
        self.first_asked.is_some() && peers.awaited().is_empty()
    }

    /// Whether every peer that can be asked has answered, and no further peer is expected.
    fn all_have_none(&self, peers: &AskedPeers, now: Instant) -> bool {
        self.all_answered(peers) && now >= self.heard_all_at(DHT_WITHIN) && peers.all_asked()
    }

    /// Whether every connected peer has answered, apart from peers that did not answer their latest lookup either, and
    /// no further peer is about to be met.
    fn peers_have_none(&self, peers: &AskedPeers, now: Instant) -> bool {
        let answered = peers.awaited().iter().all(|peer| self.searches.is_silent(*peer));
        self.answered && answered && now >= self.met_all_at(LAN_SOON) && peers.all_asked()
    }

    /// Whether no peer can be asked, and none is expected.
    fn no_peer(&self, peers: &AskedPeers, now: Instant) -> bool {
        let heard_all_at = self.heard_all_at(DHT_ALONE_WITHIN);
        peers.awaited().is_empty() && now >= heard_all_at && self.core.speakers().is_empty()
    }
}
