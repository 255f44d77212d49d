//! The models that a mount was asked for and could not show, for `status`: a program that looks them up is told only
//! that they are not there.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Node, NodeError, chain};
use crate::catalog::TrustError;
use crate::mount::Sought;

/// So many of the latest are remembered.
const MAX_REMEMBERED: usize = 16;

/// A model that could not be shown, as `status` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnresolvedName {
    /// Which one.
    pub model: String,
    /// Why.
    pub reason: String,
    /// Seconds since it was looked up last.
    pub seconds: u64,
    /// Where the model of each publisher is read, if several dispute the name.
    #[serde(default)]
    pub paths: Vec<PathBuf>,
}

/// The latest of them, the newest last.
#[derive(Debug, Default)]
pub(super) struct Unresolved(Mutex<VecDeque<Entry>>);

#[derive(Debug)]
struct Entry {
    sought: Sought,
    reason: String,
    paths: Vec<PathBuf>,
    when: Instant,
}

impl Unresolved {
    fn note(&self, sought: &Sought, reason: String, paths: Vec<PathBuf>) {
        let mut latest = self.lock();
        latest.retain(|known| known.sought != *sought);
        if latest.len() >= MAX_REMEMBERED {
            latest.pop_front();
        }
        latest.push_back(Entry { sought: sought.clone(), reason, paths, when: Instant::now() });
    }

    fn forget(&self, sought: &Sought) {
        self.lock().retain(|known| known.sought != *sought);
    }

    /// Forgets all: what changed may have removed every reason.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// What `status` tells.
    pub fn status(&self) -> Vec<UnresolvedName> {
        let of = |entry: &Entry| UnresolvedName {
            model: entry.sought.to_string(),
            reason: entry.reason.clone(),
            seconds: entry.when.elapsed().as_secs(),
            paths: entry.paths.clone(),
        };
        self.lock().iter().map(of).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Notes what became of a lookup of a model that was not known; an error is why it cannot be shown.
    pub fn note_lookup(&self, sought: &Sought, error: Option<&NodeError>) {
        let Some(error) = error else { return self.unresolved.forget(sought) };
        let paths = match error {
            NodeError::Trust(TrustError::Ambiguous { keys, .. }) => self.paths_by(&sought.model, keys),
            _ => Vec::new(),
        };
        self.unresolved.note(sought, chain(error), paths);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_reason_for_each_is_remembered_and_not_more_than_so_many() {
        let unresolved = Unresolved::default();
        let model = |n: usize| Sought { model: format!("acme/m{n}").parse().unwrap(), publisher: None };
        for n in 0..MAX_REMEMBERED + 3 {
            unresolved.note(&model(n), "one".to_owned(), Vec::new());
        }
        unresolved.note(&model(5), "another".to_owned(), Vec::new());
        let status = unresolved.status();
        assert_eq!(status.len(), MAX_REMEMBERED);
        assert_eq!(status[0].model, "acme/m3");
        let last = status.last().unwrap();
        assert_eq!((last.model.as_str(), last.reason.as_str()), ("acme/m5", "another"));
        unresolved.forget(&model(5));
        assert!(unresolved.status().iter().all(|name| name.model != "acme/m5"));
        unresolved.clear();
        assert!(unresolved.status().is_empty());
    }
}
