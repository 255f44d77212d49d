//! Searching the store and, live, the peers for records that match a query.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::{CatalogEvent, Core};
use super::inquiry::{self, AskedPeers, Inquiry};
use super::types::{CatalogError, FoundModel};
use crate::catalog::gossip::NodeId;
use crate::catalog::gossip::answers::RecordSource;
use crate::catalog::message::{PeerAnswer, PeerQuestion};
use crate::catalog::query::Query;
use crate::catalog::record::SharedRecord;
use crate::model::{ModelName, PublisherKey, Revision};
use crate::torrent::PeerId;

/// How long a search waits for further peers after the latest new one.
pub const SETTLED: Duration = Duration::from_secs(2);

/// How long a peer may take to answer with one page.
const PAGE_WITHIN: Duration = Duration::from_secs(5);

/// Pages that one peer may send. Gossip brings all records of a partner anyway; a query finds newer ones.
pub const MAX_PAGES: usize = 32;

/// Results of peers in addition to those in the store: some 20 MB.
const MAX_RESULTS: usize = 20_000;

/// Results that are read from the store in one step.
const LOCAL_PAGE: usize = 500;

/// A revision of a model, by one publisher.
type ResultKey = (PublisherKey, ModelName, Revision);

struct SearchResult {
    record: SharedRecord,
    /// The model is complete on this node.
    own: bool,
    /// Nodes that claim to have all bytes of the model.
    seeds: BTreeSet<NodeId>,
}

impl SearchResult {
    fn found(&self) -> FoundModel {
        let seeds = self.seeds.len() + usize::from(self.own);
        FoundModel {
            record: SharedRecord::clone(&self.record),
            seeds: u32::try_from(seeds).unwrap_or(u32::MAX),
        }
    }
}

/// Searches the store, then the peers, until every peer has answered or the deadline passes.
pub(super) async fn discover(
    core: &Arc<Core>,
    query: &Query,
    deadline: Instant,
    found: impl FnMut(&FoundModel) + Send,
) -> Result<(), CatalogError> {
    let mut peers = AskedPeers::new(core);
    let mut search = RecordSearch {
        core,
        query,
        deadline,
        found,
        results: HashMap::new(),
        from_peers: 0,
        pages: HashMap::new(),
        answered: false,
        newest_peer_at: Instant::now(),
        stored: false,
        asked_again: false,
    };
    search.read_store().await;
    loop {
        inquiry::run(&mut peers, &mut search).await?;
        let is_new = search.stored && search.read_store().await;
        if !is_new || search.asked_again || Instant::now() >= deadline {
            return Ok(());
        }
        // A second round shows which peers have the models of the records that arrived during the first.
        search.asked_again = true;
        peers.forget_asked();
    }
}

struct RecordSearch<'a, F> {
    core: &'a Arc<Core>,
    query: &'a Query,
    deadline: Instant,
    /// Receives each new or changed result.
    found: F,
    results: HashMap<ResultKey, SearchResult>,
    /// Results that only peers have.
    from_peers: usize,
    /// Peers whose next page is awaited: the node, and the pages that it has sent.
    pages: HashMap<PeerId, (NodeId, usize)>,
    answered: bool,
    /// When the latest new peer was asked.
    newest_peer_at: Instant,
    /// Records were stored since the store was last searched: announced after the peers that were asked had answered.
    stored: bool,
    /// Whether peers were asked a second time.
    asked_again: bool,
}

