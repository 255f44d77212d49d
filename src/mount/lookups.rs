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
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::asker::Asker;
use super::budget::Budget;
use super::inode::Ino;
use super::misses::{Miss, Misses};
use super::never::NeverResolve;
use super::place::Sought;
use super::tree::{Lookup, Tree, TreeError};
use crate::model::ModelName;

/// How many lookups may wait at once; each is a thread of a program. What goes beyond is answered as absent: a program
/// that asks for more is crawling.
pub const MAX_WAITING: usize = 64;

/// How often it is looked whether those who wait are to end: Ctrl-C should seem to work at once.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How much longer than it was told a query may take.
const GRACE: Duration = Duration::from_millis(500);

/// How many refusals that were logged are remembered.
const MAX_LOGGED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Why a model could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Nobody who was reached in time has it.
    #[error("nobody has it")]
    NotFound,
    /// It is announced, and no peer that has it can be reached; or the machine has no network.
    #[error("{0}")]
    Unreachable(String),
    /// It cannot be shown: its publisher is not trusted, for one.
    #[error("{0}")]
    Refused(String),
    /// Several publishers dispute the name; each of them is read below `.by`.
    #[error("{0}")]
    Disputed(String),
}

/// A query in progress. It ends with the model being published to the mount, or with an error.
pub type Resolving = Pin<Box<dyn Future<Output = Result<(), ResolveError>> + Send>>;

/// The network, for the lookups of a mount.
pub trait Resolver: Send + Sync {
    /// Asks for a model, for at most so long. Called on the runtime.
    fn resolve(&self, sought: Sought, within: Duration) -> Resolving;

    /// Reports a model that was not asked for, because the process has used up its budget. The process is 0 where it is
    /// not visible to the daemon. Called by threads that take requests: must not wait for anything but the disk.
    fn over_budget(&self, sought: &Sought, process: u32);
}

/// What a mount may ask the network for.
#[derive(Debug)]
pub struct LookupRules {
    /// How long one query may take.
    pub within: Duration,
    /// Names that are never asked for.
    pub never: NeverResolve,
    /// Models that one process may have asked for in a minute, apart from those that are found.
    pub per_minute: u32,
}

/// What a lookup is answered with.
pub type Answer = Box<dyn FnOnce(Result<Lookup, TreeError>) + Send>;

/// The lookups of one mount.
pub struct Lookups {
    tree: Arc<Tree>,
    runtime: Handle,
    resolver: OnceLock<(Arc<dyn Resolver>, Duration)>,
    table: Mutex<Table>,
    stopping: watch::Sender<bool>,
}

