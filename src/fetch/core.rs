//! The state, and the commands for the engine that follow from its changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::FetchSettings;
use super::issue::Issuer;
use super::state::{FetchState, SharedState};
use crate::model::InfoHash;
use crate::paths::Paths;
use crate::torrent::Swarms;

/// The state with its issuer.
///
/// Lock order: `issuer.issuing`, then `state`, then a content's own, then `guards`. Commands for the engine are queued in
/// the state and issued, in that order, under `issuing`. So the engine receives the commands of two threads in the order of
/// their changes.
pub(super) struct Core {
    pub state: SharedState,
    pub issuer: Issuer,
    /// The torrents that reads wait for and whose peers send nothing.
    pub starving: watch::Sender<BTreeSet<InfoHash>>,
}

impl Core {
    pub fn new(engine: Arc<dyn Swarms>, paths: Paths, settings: Arc<FetchSettings>) -> Arc<Self> {
        Arc::new_cyclic(|core| Self {
            state: SharedState::new(settings.clone()),
            issuer: Issuer::new(core.clone(), engine, paths, settings),
            starving: watch::Sender::default(),
        })
    }

    /// Changes the state, then issues the commands that follow.
    pub fn with<R>(&self, change: impl FnOnce(&mut FetchState) -> R) -> R {
        let (result, has_commands) = self.state.change(change);
        if has_commands {
            self.issuer.issue(&self.state);
        }
        result
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // The timer task ends.
        self.state.timer.notify_one();
    }
}
