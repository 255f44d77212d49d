//! Figures of transfers, for `status` and progress bars.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::state::State;
use super::transfer::{Phase, Transfer};
use super::waiters::Kind;
use super::{Fetch, lock};
use crate::model::InfoHash;
use crate::store::StoredRevision;

/// A read that has waited this long is reported as stalled.
pub const STALLED: Duration = Duration::from_secs(2);

/// Stalled files reported of one transfer.
pub const MAX_STALLED: usize = 16;

/// A revision's figures for `status` and progress bars.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TransferStatus {
    /// The torrent.
    pub info_hash: InfoHash,
    /// `org/name@revision`.
    pub model: String,
    /// Verified bytes here.
    pub cached_bytes: u64,
    /// Bytes in all.
    pub total_size: u64,
    /// Payload bytes received from peers by this node.
    pub downloaded: u64,
    /// Bytes received over HTTP by this node.
    #[serde(default)]
    pub downloaded_web: u64,
    /// Payload bytes sent by this node.
    pub uploaded: u64,
    /// Payload bytes received from peers per second.
    pub download_rate: u64,
    /// Bytes received over HTTP per second.
    #[serde(default)]
    pub web_rate: u64,
    /// Payload bytes sent per second.
    pub upload_rate: u64,
    /// Connected peers.
    pub peers: u32,
    /// Connected peers that have everything. A peer that sends nothing although pieces are wanted does not count.
    pub seeds: u32,
    /// Reads that wait now.
    pub waiting_reads: usize,
    /// The files of which reads have waited for [`STALLED`] or longer, the longest wait first; at most [`MAX_STALLED`].
    #[serde(default)]
    pub stalled: Vec<StalledRead>,
    /// Bytes of the cache that were verified, turned out damaged since this node started, and were withdrawn.
    #[serde(default)]
    pub damaged_bytes: u64,
    /// The last thing that went wrong, for people.
    pub last_error: Option<String>,
}

/// Reads of one file that have waited for some time.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StalledRead {
    /// Path of the file in its model.
    pub file: String,
    /// Reads of it that have waited so long.
    pub waiting_reads: usize,
    /// Seconds since the first of them began.
    pub seconds: u64,
    /// Why they wait, for people.
    pub reason: String,
}

impl TransferStatus {
    fn of(
        transfer: &Transfer,
        waiting_reads: usize,
        stalled: Vec<StalledRead>,
    ) -> (Arc<StoredRevision>, Self) {
        let manifest = &transfer.revision.manifest;
        let (downloaded, uploaded) = transfer.totals();
        let web = transfer.web.as_ref().map(|web| web.figures(Instant::now()));
        let (downloaded_web, web_rate) = web.unwrap_or_default();
        let status = Self {
            info_hash: manifest.torrent.info_hash,
            model: manifest.model_ref().to_string(),
            cached_bytes: 0,
            total_size: manifest.total_size,
            downloaded,
            downloaded_web,
            uploaded,
            download_rate: transfer.stats.download_rate,
            web_rate,
            upload_rate: transfer.stats.upload_rate,
            peers: transfer.stats.peers.max(u32::try_from(transfer.peers.len()).unwrap_or(u32::MAX)),
            seeds: transfer.full_peers(),
            waiting_reads,
            stalled,
            damaged_bytes: transfer.damaged,
            last_error: transfer.last_error.clone(),
        };
        (transfer.revision.clone(), status)
    }
}

impl StalledRead {
    /// The reads of a transfer's files that have stalled.
    fn of(transfer: &Transfer, info_hash: &InfoHash, state: &State, now: Instant) -> Vec<Self> {
        let mut files: BTreeMap<usize, (usize, Duration)> = BTreeMap::new();
        for waiter in state.waiters().filter(|w| w.kind == Kind::Read && w.via.0 == *info_hash) {
            let waited = now.duration_since(waiter.since);
            if waited >= STALLED {
                let (reads, longest) = files.entry(waiter.via.1).or_default();
                *reads += 1;
                *longest = waited.max(*longest);
            }
        }
        let mut files: Vec<_> = files.into_iter().collect();
        files.sort_by_key(|(_, (_, longest))| std::cmp::Reverse(*longest));
        let of = |(file, (waiting_reads, longest)): (usize, (usize, Duration))| Self {
            file: transfer.revision.manifest.files[file].path.to_string(),
            waiting_reads,
            seconds: longest.as_secs(),
            reason: transfer.why_it_waits(now),
        };
        files.into_iter().take(MAX_STALLED).map(of).collect()
    }
}

fn in_swarm(transfer: &Transfer) -> Option<Arc<StoredRevision>> {
    (!matches!(transfer.phase, Phase::Failed { .. })).then(|| transfer.revision.clone())
}

impl Fetch {
    /// Figures of all joined revisions, by name.
    pub fn status(&self) -> Vec<TransferStatus> {
        self.figures(|_| true)
    }

    /// Figures of one joined revision.
    pub fn progress(&self, info_hash: &InfoHash) -> Option<TransferStatus> {
        self.figures(|ih| ih == info_hash).pop()
    }

    /// The revisions whose swarms are joined, those left out that the engine refused.
    pub fn joined(&self) -> Vec<Arc<StoredRevision>> {
        let state = lock(&self.state);
        state.transfers.values().filter_map(in_swarm).collect()
    }

    /// The revision as which a torrent's swarm is joined.
    pub fn joined_as(&self, info_hash: &InfoHash) -> Option<Arc<StoredRevision>> {
        lock(&self.state).transfers.get(info_hash).and_then(in_swarm)
    }

    fn figures(&self, which: impl Fn(&InfoHash) -> bool) -> Vec<TransferStatus> {
        let found: Vec<_> = {
            let state = lock(&self.state);
            let now = Instant::now();
            let stalled = |ih, transfer| StalledRead::of(transfer, ih, &state, now);
            let waiting =
                |ih: &InfoHash| state.waiters().filter(|w| w.kind == Kind::Read && w.via.0 == *ih).count();
            let picked = state.transfers.iter().filter(|(ih, _)| which(ih));
            picked
                .map(|(ih, transfer)| TransferStatus::of(transfer, waiting(ih), stalled(ih, transfer)))
                .collect()
        };
        // Counting blocks takes the contents' own locks and some time: not under ours.
        let mut all: Vec<TransferStatus> = found
            .into_iter()
            .map(|(revision, status)| TransferStatus { cached_bytes: revision.cached_bytes(), ..status })
            .collect();
        all.sort_by(|a, b| (&a.model, a.info_hash).cmp(&(&b.model, b.info_hash)));
        all
    }
}