struct Table {
    /// What is asked for, and who waits for it.
    asked: HashMap<Sought, Asked>,
    /// How many wait in all.
    waiting: usize,
    /// What was not found or is not shown.
    misses: Misses,
    /// What processes may still ask for.
    budget: Budget,
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

/// A query in progress.
#[derive(Default)]
struct Asked {
    waiting: Vec<Waiting>,
    /// A record of the name or a new peer has arrived since the query began: that it found nothing is not remembered.
    outdated: bool,
}

struct Waiting {
    parent: Ino,
    name: OsString,
    asker: Asker,
    answer: Answer,
}

impl Miss {
    fn answer(self) -> Result<Lookup, TreeError> {
        match self {
            Self::Absent | Self::Unreachable | Self::Refused => Ok(Lookup::Absent(Duration::ZERO)),
            Self::Disputed => Err(TreeError::Disputed),
        }
    }
}

/// What becomes of a lookup.
enum Fate {
    /// It waits; no query for the model is in progress. The process that is charged with the query.
    Asks(u32),
    /// It waits for somebody else's query.
    Joins,
    /// It is answered immediately.
    Now(Answer, Result<Lookup, TreeError>),
    /// It is answered as absent: this process has used up its budget.
    OverBudget(Answer, u32),
}

impl Lookups {
    /// Looks up in the tree alone until [`Self::resolve_with`] is called. Queries run on `runtime`.
    pub fn new(tree: Arc<Tree>, runtime: Handle) -> Arc<Self> {
        let table = Table {
            asked: HashMap::new(),
            waiting: 0,
            misses: Misses::default(),
            budget: Budget::new(0),
            told: LruCache::new(MAX_LOGGED),
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

    /// Asks for models that are not known, from now on. The first call counts.
    pub fn resolve_with(&self, resolver: Arc<dyn Resolver>, rules: LookupRules) {
        if self.resolver.set((resolver, rules.within)).is_ok() {
            self.lock().budget = Budget::new(rules.per_minute);
            self.tree.guess_names(rules.never);
        }
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
            Fate::OverBudget(answer, process) => {
                answer(Miss::Absent.answer());
                if let Some((resolver, _)) = self.resolver.get() {
                    resolver.over_budget(&model, process);
                }
            }
            Fate::Joins => {}
            Fate::Asks(process) => {
                let query = Query {
                    lookups: self.clone(),
                    model,
                    process,
                    began: Instant::now(),
                    found: false,
                    miss: Miss::Absent,
                    abandoned: false,
                };
                self.runtime.spawn(query.run());
            }
        }
    }

    fn admit(&self, model: &Sought, waiting: Waiting) -> Fate {
        let now = Instant::now();
        let table = &mut *self.lock();
        if table.stopped {
            return Fate::Now(waiting.answer, Err(TreeError::Stopped));
        }
        if let Some(miss) = table.misses.of(model, now) {
            return Fate::Now(waiting.answer, miss.answer());
        }
        if table.waiting >= MAX_WAITING {
            if !std::mem::replace(&mut table.crowded, true) {
                warn!(%model, "More than {MAX_WAITING} lookups wait for the network; further ones find nothing.");
            }
            return Fate::Now(waiting.answer, Miss::Absent.answer());
        }
        if let Some(asked) = table.asked.get_mut(model) {
            asked.waiting.push(waiting);
            table.waiting += 1;
            return Fate::Joins;
        }
        let process = waiting.asker.process();
        if !table.budget.take(process, now) {
            return Fate::OverBudget(waiting.answer, process);
        }
        table.asked.insert(model.clone(), Asked { waiting: vec![waiting], outdated: false });
        table.waiting += 1;
        Fate::Asks(process)
    }

    /// Has the models of a name looked up again: a record of it has arrived, or a peer has it.
    pub fn name_appeared(&self, name: &ModelName) {
        let table = &mut *self.lock();
        table.misses.name_appeared(name);
        for (sought, asked) in &mut table.asked {
            asked.outdated |= sought.model.name == *name;
        }
    }

    /// Has all models that were not found looked up again: a peer has come that was not asked.
    pub fn peer_appeared(&self) {
        let table = &mut *self.lock();
        table.misses.peer_appeared(Instant::now());
        table.asked.values_mut().for_each(|asked| asked.outdated = true);
    }

    /// Has all models looked up again whose holders could not be reached: a peer has come that may hold them.
    pub fn holder_appeared(&self) {
        self.lock().misses.holder_appeared(Instant::now());
    }

    /// Has all models that were refused looked up again: the trust may have changed.
    pub fn rules_changed(&self) {
        self.lock().misses.rules_changed();
    }

    /// Answers all that wait, and whatever comes from now on.
    pub fn stop(&self) {
        let waiting: Vec<Waiting> = {
            let table = &mut *self.lock();
            table.stopped = true;
            table.waiting = 0;
            table.asked.drain().flat_map(|(_, asked)| asked.waiting).collect()
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
            let Some(Asked { waiting, .. }) = table.asked.get_mut(model) else { return false };
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
        let miss = match error {
            ResolveError::NotFound => Miss::Absent,
            ResolveError::Unreachable(_) => Miss::Unreachable,
            ResolveError::Refused(_) => Miss::Refused,
            ResolveError::Disputed(_) => Miss::Disputed,
        };
        if table.asked.get(model).is_none_or(|asked| !asked.outdated) {
            table.misses.add(model, miss, Instant::now());
        }
        match error {
            ResolveError::NotFound => debug!(%model, "A model was looked up that no peer has."),
            ResolveError::Unreachable(reason)
            | ResolveError::Refused(reason)
            | ResolveError::Disputed(reason) => {
                if table.told.get(model) != Some(reason) {
                    table.told.put(model.clone(), reason.clone());
                    warn!(%model, reason, "A model was looked up that cannot be shown.");
                }
            }
        }
        miss
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }
}

/// Asks for one model. When it is dropped, done or not, all who wait for it are answered.
struct Query {
    lookups: Arc<Lookups>,
    model: Sought,
    /// The process that is charged.
    process: u32,
    began: Instant,
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
        let asking = tokio::time::timeout(*within + GRACE, resolver.resolve(self.model.clone(), *within));
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
            let waiting = table.asked.remove(&self.model).unwrap_or_default().waiting;
            table.released(waiting.len());
            if self.found {
                table.misses.found(&self.model);
                table.budget.give_back(self.process);
            } else {
                let now = Instant::now();
                table.budget.charge(self.process, now - self.began, now);
            }
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
