//! One search for one question, however many ask it at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::CatalogError;

/// How far a search is.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress<V> {
    /// What is found so far.
    pub found: V,
    /// Every connected peer has answered that it has nothing. The search may go on by other means.
    pub peers_have_none: bool,
    /// It is over.
    pub over: Option<End>,
}

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// There is no more to find.
    Certain,
    /// Its time was over.
    Time,
}

/// What a search was waited for.
pub(super) struct Outcome<V> {
    /// What was found by then.
    pub found: V,
    /// The search, where it goes on as long as this is kept.
    pub rest: Option<watch::Receiver<Progress<V>>>,
}

/// Where a search tells what it finds.
pub(super) type Report<V> = watch::Sender<Progress<V>>;

/// The searches that run.
pub(super) struct Flights<K, V>(Mutex<HashMap<K, Weak<Report<V>>>>);

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone, V: Clone + Default + Send + Sync + 'static> Flights<K, V> {
    /// [`Self::wait_until`] the search is over.
    pub async fn wait<F>(
        &self,
        key: &K,
        deadline: Instant,
        stopped: &watch::Sender<bool>,
        nothing: impl Fn(&V) -> bool,
        search: impl Fn(Arc<Report<V>>) -> F,
    ) -> Result<V, CatalogError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Ok(self.wait_until(key, deadline, stopped, |_| false, nothing, search).await?.found)
    }

    /// Waits for the search for a key, and begins it with `search` where none runs; at most until the deadline, or until
    /// `enough`. Gives what was found by then, whether or not the search goes on for others. It ends when nothing waits
    /// for it.
    pub async fn wait_until<F>(
        &self,
        key: &K,
        deadline: Instant,
        stopped: &watch::Sender<bool>,
        enough: impl Fn(&Progress<V>) -> bool,
        nothing: impl Fn(&V) -> bool,
        search: impl Fn(Arc<Report<V>>) -> F,
    ) -> Result<Outcome<V>, CatalogError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut stop = stopped.subscribe();
        loop {
            let mut progress = self.join(key, stopped, &search);
            tokio::select! {
                _ = progress.wait_for(|p| p.over.is_some() || enough(p)) => {}
                _ = stop.wait_for(|stopped| *stopped) => return Err(CatalogError::Stopped),
                () = tokio::time::sleep_until(deadline) => {}
            }
            let state = progress.borrow().clone();
            if state.over.is_none() && enough(&state) {
                return Ok(Outcome { found: state.found, rest: Some(progress) });
            }
            let Progress { found, over, .. } = state;
            // It may have run out of the time of another who asked, while ours goes on.
            let over = over == Some(End::Certain) || Instant::now() >= deadline;
            if over || !nothing(&found) {
                return Ok(Outcome { found, rest: None });
            }
        }
    }

    fn join<F>(
        &self,
        key: &K,
        stopped: &watch::Sender<bool>,
        search: impl Fn(Arc<Report<V>>) -> F,
    ) -> watch::Receiver<Progress<V>>
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
        let report = Arc::new(Report::new(Progress::default()));
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
