//! Decides which pieces are fetched, and when: reads that wait, the windows ahead of them, whole-file fetching.
//!
//! Readers name a revision and a file; [`Fetch`] joins the swarm when it is first needed, requests the missing pieces, and
//! wakes the readers when a piece is verified. All state is on this side and fed by events; the engine is never queried.
//!
//! Invariants:
//! - Bytes are returned only from verified blocks of a [`Content`](crate::store::Content). A piece is marked there before a
//!   reader is woken, and block maps are tested under the lock under which waiters are registered.
//! - A piece is requested once, however many readers wait for it, and cancelled when no claim is left.
//! - Every wait has a deadline; [`Fetch::stop`] ends all waits.
//!
//! A change goes through `Core::with` (`core`): it locks the state (`state`), changes its parts, and issues the commands that follow
//! (`effects`, `issue`). The parts of the state:
//! - `transfers`: all torrents. Each `transfer` has its `wants` (each `claim` on a piece or on `parts` of it, and the `orders` for
//!   the engine that follow), `peers`, `space` (pieces that wait for space), `unproved` (cached bytes that are not proved) and `handed` (pieces that the engine
//!   was given).
//! - `contents`: the files with the same bytes, with their `waiters` and windows (`window`, `tensors`; `readahead` turns
//!   windows into claims); `routing` chooses the source of a piece.
//! - `web`: pieces over HTTP that peers do not deliver.
//!
//! Models of which no manifest is known are read from a hub, without a torrent: `hub`.
//!
//! Around the state: `reads`, `events` and `outcomes` (events of the engine), `timer`, `saving` (files), `layers` (piece layers
//! that no peer sent), `deletion`, `damage`, `hold`, `status`,
//! `figures` (counters), `small_files` (fetched together), `witness` (the hub, with which `listed` and `comparing` compare bytes).

mod claim;
mod comparing;
mod contents;
mod core;
mod damage;
mod deadline;
mod deletion;
mod effects;
mod events;
mod exposing;
mod exposure;
mod figures;
mod file_ref;
mod guards;
mod handed;
mod hold;
pub mod hub;
mod issue;
mod layers;
mod listed;
mod orders;
mod outcomes;
mod parts;
mod peers;
mod readahead;
mod reads;
mod routing;
mod samples;
mod saving;
mod search;
mod settings;
mod small_files;
mod space;
mod state;
mod status;
mod tensors;
mod timeouts;
mod timer;
mod transfer;
mod transfers;
mod unproved;
mod waiters;
mod wants;
pub mod web;
mod window;
mod witness;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::model::{InfoHash, PieceIndex};
use crate::paths::Paths;
use crate::store::{ContentKey, StoredRevision};
use crate::torrent::Swarms;
pub use deletion::Shedding;
pub use exposure::Exposure;
pub(crate) use figures::ReadFigures;
pub use file_ref::{FileRef, ReadError};
pub(crate) use hold::{EvictionHold, NotReleased};
pub(crate) use listed::different_sha256;
pub(crate) use saving::places;
pub use settings::FetchSettings;
pub use status::{StalledRead, TransferStatus};
pub(crate) use witness::{HubBytes, HubWitness};

use core::Core;
use guards::ReadGuards;
use hub::HubReads;
use samples::Samples;
use small_files::Prefetched;
use transfer::{Phase, Transfer};
use witness::WitnessLink;

/// The scheduler of all transfers of one node.
pub struct Fetch {
    core: Arc<Core>,
    guards: ReadGuards,
    settings: Arc<FetchSettings>,
    /// Models that are read from hubs.
    pub hub: Arc<HubReads>,
    /// Ends hashing in the background.
    cancelled: Arc<AtomicBool>,
    figures: Arc<ReadFigures>,
    prefetched: Prefetched,
    samples: Samples,
    witness: WitnessLink,
}

