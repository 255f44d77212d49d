//! The contents of joined torrents: which files have the same bytes, and the reads that wait for them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use tokio::time::Instant;

use super::claim::{ClaimId, FileUse};
use super::tensors::FileTensors;
use super::transfer::QUIET;
use super::transfers::AllTransfers;
use super::waiters::{WaitKind, WaitResult, Waiter, Waiters, earliest};
use super::window::Windows;
use super::{FetchSettings, ReadError};
use crate::model::InfoHash;
use crate::store::{Content, ContentKey, StoredRevision};

/// The bytes of one file, in all joined torrents that have it.
#[derive(Debug)]
pub(super) struct JoinedContent {
    pub content: Arc<Content>,
    /// The files with these bytes.
    pub uses: Vec<FileUse>,
    pub waiters: Waiters,
    pub windows: Windows,
    pub shape: FileTensors,
}

impl JoinedContent {
    fn is_idle(&self) -> bool {
        self.waiters.is_empty() && !self.windows.cursors().iter().any(|cursor| cursor.active)
    }
}

/// All contents of joined torrents.
#[derive(Debug)]
pub(super) struct AllContents {
    pub all: HashMap<ContentKey, JoinedContent>,
    /// Contents with waiters or cursors.
    pub active: BTreeSet<ContentKey>,
    pub(super) settings: Arc<FetchSettings>,
}

impl AllContents {
    pub(super) fn new(settings: Arc<FetchSettings>) -> Self {
        Self { all: HashMap::new(), active: BTreeSet::new(), settings }
    }

    /// Adds a revision's files as sources of their contents.
    pub(super) fn adopt(&mut self, revision: &StoredRevision) {
        let info_hash = revision.manifest.torrent.info_hash;
        for (file, content) in revision.contents.iter().enumerate() {
            let Some(key) = content.key() else { continue };
            let safetensors = revision.manifest.files[file].path.ends_with(".safetensors");
            let joined = self.all.entry(key).or_insert_with(|| JoinedContent {
                content: content.clone(),
                uses: Vec::new(),
                waiters: Waiters::new(),
                windows: Windows::default(),
                shape: if safetensors { FileTensors::Unread } else { FileTensors::Plain },
            });
            if !joined.uses.contains(&(info_hash, file)) {
                joined.uses.push((info_hash, file));
            }
        }
    }

    /// Removes a revision's files as sources.
    pub(super) fn abandon(&mut self, revision: &StoredRevision, transfers: &mut AllTransfers) {
        let info_hash = revision.manifest.torrent.info_hash;
        for key in revision.contents.iter().filter_map(|c| c.key()) {
            let Some(joined) = self.all.get_mut(&key) else { continue };
            joined.uses.retain(|(of, _)| *of != info_hash);
            if joined.uses.is_empty() {
                self.all.remove(&key);
                self.active.remove(&key);
            } else {
                self.reroute(&key, transfers);
            }
        }
    }

    /// The files that have these bytes.
    pub(super) fn uses(&self, key: &ContentKey) -> Vec<FileUse> {
        self.all.get(key).map(|joined| joined.uses.clone()).unwrap_or_default()
    }

    /// The contents that are being read.
    pub(super) fn active(&self) -> impl Iterator<Item = (&ContentKey, &JoinedContent)> {
        self.active.iter().filter_map(|key| Some((key, self.all.get(key)?)))
    }

    /// The keys of the contents of a torrent that are being read.
    pub(super) fn active_of(&self, info_hash: &InfoHash) -> Vec<ContentKey> {
        let active = self.active();
        let of_torrent = active.filter(|(_, joined)| joined.uses.iter().any(|(of, _)| of == info_hash));
        of_torrent.map(|(key, _)| *key).collect()
    }

