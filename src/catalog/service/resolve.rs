//! Whose model a name stands for: from the store, from the peers, and from those who announced the name in the DHT.
//!
//! One search for each model, however many ask. It ends
//! - when there is a candidate, and every peer asked has answered or [`GRACE`] has passed since the first; a record of an
//!   earlier run may be of a state that is gone, so a node that has just started waits [`LAN_WITHIN`] for somebody to ask;
//! - without a candidate: when its time is over; when no peer could be asked (no peers, and LAN discovery and the DHT
//!   have had their time); or when each peer that can be asked has answered that it has nothing, and the DHT has named
//!   none in its time. The DHT never answers that a name is unknown.
//!
//! A caller with [`Patience::Peers`] does not wait for the DHT: it has its answer when each connected peer has answered,
//! but not in the first second after the start ([`LAN_SOON`]), nor while a peer that announced the name is being called.
//! The search goes on without it, and what it finds is [news](super::News) of the name. Where no peer is connected, LAN
//! discovery and the DHT are waited for.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::core::{Core, Heard, Listener};
use super::flights::{End, Flights, Progress, Report};
use super::names::topic_of;
use super::{Candidate, CatalogError};
use crate::catalog::UnixTime;
use crate::catalog::gossip::asks::{Answer, Ask};
use crate::catalog::gossip::{NodeId, Origin, Speaker};
use crate::catalog::message::HeldManifest;
use crate::catalog::record::{SharedRecord, SignedRecord, salt_of};
use crate::model::{ModelName, ModelRef, PublisherKey};
use crate::torrent::{PeerId, Topic};

/// How long others may still answer after the first candidate.
pub const GRACE: Duration = Duration::from_millis(1500);

/// How long it is remembered that no peer knows a model, unless a record of that name comes, or a peer while there are few.
pub const MISS: Duration = Duration::from_secs(30);

/// How long after the start nobody is taken for a network that is still being found, even without a DHT: peers of
/// the same LAN are met within a second or two.
pub const LAN_WITHIN: Duration = Duration::from_secs(5);

/// How long after the start LAN discovery is waited for although each connected peer has answered that it knows no such
/// name.
pub const LAN_SOON: Duration = Duration::from_secs(1);

/// Peers asked at once. All know nearly the same; more are asked while there is no candidate.
pub const WAVE: usize = 12;

/// Peers that know nearly everything together. While fewer speak, a new one may know a name that was not found.
const FEW: usize = 4;

/// Searches that go on after their callers have an answer. Further ones end.
const MAX_GOING_ON: usize = 64;

/// How long the DHT may take where there is no peer to ask.
const DHT_ALONE_WITHIN: Duration = Duration::from_secs(10);

/// How long a peer may take to answer a lookup.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Peers called because they announced the name.
const MAX_CALLED: usize = 24;

/// How often the DHT is asked again; longer each time.
const DHT_AGAIN: Duration = Duration::from_secs(2);

/// Candidates of which only a peer says that they exist: in all, and of one peer.
const MAX_UNPROVEN: usize = 32;
const MAX_UNPROVEN_OF_ONE: usize = 4;

/// How long the DHT may take to name somebody: two lookups, of some seconds each. There is no answer that says nobody.
const DHT_WITHIN: Duration = Duration::from_secs(5);

/// How long after the start a DHT without a single node is waited for.
const DHT_NODES_WITHIN: Duration = Duration::from_secs(10);

/// How long who announced the name may take to be met.
const MET_WITHIN: Duration = Duration::from_secs(3);

/// Misses remembered.
const MAX_MISSES: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not 0");

/// Nodes remembered as met.
const MAX_MET: NonZeroUsize = NonZeroUsize::new(1024).expect("it is not 0");

