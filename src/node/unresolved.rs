//! The models that a mount could not show, with the reason, for `status`: a program that looks one up learns only that
//! it is absent.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::mount::RequestedModel;

/// The most names that are remembered.
const MAX_REMEMBERED: usize = 256;

/// A path of the mount that could not be resolved, as `status` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnresolvedName {
    /// The path of the model, relative to the mount point.
    pub model: String,
    /// The reason.
    pub reason: String,
    /// Seconds since it was looked up last.
    pub seconds: u64,
    /// The paths of the model of each publisher, if several dispute the name.
    #[serde(default)]
    pub paths: Vec<PathBuf>,
}

/// The latest unresolved names, the newest last.
#[derive(Debug, Default)]
pub(super) struct Unresolved(Mutex<VecDeque<UnresolvedEntry>>);

#[derive(Debug)]
struct UnresolvedEntry {
    sought: RequestedModel,
    reason: String,
    /// Whether it was not found, instead of refused.
    is_absent: bool,
    paths: Vec<PathBuf>,
    when: Instant,
}

impl Unresolved {
    /// Adds a path that cannot be shown. `paths` are the paths of the models of the publishers that dispute its name.
    pub fn note(&self, sought: &RequestedModel, is_absent: bool, reason: String, paths: Vec<PathBuf>) {
        let mut latest = self.0.lock();
        latest.retain(|known| known.sought != *sought);
        if latest.len() >= MAX_REMEMBERED {
            latest.pop_front();
        }
        latest.push_back(UnresolvedEntry {
            sought: sought.clone(),
            reason,
            is_absent,
            paths,
            when: Instant::now(),
        });
    }

    /// Removes a path that has been resolved.
    pub fn forget(&self, sought: &RequestedModel) {
        self.0.lock().retain(|known| known.sought != *sought);
    }

    /// The reason why a path was not resolved; none if it was not looked up.
    pub fn reason(&self, sought: &RequestedModel) -> Option<String> {
        self.0.lock().iter().find(|known| known.sought == *sought).map(|known| known.reason.clone())
    }

    /// Removes all: a change may have removed every reason.
    pub fn clear(&self) {
        self.0.lock().clear();
    }

    /// The names that `status` reports, without absent models that are `known` by now.
    pub fn status(&self, known: impl Fn(&RequestedModel) -> bool) -> Vec<UnresolvedName> {
        self.0.lock().retain(|entry| !entry.is_absent || !known(&entry.sought));
        let of = |entry: &UnresolvedEntry| UnresolvedName {
            model: entry.sought.to_string(),
            reason: entry.reason.clone(),
            seconds: entry.when.elapsed().as_secs(),
            paths: entry.paths.clone(),
        };
        self.0.lock().iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_reasons_are_remembered_up_to_a_bound() {
        let unresolved = Unresolved::default();
        let model =
            |n: usize| RequestedModel { model: format!("acme/m{n}").parse().unwrap(), publisher: None };
        for n in 0..MAX_REMEMBERED + 3 {
            unresolved.note(&model(n), true, "one".to_owned(), Vec::new());
        }
        unresolved.note(&model(5), false, "another".to_owned(), Vec::new());
        let status = unresolved.status(|_| false);
        assert_eq!(status.len(), MAX_REMEMBERED);
        assert_eq!(status[0].model, "acme/m3");
        let last = status.last().unwrap();
        assert_eq!((last.model.as_str(), last.reason.as_str()), ("acme/m5", "another"));
        // A model that is known by now is reported only if it was refused.
        let known = unresolved.status(|sought| [model(5), model(6)].contains(sought));
        assert_eq!(known.len(), MAX_REMEMBERED - 1);
        assert_eq!(known.last().unwrap().model, "acme/m5");
        unresolved.forget(&model(5));
        assert!(unresolved.status(|_| false).iter().all(|name| name.model != "acme/m5"));
        unresolved.clear();
        assert!(unresolved.status(|_| false).is_empty());
    }
}
