//! Figures of models that are read from a hub, for `status`.

use serde::{Deserialize, Serialize};

use super::state::{HubState, Reading};
use crate::fetch::status::STALLED;
use crate::store::StoredRevision;

/// A model that is read from a hub, as `status` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubStatus {
    /// `org/name@revision`.
    pub model: String,
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// Bytes of it that are on this host.
    pub cached_bytes: u64,
    /// Bytes of all files.
    pub total_size: u64,
    /// Bytes received since the node started.
    pub downloaded: u64,
    /// Requests that are under way.
    pub requests: usize,
    /// Reads that wait now.
    pub waiting_reads: usize,
    /// Whether the hub has a newer commit of it.
    #[serde(default)]
    pub newer: bool,
    /// The reason why reads of it wait or failed last, for people.
    pub trouble: Option<String>,
}

impl HubStatus {
    /// The figures of a model that is read from a hub; none for another model.
    pub(super) fn of(state: &HubState, revision: &StoredRevision) -> Option<Self> {
        let listing = &revision.hub.as_ref()?.listing;
        let of_it = || state.files.values().filter(|reading| reading.is_of(&listing.model));
        let waiting = |reading: &Reading| reading.waiters.values().filter(|wait| !wait.is_job).count();
        let stalled = of_it().find(|reading| {
            reading.waiters.values().any(|wait| wait.since.elapsed() >= STALLED) && reading.running.is_empty()
        });
        let trouble = state.troubles.get(&listing.model).cloned();
        let (downloaded, requests, waiting_reads) = (
            state.received.get(&listing.model).copied().unwrap_or(0),
            of_it().map(|reading| reading.running.len()).sum(),
            of_it().map(waiting).sum(),
        );
        let trouble = trouble.or_else(|| stalled.map(|reading| reading.why_it_waits(&state.origins)));
        Some(Self {
            model: listing.model.to_string(),
            commit: listing.commit.to_string(),
            cached_bytes: revision.cached_bytes(),
            total_size: revision.manifest.total_size,
            downloaded,
            requests,
            waiting_reads,
            newer: listing.newer.is_some(),
            trouble,
        })
    }
}
