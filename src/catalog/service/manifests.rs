//! Fetching a manifest from whoever hands it out.
//!
//! `transfer` says who is asked, and in which order; here is what several transfers share: those of one manifest are
//! one, the memory of all together is bounded, and a model's swarm is met once.

mod transfer;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::core::Core;
use super::flights::{End, Flights, Report};
use super::{Candidate, CatalogError};
use crate::model::codec::MAX_MANIFEST;
use crate::model::{InfoHash, ModelRef, Sha256Digest};
use crate::torrent::{Meeting, TorrentId};
pub use transfer::PART_WITHIN;

/// Memory of the manifests being fetched that records announce, in KiB, and as much again for those that peers merely
/// say to hold: the largest. So nobody who invents manifests takes the room of those that somebody has signed for.
const MEMORY: usize = MAX_MANIFEST / 1024;

/// A manifest of so many bytes takes no turn: nearly all have fewer, and what is asked for at once is bounded.
const SMALL: u32 = 128 * 1024;

/// Which manifest: by its digest, its length as it is said, the swarm it is looked for in, and whether a record
/// announces it.
type Key = (Sha256Digest, u32, InfoHash, bool);

/// The manifests being fetched.
pub(super) struct Transfers {
    running: Flights<Key, Option<Arc<Vec<u8>>>>,
    announced: Arc<Semaphore>,
    claimed: Arc<Semaphore>,
    /// Models' swarms that are met, and for how many transfers.
    meetings: Mutex<HashMap<InfoHash, (TorrentId, usize)>>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            running: Flights::default(),
            announced: Arc::new(Semaphore::new(MEMORY)),
            claimed: Arc::new(Semaphore::new(MEMORY)),
            meetings: Mutex::default(),
        }
    }
}

impl Transfers {
    /// Waits for the memory that a manifest takes. One who waits is served in turn, and holds nothing meanwhile.
    async fn room(&self, &(_, len, _, announced): &Key) -> Option<OwnedSemaphorePermit> {
        let memory = if announced { &self.announced } else { &self.claimed };
        let takes = if len <= SMALL { 0 } else { len.div_ceil(1024) };
        // It is never closed.
        Arc::clone(memory).acquire_many_owned(takes).await.ok()
    }
}

/// The manifest of a candidate; its digest is checked.
pub(super) async fn fetch(
    core: &Arc<Core>,
    model: &ModelRef,
    candidate: &Candidate,
    within: Duration,
) -> Result<Vec<u8>, CatalogError> {
    if let Some(json) = core.known.holdings.manifest(&candidate.manifest) {
        return Ok(json.to_vec());
    }
    let deadline = Instant::now() + within;
    let none = || CatalogError::NoManifest { model: model.clone() };
    if !(1..=MAX_MANIFEST).contains(&(candidate.manifest_len as usize)) {
        return Err(none());
    }
    let announced = candidate.record.is_some();
    let key = (candidate.manifest, candidate.manifest_len, candidate.info_hash, announced);
    let begin = |report: Arc<Report<_>>| {
        let (core, model) = (Arc::clone(core), model.clone());
        async move { run(&core, &model, key, deadline, &report).await }
    };
    let running = &core.transfers.running;
    let found = running.wait(&key, deadline, &core.stopped, Option::is_none, begin).await?;
    found.map(Arc::unwrap_or_clone).ok_or_else(none)
}

async fn run(
    core: &Arc<Core>,
    model: &ModelRef,
    key: Key,
    deadline: Instant,
    report: &Report<Option<Arc<Vec<u8>>>>,
) {
    let found = transfer::Transfer::new(core, model, key).run(deadline).await;
    let end = if found.is_none() { End::Time } else { End::Certain };
    report.send_modify(|p| (p.found, p.over) = (found.map(Arc::new), Some(end)));
}

/// A meeting in a model's swarm; left when the last who needs it is gone. None where the torrent is in the engine:
/// its peers speak already.
struct Met {
    core: Arc<Core>,
    info_hash: InfoHash,
    joined: bool,
}

impl Met {
    fn new(core: &Arc<Core>, info_hash: InfoHash) -> Self {
        let mut meetings = meetings(core);
        let joined = match meetings.get_mut(&info_hash) {
            Some((_, users)) => {
                *users += 1;
                true
            }
            None => match core.overlay.meet(Meeting::Model(info_hash), &core.settings.peers.list()) {
                Ok(id) => {
                    meetings.insert(info_hash, (id, 1));
                    true
                }
                Err(error) => {
                    tracing::debug!(%info_hash, %error, "the model's swarm is not met");
                    false
                }
            },
        };
        drop(meetings);
        Self { core: Arc::clone(core), info_hash, joined }
    }
}

fn meetings(core: &Core) -> MutexGuard<'_, HashMap<InfoHash, (TorrentId, usize)>> {
    core.transfers.meetings.lock()
}

impl Drop for Met {
    fn drop(&mut self) {
        let mut meetings = meetings(&self.core);
        let Some((id, users)) = meetings.get_mut(&self.info_hash).filter(|_| self.joined) else { return };
        *users -= 1;
        if *users == 0 {
            if let Err(error) = self.core.overlay.leave(*id) {
                tracing::debug!(%error, "a model's swarm is not left");
            }
            meetings.remove(&self.info_hash);
        }
    }
}
