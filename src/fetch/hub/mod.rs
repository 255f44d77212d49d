//! Reads of models of which no manifest is known, from a hub: exact ranges of granules, over HTTP.
//!
//! A reader names a file of a revision with a commit at a hub ([`HubModel`](crate::store::HubModel)). Missing granules are
//! requested in ranges: first those that reads wait for, then the windows ahead of the readers, then whole files. All requests
//! of the daemon share one budget, and space is reserved before bytes are requested.
//!
//! Invariants:
//! - A byte is requested once, however many readers wait for it, also of different models with the same file. A request whose bytes no reader needs any more ends.
//! - Granules are recorded in the content before a reader is woken, and the content is tested under the lock under which
//!   waiters are registered.
//! - Every wait has a deadline. [`HubReads::stop`] ends all waits.
//!
//! Parts: `state` (files that are read, waiters, failures), `plan` (the next request), `run` (one request), `jobs` (whole
//! files), `status`.

mod deletable;
mod jobs;
mod origin;
mod plan;
mod run;
mod state;
mod status;

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use super::deadline::Deadline;
use super::tensors::{FileTensors, read_shape};
use super::window::WindowReach;
use super::{FetchSettings, FileRef, ReadError};
use crate::model::{GRANULE_LEN, ModelRef};
use crate::store::{Content, ContentKey, SpaceClass, StoredRevision};
pub(crate) use origin::HubOrigin;
use state::{HubState, HubWait, Reading};
pub(crate) use status::HubStatus;

/// Requests to hubs at a time for the daemon: reads, and downloads of repositories.
pub const REQUESTS: usize = 16;

/// Requests at a time for one file: one connection seldom fills the line, and servers limit each connection.
const PER_FILE: usize = 8;

/// So many requests of the budget are kept for readers that wait.
const FOR_READERS: usize = 2;

/// The greatest length of a request, in bytes.
const MAX_REQUEST: u64 = 8 << 20;

/// The least length of a request ahead of a reader where so much is missing, in bytes.
const MIN_AHEAD: u64 = 1 << 20;

/// How long a server may take to begin its response, redirects included.
const OPEN_WITHIN: Duration = Duration::from_secs(60);

/// How long a server may send nothing.
const SILENT_WITHIN: Duration = Duration::from_secs(20);

/// How long a file is not requested again after its bytes did not have the hash that the hub lists.
const DAMAGED_FOR: Duration = Duration::from_secs(300);

/// Called when all bytes of a file have come.
type OnComplete = Box<dyn Fn(FileRef) + Send + Sync>;

/// The reads from hubs of one node.
pub struct HubReads {
    state: Mutex<HubState>,
    settings: Arc<FetchSettings>,
    budget: Arc<Semaphore>,
    on_complete: OnceLock<OnComplete>,
}

impl HubReads {
    pub(super) fn new(settings: Arc<FetchSettings>) -> Arc<Self> {
        let budget = settings.hub_budget.clone();
        Arc::new(Self { state: Mutex::default(), settings, budget, on_complete: OnceLock::new() })
    }

    /// Sets the source of a model's bytes. Without one, only cached bytes are read.
    pub fn set_origin(self: &Arc<Self>, model: &ModelRef, origin: Arc<dyn HubOrigin>) {
        self.state.lock().origins.insert(model.clone(), origin);
        self.pump();
    }

    /// Removes the source of a model: the hub refuses it, or the model is gone.
    pub fn remove_origin(&self, model: &ModelRef) {
        self.state.lock().origins.remove(model);
    }

    /// Sets what is called when all bytes of a file have come. Further calls have no effect.
    pub fn on_complete(&self, call: impl Fn(FileRef) + Send + Sync + 'static) {
        let _ = self.on_complete.set(Box::new(call));
    }

