//! The files that are read from hubs: their waiters, windows, requests and failures.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::origin::{HubOrigin, Origins};
use crate::fetch::tensors::FileTensors;
use crate::fetch::web::WebError;
use crate::fetch::window::{STALE, WindowReach, Windows};
use crate::fetch::{FileRef, ReadError};
use crate::model::{Manifest, ModelRef};
use crate::store::{Content, ContentKey, SpaceClass};

/// The pause after a failed request; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// All reads from hubs.
#[derive(Default)]
pub(super) struct HubState {
    pub files: HashMap<ContentKey, Reading>,
    pub origins: Origins,
    /// Files whose bytes were wrong: until when they are not requested, and why.
    pub refused: HashMap<ContentKey, (Instant, String)>,
    /// The latest reason why a read of a model failed, for `status`.
    pub troubles: BTreeMap<ModelRef, String>,
    /// Bytes that were received, by model.
    pub received: BTreeMap<ModelRef, u64>,
    /// Bytes of requests that wait for space, by its class.
    pub lacking: BTreeMap<SpaceClass, u64>,
    pub stopped: bool,
    last_id: u64,
}

/// A read, or a part of a job.
pub(super) struct HubWait {
    pub range: Range<u64>,
    /// Whether a whole file is fetched, not for a reader.
    pub is_job: bool,
    pub since: Instant,
    /// Taken when it is answered.
    pub answer: Option<oneshot::Sender<Result<(), ReadError>>>,
}

/// A request that is under way. Dropping it ends it.
pub(super) struct RunningRange {
    pub id: u64,
    /// The bytes that have not come yet.
    pub rest: Range<u64>,
    pub task: AbortHandle,
}

impl Drop for RunningRange {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A content that is being read.
pub(super) struct Reading {
    /// The files with these bytes, one of each model that is being read. There is at least one.
    files: Vec<FileRef>,
    pub windows: Windows,
    pub shape: FileTensors,
    pub waiters: BTreeMap<u64, HubWait>,
    pub running: Vec<RunningRange>,
    pub last_progress: Option<Instant>,
    /// The reason why the last request failed, until one succeeds.
    pub trouble: Option<String>,
    failures: u32,
    /// No request begins before this time.
    pub retry: Option<Instant>,
    /// Whether its next request waits for space.
    pub lacks_space: bool,
}

impl HubState {
    pub fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The reads of a content, for a file with its bytes.
    pub fn reading(&mut self, key: ContentKey, file: &FileRef) -> &mut Reading {
        let reading = self.files.entry(key).or_insert_with(|| Reading::new(file));
        reading.join(file);
        reading
    }

    /// Forgets files that no reader or job uses.
    pub fn forget_idle(&mut self) {
        let now = Instant::now();
        self.files.retain(|_, reading| {
            if reading.waiters.is_empty() {
                reading.windows.rest_stale(now);
            }
            let reads_on = reading.windows.cursors().iter().any(|cursor| cursor.used + STALE > now);
            !reading.waiters.is_empty() || !reading.running.is_empty() || reads_on
        });
    }
}

impl Reading {
    pub fn new(file: &FileRef) -> Self {
        let path = &file.revision.manifest.files[file.file].path;
        let shape = if path.ends_with(".safetensors") { FileTensors::Unread } else { FileTensors::Plain };
        Self {
            files: vec![file.clone()],
            windows: Windows::default(),
            shape,
            waiters: BTreeMap::new(),
            running: Vec::new(),
            last_progress: None,
            trouble: None,
            failures: 0,
            retry: None,
            lacks_space: false,
        }
    }

    /// Adds a file with these bytes, in place of another one of its model.
    pub fn join(&mut self, file: &FileRef) {
        match self.files.iter_mut().find(|known| is_of(known, &file.revision.manifest)) {
            Some(known) => *known = file.clone(),
            None => self.files.push(file.clone()),
        }
    }

