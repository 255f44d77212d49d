//! Lookups of models that are not known here: parked until the network has answered.
//!
//! The thread that takes requests never waits: a lookup is an entry of a table, and one task a model asks for it, so
//! that lookups of the same model are one query however it is written. Every parked lookup is answered: when its model
//! has become known, at the deadline, when the program that waits is to end, when the mount stops, or when the runtime
//! drops the task. A query that nobody waits for any more is ended.

use std::collections::HashMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::asker::Asker;
use super::inode::Ino;
use super::place::Sought;
use super::tree::{Lookup, Tree, TreeError};

/// How many lookups may wait at once; each is a thread of a program. What goes beyond is answered as absent: a program
/// that asks for more is crawling.
pub const MAX_WAITING: usize = 64;

/// How long a model that was not found is absent without another query. A program that looks again and again is not to
/// ask each time; for longer than that what asks remembers it, and knows when it ends.
pub const MISS_LASTS: Duration = Duration::from_secs(5);

/// The same for one that cannot be shown: somebody may be doing what the message says.
pub const REFUSAL_LASTS: Duration = Duration::from_secs(3);

/// How often it is looked whether those who wait are to end: Ctrl-C should seem to work at once.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How much longer than it was told a query may take.
const GRACE: Duration = Duration::from_millis(500);

/// How many misses, and refusals that were logged, are remembered.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Why a model could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Nobody who was reached in time has it.
    #[error("nobody has it")]
    NotFound,
    /// It cannot be shown: its publisher is not trusted, for one.
    #[error("{0}")]
    Refused(String),
    /// Several publishers dispute the name; each of them is read below `.by`.
    #[error("{0}")]
    Disputed(String),
}

/// A query in progress. It ends with the model being published to the mount, or with an error.
pub type Resolving = Pin<Box<dyn Future<Output = Result<(), ResolveError>> + Send>>;

/// Asks the network for a model, for at most so long. Called on the runtime.
pub type Resolver = dyn Fn(Sought, Duration) -> Resolving + Send + Sync;

/// What a lookup is answered with.
pub type Answer = Box<dyn FnOnce(Result<Lookup, TreeError>) + Send>;

/// The lookups of one mount.
pub struct Lookups {
    tree: Arc<Tree>,
    runtime: Handle,
    resolver: OnceLock<(Arc<Resolver>, Duration)>,
    table: Mutex<Table>,
    stopping: watch::Sender<bool>,
}

struct Table {
    /// What is asked for, and who waits for it.
    asked: HashMap<Sought, Vec<Waiting>>,
    /// How many wait in all.
    waiting: usize,
    /// What was not found or is not shown, until when, and how that is answered.
    misses: LruCache<Sought, (Instant, Miss)>,
    /// The refusals that were logged.
    told: LruCache<Sought, String>,
    /// Whether it was logged that too many wait.
    crowded: bool,
    stopped: bool,
}

impl Table {
    /// So many wait no more.
    fn released(&mut self, count: usize) {
        self.waiting = self.waiting.saturating_sub(count);
        self.crowded &= self.waiting > MAX_WAITING / 2;
    }
}

struct Waiting {
    parent: Ino,
    name: OsString,
    asker: Asker,
    answer: Answer,
}

/// How a lookup is answered whose model is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Miss {
    Absent,
    Disputed,
}

impl Miss {
    fn answer(self) -> Result<Lookup, TreeError> {
        match self {
            Self::Absent => Ok(Lookup::Absent(Duration::ZERO)),
            Self::Disputed => Err(TreeError::Disputed),
        }
    }
}

/// What becomes of a lookup.
enum Fate {
    /// It waits; nobody has asked for the model yet.
    Asks,
    /// It waits for somebody else's query.
    Joins,
    /// It is answered at once.
    Now(Answer, Result<Lookup, TreeError>),
}

impl Lookups {
    /// Looks up in the tree alone until [`Self::resolve_with`] is called. Queries run on `runtime`.
    pub fn new(tree: Arc<Tree>, runtime: Handle) -> Arc<Self> {
        let table = Table {
            asked: HashMap::new(),
            waiting: 0,
            misses: LruCache::new(MAX_REMEMBERED),
            told: LruCache::new(MAX_REMEMBERED),
            crowded: false,
            stopped: false,
        };
        let resolver = OnceLock::new();
        Arc::new(Self {
            tree,
            runtime,
            resolver,
            table: Mutex::new(table),
            stopping: watch::Sender::new(false),
        })
    }

    /// Asks for what is not known, from now on, for at most `within`. The first call counts.
    pub fn resolve_with(&self, resolver: Arc<Resolver>, within: Duration) {
        let _ = self.resolver.set((resolver, within));
        self.tree.guess_names();
    }

    /// How many lookups wait now.
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// Answers a lookup, now or later.
    pub fn serve(self: &Arc<Self>, parent: Ino, name: OsString, asker: Asker, answer: Answer) {
        match self.tree.lookup(parent, &name) {
            Ok(Lookup::Unknown(model)) => self.park(model, Waiting { parent, name, asker, answer }),
            found => answer(found),
        }
    }

    fn park(self: &Arc<Self>, model: Sought, waiting: Waiting) {
        match self.admit(&model, waiting) {
            Fate::Now(answer, result) => answer(result),
            Fate::Joins => {}
            Fate::Asks => {
                let query = Query {
                    lookups: self.clone(),
                    model,
                    found: false,
                    miss: Miss::Absent,
                    abandoned: false,
                };
                self.runtime.spawn(query.run());
            }
        }
    }

