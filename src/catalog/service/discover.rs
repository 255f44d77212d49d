//! Searching here and, live, among the peers.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::{Core, Heard, Listener};
use super::{CatalogError, Found};
use crate::catalog::gossip::answers::Source;
use crate::catalog::gossip::asks::{Answer, Ask};
use crate::catalog::gossip::{NodeId, Speaker};
use crate::catalog::query::Query;
use crate::catalog::record::SharedRecord;
use crate::model::{ModelName, PublisherKey, Revision};
use crate::torrent::PeerId;

/// How long others may still come after the last new peer.
pub const SETTLED: Duration = Duration::from_secs(2);

/// How long a peer may take to answer with one page.
const PAGE_WITHIN: Duration = Duration::from_secs(5);

/// Pages that one peer may answer with. What a partner knows comes by gossip anyway; a query is for what is newer.
pub const MAX_PAGES: usize = 32;

/// Results of peers that are told, beyond those in the store; some 20 MB.
const MAX_RESULTS: usize = 20_000;

/// Results read from the store at once.
const LOCAL_PAGE: usize = 500;

/// Which model of whom.
type Key = (PublisherKey, ModelName, Revision);

struct Result {
    record: SharedRecord,
    /// It is complete here.
    own: bool,
    /// Nodes that have all of it, as they say.
    seeds: BTreeSet<NodeId>,
}

impl Result {
    fn found(&self) -> Found {
        let seeds = self.seeds.len() + usize::from(self.own);
        Found { record: SharedRecord::clone(&self.record), seeds: u32::try_from(seeds).unwrap_or(u32::MAX) }
    }
}

/// Searches until everybody has answered, or the deadline.
pub(super) async fn discover(
    core: &Arc<Core>,
    query: &Query,
    deadline: Instant,
    mut found: impl FnMut(&Found) + Send,
) -> std::result::Result<(), CatalogError> {
    let mut stopped = core.stopped.subscribe();
    let mut search = Search::new(core, query);
    search.local(&mut found).await;
    tokio::select! {
        () = search.peers(deadline, &mut found) => Ok(()),
        _ = stopped.wait_for(|stopped| *stopped) => Err(CatalogError::Stopped),
    }
}

struct Search<'a> {
    core: &'a Arc<Core>,
    query: &'a Query,
    listener: Listener,
    results: HashMap<Key, Result>,
    /// Results that came from peers alone.
    foreign: usize,
    /// Nodes that are or were asked; the connections that an answer is awaited on, with the pages answered.
    known: HashSet<(NodeId, IpAddr)>,
    asked: HashMap<PeerId, (NodeId, usize)>,
    answered: bool,
    /// Nobody new has come since.
    newest: Instant,
    /// Records were stored since the store was last searched: announced while peers were asked who did not have them yet.
    stored: bool,
    /// Whether peers were asked a second time, for what came meanwhile.
    asked_again: bool,
}

impl<'a> Search<'a> {
    fn new(core: &'a Arc<Core>, query: &'a Query) -> Self {
        Self {
            core,
            query,
            listener: core.listen(),
            results: HashMap::new(),
            foreign: 0,
            known: HashSet::new(),
            asked: HashMap::new(),
            answered: false,
            newest: Instant::now(),
            stored: false,
            asked_again: false,
        }
    }

    /// What is known here. Tells whether there is something that was not among the results.
    async fn local(&mut self, found: &mut (impl FnMut(&Found) + Send)) -> bool {
        self.stored = false;
        let mut more = false;
        let now = self.core.unix_time();
        let mut from: Option<Vec<u8>> = None;
        loop {
            let (core, query, at) = (Arc::clone(self.core), self.query.clone(), from.take());
            let read = move || core.known.search(&query, at.as_deref(), LOCAL_PAGE);
            // What a failed thread did not read is found among the peers.
            let Ok(page) = tokio::task::spawn_blocking(read).await else { return more };
            for record in page.records {
                let Some(model) = record.model().filter(|_| record.check_time(now).is_ok()) else { continue };
                let key = (record.record().publisher, model.name.clone(), model.version.clone());
                let known = self.results.get(&key);
                if known.is_some_and(|known| known.record.record().sequence >= record.record().sequence) {
                    continue;
                }
                more = true;
                let own = self.core.known.is_complete(&model.info_hash);
                let result = Result { own, seeds: BTreeSet::new(), record };
                found(&result.found());
                self.results.insert(key, result);
            }
            match page.next {
                Some(next) => from = Some(next),
                None => return more,
            }
        }
    }