impl Fetch {
    /// Makes the scheduler, with two tasks of its own on the current tokio runtime. Nothing else happens until a
    /// revision is read, fetched or seeded.
    pub fn new(engine: Arc<dyn Swarms>, paths: Paths, settings: FetchSettings) -> Arc<Self> {
        let settings = Arc::new(settings);
        let core = Core::new(engine, paths, settings.clone());
        tokio::spawn(timer::run(Arc::downgrade(&core), core.state.timer.clone()));
        Arc::new(Self {
            core,
            guards: ReadGuards::default(),
            hub: HubReads::new(settings.clone()),
            settings,
            cancelled: Arc::default(),
            figures: Arc::default(),
            prefetched: Prefetched::default(),
            samples: Samples::default(),
            witness: WitnessLink::default(),
        })
    }

    /// Joins the swarm of a revision, to upload its verified bytes. Idempotent. `Broken` if the engine refuses it, and for a
    /// while afterwards.
    pub fn join(&self, revision: &Arc<StoredRevision>) -> Result<(), ReadError> {
        self.core.with(|state| state.join(revision))?;
        // The command has been issued, here or by a thread that this one waited for.
        let state = self.core.state.lock();
        match state.transfers.all.get(&revision.manifest.torrent.info_hash).map(|t| &t.phase) {
            Some(Phase::Failed { why, .. }) => Err(ReadError::Broken(why.clone())),
            _ => Ok(()),
        }
    }

    /// Names hosts that have a revision, in addition to the peers of the settings. They are called whenever its swarm is
    /// searched, until it is left.
    pub fn introduce(&self, info_hash: &InfoHash, peers: &[SocketAddr]) {
        self.core.with(|state| state.transfers.introduce(*info_hash, peers));
    }

    /// [`Self::introduce`] for all swarms that are joined.
    pub fn introduce_to_all(&self, peers: &[SocketAddr]) {
        self.core.with(|state| {
            for info_hash in state.transfers.all.keys().copied().collect::<Vec<_>>() {
                state.transfers.introduce(info_hash, peers);
            }
        });
    }

    /// Whether bytes of a joined swarm may be sent, or a read waits.
    pub fn has_work(&self) -> bool {
        self.core.state.lock().has_work() || self.hub.has_work()
    }

    /// The torrents that reads wait for while no peer of theirs sends anything, kept up to date. The receiver should
    /// [introduce](Self::introduce) more hosts that have them.
    pub fn starving(&self) -> watch::Receiver<BTreeSet<InfoHash>> {
        self.core.starving.subscribe()
    }

    /// Sets which hosts may learn of a torrent, by default all. Returns whether that is a change; a torrent in the engine is
    /// added again then.
    pub fn expose(&self, info_hash: &InfoHash, exposure: Exposure) -> bool {
        self.core.with(|state| state.transfers.expose(*info_hash, exposure))
    }

    /// The hosts that may learn of a torrent.
    pub fn exposure(&self, info_hash: &InfoHash) -> Exposure {
        self.core.state.lock().transfers.exposure(info_hash)
    }

    /// Must be called when other contents are reserved than before (see
    /// [`Store::withheld`](crate::store::Store)): torrents that offer their bytes are added again without them.
    pub fn withdraw_reserved(&self) {
        self.core.with(|state| state.transfers.withdraw_reserved());
    }

    /// Leaves a swarm and fails its waiting reads with `Left`.
    pub fn leave(&self, info_hash: &InfoHash) {
        self.core.with(|state| state.leave(*info_hash));
    }

    /// Leaves a swarm unless reads or jobs wait for its bytes. Returns whether it is not joined now. The next read joins again.
    pub fn leave_if_idle(&self, info_hash: &InfoHash) -> bool {
        self.core.with(|state| {
            let is_idle = !state.contents.has_waiters(info_hash);
            if is_idle {
                state.leave(*info_hash);
            }
            is_idle
        })
    }

    /// The files of a revision have moved, or bytes of them were found on the disk: its torrent continues with the present
    /// files, unnoticed by waiting reads. Does nothing where nothing changed.
    pub fn relocate(&self, revision: &Arc<StoredRevision>) {
        self.core.with(|state| state.relocate(revision));
    }