impl<F: FnMut(&FoundModel)> Inquiry for RecordSearch<'_, F> {
    fn ask(&mut self, peers: &mut AskedPeers, now: Instant) -> Option<Instant> {
        let question = PeerQuestion::Query(self.query.clone(), None);
        for speaker in peers.ask_new(usize::MAX, &question, PAGE_WITHIN, |_| true) {
            self.pages.insert(speaker.peer, (speaker.node, 0));
            if !self.asked_again {
                self.newest_peer_at = now;
            }
        }
        let settled_at = self.newest_peer_at + SETTLED;
        let all_answered = self.answered && peers.awaited().is_empty();
        let end = if all_answered { settled_at.min(self.deadline) } else { self.deadline };
        (now < end).then_some(end)
    }

    fn on_event(&mut self, peers: &mut AskedPeers, event: CatalogEvent) {
        match event {
            CatalogEvent::Answered(peer, Some(PeerAnswer::Found { records, complete, cursor })) => {
                self.add_page(peers, peer, &records, &complete, cursor);
            }
            CatalogEvent::Stored(_) => self.stored = true,
            _ => {}
        }
    }
}

impl<F: FnMut(&FoundModel)> RecordSearch<'_, F> {
    /// Adds the records of the store. Returns whether one of them is new.
    async fn read_store(&mut self) -> bool {
        self.stored = false;
        let mut is_new = false;
        let now = self.core.unix_time();
        let mut from: Option<Vec<u8>> = None;
        loop {
            let (core, query, at) = (Arc::clone(self.core), self.query.clone(), from.take());
            let read = move || core.local.search(&query, at.as_deref(), LOCAL_PAGE);
            // After a panic of the thread, peers still answer.
            let Ok(page) = tokio::task::spawn_blocking(read).await else { return is_new };
            for record in page.records.iter().filter(|record| record.check_time(now).is_ok()) {
                is_new |= self.add(record, None, false);
            }
            match page.next {
                Some(next) => from = Some(next),
                None => return is_new,
            }
        }
    }

    /// Adds a page of a peer's results, and asks for the next page.
    fn add_page(
        &mut self,
        peers: &mut AskedPeers,
        peer: PeerId,
        records: &[SharedRecord],
        complete: &[u32],
        cursor: Option<Vec<u8>>,
    ) {
        let Some((node, pages)) = self.pages.remove(&peer) else { return };
        self.answered = true;
        let now = self.core.unix_time();
        for (index, record) in (0u32..).zip(records) {
            if record.check_time(now).is_ok() && self.query.matches(record.record()) {
                self.add(record, Some(node), complete.contains(&index));
            }
        }
        // An honest peer does not send an empty page with a cursor.
        let Some(cursor) = cursor.filter(|_| !records.is_empty() && pages + 1 < MAX_PAGES) else { return };
        if peers.ask(peer, PeerQuestion::Query(self.query.clone(), Some(cursor)), PAGE_WITHIN) {
            self.pages.insert(peer, (node, pages + 1));
        }
    }

    /// Adds a record of the store, or of a node that claims to have the model completely or not. Returns whether the record
    /// is newer than the known one.
    fn add(&mut self, record: &SharedRecord, node: Option<NodeId>, complete: bool) -> bool {
        let Some(model) = record.model() else { return false };
        let key = (record.record().publisher, model.name.clone(), model.version.clone());
        let known = self.results.get(&key);
        let is_newer = known.is_none_or(|k| record.record().sequence > k.record.record().sequence);
        if known.is_none() && node.is_some() {
            if self.from_peers >= MAX_RESULTS {
                return false;
            }
            self.from_peers += 1;
        }
        let result = self.results.entry(key).or_insert_with(|| SearchResult {
            own: false,
            seeds: BTreeSet::new(),
            record: SharedRecord::clone(record),
        });
        let is_same = |known: &SharedRecord| known.model().is_some_and(|m| m.info_hash == model.info_hash);
        if is_newer {
            if !is_same(&result.record) {
                result.seeds.clear();
            }
            result.record = SharedRecord::clone(record);
            result.own = self.core.local.is_complete(&model.info_hash);
        }
        let is_seed = complete && is_same(&result.record);
        let more_seeds = node.is_some_and(|node| is_seed && result.seeds.insert(node));
        if is_newer || more_seeds {
            (self.found)(&result.found());
        }
        is_newer
    }
}