    async fn peers(&mut self, deadline: Instant, found: &mut (impl FnMut(&Found) + Send)) {
        loop {
            self.ask_new();
            let settled = self.newest + SETTLED;
            let now = Instant::now();
            if now >= deadline || (self.answered && self.asked.is_empty() && now >= settled) {
                if self.stored && self.local(found).await && now < deadline && !self.asked_again {
                    // Once is enough to hear who has what came.
                    self.asked_again = true;
                    self.core.speakers().iter().for_each(|speaker| self.ask(speaker));
                    continue;
                }
                return;
            }
            let wake = if self.answered && self.asked.is_empty() { settled.min(deadline) } else { deadline };
            match self.listener.until(wake).await {
                Some(Heard::Answered(peer, Answer::Found { records, complete, cursor })) => {
                    self.answer(peer, &records, &complete, cursor, found);
                }
                Some(Heard::Answered(peer, _) | Heard::Gone(peer)) => {
                    self.asked.remove(&peer);
                }
                Some(Heard::Stored) => self.stored = true,
                _ => {}
            }
        }
    }

    fn ask_new(&mut self) {
        for speaker in self.core.speakers() {
            if self.known.insert((speaker.node, speaker.connection.address.ip())) {
                self.newest = Instant::now();
                self.ask(&speaker);
            }
        }
    }

    fn ask(&mut self, speaker: &Speaker) {
        if self.listener.ask(speaker.peer, Ask::Query(self.query.clone(), None), PAGE_WITHIN) {
            self.asked.insert(speaker.peer, (speaker.node, 0));
        }
    }

    fn answer(
        &mut self,
        peer: PeerId,
        records: &[SharedRecord],
        complete: &[u32],
        cursor: Option<Vec<u8>>,
        found: &mut impl FnMut(&Found),
    ) {
        let Some((node, pages)) = self.asked.remove(&peer) else { return };
        self.answered = true;
        let now = self.core.unix_time();
        for (index, record) in (0u32..).zip(records) {
            if record.check_time(now).is_ok() && self.query.matches(record.record()) {
                self.take(node, record, complete.contains(&index), found);
            }
        }
        // A page without records that goes on is a game of the peer's.
        let Some(cursor) = cursor.filter(|_| !records.is_empty() && pages + 1 < MAX_PAGES) else { return };
        if self.listener.ask(peer, Ask::Query(self.query.clone(), Some(cursor)), PAGE_WITHIN) {
            self.asked.insert(peer, (node, pages + 1));
        }
    }

    fn take(&mut self, node: NodeId, record: &SharedRecord, complete: bool, found: &mut impl FnMut(&Found)) {
        let Some(model) = record.model() else { return };
        let key = (record.record().publisher, model.name.clone(), model.version.clone());
        let known = self.results.get(&key);
        let newer = known.is_none_or(|k| record.record().sequence > k.record.record().sequence);
        if known.is_none() {
            if self.foreign >= MAX_RESULTS {
                return;
            }
            self.foreign += 1;
        }
        let info_hash = model.info_hash;
        let result = self.results.entry(key).or_insert_with(|| Result {
            own: false,
            seeds: BTreeSet::new(),
            record: SharedRecord::clone(record),
        });
        if newer {
            if result.record.model().is_none_or(|m| m.info_hash != info_hash) {
                result.seeds.clear();
            }
            result.record = SharedRecord::clone(record);
            result.own = self.core.known.is_complete(&info_hash);
        }
        let same_bytes = result.record.model().is_some_and(|m| m.info_hash == info_hash);
        let more = complete && same_bytes && result.seeds.insert(node);
        if newer || more {
            found(&result.found());
        }
    }
}
