//! The answers of the hub that are remembered, and how many questions may be asked.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use crate::model::{GitOid, ModelName, ModelRef};
use crate::node::jobs::Jobs;
use crate::store::HubFile;

/// The lists and histories that are kept in memory, and the number of files of the longest list that is.
const KEPT: NonZeroUsize = NonZeroUsize::new(64).unwrap();
pub(super) const LONGEST_KEPT: usize = 10_000;

/// How long the hub is not asked again for a name or commit that it does not know, and for the history of a branch.
const ABSENT_FOR: Duration = Duration::from_secs(600);
const HISTORY_FOR: Duration = Duration::from_secs(60);

/// The questions that may be asked at a time, and how many more each second: strangers cause them.
const QUESTIONS: f64 = 32.0;
const QUESTIONS_PER_SECOND: f64 = 0.5;

/// The files of which parts may be compared at a time, and how many more each second.
const COMPARISONS: f64 = 64.0;
const COMPARISONS_PER_SECOND: f64 = 1.0;

/// The files of a commit; none if the hub does not know the commit.
pub(super) type Files = Option<Arc<Vec<HubFile>>>;

/// The commits of a revision, the newest first.
pub(super) type History = Arc<Vec<GitOid>>;

/// How many requests may be sent: at most `most` at a time, and `per_second` more each second.
struct Allowance {
    most: f64,
    per_second: f64,
    /// What is left, and when.
    left: Mutex<(f64, Instant)>,
}

impl Allowance {
    fn new(most: f64, per_second: f64) -> Self {
        Self { most, per_second, left: Mutex::new((most, Instant::now())) }
    }

    fn charge(&self, now: Instant) -> bool {
        let mut left = self.left.lock();
        let refill = now.saturating_duration_since(left.1).as_secs_f64() * self.per_second;
        *left = ((left.0 + refill).min(self.most), now);
        let is_enough = left.0 >= 1.0;
        if is_enough {
            left.0 -= 1.0;
        }
        is_enough
    }
}

/// The answers that are remembered.
pub(super) struct Asks {
    /// Lists do not change; that a commit is unknown may.
    pub lists: Mutex<LruCache<(ModelName, GitOid), (Files, Instant)>>,
    pub histories: Mutex<LruCache<ModelRef, (History, Instant)>>,
    /// Simultaneous questions for one list or history are asked once.
    pub turns: Jobs<ModelName>,
    questions: Allowance,
    comparisons: Allowance,
}

impl Default for Asks {
    fn default() -> Self {
        Self {
            lists: Mutex::new(LruCache::new(KEPT)),
            histories: Mutex::new(LruCache::new(KEPT)),
            turns: Jobs::default(),
            questions: Allowance::new(QUESTIONS, QUESTIONS_PER_SECOND),
            comparisons: Allowance::new(COMPARISONS, COMPARISONS_PER_SECOND),
        }
    }
}

impl Asks {
    /// Charges one question. Returns whether it may be asked.
    pub fn charge(&self, now: Instant) -> bool {
        self.questions.charge(now)
    }

    /// Charges the comparison of parts of one file. Returns whether it may be made.
    pub fn charge_comparison(&self, now: Instant) -> bool {
        self.comparisons.charge(now)
    }

    pub fn known_list(&self, at: &(ModelName, GitOid)) -> Option<Files> {
        let mut lists = self.lists.lock();
        let (files, asked) = lists.get(at)?;
        (files.is_some() || asked.elapsed() < ABSENT_FOR).then(|| files.clone())
    }

    pub fn known_history(&self, model: &ModelRef) -> Option<History> {
        let mut histories = self.histories.lock();
        let (commits, asked) = histories.get(model)?;
        (asked.elapsed() < HISTORY_FOR).then(|| commits.clone())
    }
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
