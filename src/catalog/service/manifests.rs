//! Fetching manifests from peers.
//!
//! `manifest_transfer` decides which peers are asked, and in which order. This module shares one transfer between
//! callers that want the same manifest, and bounds the memory of all transfers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::core::Core;
use super::holders::Holders;
use super::manifest_transfer::{ManifestKey, ManifestTransfer};
use super::shared_search::{ProgressSender, SearchEnd, SharedSearches};
use super::types::{Candidate, CatalogError};
use crate::model::ModelRef;
use crate::model::manifest::MAX_MANIFEST;

/// Memory for manifests that records announce, in KiB: the largest manifest. Manifests that peers only claim to hold have
/// as much of their own, so invented manifests cannot use up the memory for announced ones.
const MEMORY: usize = MAX_MANIFEST / 1024;

/// The manifests that are being fetched.
pub(super) struct ManifestTransfers {
    holders: Arc<Holders>,
    running: SharedSearches<ManifestKey, Option<Arc<Vec<u8>>>>,
    announced_memory: Arc<Semaphore>,
    claimed_memory: Arc<Semaphore>,
}

impl ManifestTransfers {
    pub fn new(holders: Arc<Holders>) -> Self {
        Self {
            holders,
            running: SharedSearches::default(),
            announced_memory: Arc::new(Semaphore::new(MEMORY)),
            claimed_memory: Arc::new(Semaphore::new(MEMORY)),
        }
    }

    /// The manifest of a candidate, compared with its digest.
    pub async fn fetch(
        &self,
        core: &Arc<Core>,
        model: &ModelRef,
        candidate: &Candidate,
        within: Duration,
    ) -> Result<Vec<u8>, CatalogError> {
        if let Some(json) = core.local.holdings.manifest(&candidate.manifest) {
            return Ok(json.to_vec());
        }
        let deadline = Instant::now() + within;
        let none = || CatalogError::NoManifest { model: model.clone() };
        if !(1..=MAX_MANIFEST).contains(&(candidate.manifest_len as usize)) {
            return Err(none());
        }
        let key = ManifestKey {
            digest: candidate.manifest,
            len: candidate.manifest_len,
            info_hash: candidate.info_hash,
            announced: candidate.record.is_some(),
        };
        let memory = if key.announced { &self.announced_memory } else { &self.claimed_memory };
        let begin = |progress: Arc<ProgressSender<_>>| {
            let (holders, memory) = (Arc::clone(&self.holders), Arc::clone(memory));
            let transfer = ManifestTransfer::new(Arc::clone(core), holders, memory, model, key, deadline);
            async move {
                let found = transfer.run().await;
                let end = if found.is_none() { SearchEnd::Time } else { SearchEnd::Certain };
                progress.send_modify(|p| (p.found, p.over) = (found.map(Arc::new), Some(end)));
            }
        };
        let outcome =
            self.running.wait(&key, deadline, &core.stopped, |_| false, Option::is_none, begin).await?;
        outcome.found.map(Arc::unwrap_or_clone).ok_or_else(none)
    }
}
