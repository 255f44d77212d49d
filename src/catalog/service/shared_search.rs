//! One search for each question, shared by all callers that ask it at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::types::CatalogError;

/// The progress of a search.
#[derive(Debug, Clone, Default)]
pub(super) struct SearchProgress<V> {
    /// The results so far.
    pub found: V,
    /// Every connected peer has answered that it has nothing. The search may continue by other means.
    pub peers_have_none: bool,
    /// Set when the search is over.
    pub over: Option<SearchEnd>,
}

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SearchEnd {
    /// There is nothing more to find.
    Certain,
    /// Its deadline passed.
    Time,
}

/// The result for a caller.
pub(super) struct SearchOutcome<V> {
    /// The results when the wait ended.
    pub found: V,
    /// The search, if it still runs. It runs for as long as this receiver exists.
    pub rest: Option<watch::Receiver<SearchProgress<V>>>,
}

/// Reports the progress of a search.
pub(super) type ProgressSender<V> = watch::Sender<SearchProgress<V>>;

/// The searches that run.
pub(super) struct SharedSearches<K, V>(Mutex<HashMap<K, Weak<ProgressSender<V>>>>);

impl<K, V> Default for SharedSearches<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone, V: Clone + Default + Send + Sync + 'static> SharedSearches<K, V> {
    /// Waits for the search for a key until it is over, `enough` holds, or the deadline passes. Begins it with `search` if
    /// none runs. The search continues while another caller waits for it.
    pub async fn wait<F>(
        &self,
        key: &K,
        deadline: Instant,
        stopped: &watch::Sender<bool>,
        enough: impl Fn(&SearchProgress<V>) -> bool,
        nothing: impl Fn(&V) -> bool,
        search: impl Fn(Arc<ProgressSender<V>>) -> F,
    ) -> Result<SearchOutcome<V>, CatalogError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut stop = stopped.subscribe();
        loop {
            let mut progress = self.join(key, stopped, &search);
            tokio::select! {
                // First, because a stop also ends the search that is waited for.
                biased;
                _ = stop.wait_for(|stopped| *stopped) => return Err(CatalogError::Stopped),
                _ = progress.wait_for(|p| p.over.is_some() || enough(p)) => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
            let state = progress.borrow().clone();
            if state.over.is_none() && enough(&state) {
                return Ok(SearchOutcome { found: state.found, rest: Some(progress) });
            }
            let SearchProgress { found, over, .. } = state;
            // The search may have reached the deadline of an earlier caller.
            let over = over == Some(SearchEnd::Certain) || Instant::now() >= deadline;
            if over || !nothing(&found) {
                return Ok(SearchOutcome { found, rest: None });
            }
        }
    }

    fn join<F>(
        &self,
        key: &K,
        stopped: &watch::Sender<bool>,
        search: impl Fn(Arc<ProgressSender<V>>) -> F,
    ) -> watch::Receiver<SearchProgress<V>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut running = self.0.lock();
        if let Some(report) = running.get(key).and_then(Weak::upgrade) {
            let progress = report.subscribe();
            if progress.borrow().over.is_none() {
                return progress;
            }
        }
        running.retain(|_, report| report.strong_count() > 0);
        let report = Arc::new(ProgressSender::new(SearchProgress::default()));
        let progress = report.subscribe();
        running.insert(key.clone(), Arc::downgrade(&report));
        let searching = search(Arc::clone(&report));
        let mut stop = stopped.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                () = searching => {}
                () = report.closed() => {}
                _ = stop.wait_for(|stopped| *stopped) => {}
            }
        });
        progress
    }
}
