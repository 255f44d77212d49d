//! Requests of the witness to the hub: lists of commits, histories and parts of files.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use lru::LruCache;
use parking_lot::Mutex;

use crate::mirror::{MirrorError, RemoteFile, RepositorySource as _};
use crate::model::{GitOid, ModelName, ModelRef};
use crate::node::Node;
use crate::node::hub::access::HubAccess;
use crate::node::hub::{hub_of, reference_of, remote};
use crate::node::jobs::Jobs;
use crate::store::HubFile;

/// The lists and histories that are kept in memory, and the number of files of the longest list that is.
const KEPT: NonZeroUsize = NonZeroUsize::new(64).unwrap();
const LONGEST_KEPT: usize = 10_000;

/// How long the hub is not asked again for a name or commit that it does not know, and for the history of a branch.
const ABSENT_FOR: Duration = Duration::from_secs(600);
const HISTORY_FOR: Duration = Duration::from_secs(60);

/// The questions that may be asked at a time, and how many more each second: strangers cause them.
const QUESTIONS: f64 = 32.0;
const QUESTIONS_PER_SECOND: f64 = 0.5;

/// The most bytes that are read and discarded where the hub sends a whole file instead of a part.
const MAX_SKIPPED: u64 = 1 << 20;

/// The files of a commit; none if the hub does not know the commit.
pub(super) type Files = Option<Arc<Vec<HubFile>>>;

/// The commits of a revision, the newest first.
type History = Arc<Vec<GitOid>>;

/// The answers that are remembered.
pub(super) struct Asks {
    /// Lists do not change; that a commit is unknown may.
    lists: Mutex<LruCache<(ModelName, GitOid), (Files, Instant)>>,
    histories: Mutex<LruCache<ModelRef, (History, Instant)>>,
    /// Simultaneous questions for one list or history are asked once.
    turns: Jobs<ModelName>,
    left: Mutex<(f64, Instant)>,
}

impl Default for Asks {
    fn default() -> Self {
        Self {
            lists: Mutex::new(LruCache::new(KEPT)),
            histories: Mutex::new(LruCache::new(KEPT)),
            turns: Jobs::default(),
            left: Mutex::new((QUESTIONS, Instant::now())),
        }
    }
}

impl Asks {
    /// Charges one question. Returns whether it may be asked.
    fn charge(&self, now: Instant) -> bool {
        let mut left = self.left.lock();
        let refill = now.saturating_duration_since(left.1).as_secs_f64() * QUESTIONS_PER_SECOND;
        *left = ((left.0 + refill).min(QUESTIONS), now);
        let is_enough = left.0 >= 1.0;
        if is_enough {
            left.0 -= 1.0;
        }
        is_enough
    }

    fn known_list(&self, at: &(ModelName, GitOid)) -> Option<Files> {
        let mut lists = self.lists.lock();
        let (files, asked) = lists.get(at)?;
        (files.is_some() || asked.elapsed() < ABSENT_FOR).then(|| files.clone())
    }

    fn known_history(&self, model: &ModelRef) -> Option<History> {
        let mut histories = self.histories.lock();
        let (commits, asked) = histories.get(model)?;
        (asked.elapsed() < HISTORY_FOR).then(|| commits.clone())
    }
}

/// Asks the hub about one model, with the access of one mount or command.
pub(super) struct Question<'a> {
    pub node: &'a Arc<Node>,
    pub access: &'a Arc<HubAccess>,
    pub model: &'a ModelRef,
}