    /// A file with these bytes that has a source.
    pub fn source(&self, origins: &Origins) -> Option<(&FileRef, Arc<dyn HubOrigin>)> {
        self.files.iter().find_map(|file| Some((file, origins.get(&model(file))?.clone())))
    }

    /// The models that are being read.
    pub fn models(&self) -> impl Iterator<Item = ModelRef> {
        self.files.iter().map(model)
    }

    pub fn is_of(&self, model: &ModelRef) -> bool {
        self.models().any(|read| read == *model)
    }

    pub fn content(&self) -> &Arc<Content> {
        self.files[0].content()
    }

    /// Moves the cursors for a read.
    pub fn touch(&mut self, range: Range<u64>, reach: WindowReach, new_id: u64) {
        self.windows.on_read(range, Instant::now(), reach, new_id);
    }

    pub fn learn(&mut self, shape: Option<FileTensors>) {
        if let Some(shape) = shape.filter(|_| self.shape == FileTensors::Unread) {
            self.shape = shape;
        }
    }

    /// Records bytes that are cached now, and answers the waiters that have all their bytes.
    pub fn arrived(&mut self) {
        self.last_progress = Some(Instant::now());
        (self.trouble, self.failures, self.retry) = (None, 0, None);
        let content = self.content().clone();
        self.waiters.retain(|_, wait| {
            let done = content.has(wait.range.clone());
            if done && let Some(answer) = wait.answer.take() {
                // The reader may be gone.
                let _ = answer.send(Ok(()));
            }
            !done
        });
    }

    /// Answers all waiters with an error, and ends all requests.
    pub fn fail_all(&mut self, error: &ReadError) {
        for (_, mut wait) in std::mem::take(&mut self.waiters) {
            if let Some(answer) = wait.answer.take() {
                let _ = answer.send(Err(error.clone()));
            }
        }
        self.running.clear();
    }

    /// Records a failed request. A refusal of access ends all waits.
    pub fn failed(&mut self, error: &WebError) {
        self.trouble = Some(error.to_string());
        self.failures = self.failures.saturating_add(1);
        let own = (FIRST_PAUSE * 2u32.saturating_pow(self.failures.min(8) - 1)).min(LONGEST_PAUSE);
        let pause = match error {
            WebError::Busy { retry_after: Some(asked), .. } => own.max(*asked),
            _ => own,
        };
        self.retry = Some(Instant::now() + pause.mul_f64(1.0 + fastrand::f64() / 4.0));
        if let WebError::Denied(why) = error {
            self.fail_all(&ReadError::Denied(why.clone()));
        }
    }

    /// The time until the next request may begin.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        self.retry.and_then(|at| at.checked_duration_since(now)).filter(|pause| !pause.is_zero())
    }

    /// The reason why reads wait, for people.
    pub fn why_it_waits(&self, origins: &Origins) -> String {
        match &self.trouble {
            Some(trouble) => trouble.clone(),
            None if self.source(origins).is_none() => {
                "it is read from a hub, which this mount may not ask for it now".to_owned()
            }
            None if self.lacks_space => "the cache has no space for it".to_owned(),
            None => "the hub has not sent it yet".to_owned(),
        }
    }

    /// The bytes that readers need, or will need soon.
    pub fn needed(&self) -> Vec<Range<u64>> {
        let waits = self.waiters.values().map(|wait| wait.range.clone());
        let running = self.running.iter().map(|running| running.rest.clone());
        let ahead = self.windows.cursors().iter().map(|cursor| cursor.wanted(u64::MAX, u64::MAX));
        waits.chain(running).chain(ahead).collect()
    }
}

fn model(file: &FileRef) -> ModelRef {
    file.revision.manifest.model_ref()
}

fn is_of(file: &FileRef, manifest: &Manifest) -> bool {
    let known = &file.revision.manifest;
    known.name == manifest.name && known.version == manifest.version
}