    /// A program has opened a file. If that is the configuration or the index of a model, its small files are fetched in
    /// the background, once. Must be called inside the runtime.
    pub fn opened(self: &Arc<Self>, file: &FileRef) {
        let files = self.prefetched.begin(file);
        if files.is_empty() {
            return;
        }
        let (fetch, revision) = (self.clone(), file.revision.clone());
        tokio::spawn(async move {
            let fetched = fetch.fetch_files(&revision, &files, fetch.settings.read_timeout).await;
            if let Err(error) = fetched {
                tracing::debug!(model = %revision.manifest.name, %error, "could not fetch the small files");
                fetch.prefetched.forget(&revision.manifest.torrent.info_hash);
            }
        });
    }

    /// The last handle of a file was closed: pieces ahead of its readers are no longer wanted.
    pub fn released(&self, file: &FileRef) {
        let Some(file) = file.present() else { return };
        if file.revision.hub.is_some() {
            return self.hub.released(&file);
        }
        if let Some(key) = file.content().key() {
            self.core.with(|state| state.contents.drop_windows(&key, &mut state.transfers));
        }
    }

    /// Fails all waiting reads with `Stopped`, and every later one.
    pub fn stop(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.hub.stop();
        self.core.with(|state| state.stop());
    }

    /// Withdraws a piece of a joined torrent whose bytes on the disk do not match its hash. Returns whether it counted as
    /// verified. Writes to files.
    pub fn withdraw_damaged(&self, info_hash: &InfoHash, piece: PieceIndex) -> bool {
        damage::withdraw(&self.core, info_hash, piece)
    }

    /// Takes all torrents that have one of these contents out of the engine, so that their bytes can be deleted: a running
    /// torrent would offer deleted bytes. While they are out, reads of them wait. Fails if the engine has not released them `within`
    /// that time; nothing may be deleted then.
    pub async fn release_for_eviction(
        self: &Arc<Self>,
        keys: &[ContentKey],
        within: Duration,
    ) -> Result<EvictionHold, NotReleased> {
        EvictionHold::begin(self.core.clone(), keys, within).await
    }

    /// The bytes of a content that reads or jobs wait for: they must not be deleted.
    pub fn waited_for(&self, key: &ContentKey) -> Vec<Range<u64>> {
        self.core.state.lock().contents.waited_for(key)
    }

    /// Writes resume data of everything that changed; returns when all is on disk or `within` has passed.
    pub async fn flush(&self, within: Duration) {
        self.core.with(|state| state.transfers.save_changed(true));
        if tokio::time::timeout(within, saving::saved(&self.core.state, &self.core.issuer.saver))
            .await
            .is_err()
        {
            tracing::warn!(?within, "could not write all resume data in time");
        }
    }

    /// Counters of all reads.
    pub fn figures(&self) -> &Arc<ReadFigures> {
        &self.figures
    }

    /// Figures of all joined revisions, by name.
    pub fn status(&self) -> Vec<TransferStatus> {
        TransferStatus::of(&self.core.state, |_| true)
    }

    /// Figures of one joined revision.
    pub fn progress(&self, info_hash: &InfoHash) -> Option<TransferStatus> {
        TransferStatus::of(&self.core.state, |of| of == info_hash).pop()
    }

    /// The revisions whose swarms are joined, without those that the engine refused.
    pub fn joined(&self) -> Vec<Arc<StoredRevision>> {
        self.core.state.lock().transfers.all.values().filter_map(in_swarm).collect()
    }

    /// The revision of a joined swarm, unless the engine refused it.
    pub fn joined_as(&self, info_hash: &InfoHash) -> Option<Arc<StoredRevision>> {
        self.core.state.lock().transfers.all.get(info_hash).and_then(in_swarm)
    }
}

fn in_swarm(transfer: &Transfer) -> Option<Arc<StoredRevision>> {
    (!matches!(transfer.phase, Phase::Failed { .. })).then(|| transfer.revision.clone())
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}