impl Question<'_> {
    fn asks(&self) -> &Asks {
        &self.node.witness.asks
    }

    /// The files of a commit according to the hub. `None` if the hub was not asked or did not answer. The caller has a
    /// deadline.
    pub async fn files(&self, commit: GitOid) -> Option<Files> {
        let known = self.node.hub.get(self.model);
        if let Some(listing) = known.as_ref().map(|known| &hub_of(known).listing)
            && listing.commit == commit
            && (!listing.is_restricted() || self.access.is_accepted(self.model))
        {
            return Some(Some(Arc::new(listing.files.clone())));
        }
        let at = (self.model.name.clone(), commit);
        if let Some(known) = self.asks().known_list(&at) {
            return Some(known);
        }
        let _turn = self.asks().turns.turn(&self.model.name).await;
        if let Some(known) = self.asks().known_list(&at) {
            return Some(known);
        }
        if !self.asks().charge(Instant::now()) {
            tracing::warn!(model = %self.model, "too many questions to the hub about manifests of strangers");
            return None;
        }
        let source = self.access.source_at(&self.model.name, commit);
        let files = match source.snapshot().await {
            Ok(found) if found.commit == commit => {
                let files = found.files.iter().map(|file| HubFile {
                    path: file.path.clone(),
                    size: file.size,
                    identity: file.identity,
                });
                let files = Arc::new(files.collect::<Vec<_>>());
                if found.gated || found.private == Some(true) || files.len() > LONGEST_KEPT {
                    // The answer depends on the token, or is long.
                    return Some(Some(files));
                }
                Some(files)
            }
            Ok(_) => None,
            Err(error) if is_unknown(&error) => None,
            Err(error) => {
                tracing::debug!(model = %self.model, %commit, %error, "the hub did not list a commit");
                return None;
            }
        };
        self.asks().lists.lock().put(at, (files.clone(), Instant::now()));
        Some(files)
    }

    /// The position of a commit in the history of the revision of the model: 0 is the newest. None if it is in no page of the
    /// history that was read, or if the hub did not answer. The caller has a deadline.
    pub async fn age(&self, commit: GitOid) -> Option<usize> {
        let commits = match self.asks().known_history(self.model) {
            Some(known) => known,
            None => self.history(commit).await?,
        };
        commits.iter().position(|known| *known == commit)
    }

    /// The history of the revision, or only its newest commit if that is the one sought.
    async fn history(&self, sought: GitOid) -> Option<History> {
        let source = self.access.source(&self.model.name, reference_of(&self.model.revision));
        let explain = |error: MirrorError| {
            tracing::debug!(model = %self.model, %error, "the hub did not send a history");
        };
        let newest = source.newest().await.map_err(explain).ok()?;
        if newest == sought {
            return Some(Arc::new(vec![newest]));
        }
        let mut commits = source.history().await.map_err(explain).unwrap_or_default();
        if commits.first() != Some(&newest) {
            commits.insert(0, newest);
        }
        let commits = Arc::new(commits);
        self.asks().histories.lock().put(self.model.clone(), (commits.clone(), Instant::now()));
        Some(commits)
    }

    /// Bytes of a file of a commit. None if the hub did not send all of them. The caller has a deadline, and bounds the length.
    pub async fn bytes(&self, commit: GitOid, file: &HubFile, part: Range<u64>) -> Option<Vec<u8>> {
        if !self.asks().charge(Instant::now()) {
            return None;
        }
        match self.request(commit, &remote(file), part).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::debug!(model = %self.model, path = file.path, %error, "the hub did not send a part of a file");
                None
            }
        }
    }

    async fn request(
        &self,
        commit: GitOid,
        file: &RemoteFile,
        part: Range<u64>,
    ) -> Result<Option<Vec<u8>>, MirrorError> {
        let source = self.access.source_at(&self.model.name, commit);
        let _permit = source.permit().await;
        let opened = source.open_range(file, part.clone()).await?;
        let Some(mut body) = opened.from(part.start, MAX_SKIPPED) else { return Ok(None) };
        let len = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let Some(next) = body.try_next().await? else { return Ok(None) };
            bytes.extend_from_slice(&next);
        }
        bytes.truncate(len);
        Ok(Some(bytes))
    }
}

fn is_unknown(error: &MirrorError) -> bool {
    matches!(error, MirrorError::NotFound { .. } | MirrorError::NoReference { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_cause_any_number_of_questions() {
        let asks = Asks::default();
        let now = Instant::now();
        let granted = (0..100).filter(|_| asks.charge(now)).count();
        assert_eq!(granted, QUESTIONS as usize);
        let later = now + Duration::from_secs(10);
        assert_eq!((0..100).filter(|_| asks.charge(later)).count(), 5);
    }

    #[test]
    fn lists_are_kept_and_absence_is_not_kept_for_ever() {
        let asks = Asks::default();
        let at = |name: &str| (name.parse::<ModelName>().unwrap(), GitOid([1; 20]));
        let long_ago = Instant::now().checked_sub(2 * ABSENT_FOR).unwrap_or_else(Instant::now);
        asks.lists.lock().put(at("a/known"), (Some(Arc::default()), long_ago));
        asks.lists.lock().put(at("a/absent"), (None, Instant::now()));
        assert_eq!(asks.known_list(&at("a/known")), Some(Some(Arc::default())));
        assert_eq!(asks.known_list(&at("a/absent")), Some(None));
        assert_eq!(asks.known_list(&at("a/other")), None);
    }
}
