//! All state behind one lock: transfers, contents, requests over HTTP and proofs.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::claim::FileUse;
use super::contents::AllContents;
use super::deadline::Deadline;
use super::effects::EngineCommand;
use super::transfer::Transfer;
use super::transfers::AllTransfers;
use super::unproved::Proofs;
use super::waiters::{Ticket, WaitKind, WaitRequest, Waiter};
use super::web::{TransferWeb, WebShared};
use super::{FetchSettings, ReadError};
use crate::model::{InfoHash, PieceHashes, PieceLayers};
use crate::store::{ContentKey, StoredRevision};

/// The parts of the state. Methods here concern several of them.
pub(super) struct FetchState {
    pub settings: Arc<FetchSettings>,
    pub stopped: bool,
    pub transfers: AllTransfers,
    pub contents: AllContents,
    pub web: WebShared,
    pub proofs: Proofs,
}

impl FetchState {
    fn new(settings: Arc<FetchSettings>, timer: Arc<Notify>, now: Instant) -> Self {
        let web = WebShared::new(timer);
        Self {
            stopped: false,
            transfers: AllTransfers::new(settings.peers.clone(), now),
            contents: AllContents::new(settings.clone()),
            proofs: Proofs::new(web.memory.clone()),
            web,
            settings,
        }
    }

    /// Turns changed claims into commands. Called before the lock is released.
    fn queue_orders(&mut self) {
        let now = self.transfers.effects.now;
        for info_hash in self.transfers.effects.take_changed() {
            let AllTransfers { all, effects, .. } = &mut self.transfers;
            let Some(transfer) = all.get_mut(&info_hash) else { continue };
            transfer.wants_changed(now);
            // Claims of a torrent that does not run are kept; all are ordered when it runs.
            let Some(id) = transfer.running() else { continue };
            let orders = transfer.orders(&self.settings.rooms, now);
            if !orders.is_empty() {
                effects.send(EngineCommand::Orders(id, orders));
            }
            self.proofs.prove_wanted(transfer, effects);
            self.web.request(transfer, effects);
        }
    }

    /// Joins a swarm unless it is joined.
    pub(super) fn join(&mut self, revision: &Arc<StoredRevision>) -> Result<(), ReadError> {
        let now = self.transfers.effects.now;
        if self.stopped {
            return Err(ReadError::Stopped);
        }
        let info_hash = revision.manifest.torrent.info_hash;
        if let Some(transfer) = self.transfers.all.get_mut(&info_hash) {
            if transfer.retry(now)? {
                self.transfers.add_or_hold(info_hash);
            }
            return Ok(());
        }
        let web = TransferWeb::of(&revision.manifest, self.settings.web.as_ref());
        self.transfers.insert(Transfer::new(revision.clone(), web, now));
        self.contents.adopt(revision);
        Ok(())
    }

    /// Leaves a swarm and fails its waiters.
    pub(super) fn leave(&mut self, info_hash: InfoHash) {
        let Self { transfers, contents, settings, .. } = self;
        if !transfers.all.contains_key(&info_hash) {
            return;
        }
        contents.answer_all(&Err(ReadError::Left), |waiter| waiter.via.0 == info_hash, transfers);
        contents.drop_windows_of(&info_hash, transfers);
        if let Some(transfer) = transfers.remove(info_hash, &settings.rooms) {
            contents.abandon(&transfer.revision, transfers);
        }
    }

    /// The files of a revision have other paths, or bytes of them were found on the disk.
    pub(super) fn relocate(&mut self, revision: &Arc<StoredRevision>) {
        let info_hash = revision.manifest.torrent.info_hash;
        let Some(transfer) = self.transfers.all.get_mut(&info_hash) else { return };
        if transfer.revision.manifest != revision.manifest {
            transfer.web = TransferWeb::of(&revision.manifest, self.settings.web.as_ref());
            if let Some(web) = &mut transfer.web {
                let hashes = PieceHashes::new(revision.manifest.clone(), PieceLayers::default());
                web.set_hashes(Arc::new(hashes));
            }
        }
        transfer.revision = revision.clone();
        for content in &revision.contents {
            let Some(key) = content.key() else { continue };
            if let Some(joined) = self.contents.all.get_mut(&key) {
                joined.content = content.clone();
            }
            self.contents.answer_ready(&key, &mut self.transfers);
        }
        let exposure = self.transfers.exposure(&info_hash);
        if self.transfers.all.get(&info_hash).is_some_and(|t| t.is_outdated(exposure)) {
            self.transfers.add_again(info_hash);
        }
    }

