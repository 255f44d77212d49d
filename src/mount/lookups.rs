//! Lookups of unknown models: parked until the network has answered.
//!
//! The thread that handles the request does not wait. The lookup becomes an entry of a table, and one task per model sends
//! the query. So lookups of the same model share one query, whatever path they use. Every parked lookup gets a reply: when
//! its model is published, at the deadline, when the waiting program is about to end, when the mount stops, or when the
//! runtime drops the task. A query without waiting lookups is cancelled.

use std::collections::HashMap;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{Instrument as _, debug, warn};

use super::budget::Budget;
use super::inode::Ino;
use super::misses::{Miss, Misses};
use super::never_resolve::NeverResolve;
use super::requester::Requester;
use super::top_path::RequestedModel;
use super::tree::{Lookup, Tree};
use super::tree_error::TreeError;
use crate::model::ModelName;

/// How many lookups may wait at the same time; each is a thread of a program. A further lookup gets the reply "absent":
/// a program that needs more is a crawler.
pub const MAX_WAITING: usize = 64;

/// How often the waiting programs are checked for signals. Ctrl-C should seem to work immediately.
const CHECK_EVERY: Duration = Duration::from_millis(200);

/// How much longer than [`LookupRules::within`] the resolver may take. It reports better than this module why it found
/// nothing in time.
const GRACE: Duration = Duration::from_millis(500);

/// How many logged refusals are remembered.
const MAX_LOGGED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// A query for a model failed. The text is the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No peer that was reached in time has it.
    #[error("no peer has it")]
    NotFound,
    /// It is announced, but no peer that has it can be reached; or the machine has no network.
    #[error("{0}")]
    Unreachable(String),
    /// It may not be shown, for example because its publisher is not trusted.
    #[error("{0}")]
    Refused(String),
    /// Several publishers dispute the name. Each publisher's model can be read below `.by`.
    #[error("{0}")]
    Disputed(String),
    /// The hub does not permit the user of this mount to read it.
    #[error("{0}")]
    Denied(String),
}

/// A query in progress. Before it returns `Ok`, it publishes the model to the mount.
pub type Resolving = Pin<Box<dyn Future<Output = Result<(), ResolveError>> + Send>>;

/// Queries the network for the lookups of a mount.
pub trait Resolver: Send + Sync {
    /// Searches for a model, at most `within`. Called on the runtime.
    fn resolve(&self, requested: RequestedModel, within: Duration) -> Resolving;

    /// Reports a lookup without a query, because the process has used up its budget. `process` is 0 if the daemon cannot
    /// see it. Called by threads that handle requests: may wait for the disk only.
    fn over_budget(&self, requested: &RequestedModel, process: u32);
}

/// Limits of the queries of a mount.
#[derive(Debug)]
pub struct LookupRules {
    /// How long one query may take.
    pub within: Duration,
    /// Names that are never looked up in the network.
    pub never: NeverResolve,
    /// How many models one process may look up in a minute without finding them.
    pub per_minute: u32,
}

/// Sends the reply of one lookup.
pub type LookupReply = Box<dyn FnOnce(Result<Lookup, TreeError>) + Send>;

/// The lookups of one mount.
pub struct Lookups {
    tree: Arc<Tree>,
    runtime: Handle,
    resolver: OnceLock<(Arc<dyn Resolver>, Duration)>,
    table: Mutex<LookupTable>,
    stopping: watch::Sender<bool>,
}

struct LookupTable {
    pending: HashMap<RequestedModel, PendingQuery>,
    /// Number of lookups in all pending queries.
    waiting: usize,
    /// Models that were not found or may not be shown.
    misses: Misses,
    /// How many models each process may still look up.
    budget: Budget,
    /// The reasons of refusals that were logged.
    logged: LruCache<RequestedModel, String>,
    /// Whether the warning about too many waiting lookups was logged.
    crowded: bool,
    stopped: bool,
}

impl LookupTable {
    /// Subtracts lookups that no longer wait.
    fn released(&mut self, count: usize) {
        self.waiting = self.waiting.saturating_sub(count);
        self.crowded &= self.waiting > MAX_WAITING / 2;
    }
}

/// The lookups that wait for one query.
#[derive(Default)]
struct PendingQuery {
    waiting: Vec<ParkedLookup>,
    /// A record of the name or a new peer has arrived since the query began, so its miss is not remembered.
    outdated: bool,
}

struct ParkedLookup {
    parent: Ino,
    name: OsString,
    requester: Requester,
    reply: LookupReply,
}