    pub(super) fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.active().flat_map(|(_, joined)| joined.waiters.values())
    }

    /// Whether pieces of a torrent are waited for.
    pub(super) fn has_waiters(&self, info_hash: &InfoHash) -> bool {
        self.waiters().any(|waiter| waiter.concerns(info_hash))
    }

    /// The torrents that are waited for.
    pub(super) fn waited_for_torrents(&self) -> HashSet<InfoHash> {
        self.waiters().flat_map(Waiter::torrents).collect()
    }

    /// The bytes of a content that are waited for.
    pub(super) fn waited_for(&self, key: &ContentKey) -> Vec<Range<u64>> {
        let waiters = self.all.get(key).into_iter().flat_map(|joined| joined.waiters.values());
        waiters.map(|waiter| waiter.range.clone()).collect()
    }

    /// The read that has waited longest.
    pub(super) fn oldest_read(&self) -> Option<(&ContentKey, &Waiter)> {
        let waiting = self.active().flat_map(|(key, joined)| joined.waiters.values().map(move |w| (key, w)));
        waiting.filter(|(_, w)| w.kind == WaitKind::Read).min_by_key(|(_, waiter)| waiter.since)
    }

    /// Adds a waiter and claims pieces for it. False where no joined torrent has the content.
    pub(super) fn insert_waiter(
        &mut self,
        key: &ContentKey,
        id: ClaimId,
        waiter: Waiter,
        transfers: &mut AllTransfers,
    ) -> bool {
        let Some(joined) = self.all.get_mut(key) else { return false };
        transfers.effects.wake_by(waiter.deadline.due().min(transfers.effects.now + QUIET));
        joined.waiters.insert(id, waiter);
        joined.claim_for_waiter(id, transfers);
        self.active.insert(*key);
        true
    }

    /// Removes a waiter and its claims, if it has not been answered.
    pub(super) fn remove_waiter(
        &mut self,
        key: &ContentKey,
        id: ClaimId,
        transfers: &mut AllTransfers,
    ) -> Option<Waiter> {
        let waiter = self.all.get_mut(key)?.waiters.remove(&id)?;
        self.deactivate_if_idle(key);
        transfers.release(&waiter.claims, id);
        Some(waiter)
    }

    fn answer(&mut self, key: &ContentKey, id: ClaimId, result: WaitResult, transfers: &mut AllTransfers) {
        if let Some(waiter) = self.remove_waiter(key, id, transfers) {
            // The reader may have ended before its bytes arrived.
            let _ = waiter.answer.send(result);
        }
    }

    /// Answers all waiters that `which` selects.
    pub(super) fn answer_all(
        &mut self,
        result: &WaitResult,
        which: impl Fn(&Waiter) -> bool,
        transfers: &mut AllTransfers,
    ) {
        let waiting = self.active().flat_map(|(key, c)| c.waiters.iter().map(move |(id, w)| (*key, *id, w)));
        let selected = waiting.filter(|(_, _, waiter)| which(waiter)).map(|(key, id, _)| (key, id));
        for (key, id) in selected.collect::<Vec<_>>() {
            self.answer(&key, id, result.clone(), transfers);
        }
    }

    /// Answers the waiters of a content whose bytes are verified.
    pub(super) fn answer_ready(&mut self, key: &ContentKey, transfers: &mut AllTransfers) {
        self.answer_if_ready(key, |_| true, transfers);
    }

    /// [`Self::answer_ready`] for reads.
    pub(super) fn answer_ready_reads(&mut self, key: &ContentKey, transfers: &mut AllTransfers) {
        self.answer_if_ready(key, |waiter| waiter.kind == WaitKind::Read, transfers);
    }

    fn answer_if_ready(
        &mut self,
        key: &ContentKey,
        which: impl Fn(&Waiter) -> bool,
        transfers: &mut AllTransfers,
    ) {
        let Some(joined) = self.all.get(key) else { return };
        let ready = joined.waiters.iter().filter(|(_, w)| which(w) && joined.content.has(w.range.clone()));
        for id in ready.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.answer(key, id, Ok(()), transfers);
        }
    }

    /// Fails the waiters that named a torrent. Waiters that only profited from it find another source.
    pub(super) fn fail_waiters_of(
        &mut self,
        info_hash: InfoHash,
        why: &ReadError,
        transfers: &mut AllTransfers,
    ) {
        self.answer_all(&Err(why.clone()), |waiter| waiter.via.0 == info_hash, transfers);
        self.reroute_shared(info_hash, transfers);
    }

    /// Fails the waiters whose time is over.
    pub(super) fn end_overdue_waits(&mut self, transfers: &mut AllTransfers) {
        let now = transfers.effects.now;
        let mut over = Vec::new();
        for key in &self.active {
            let Some(joined) = self.all.get_mut(key) else { continue };
            for (id, waiter) in joined.waiters.iter_mut().filter(|(_, w)| w.deadline.due() <= now) {
                let sources = waiter.torrents().filter_map(|info_hash| transfers.all.get(&info_hash));
                let progress = sources.filter_map(|transfer| transfer.last_progress).max();
                if waiter.deadline.expired(now, progress) {
                    over.push((*key, *id));
                }
            }
        }
        for (key, id) in over {
            let Some(waiter) = self.all.get(&key).and_then(|joined| joined.waiters.get(&id)) else {
                continue;
            };
            let why = record_timeout(waiter, transfers);
            self.answer(&key, id, Err(ReadError::TimedOut(why)), transfers);
        }
    }

    /// Makes waiters that have relied on another torrent for long ask their own too: the other one's peers may lack the
    /// piece.
    pub(super) fn spread_long_waits(&mut self, transfers: &mut AllTransfers) {
        for key in &self.active {
            let Some(joined) = self.all.get_mut(key) else { continue };
            let waiters = joined.waiters.iter_mut();
            let long = waiters
                .filter(|(_, waiter)| waiter.may_spread() && waiter.since + QUIET <= transfers.effects.now);
            let mut spread = Vec::new();
            for (id, waiter) in long {
                waiter.spread = true;
                spread.push(*id);
            }
            for id in spread {
                joined.claim_for_waiter(id, transfers);
            }
        }
    }

    /// Finds new sources for the waiters and the windows of a content.
    pub(super) fn reroute(&mut self, key: &ContentKey, transfers: &mut AllTransfers) {
        let Some(joined) = self.all.get_mut(key) else { return };
        for id in joined.waiters.keys().copied().collect::<Vec<_>>() {
            joined.claim_for_waiter(id, transfers);
        }
        self.claim_windows(key, transfers);
    }

    /// [`Self::reroute`] for all contents of a torrent: bytes may have been lost since a reader began to wait.
    pub(super) fn reroute_all(&mut self, info_hash: InfoHash, transfers: &mut AllTransfers) {
        let Some(transfer) = transfers.all.get(&info_hash) else { return };
        let keys: Vec<ContentKey> = transfer.revision.contents.iter().filter_map(|c| c.key()).collect();
        for key in keys {
            self.reroute(&key, transfers);
        }
    }

    /// [`Self::reroute`] for the contents that a torrent shares with other files.
    pub(super) fn reroute_shared(&mut self, info_hash: InfoHash, transfers: &mut AllTransfers) {
        for key in self.active_of(&info_hash) {
            if self.all.get(&key).is_some_and(|joined| joined.uses.len() > 1) {
                self.reroute(&key, transfers);
            }
        }
    }

    /// When the next deadline of a waiter ends.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.active().filter_map(|(_, joined)| earliest(&joined.waiters)).min()
    }

    /// Removes a content from those that are being read if it has no waiters and no moving cursors.
    pub(super) fn deactivate_if_idle(&mut self, key: &ContentKey) {
        if self.all.get(key).is_some_and(JoinedContent::is_idle) {
            self.active.remove(key);
        }
    }
}

/// Records a timeout in the torrents of a waiter. Returns the reason, for people.
fn record_timeout(waiter: &Waiter, transfers: &mut AllTransfers) -> String {
    let why = transfers.all.get(&waiter.via.0).map_or_else(String::new, |t| t.why_nothing_comes());
    for &(info_hash, piece) in &waiter.claims {
        let Some(transfer) = transfers.all.get_mut(&info_hash) else { continue };
        if waiter.kind == WaitKind::Read {
            transfer.timeouts.insert(piece, transfers.effects.now);
        }
        transfer.last_error = Some(format!("timed out: {why}"));
    }
    why
}
