//! The models that a mount was asked for and could not show, for `status`: a program that looks them up is told only
//! that they are not there.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::Node;
use crate::model::ModelRef;

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
}

/// The latest of them, the newest last.
#[derive(Debug, Default)]
pub(super) struct Unresolved(Mutex<VecDeque<(ModelRef, String, Instant)>>);

impl Unresolved {
    fn note(&self, model: &ModelRef, reason: String) {
        let mut latest = self.lock();
        latest.retain(|(known, ..)| known != model);
        if latest.len() >= MAX_REMEMBERED {
            latest.pop_front();
        }
        latest.push_back((model.clone(), reason, Instant::now()));
    }

    fn forget(&self, model: &ModelRef) {
        self.lock().retain(|(known, ..)| known != model);
    }

    /// Forgets all: what changed may have removed every reason.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// What `status` tells.
    pub fn status(&self) -> Vec<UnresolvedName> {
        let of = |(model, reason, when): &(ModelRef, String, Instant)| UnresolvedName {
            model: model.to_string(),
            reason: reason.clone(),
            seconds: when.elapsed().as_secs(),
        };
        self.lock().iter().map(of).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(ModelRef, String, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Notes what became of a lookup of a model that was not known; a reason is why it cannot be shown.
    pub fn note_lookup(&self, model: &ModelRef, reason: Option<&str>) {
        match reason {
            Some(reason) => self.unresolved.note(model, reason.to_owned()),
            None => self.unresolved.forget(model),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_reason_for_each_is_remembered_and_not_more_than_so_many() {
        let unresolved = Unresolved::default();
        let model = |n: usize| -> ModelRef { format!("acme/m{n}").parse().unwrap() };
        for n in 0..MAX_REMEMBERED + 3 {
            unresolved.note(&model(n), "one".to_owned());
        }
        unresolved.note(&model(5), "another".to_owned());
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
