//! Figures of transfers, for `status` and progress bars.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::peers::Peers;
use super::state::{FetchState, SharedState};
use super::transfer::Transfer;
use super::waiters::{WaitKind, Waiter};
use crate::model::InfoHash;

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
    /// Verified bytes on this host.
    pub cached_bytes: u64,
    /// Bytes of all files.
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
    /// Connected peers that have everything, without peers that send nothing although pieces are wanted.
    pub seeds: u32,
    /// Reads that wait now.
    pub waiting_reads: usize,
    /// The files of which reads have waited for [`STALLED`] or longer, the longest wait first; at most [`MAX_STALLED`].
    #[serde(default)]
    pub stalled: Vec<StalledRead>,
    /// Bytes of the cache that were verified, turned out damaged since this node started, and were withdrawn.
    #[serde(default)]
    pub damaged_bytes: u64,
    /// The last fault, for people.
    pub last_error: Option<String>,
}

/// Reads of one file that have waited for some time.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StalledRead {
    /// Path of the file in its model.
    pub file: String,
    /// Reads of it that have waited for [`STALLED`] or longer.
    pub waiting_reads: usize,
    /// Seconds since the first of these reads began.
    pub seconds: u64,
    /// Why they wait, for people.
    pub reason: String,
}

impl TransferStatus {
    /// Figures of the transfers that `which` selects, by name.
    pub(super) fn of(state: &SharedState, which: impl Fn(&InfoHash) -> bool) -> Vec<Self> {
        let selected: Vec<_> = {
            let state = state.lock();
            let now = Instant::now();
            let selected = state.transfers.all.values().filter(|transfer| which(&transfer.info_hash()));
            selected.map(|t| (t.revision.clone(), Self::without_cached_bytes(t, &state, now))).collect()
        };
        // Counting blocks takes the contents' own locks and some time: without the lock of the state.
        let mut all: Vec<Self> = selected
            .into_iter()
            .map(|(revision, status)| Self { cached_bytes: revision.cached_bytes(), ..status })
            .collect();
        all.sort_by(|a, b| (&a.model, a.info_hash).cmp(&(&b.model, b.info_hash)));
        all
    }

    fn without_cached_bytes(transfer: &Transfer, state: &FetchState, now: Instant) -> Self {
        let manifest = &transfer.revision.manifest;
        let Peers { stats, connected, .. } = &transfer.peers;
        let (downloaded, uploaded) = transfer.peers.totals();
        let web = transfer.web.as_ref().map(|web| web.figures(now));
        let (downloaded_web, web_rate) = web.unwrap_or_default();
        Self {
            info_hash: manifest.torrent.info_hash,
            model: manifest.model_ref().to_string(),
            cached_bytes: 0,
            total_size: manifest.total_size,
            downloaded,
            downloaded_web,
            uploaded,
            download_rate: stats.download_rate,
            web_rate,
            upload_rate: stats.upload_rate,
            peers: stats.peers.max(u32::try_from(connected.len()).unwrap_or(u32::MAX)),
            seeds: transfer.peers.full(),
            waiting_reads: reads_of(transfer, state).count(),
            stalled: StalledRead::of(transfer, state, now),
            damaged_bytes: transfer.damaged,
            last_error: transfer.last_error.clone(),
        }
    }
}

/// The reads that named a torrent and wait.
fn reads_of<'a>(transfer: &Transfer, state: &'a FetchState) -> impl Iterator<Item = &'a Waiter> {
    let info_hash = transfer.info_hash();
    state.contents.waiters().filter(move |w| w.kind == WaitKind::Read && w.via.0 == info_hash)
}

impl StalledRead {
    /// The reads of a transfer's files that have stalled.
    fn of(transfer: &Transfer, state: &FetchState, now: Instant) -> Vec<Self> {
        let mut files: BTreeMap<usize, (usize, Duration)> = BTreeMap::new();
        for waiter in reads_of(transfer, state) {
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