impl Miss {
    fn reply(self) -> Result<Lookup, TreeError> {
        match self {
            Self::Absent | Self::Unreachable | Self::Refused => Ok(Lookup::Absent(Duration::ZERO)),
            Self::Disputed => Err(TreeError::Disputed),
            Self::Denied => Err(TreeError::Denied),
        }
    }
}

/// How a lookup proceeds.
enum Admission {
    /// It waits, and a query must be started, charged to this process.
    StartQuery(u32),
    /// It waits for a query that is already in progress.
    JoinQuery,
    /// It gets this reply immediately.
    Reply(LookupReply, Result<Lookup, TreeError>),
    /// It gets the reply "absent", because this process has used up its budget.
    OverBudget(LookupReply, u32),
}

impl Lookups {
    /// Looks up names only in the tree until [`Self::resolve_with`] is called. Queries run on `runtime`.
    pub fn new(tree: Arc<Tree>, runtime: Handle) -> Arc<Self> {
        let table = LookupTable {
            pending: HashMap::new(),
            waiting: 0,
            misses: Misses::default(),
            budget: Budget::new(0),
            logged: LruCache::new(MAX_LOGGED),
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

    /// From now on queries the resolver for unknown models. Further calls have no effect.
    pub fn resolve_with(&self, resolver: Arc<dyn Resolver>, rules: LookupRules) {
        if self.resolver.set((resolver, rules.within)).is_ok() {
            self.table.lock().budget = Budget::new(rules.per_minute);
            self.tree.guess_names(rules.never);
        }
    }

    /// Number of lookups that wait now.
    pub fn waiting(&self) -> usize {
        self.table.lock().waiting
    }

    /// Replies to a lookup, now or later.
    pub fn serve(self: &Arc<Self>, parent: Ino, name: OsString, requester: Requester, reply: LookupReply) {
        match self.tree.lookup(parent, &name) {
            Ok(Lookup::Unknown(model)) => self.park(model, ParkedLookup { parent, name, requester, reply }),
            found => reply(found),
        }
    }

    fn park(self: &Arc<Self>, model: RequestedModel, waiting: ParkedLookup) {
        match self.admit(&model, waiting) {
            Admission::Reply(reply, result) => reply(result),
            Admission::OverBudget(reply, process) => {
                reply(Miss::Absent.reply());
                if let Some((resolver, _)) = self.resolver.get() {
                    resolver.over_budget(&model, process);
                }
            }
            Admission::JoinQuery => {}
            Admission::StartQuery(process) => {
                let query = RunningQuery {
                    lookups: self.clone(),
                    model,
                    process,
                    began: Instant::now(),
                    found: false,
                    miss: Miss::Absent,
                    abandoned: false,
                };
                self.runtime.spawn(query.run().in_current_span());
            }
        }
    }

    fn admit(&self, model: &RequestedModel, waiting: ParkedLookup) -> Admission {
        let now = Instant::now();
        let table = &mut *self.table.lock();
        if table.stopped {
            return Admission::Reply(waiting.reply, Err(TreeError::Stopped));
        }
        if let Some(miss) = table.misses.of(model, now) {
            return Admission::Reply(waiting.reply, miss.reply());
        }
        if table.waiting >= MAX_WAITING {
            if !std::mem::replace(&mut table.crowded, true) {
                warn!(%model, limit = MAX_WAITING, "too many lookups wait for the network; further ones find nothing");
            }
            return Admission::Reply(waiting.reply, Miss::Absent.reply());
        }
        if let Some(pending) = table.pending.get_mut(model) {
            pending.waiting.push(waiting);
            table.waiting += 1;
            return Admission::JoinQuery;
        }
        let process = waiting.requester.process();
        if !table.budget.charge_name(process, now) {
            return Admission::OverBudget(waiting.reply, process);
        }
        table.pending.insert(model.clone(), PendingQuery { waiting: vec![waiting], outdated: false });
        table.waiting += 1;
        Admission::StartQuery(process)
    }

    /// Ends the misses of a name: a record of it has arrived, or a peer has it.
    pub fn name_appeared(&self, name: &ModelName) {
        let table = &mut *self.table.lock();
        table.misses.name_appeared(name);
        for (requested, pending) in &mut table.pending {
            pending.outdated |= requested.model.name == *name;
        }
    }

    /// Ends all misses: a new peer is connected that no query has reached.
    pub fn peer_appeared(&self) {
        let table = &mut *self.table.lock();
        table.misses.peer_appeared(Instant::now());
        table.pending.values_mut().for_each(|pending| pending.outdated = true);
    }

    /// Ends the misses of models whose holders could not be reached: a peer is connected that may hold them.
    pub fn holder_appeared(&self) {
        self.table.lock().misses.holder_appeared(Instant::now());
    }

    /// Ends refusals: the trusted publishers may have changed.
    pub fn rules_changed(&self) {
        self.table.lock().misses.rules_changed();
    }

    /// Fails all waiting lookups, and all later ones.
    pub fn stop(&self) {
        let waiting: Vec<ParkedLookup> = {
            let table = &mut *self.table.lock();
            table.stopped = true;
            table.waiting = 0;
            table.pending.drain().flat_map(|(_, pending)| pending.waiting).collect()
        };
        self.stopping.send_replace(true);
        for ParkedLookup { reply, .. } in waiting {
            reply(Err(TreeError::Stopped));
        }
    }

    /// Fails the lookups of a model whose programs are about to end. Returns whether more lookups wait for the model; if
    /// not, the entry is removed.
    fn release_ending(&self, model: &RequestedModel) -> bool {
        let (ending, is_wanted) = {
            let table = &mut *self.table.lock();
            let Some(PendingQuery { waiting, .. }) = table.pending.get_mut(model) else { return false };
            let ending: Vec<ParkedLookup> =
                waiting.extract_if(.., |waiting| waiting.requester.is_interrupted()).collect();
            let is_wanted = !waiting.is_empty();
            if !is_wanted {
                table.pending.remove(model);
            }
            table.released(ending.len());
            (ending, is_wanted)
        };
        for ParkedLookup { reply, .. } in ending {
            reply(Err(TreeError::Interrupted));
        }
        is_wanted
    }

    /// Remembers that a model was not found, and logs the reason unless it was logged before.
    fn missed(&self, model: &RequestedModel, error: &ResolveError) -> Miss {
        let table = &mut *self.table.lock();
        let miss = match error {
            ResolveError::NotFound => Miss::Absent,
            ResolveError::Unreachable(_) => Miss::Unreachable,
            ResolveError::Refused(_) => Miss::Refused,
            ResolveError::Disputed(_) => Miss::Disputed,
            ResolveError::Denied(_) => Miss::Denied,
        };
        if table.pending.get(model).is_none_or(|pending| !pending.outdated) {
            table.misses.add(model, miss, Instant::now());
        }
        match error {
            ResolveError::NotFound => debug!(%model, "no peer has a model that was looked up"),
            ResolveError::Unreachable(reason)
            | ResolveError::Refused(reason)
            | ResolveError::Disputed(reason)
            | ResolveError::Denied(reason) => {
                if table.logged.get(model) != Some(reason) {
                    table.logged.put(model.clone(), reason.clone());
                    warn!(%model, reason, "cannot show a model that was looked up");
                }
            }
        }
        miss
    }
}

/// The task of one query. When it is dropped, completed or not, all lookups of its model get their reply.
struct RunningQuery {
    lookups: Arc<Lookups>,
    model: RequestedModel,
    /// The process whose budget is charged.
    process: u32,
    began: Instant,
    found: bool,
    miss: Miss,
    /// No lookup waits any more, and the entry of the table is removed.
    abandoned: bool,
}

impl RunningQuery {
    async fn run(mut self) {
        let Some((resolver, within)) = self.lookups.resolver.get() else { return };
        let mut stopping = self.lookups.stopping.subscribe();
        let resolving = tokio::time::timeout(*within + GRACE, resolver.resolve(self.model.clone(), *within));
        let mut resolving = pin!(resolving);
        let mut clock = tokio::time::interval_at(Instant::now() + CHECK_EVERY, CHECK_EVERY);
        let result = loop {
            tokio::select! {
                biased;
                // The sender lives as long as `self.lookups`, so this is no error.
                _ = stopping.wait_for(|stopping| *stopping) => return,
                result = &mut resolving => break result.unwrap_or(Err(ResolveError::NotFound)),
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

impl Drop for RunningQuery {
    fn drop(&mut self) {
        if self.abandoned {
            return;
        }
        let waiting = {
            let table = &mut *self.lookups.table.lock();
            let waiting = table.pending.remove(&self.model).unwrap_or_default().waiting;
            table.released(waiting.len());
            if self.found {
                table.misses.found(&self.model);
                table.budget.refund_name(self.process);
            } else {
                let now = Instant::now();
                table.budget.charge_time(self.process, now - self.began, now);
            }
            waiting
        };
        for ParkedLookup { parent, name, reply, .. } in waiting {
            let found = self.lookups.tree.lookup(parent, &name);
            reply(match found {
                Ok(Lookup::Unknown(_)) => {
                    if std::mem::take(&mut self.found) {
                        let reason = "it was found, but is not shown".to_owned();
                        self.lookups.missed(&self.model, &ResolveError::Refused(reason));
                    }
                    self.miss.reply()
                }
                found => found,
            });
        }
    }
}
