//! The models that a mount was asked for and could not show, for `status`: a program that looks them up learns only that
//! they are absent.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::{ErrorKind, Node, NodeError, chain, offline};
use crate::mount::RequestedModel;
use crate::trust::TrustError;

/// So many of the latest are remembered.
const MAX_REMEMBERED: usize = 256;

/// A path of the mount that could not be resolved, as `status` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnresolvedName {
    /// The path of the model, relative to the mount point.
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
    sought: RequestedModel,
    reason: String,
    /// It was not found, rather than refused.
    is_absent: bool,
    paths: Vec<PathBuf>,
    when: Instant,
}

impl Unresolved {
    fn note(&self, sought: &RequestedModel, is_absent: bool, reason: String, paths: Vec<PathBuf>) {
        let mut latest = self.lock();
        latest.retain(|known| known.sought != *sought);
        if latest.len() >= MAX_REMEMBERED {
            latest.pop_front();
        }
        latest.push_back(Entry { sought: sought.clone(), reason, is_absent, paths, when: Instant::now() });
    }

    fn forget(&self, sought: &RequestedModel) {
        self.lock().retain(|known| known.sought != *sought);
    }

    /// Forgets all: what changed may have removed every reason.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// What `status` reports, without the models that are `known` by now.
    pub fn status(&self, known: impl Fn(&RequestedModel) -> bool) -> Vec<UnresolvedName> {
        self.lock().retain(|entry| !entry.is_absent || !known(&entry.sought));
        let of = |entry: &Entry| UnresolvedName {
            model: entry.sought.to_string(),
            reason: entry.reason.clone(),
            seconds: entry.when.elapsed().as_secs(),
            paths: entry.paths.clone(),
        };
        self.lock().iter().map(of).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock()
    }
}

impl Node {
    /// Notes what became of a lookup of a model that was not known; an error is why it cannot be shown.
    pub fn note_lookup(&self, sought: &RequestedModel, error: Option<&NodeError>) {
        let Some(error) = error else { return self.unresolved.forget(sought) };
        if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NoNetwork) {
            return self.unresolved.note(sought, true, self.why_not_found(), Vec::new());
        }
        let paths = match error {
            NodeError::Trust(TrustError::Ambiguous { keys, .. }) => self.paths_by(&sought.model, keys),
            _ => Vec::new(),
        };
        self.unresolved.note(sought, false, chain(error), paths);
    }

    /// Why a name was not found.
    fn why_not_found(&self) -> String {
        let peers = self.catalog.as_ref().map_or(0, |part| part.catalog.status().peers);
        let dht = if self.settings.discovery.dht { ", and the DHT has named none so far" } else { "" };
        match peers {
            0 if !offline::has_network() => "this machine has no network".to_owned(),
            0 => format!("no peer is connected that could be asked{dht}"),
            1 => format!("the connected peer does not have it{dht}"),
            peers => format!("none of the {peers} connected peers has it{dht}"),
        }
    }

    /// Notes a lookup that was not made, because its process has used up its budget. Reads /proc and nothing else.
    pub fn note_over_budget(&self, sought: &RequestedModel, process: u32) {
        self.limited.note(process);
        let max = self.library.config.mount.max_lookups;
        let reason =
            format!("not looked up: process {process} looked up more than {max} unknown names in a minute");
        self.unresolved.note(sought, true, reason, Vec::new());
    }

    /// The paths that could not be resolved.
    pub(super) fn unresolved_names(&self) -> Vec<UnresolvedName> {
        self.unresolved.status(|sought| self.known_as(sought).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_reason_for_each_is_remembered_and_not_more_than_so_many() {
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
