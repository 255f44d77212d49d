//! Memory that searches for names share: running searches, misses, silent peers; and the news reader.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::core::{CatalogEvent, Core, Subscriber};
use super::shared_search::SharedSearches;
use super::types::{Candidate, News, NewsReader};
use crate::catalog::gossip::NodeId;
use crate::model::{ModelName, ModelRef, PublisherKey};
use crate::torrent::PeerId;

/// How long a miss is remembered, unless a record of the name arrives, or a new peer while there are few.
pub const MISS: Duration = Duration::from_secs(30);

/// This many peers together know nearly all records. While fewer can be asked, a new peer may know a name that was not
/// found.
const FEW: usize = 4;

/// Searches that continue after their callers have returned. Further ones end.
const MAX_DETACHED: usize = 64;

/// Misses remembered.
const MAX_MISSES: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not 0");

/// Nodes remembered as met.
const MAX_MET: NonZeroUsize = NonZeroUsize::new(1024).expect("it is not 0");

/// The target of a search: a model, by all publishers or by one.
pub(super) type SearchKey = (ModelRef, Option<PublisherKey>);

/// The searches that run, and names that were not found.
pub(super) struct Searches {
    pub running: SharedSearches<SearchKey, Vec<Candidate>>,
    /// Permits of searches that continue after their callers have returned.
    pub detached: Arc<Semaphore>,
    /// When a model was not found, and the time limit of that search.
    misses: Mutex<LruCache<ModelRef, (Instant, Duration)>>,
    /// Peers whose latest answer to a lookup did not come in time.
    silent: Mutex<HashSet<PeerId>>,
    /// Nodes that were met.
    met: Mutex<LruCache<NodeId, ()>>,
    news: OnceLock<Box<NewsReader>>,
}

impl Default for Searches {
    fn default() -> Self {
        Self {
            running: SharedSearches::default(),
            detached: Arc::new(Semaphore::new(MAX_DETACHED)),
            misses: Mutex::new(LruCache::new(MAX_MISSES)),
            silent: Mutex::default(),
            met: Mutex::new(LruCache::new(MAX_MET)),
            news: OnceLock::new(),
        }
    }
}

impl Subscriber for Searches {
    fn on_event(&self, core: &Core, event: &CatalogEvent) {
        match event {
            CatalogEvent::PeerReady(peer) => {
                let speakers = core.speakers();
                if let Some(speaker) = speakers.iter().find(|speaker| speaker.peer == *peer) {
                    let may_know = self.meet(speaker.node, speakers.len());
                    self.report(if may_know { News::Peer } else { News::Holder });
                }
            }
            CatalogEvent::PeerLeft(peer) => {
                self.silent.lock().remove(peer);
            }
            CatalogEvent::Stored(records) => {
                records
                    .iter()
                    .filter_map(|record| record.model())
                    .for_each(|model| self.appeared(&model.name));
            }
            _ => {}
        }
    }
}

impl Searches {
    /// Reports news to `reader` from now on. Only the first call has an effect.
    pub fn report_news(&self, reader: Box<NewsReader>) {
        let _ = self.news.set(reader);
    }

    fn report(&self, news: News<'_>) {
        if let Some(reader) = self.news.get() {
            reader(news);
        }
    }

    /// A name that may have been missed before is known now.
    pub fn appeared(&self, name: &ModelName) {
        let mut misses = self.misses.lock();
        let of_name: Vec<ModelRef> =
            misses.iter().filter(|(model, _)| model.name == *name).map(|(model, _)| model.clone()).collect();
        for model in of_name {
            misses.pop(&model);
        }
        drop(misses);
        self.report(News::Name(name));
    }

    /// Whether a search with at least this time limit has not found the model a short time ago.
    pub fn is_missed(&self, model: &ModelRef, within: Duration) -> bool {
        let misses = self.misses.lock();
        misses.peek(model).is_some_and(|(at, searched)| Instant::now() < *at + MISS && within <= *searched)
    }

    pub fn remember_miss(&self, model: &ModelRef, searched: Duration) {
        self.misses.lock().put(model.clone(), (Instant::now(), searched));
    }

    /// A node can be asked, as one of `speakers`. Returns whether the node may know names that were missed before: it is
    /// new, and there are few. The records that it sends are news in any case.
    fn meet(&self, node: NodeId, speakers: usize) -> bool {
        let is_new = self.met.lock().put(node, ()).is_none();
        let may_know = is_new && speakers <= FEW;
        if may_know {
            self.misses.lock().clear();
        }
        may_know
    }

    /// Notes whether a peer has answered a lookup in time.
    pub fn note_answer(&self, peer: PeerId, in_time: bool) {
        let mut silent = self.silent.lock();
        if in_time {
            silent.remove(&peer);
        } else {
            silent.insert(peer);
        }
    }

    /// Whether the peer did not answer its latest lookup in time.
    pub fn is_silent(&self, peer: PeerId) -> bool {
        self.silent.lock().contains(&peer)
    }
}