    /// Removes the source of a model, ends all requests for its contents, and has the reads that wait for them, also those of
    /// other models, look at the contents again.
    pub fn retire(self: &Arc<Self>, revision: &StoredRevision) {
        {
            let mut state = self.state.lock();
            state.origins.remove(&revision.manifest.model_ref());
            for key in revision.contents.iter().filter_map(|content| content.key()) {
                // Its waiters are answered when their senders are dropped.
                state.files.remove(&key);
            }
        }
        self.pump();
    }

    /// Has the reads that wait for a content look at it again: its bytes are there in another way from now on.
    pub fn reread(self: &Arc<Self>, content: &Content) {
        if let Some(key) = content.key() {
            self.state.lock().files.remove(&key);
        }
        self.pump();
    }

    /// Records that the bytes of a file did not have the hash that the hub lists: it is not requested for a while.
    pub fn damaged(&self, file: &FileRef, why: &str) {
        let Some(key) = file.content().key() else { return };
        let mut state = self.state.lock();
        state.refused.insert(key, (Instant::now() + DAMAGED_FOR, why.to_owned()));
        if let Some(reading) = state.files.get_mut(&key) {
            reading.fail_all(&ReadError::Broken(why.to_owned()));
        }
    }

    /// How far windows may reach.
    fn reach(&self) -> WindowReach {
        WindowReach::new(self.settings.readahead_max, GRANULE_LEN, self.settings.window_bound, false)
    }

    /// Records a read of cached bytes, so that the window ahead of the reader moves.
    pub(super) fn touched(self: &Arc<Self>, file: &FileRef, range: Range<u64>) {
        let content = file.content();
        let Some(key) = content.key().filter(|_| !content.is_complete()) else { return };
        let shape = self.shape(content, &key);
        {
            let mut state = self.state.lock();
            let id = state.new_id();
            let reading = state.reading(key, file);
            reading.touch(range, self.reach(), id);
            reading.learn(shape);
        }
        self.pump();
    }

    /// The tensors of a file whose header may have come since it was last looked for. Reads the disk.
    fn shape(&self, content: &Content, key: &ContentKey) -> Option<FileTensors> {
        let unread = {
            let state = self.state.lock();
            state.files.get(key).is_none_or(|reading| reading.shape == FileTensors::Unread)
        };
        unread.then(|| read_shape(content)).flatten()
    }

    /// Waits until all bytes of a range are cached. Ends early, with success, if the file is read in another way from now on.
    pub(super) async fn wait_for(
        self: &Arc<Self>,
        file: &FileRef,
        range: Range<u64>,
        is_job: bool,
        span: Duration,
    ) -> Result<(), ReadError> {
        let content = file.content();
        let Some(key) = content.key() else { return Ok(()) };
        let shape = self.shape(content, &key);
        let (answer, mut answered) = oneshot::channel();
        let id = {
            let mut state = self.state.lock();
            if state.stopped {
                return Err(ReadError::Stopped);
            }
            let now = Instant::now();
            if let Some((_, why)) = state.refused.get(&key).filter(|(until, _)| *until > now) {
                return Err(ReadError::Broken(why.clone()));
            }
            if content.has(range.clone()) {
                return Ok(());
            }
            let id = state.new_id();
            let reading = state.reading(key, file);
            if !is_job {
                reading.touch(range.clone(), self.reach(), id);
            }
            reading.learn(shape);
            reading.waiters.insert(id, HubWait { range, is_job, since: now, answer: Some(answer) });
            id
        };
        // Removes the waiter also when this future is dropped.
        let waiting = WaiterGuard { reads: self, key, id };
        self.pump();
        let now = Instant::now();
        let mut deadline = if is_job { Deadline::stall(now, span) } else { Deadline::read(now, span) };
        loop {
            tokio::select! {
                biased;
                // A dropped sender: the content is read in another way from now on.
                answer = &mut answered => return answer.unwrap_or(Ok(())),
                () = tokio::time::sleep_until(deadline.due()) => {
                    let (progress, why) = self.why_it_waits(&key);
                    if deadline.expired(Instant::now(), progress) {
                        drop(waiting);
                        return Err(ReadError::TimedOut(why));
                    }
                }
            }
        }
    }