    fn admit(&self, model: &Sought, waiting: Waiting) -> Fate {
        let table = &mut *self.lock();
        if table.stopped {
            return Fate::Now(waiting.answer, Err(TreeError::Stopped));
        }
        if let Some((_, miss)) = table.misses.get(model).filter(|(until, _)| Instant::now() < *until) {
            return Fate::Now(waiting.answer, miss.answer());
        }
        if table.waiting >= MAX_WAITING {
            if !std::mem::replace(&mut table.crowded, true) {
                warn!(%model, "More than {MAX_WAITING} lookups wait for the network; further ones find nothing.");
            }
            return Fate::Now(waiting.answer, Miss::Absent.answer());
        }
        table.waiting += 1;
        match table.asked.get_mut(model) {
            Some(others) => {
                others.push(waiting);
                Fate::Joins
            }
            None => {
                table.asked.insert(model.clone(), vec![waiting]);
                Fate::Asks
            }
        }
    }

    /// Forgets what was not found: something changed since, and it may be there now.
    pub fn forget_misses(&self) {
        self.lock().misses.clear();
    }

    /// Answers all that wait, and whatever comes from now on.
    pub fn stop(&self) {
        let waiting: Vec<Waiting> = {
            let table = &mut *self.lock();
            table.stopped = true;
            table.waiting = 0;
            table.asked.drain().flat_map(|(_, waiting)| waiting).collect()
        };
        self.stopping.send_replace(true);
        for Waiting { answer, .. } in waiting {
            answer(Err(TreeError::Stopped));
        }
    }

    /// Answers those who wait for a model and are to end. Tells whether anybody else waits for it; if nobody does, it is
    /// not asked for any more.
    fn release_ending(&self, model: &Sought) -> bool {
        let (ending, goes_on) = {
            let table = &mut *self.lock();
            let Some(waiting) = table.asked.get_mut(model) else { return false };
            let ending: Vec<Waiting> =
                waiting.extract_if(.., |waiting| waiting.asker.is_interrupted()).collect();
            let goes_on = !waiting.is_empty();
            if !goes_on {
                table.asked.remove(model);
            }
            table.released(ending.len());
            (ending, goes_on)
        };
        for Waiting { answer, .. } in ending {
            answer(Err(TreeError::Interrupted));
        }
        goes_on
    }

    /// Remembers that a model was not found, and says why if that is news.
    fn missed(&self, model: &Sought, error: &ResolveError) -> Miss {
        let table = &mut *self.lock();
        let (lasts, miss) = match error {
            ResolveError::NotFound => (MISS_LASTS, Miss::Absent),
            ResolveError::Refused(_) => (REFUSAL_LASTS, Miss::Absent),
            ResolveError::Disputed(_) => (REFUSAL_LASTS, Miss::Disputed),
        };
        table.misses.put(model.clone(), (Instant::now() + lasts, miss));
        match error {
            ResolveError::NotFound => debug!(%model, "A model was looked up that nobody has."),
            ResolveError::Refused(reason) | ResolveError::Disputed(reason) => {
                if table.told.get(model) != Some(reason) {
                    table.told.put(model.clone(), reason.clone());
                    warn!(%model, reason, "A model was looked up that cannot be shown.");
                }
            }
        }
        miss
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for one model. When it is dropped, done or not, all who wait for it are answered.
struct Query {
    lookups: Arc<Lookups>,
    model: Sought,
    found: bool,
    miss: Miss,
    /// Nobody waits any more, and the entry is gone.
    abandoned: bool,
}

impl Query {
    async fn run(mut self) {
        let Some((resolver, within)) = self.lookups.resolver.get() else { return };
        let mut stopping = self.lookups.stopping.subscribe();
        // What asks knows best why it found nothing in time.
        let asking = tokio::time::timeout(*within + GRACE, resolver(self.model.clone(), *within));
        let mut asking = pin!(asking);
        let mut clock = tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        let result = loop {
            tokio::select! {
                biased;
                // The other end lives as long as we do.
                _ = stopping.wait_for(|stopping| *stopping) => return,
                answered = &mut asking => break answered.unwrap_or(Err(ResolveError::NotFound)),
                _ = clock.tick() => {
                    self.abandoned = !self.lookups.release_ending(&self.model);
                    if self.abandoned {
                        return;
                    }
                }
            }
        };
        match result {
            Ok(()) => self.found = true,
            Err(error) => self.miss = self.lookups.missed(&self.model, &error),
        }
    }
}

impl Drop for Query {
    fn drop(&mut self) {
        if self.abandoned {
            return;
        }
        let waiting = {
            let table = &mut *self.lookups.lock();
            let waiting = table.asked.remove(&self.model).unwrap_or_default();
            table.released(waiting.len());
            waiting
        };
        for Waiting { parent, name, answer, .. } in waiting {
            let found = self.lookups.tree.lookup(parent, &name);
            answer(match found {
                Ok(Lookup::Unknown(_)) => {
                    if std::mem::take(&mut self.found) {
                        let reason = "it was found, but is not shown".to_owned();
                        self.lookups.missed(&self.model, &ResolveError::Refused(reason));
                    }
                    self.miss.answer()
                }
                found => found,
            });
        }
    }
}
