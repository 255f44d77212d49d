//! Figures of transfers, for `status` and progress bars.

use std::sync::Arc;

use tokio::time::Instant;

use super::transfer::{Phase, Transfer};
use super::waiters::Kind;
use super::{Fetch, lock};
use crate::model::InfoHash;
use crate::store::StoredRevision;

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
    /// Connected peers that have everything.
    pub seeds: u32,
    /// Reads that wait now.
    pub waiting_reads: usize,
    /// The last thing that went wrong, for people.
    pub last_error: Option<String>,
}

impl TransferStatus {
    fn of(transfer: &Transfer, waiting_reads: usize) -> (Arc<StoredRevision>, Self) {
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
            seeds: transfer.stats.seeds,
            waiting_reads,
            last_error: transfer.last_error.clone(),
        };
        (transfer.revision.clone(), status)
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
            let waiting =
                |ih: &InfoHash| state.waiters().filter(|w| w.kind == Kind::Read && w.via.0 == *ih).count();
            let picked = state.transfers.iter().filter(|(ih, _)| which(ih));
            picked.map(|(ih, transfer)| TransferStatus::of(transfer, waiting(ih))).collect()
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