    /// The last progress of a file, and why its reads wait, for people.
    fn why_it_waits(&self, key: &ContentKey) -> (Option<Instant>, String) {
        let mut state = self.state.lock();
        let Some(reading) = state.files.get(key) else { return (None, "the read has ended".to_owned()) };
        let (progress, why) = (reading.last_progress, reading.why_it_waits(&state.origins));
        for model in reading.models().collect::<Vec<_>>() {
            state.troubles.insert(model, why.clone());
        }
        (progress, why)
    }

    /// The last handle of a file was closed: bytes ahead of its readers are no longer wanted.
    pub(super) fn released(self: &Arc<Self>, file: &FileRef) {
        let Some(key) = file.content().key() else { return };
        {
            let mut state = self.state.lock();
            if let Some(reading) = state.files.get_mut(&key) {
                reading.windows.take();
            }
            state.forget_idle();
        }
        self.pump();
    }

    /// Fails all waiting reads with `Stopped`, and every later one.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        for (_, mut reading) in state.files.drain() {
            reading.fail_all(&ReadError::Stopped);
        }
    }

    /// Bytes of requests that wait for space in memory, or in the cache.
    pub fn lacking_bytes(&self, in_memory: bool) -> u64 {
        let state = self.state.lock();
        let of = state.lacking.iter().filter(|(class, _)| (**class == SpaceClass::Memory) == in_memory);
        of.map(|(_, bytes)| bytes).sum()
    }

    /// Contents of the cache for which reads wait that lack space.
    pub fn starved(&self) -> Vec<Arc<Content>> {
        let state = self.state.lock();
        let starves = |reading: &&Reading| {
            let reads = reading.waiters.values().any(|wait| !wait.is_job);
            reads && reading.lacks_space && !reading.content().is_in_memory()
        };
        state.files.values().filter(starves).map(|reading| reading.content().clone()).collect()
    }

    /// Space may have become free.
    pub fn space_came(self: &Arc<Self>) {
        if !self.state.lock().lacking.is_empty() {
            self.pump();
        }
    }

    /// Whether reads or requests use a content now.
    pub fn uses(&self, key: &ContentKey) -> bool {
        self.state.lock().files.contains_key(key)
    }

    /// The contents that are being read.
    pub fn contents(&self) -> Vec<Arc<Content>> {
        self.state.lock().files.values().map(|reading| reading.content().clone()).collect()
    }

    /// Deletes bytes of contents that no reader needs soon, until `target` bytes are free. Writes to files.
    pub fn shed(&self, contents: &[Arc<Content>], target: u64) -> std::io::Result<u64> {
        let mut freed = 0;
        for content in contents {
            let needed = {
                let state = self.state.lock();
                let reading = content.key().and_then(|key| state.files.get(&key));
                reading.map(Reading::needed).unwrap_or_default()
            };
            for range in deletable::deletable(content, &needed) {
                if freed >= target {
                    return Ok(freed);
                }
                if let Some(removed) = content.remove_from_map(&[range]) {
                    freed += content.delete_removed(&removed)?;
                }
            }
        }
        Ok(freed)
    }

    /// The figures of a model that is read from a hub; none for another model.
    pub fn status(&self, revision: &StoredRevision) -> Option<HubStatus> {
        HubStatus::of(&self.state.lock(), revision)
    }

    /// Whether reads wait.
    pub(super) fn has_work(&self) -> bool {
        self.state.lock().files.values().any(|reading| !reading.waiters.is_empty())
    }
}

/// Removes a waiter when it is dropped.
struct WaiterGuard<'a> {
    reads: &'a Arc<HubReads>,
    key: ContentKey,
    id: u64,
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.reads.state.lock();
            if let Some(reading) = state.files.get_mut(&self.key) {
                reading.waiters.remove(&self.id);
            }
            state.forget_idle();
        }
        self.reads.pump();
    }
}