    /// Fails all waiters, now and later.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.contents.answer_all(&Err(ReadError::Stopped), |_| true, &mut self.transfers);
        for key in self.contents.active.iter().copied().collect::<Vec<_>>() {
            self.contents.drop_windows(&key, &mut self.transfers);
        }
    }

    /// Adds a waiter for bytes of a file; none if all are verified. Block maps are tested under the same lock under which
    /// waiters are woken, so no wake-up is lost.
    pub(super) fn park(
        &mut self,
        request: &WaitRequest,
        timeout: Duration,
    ) -> Result<Option<Ticket>, ReadError> {
        let now = self.transfers.effects.now;
        if self.stopped {
            return Err(ReadError::Stopped);
        }
        let WaitRequest { file, range, kind, moves_window } = request;
        let Some(key) = file.content().key() else { return Ok(None) };
        let is_read = *kind == WaitKind::Read;
        if request.is_verified() {
            if *moves_window {
                self.contents.touch(file, range.clone(), &mut self.transfers);
            }
            return Ok(None);
        }
        self.join(&file.revision)?;
        let via = (file.info_hash(), file.file);
        if is_read {
            self.refuse_timed_out(&key, via, range)?;
        }
        self.add_again_if_lost(&key, via, range);
        let id = self.transfers.effects.new_id();
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter {
            via,
            range: range.clone(),
            kind: *kind,
            deadline: if is_read { Deadline::read(now, timeout) } else { Deadline::stall(now, timeout) },
            claims: Vec::new(),
            since: now,
            spread: false,
            answer,
        };
        if !self.contents.insert_waiter(&key, id, waiter, &mut self.transfers) {
            return Err(ReadError::Stopped);
        }
        if *moves_window {
            self.contents.touch(file, range.clone(), &mut self.transfers);
        }
        self.transfers.start_search(via.0);
        Ok(Some(Ticket { key, id, answer: answered }))
    }

    fn refuse_timed_out(&self, key: &ContentKey, via: FileUse, range: &Range<u64>) -> Result<(), ReadError> {
        let now = self.transfers.effects.now;
        let Some(joined) = self.contents.all.get(key) else { return Ok(()) };
        for (info_hash, piece) in joined.route(via, range, &self.transfers) {
            let Some(transfer) = self.transfers.all.get(&info_hash) else { continue };
            if transfer.timeouts.contains(piece, now) {
                return Err(ReadError::TimedOut(transfer.why_nothing_comes()));
            }
        }
        Ok(())
    }

    /// The engine fetches bytes that it believes to have only when the torrent is added without it, and writes to a
    /// file that has moved only when the torrent is added with the new path.
    fn add_again_if_lost(&mut self, key: &ContentKey, via: FileUse, range: &Range<u64>) {
        let Self { transfers, contents, .. } = self;
        if transfers.all.get(&via.0).is_some_and(|t| t.has_moved(via.1)) {
            return transfers.add_again(via.0);
        }
        let Some(joined) = contents.all.get(key) else { return };
        let mut routes = joined.route(via, range, transfers).into_iter();
        let lost = routes.find(|piece| joined.is_lost(*piece, range, transfers));
        if let Some((info_hash, _)) = lost {
            transfers.add_again(info_hash);
        }
    }

    /// Torrents that reads wait for and whose peers send nothing.
    pub(super) fn starving(&self) -> BTreeSet<InfoHash> {
        let starving = self.transfers.all.iter().filter(|(_, t)| t.peers.dial.are_repeated());
        starving.map(|(info_hash, _)| *info_hash).collect()
    }

    /// Whether bytes of a joined torrent may be sent, or a read waits.
    pub(super) fn has_work(&self) -> bool {
        self.transfers.all.iter().any(|(info_hash, transfer)| {
            let hidden = self.transfers.exposure(info_hash) == super::Exposure::Hidden;
            (!hidden && transfer.revision.held_bytes() > 0) || self.contents.has_waiters(info_hash)
        })
    }
}

/// The state behind its lock. The lock is held for a few lines, never across a wait or a call of the engine.
pub(super) struct SharedState {
    state: Mutex<FetchState>,
    /// Wakes the timer task before its next run.
    pub timer: Arc<Notify>,
    /// Notified when a torrent is out of the engine, when its resume data came, and when a command was refused.
    pub engine_changed: Notify,
}

impl SharedState {
    pub(super) fn new(settings: Arc<FetchSettings>) -> Self {
        let timer = Arc::new(Notify::new());
        let state = Mutex::new(FetchState::new(settings, timer.clone(), Instant::now()));
        Self { state, timer, engine_changed: Notify::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, FetchState> {
        self.state.lock()
    }

    /// Changes the state and queues the commands that follow. Returns the result, and whether commands are queued.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut FetchState) -> R) -> (R, bool) {
        let mut state = self.lock();
        state.transfers.effects.now = Instant::now();
        let result = change(&mut state);
        state.queue_orders();
        let effects = &mut state.transfers.effects;
        let (earlier, has_commands) = (effects.take_earlier_wake(), effects.has_commands());
        drop(state);
        if earlier {
            self.timer.notify_one();
        }
        (result, has_commands)
    }

    /// Waits until the engine's events have made a condition true.
    pub(super) async fn wait_until(&self, condition: impl Fn(&FetchState) -> bool) {
        loop {
            let changed = self.engine_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if condition(&self.lock()) {
                return;
            }
            changed.await;
        }
    }
}