/// The searches that run, and what was not found.
pub(super) struct Searches {
    running: Flights<ModelRef, Vec<Candidate>>,
    /// When, and after how long a search.
    misses: Mutex<LruCache<ModelRef, (Instant, Duration)>>,
    /// Peers whose latest answer to a lookup did not come in time.
    silent: Mutex<HashSet<PeerId>>,
    /// Nodes that were met.
    met: Mutex<LruCache<NodeId, ()>>,
    going_on: Arc<Semaphore>,
}

impl Default for Searches {
    fn default() -> Self {
        Self {
            running: Flights::default(),
            misses: Mutex::new(LruCache::new(MAX_MISSES)),
            silent: Mutex::default(),
            met: Mutex::new(LruCache::new(MAX_MET)),
            going_on: Arc::new(Semaphore::new(MAX_GOING_ON)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

impl Searches {
    fn is_missed(&self, model: &ModelRef, within: Duration) -> bool {
        lock(&self.misses)
            .peek(model)
            .is_some_and(|(at, searched)| Instant::now() < *at + MISS && within <= *searched)
    }

    fn miss(&self, model: &ModelRef, searched: Duration) {
        lock(&self.misses).put(model.clone(), (Instant::now(), searched));
    }

    /// A record of a name has come.
    pub fn forget_miss(&self, name: &ModelName) {
        let mut misses = lock(&self.misses);
        let of_name: Vec<ModelRef> =
            misses.iter().filter(|(model, _)| model.name == *name).map(|(model, _)| model.clone()).collect();
        for model in of_name {
            misses.pop(&model);
        }
    }

    /// A node can be asked, one of so many. Returns whether it may know what was not found before: it is new, and few
    /// others have been asked. The records that it brings are news in any case.
    pub fn met(&self, node: NodeId, speakers: usize) -> bool {
        let is_new = lock(&self.met).put(node, ()).is_none();
        let may_know = is_new && speakers <= FEW;
        if may_know {
            lock(&self.misses).clear();
        }
        may_know
    }

    /// A peer has answered a lookup, or has let its time pass.
    fn answered(&self, peer: PeerId, in_time: bool) {
        let mut silent = lock(&self.silent);
        if in_time {
            silent.remove(&peer);
        } else {
            silent.insert(peer);
        }
    }

    /// A peer is gone.
    pub fn left(&self, peer: PeerId) {
        lock(&self.silent).remove(&peer);
    }

    fn is_silent(&self, peer: PeerId) -> bool {
        lock(&self.silent).contains(&peer)
    }
}

/// How long a caller waits for a name that no peer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Patience {
    /// Until every connected peer has answered; what the DHT finds later is [news](super::News).
    Peers,
    /// Until the DHT has had its time as well.
    All,
}

/// Waits for a search of a model, which others may wait for as well.
pub(super) async fn resolve(
    core: &Arc<Core>,
    model: &ModelRef,
    within: Duration,
    patience: Patience,
) -> Result<Vec<Candidate>, CatalogError> {
    let deadline = Instant::now() + within;
    let not_found = || CatalogError::NotFound(model.clone());
    if core.searches.is_missed(model, within) && core.valid_records(model).is_empty() {
        return Err(not_found());
    }
    let begin = |report: Arc<Report<_>>| {
        let (core, model) = (Arc::clone(core), model.clone());
        async move { search(&core, &model, deadline, &report).await }
    };
    let running = &core.searches.running;
    let enough =
        |p: &Progress<Vec<Candidate>>| patience == Patience::Peers && p.peers_have_none && p.found.is_empty();
    let nothing = |found: &Vec<Candidate>| found.is_empty();
    let outcome = running.wait_until(model, deadline, &core.stopped, enough, nothing, begin).await?;
    if !outcome.found.is_empty() {
        return Ok(outcome.found);
    }
    match outcome.rest {
        Some(rest) => go_on(core, model, rest, within),
        None => core.searches.miss(model, within),
    }
    Err(not_found())
}

/// Keeps a search alive whose caller has its answer.
fn go_on(
    core: &Arc<Core>,
    model: &ModelRef,
    mut rest: watch::Receiver<Progress<Vec<Candidate>>>,
    within: Duration,
) {
    let Ok(permit) = Arc::clone(&core.searches.going_on).try_acquire_owned() else { return };
    let (core, model) = (Arc::clone(core), model.clone());
    tokio::spawn(async move {
        let _permit = permit;
        let mut stopped = core.stopped.subscribe();
        let found = tokio::select! {
            ended = rest.wait_for(|p| p.over.is_some() || !p.found.is_empty()) => match ended {
                Ok(progress) => !progress.found.is_empty(),
                Err(_) => return,
            },
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        if found {
            core.appeared(&model.name);
        } else {
            core.searches.miss(&model, within);
        }
    });
}

async fn search(core: &Arc<Core>, model: &ModelRef, deadline: Instant, report: &Report<Vec<Candidate>>) {
    let mut listener = core.listen();
    let mut candidates = Candidates::new(model, core.unix_time());
    candidates.add_records(&core.valid_records(model));
    let mut crowd = Crowd::new(core, model, candidates.is_empty());
    let mut first_at = None;
    loop {
        let now = Instant::now();
        // Peers that knew nothing when they were asked may have told since what they learned.
        candidates.add_records(&core.valid_records(model));
        if !candidates.is_empty() {
            first_at.get_or_insert(now);
        }
        if candidates.changed() {
            report.send_modify(|p| p.found = candidates.list());
        }
        crowd.ask_next(core, &listener, &Ask::Lookup(model.clone()), candidates.is_empty());
        if candidates.is_empty() && crowd.peers_have_none(core, now) {
            report.send_if_modified(|p| !std::mem::replace(&mut p.peers_have_none, true));
        }
        let overdue = match first_at {
            Some(first) => crowd.all_answered() || now >= crowd.enough_at(core, first),
            None => crowd.nobody(core, now) || crowd.all_said_no(core, now),
        };
        if overdue || now >= deadline {
            break;
        }
        let enough_at = first_at.map(|first| crowd.enough_at(core, first));
        let wake = [Some(deadline), enough_at, crowd.next_look(core)];
        let wake = wake.into_iter().flatten().min().unwrap_or(deadline);
        match listener.until(wake).await {
            Some(Heard::Answered(peer, answer)) => {
                crowd.answered(core, peer, &answer);
                if let Answer::Holds { records, held } = answer {
                    candidates.add_records(&records);
                    candidates.add_held(&held);
                }
            }
            Some(heard) => crowd.heard(core, &heard),
            None => crowd.look_again(core, candidates.is_empty()),
        }
    }
    let timed_out = candidates.is_empty() && Instant::now() >= deadline;
    let end = if timed_out { End::Time } else { End::Certain };
    report.send_modify(|p| p.over = Some(end));
}

/// Waits until a record is known that replaces a candidate's; for ever where that has none.
pub(super) async fn replaced(core: &Arc<Core>, model: &ModelRef, candidate: &Candidate) {
    let Some(record) = &candidate.record else { return std::future::pending().await };
    let mut listener = core.listen();
    let newest = || core.known.store.of(&candidate.publisher, model);
    while newest().is_none_or(|newest| newest.record().sequence <= record.record().sequence) {
        listener.stored(MISS).await;
    }
}

/// The record of one publisher: the newest of the DHT, the store and the peers.
pub(super) async fn resolve_of(
    core: &Arc<Core>,
    publisher: PublisherKey,
    model: &ModelRef,
    within: Duration,
) -> Result<Candidate, CatalogError> {
    let mut stopped = core.stopped.subscribe();
    tokio::select! {
        found = search_of(core, publisher, model, Instant::now() + within) => found,
        _ = stopped.wait_for(|stopped| *stopped) => Err(CatalogError::Stopped),
    }
}

async fn search_of(
    core: &Arc<Core>,
    publisher: PublisherKey,
    model: &ModelRef,
    deadline: Instant,
) -> Result<Candidate, CatalogError> {
    let salt = salt_of(model);
    let mut listener = core.listen();
    let mut candidates = Candidates::new(model, core.unix_time());
    candidates.only = Some(publisher);
    candidates.add_records(&core.valid_records(model));
    let mut crowd = Crowd::new(core, model, true);
    crowd.item = Some((publisher, salt));
    crowd.look_again(core, true);
    let mut in_dht = !core.settings.dht;
    let mut first_at = None;
    loop {
        let now = Instant::now();
        // Peers that knew nothing when they were asked may have told since what they learned.
        candidates.add_records(&core.valid_records(model));
        if !candidates.is_empty() {
            first_at.get_or_insert(now);
        }
        crowd.ask_next(core, &listener, &Ask::Lookup(model.clone()), candidates.is_empty());
        let over = match first_at {
            Some(first) => (crowd.all_answered() && in_dht) || now >= crowd.enough_at(core, first),
            None => crowd.nobody(core, now) || (crowd.all_said_no(core, now) && in_dht),
        };
        if over || now >= deadline {
            break;
        }
        let enough_at = first_at.map(|first| crowd.enough_at(core, first));
        let wake = [Some(deadline), enough_at, crowd.next_look(core)];
        match listener.until(wake.into_iter().flatten().min().unwrap_or(deadline)).await {
            Some(Heard::Answered(peer, answer)) => {
                crowd.answered(core, peer, &answer);
                if let Answer::Holds { records, held } = answer {
                    candidates.add_records(&records);
                    candidates.add_held(&held);
                }
            }
            Some(Heard::DhtItem(of, at, item)) if (of, at) == (publisher, salt) => {
                in_dht = true;
                if let Some(Ok(record)) = item.as_ref().map(SignedRecord::from_item) {
                    let records = vec![SharedRecord::new(record)];
                    candidates.add_records(&records);
                    let core = Arc::clone(core);
                    tokio::task::spawn_blocking(move || {
                        if let Err(error) = core.store(Origin::Dht, &records) {
                            tracing::warn!(%error, "a record of the DHT is not kept");
                        }
                    });
                }
            }
            Some(heard) => crowd.heard(core, &heard),
            None => crowd.look_again(core, candidates.is_empty()),
        }
    }
    candidates.list().into_iter().next().ok_or_else(|| CatalogError::NotFound(model.clone()))
}

/// Who is asked in a search, and who is looked for.
struct Crowd {
    topic: Topic,
    /// An item of the DHT that is looked for as well.
    item: Option<(PublisherKey, [u8; 20])>,
    /// Whom we await answers of.
    asked: HashSet<PeerId>,
    /// Whether a peer has answered.
    heard: bool,
    /// When the first was asked.
    first_asked: Option<Instant>,
    /// Nodes that have been asked.
    known: BTreeSet<(NodeId, IpAddr)>,
    /// Addresses that announced the name; they are asked whatever is found before.
    called: HashSet<SocketAddr>,
    called_at: Option<Instant>,
    looked: Instant,
    /// When a DHT that has nodes was asked first.
    dht_asked: Option<Instant>,
    pause: Duration,
}

impl Crowd {
    fn new(core: &Core, model: &ModelRef, again: bool) -> Self {
        let mut crowd = Self {
            topic: topic_of(&model.name),
            item: None,
            asked: HashSet::new(),
            heard: false,
            first_asked: None,
            known: BTreeSet::new(),
            called: HashSet::new(),
            called_at: None,
            looked: Instant::now(),
            dht_asked: None,
            pause: DHT_AGAIN,
        };
        crowd.look(core);
        if !again {
            crowd.pause = Duration::from_secs(3600);
        }
        crowd
    }

    /// Asks the next peers: while nothing is found, as many as a wave; those who announced the name in any case.
    fn ask_next(&mut self, core: &Core, listener: &Listener, ask: &Ask, nothing_found: bool) {
        let first = self.known.is_empty();
        for speaker in core.speakers() {
            if self.asked.len() >= WAVE {
                break;
            }
            let node = (speaker.node, speaker.connection.address.ip());
            let announced = self.called.contains(&speaker.connection.address);
            if self.known.contains(&node) || !(first || nothing_found || announced) {
                continue;
            }
            if listener.ask(speaker.peer, ask.clone(), ANSWER_WITHIN) {
                self.first_asked.get_or_insert_with(Instant::now);
                self.known.insert(node);
                self.asked.insert(speaker.peer);
            }
        }
    }

    fn heard(&mut self, core: &Core, heard: &Heard) {
        match heard {
            Heard::DhtPeers(topic, peers) if *topic == self.topic => {
                let Some(swarm) = core.swarm() else { return };
                for peer in peers {
                    if self.called.len() < MAX_CALLED && self.called.insert(*peer) {
                        self.called_at = Some(Instant::now());
                        // One that is connected already is not called again.
                        if let Err(error) = core.overlay.call(swarm, *peer) {
                            tracing::debug!(%peer, %error, "who announced a name is not called");
                        }
                    }
                }
            }
            Heard::DhtReady => self.look(core),
            Heard::Gone(peer) => {
                self.asked.remove(peer);
            }
            _ => {}
        }
    }

    fn look(&mut self, core: &Core) {
        self.looked = Instant::now();
        if !core.settings.dht {
            return;
        }
        if *core.dht_nodes.borrow() > 0 {
            self.dht_asked.get_or_insert(self.looked);
        }
        let found = core.overlay.find(self.topic);
        let got = self.item.map_or(Ok(()), |(publisher, salt)| core.overlay.get_item(publisher, salt));
        if let Err(error) = found.and(got) {
            tracing::debug!(%error, "the DHT is not asked");
        }
    }

    fn look_again(&mut self, core: &Core, nothing_found: bool) {
        if nothing_found && Instant::now() >= self.looked + self.pause {
            self.pause *= 2;
            self.look(core);
        }
    }

    fn answered(&mut self, core: &Core, peer: PeerId, answer: &Answer) {
        self.asked.remove(&peer);
        let in_time = !matches!(answer, Answer::Silence);
        self.heard |= in_time;
        core.searches.answered(peer, in_time);
    }

    /// When there is something to look at though nobody says anything.
    fn next_look(&self, core: &Core) -> Option<Instant> {
        let now = Instant::now();
        let again =
            core.settings.dht.then(|| (self.looked + self.pause).max(now + Duration::from_millis(50)));
        let moments = [
            self.heard_all_at(core),
            self.heard_alone_at(core),
            self.met_all_at(core, LAN_WITHIN),
            self.met_all_at(core, LAN_SOON),
        ];
        again.into_iter().chain(moments.into_iter().filter(|at| now < *at)).min()
    }

    /// When the hosts of the LAN have had so long since the start, and the peers that are being called their time.
    fn met_all_at(&self, core: &Core, lan_within: Duration) -> Instant {
        let lan = core.started + lan_within;
        self.called_at.map_or(lan, |at| lan.max(at + MET_WITHIN))
    }

    /// Whether every connected peer has answered, apart from those that did not answer the last time either, and no
    /// further peer is about to be met.
    fn peers_have_none(&self, core: &Core, now: Instant) -> bool {
        let answered = self.asked.iter().all(|peer| core.searches.is_silent(*peer));
        self.heard && answered && now >= self.met_all_at(core, LAN_SOON) && self.asked_all(core)
    }

    /// Whether every peer that can be asked was asked.
    fn asked_all(&self, core: &Core) -> bool {
        let asked = |speaker: &Speaker| self.known.contains(&(speaker.node, speaker.connection.address.ip()));
        core.speakers().iter().all(asked)
    }

    /// When the peers that are being called, and the DHT, have had their time.
    fn heard_all_at(&self, core: &Core) -> Instant {
        self.dht_heard_at(core, DHT_WITHIN).max(self.met_all_at(core, LAN_WITHIN))
    }

    /// The same where there is no peer to ask.
    fn heard_alone_at(&self, core: &Core) -> Instant {
        self.dht_heard_at(core, DHT_ALONE_WITHIN).max(self.met_all_at(core, LAN_WITHIN))
    }

    fn dht_heard_at(&self, core: &Core, within: Duration) -> Instant {
        match self.dht_asked {
            _ if !core.settings.dht => core.started,
            Some(asked) => asked + within,
            None => core.started + DHT_NODES_WITHIN,
        }
    }

    /// Whether everybody who can be asked was asked and has answered, and nobody else will come.
    fn all_said_no(&self, core: &Core, now: Instant) -> bool {
        self.all_answered() && now >= self.heard_all_at(core) && self.asked_all(core)
    }

    /// Whether somebody was asked, and nobody is to answer any more.
    fn all_answered(&self) -> bool {
        self.first_asked.is_some() && self.asked.is_empty()
    }

    /// When what is found is enough, whoever has not answered. While there is nobody to ask, as late as peers are met.
    fn enough_at(&self, core: &Core, first_found: Instant) -> Instant {
        match self.first_asked {
            Some(asked) => asked.max(first_found) + GRACE,
            None => core.started + LAN_WITHIN,
        }
    }

    /// Whether nobody can be asked, nor will be.
    fn nobody(&self, core: &Core, now: Instant) -> bool {
        self.asked.is_empty() && now >= self.heard_alone_at(core) && core.speakers().is_empty()
    }
}

/// What is found: for each publisher the newest record, or else the manifests that peers say they hold.
struct Candidates<'a> {
    model: &'a ModelRef,
    now: UnixTime,
    /// Whose alone are of interest.
    only: Option<PublisherKey>,
    proven: BTreeMap<PublisherKey, SharedRecord>,
    unproven: Vec<HeldManifest>,
    changed: bool,
}

impl<'a> Candidates<'a> {
    fn new(model: &'a ModelRef, now: UnixTime) -> Self {
        Self { model, now, only: None, proven: BTreeMap::new(), unproven: Vec::new(), changed: false }
    }

    fn is_empty(&self) -> bool {
        self.proven.is_empty() && self.unproven.is_empty()
    }

    fn changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn is_of_interest(&self, publisher: &PublisherKey) -> bool {
        self.only.is_none_or(|only| only == *publisher)
    }

    fn add_records(&mut self, records: &[SharedRecord]) {
        for record in records {
            let of_model =
                record.model().is_some_and(|m| m.name == self.model.name && m.version == self.model.revision);
            let publisher = record.record().publisher;
            let newest = |known: &SharedRecord| record.record().sequence > known.record().sequence;
            if of_model
                && self.is_of_interest(&publisher)
                && record.check_time(self.now).is_ok()
                && self.proven.get(&publisher).is_none_or(newest)
            {
                self.proven.insert(publisher, SharedRecord::clone(record));
                self.unproven.retain(|held| held.publisher != publisher);
                self.changed = true;
            }
        }
    }

    fn add_held(&mut self, held: &[HeldManifest]) {
        for held in held.iter().take(MAX_UNPROVEN_OF_ONE) {
            let known = self.proven.contains_key(&held.publisher)
                || self.unproven.iter().any(|h| {
                    (h.publisher, h.manifest, h.info_hash) == (held.publisher, held.manifest, held.info_hash)
                });
            if !known && self.is_of_interest(&held.publisher) && self.unproven.len() < MAX_UNPROVEN {
                self.unproven.push(*held);
                self.changed = true;
            }
        }
    }

    fn list(&self) -> Vec<Candidate> {
        let proven = self.proven.values().filter_map(Candidate::of_record);
        proven.chain(self.unproven.iter().map(Candidate::of_held)).collect()
    }
}
