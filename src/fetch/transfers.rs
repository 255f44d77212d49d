//! All joined torrents, and those that are leaving the engine.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::Exposure;
use super::claim::{ClaimId, ClaimLevel, Extent, TorrentPiece};
use super::effects::{Effects, EngineCommand};
use super::transfer::{AddedWith, Phase, REMOVAL, SAVE_EVERY, Transfer};
use crate::model::{InfoHash, PieceIndex};
use crate::store::{ContentKey, Rooms};
use crate::torrent::{GivenPeers, TorrentId};

/// The torrents, and the effects of what happens to them.
#[derive(Debug)]
pub(super) struct AllTransfers {
    pub all: HashMap<InfoHash, Transfer>,
    pub effects: Effects,
    /// Torrents in the engine, also those that are being removed.
    pub ids: HashMap<TorrentId, InfoHash>,
    /// Pieces that the engine must withdraw and has not confirmed, and how often. Its earlier events of them do not count.
    withdrawing: HashMap<(TorrentId, u32), u32>,
    /// Torrents that were left and that the engine has not released.
    leaving: HashMap<InfoHash, TorrentId>,
    /// Contents whose bytes are being deleted or moved, and by how many operations. Their torrents stay out of the engine
    /// meanwhile, also torrents that are joined later.
    held: HashMap<ContentKey, usize>,
    /// Peers named for all torrents.
    pub(super) given_peers: GivenPeers,
    /// Peers named for single torrents.
    pub(super) introduced: HashMap<InfoHash, Vec<SocketAddr>>,
    /// The exposure of torrents that are not public.
    pub(super) exposures: HashMap<InfoHash, Exposure>,
}

impl AllTransfers {
    pub(super) fn new(given_peers: GivenPeers, now: Instant) -> Self {
        Self {
            all: HashMap::new(),
            effects: Effects::new(now),
            ids: HashMap::new(),
            withdrawing: HashMap::new(),
            leaving: HashMap::new(),
            held: HashMap::new(),
            given_peers,
            introduced: HashMap::new(),
            exposures: HashMap::new(),
        }
    }

    /// The transfer of a torrent in the engine, also while it is being removed.
    pub(super) fn by_id(&mut self, id: TorrentId) -> Option<&mut Transfer> {
        self.all.get_mut(self.ids.get(&id)?)
    }

    /// The transfer of a torrent in the engine that is not being removed.
    pub(super) fn staying(&mut self, id: TorrentId) -> Option<&mut Transfer> {
        self.by_id(id).filter(|transfer| transfer.id() == Some(id))
    }

    /// Joins a torrent. It is added when an earlier one of the same info hash has left the engine.
    pub(super) fn insert(&mut self, mut transfer: Transfer) {
        let now = self.effects.now;
        let info_hash = transfer.info_hash();
        let leaving = self.leaving.remove(&info_hash);
        if let Some(id) = leaving {
            transfer.phase = Phase::Running(id);
            transfer.add_again(now);
            self.ids.insert(id, info_hash);
            self.effects.wake_by(now + REMOVAL);
        }
        self.all.insert(info_hash, transfer);
        if leaving.is_none() {
            self.add_or_hold(info_hash);
        }
    }

    /// Leaves a torrent.
    pub(super) fn remove(&mut self, info_hash: InfoHash, rooms: &Rooms) -> Option<Transfer> {
        self.introduced.remove(&info_hash);
        let mut transfer = self.all.remove(&info_hash)?;
        transfer.space.release_all(rooms);
        match transfer.phase {
            Phase::Adding(id) | Phase::Running(id) => {
                self.leaving.insert(info_hash, id);
                self.effects.send(EngineCommand::Remove(id));
            }
            Phase::Removing { id, .. } => {
                self.leaving.insert(info_hash, id);
            }
            Phase::Queued | Phase::Held | Phase::Failed { .. } => {}
        }
        Some(transfer)
    }

    /// The engine accepted a torrent. Returns whether it has cached pieces that are not proved.
    pub(super) fn added(&mut self, info_hash: InfoHash, id: TorrentId, with: AddedWith) -> bool {
        self.ids.insert(id, info_hash);
        let Some(transfer) = self.all.get_mut(&info_hash).filter(|t| t.phase == Phase::Queued) else {
            // It was left or held meanwhile.
            self.leaving.insert(info_hash, id);
            self.effects.send(EngineCommand::Remove(id));
            return false;
        };
        let again = transfer.entered_engine(id, with);
        let proofs = transfer.unproved.any();
        if again {
            self.add_again(info_hash);
        }
        proofs
    }

    /// The engine released a torrent. Returns it if the engine dropped it of its own accord.
    pub(super) fn released(&mut self, id: TorrentId) -> Option<&mut Transfer> {
        self.leaving.retain(|_, of| *of != id);
        self.withdrawing.retain(|(of, _), _| *of != id);
        let info_hash = self.ids.remove(&id)?;
        let transfer = self.all.get(&info_hash)?;
        match transfer.phase {
            Phase::Removing { id: old, .. } if old == id => {
                self.add_or_hold(info_hash);
                None
            }
            _ if transfer.id() == Some(id) => self.all.get_mut(&info_hash),
            _ => None,
        }
    }

    /// Takes a torrent out of the engine so that it is added with its present files, pieces and exposure.
    pub(super) fn add_again(&mut self, info_hash: InfoHash) {
        let now = self.effects.now;
        let Some(transfer) = self.all.get_mut(&info_hash) else { return };
        if let Some(id) = transfer.add_again(now) {
            self.effects.send(EngineCommand::Remove(id));
        }
        if let Phase::Removing { until, .. } = transfer.phase {
            self.effects.wake_by(until);
        }
    }

    /// The engine lost events: all torrents are added again.
    pub(super) fn add_all_again(&mut self) {
        for info_hash in self.all.keys().copied().collect::<Vec<_>>() {
            self.add_again(info_hash);
        }
    }

    /// The engine is about to withdraw pieces.
    pub(super) fn withdraws(&mut self, id: TorrentId, pieces: &[PieceIndex]) {
        for piece in pieces {
            *self.withdrawing.entry((id, piece.0)).or_default() += 1;
        }
    }

    /// The engine has withdrawn a piece.
    pub(super) fn withdrawn(&mut self, id: TorrentId, piece: PieceIndex) {
        if let Entry::Occupied(mut count) = self.withdrawing.entry((id, piece.0)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Whether what the engine reports of a piece does not count: it reported that before it withdrew the piece.
    pub(super) fn is_withdrawing(&self, id: TorrentId, piece: PieceIndex) -> bool {
        self.withdrawing.contains_key(&(id, piece.0))
    }

    /// Queues a torrent that is out of the engine, or holds it back.
    pub(super) fn add_or_hold(&mut self, info_hash: InfoHash) {
        let held = self.is_held(&info_hash);
        let Some(transfer) = self.all.get_mut(&info_hash) else { return };
        if held {
            transfer.phase = Phase::Held;
        } else {
            transfer.phase = Phase::Queued;
            self.effects.send(EngineCommand::Add(info_hash));
        }
    }

    /// Keeps torrents out of the engine while bytes of contents of theirs are deleted or moved.
    pub(super) fn hold(&mut self, keys: &[ContentKey], torrents: &[InfoHash]) {
        for key in keys {
            *self.held.entry(*key).or_default() += 1;
        }
        for info_hash in torrents {
            let Some(transfer) = self.all.get_mut(info_hash) else { continue };
            if transfer.phase == Phase::Queued {
                transfer.phase = Phase::Held;
            } else {
                self.add_again(*info_hash);
            }
        }
    }

    /// Ends a hold of these contents. Torrents of which no content is held are added again.
    pub(super) fn end_hold(&mut self, keys: &[ContentKey]) {
        for key in keys {
            if let Entry::Occupied(mut count) = self.held.entry(*key) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        let waiting = self.all.iter().filter(|(_, t)| t.phase == Phase::Held).map(|(hash, _)| *hash);
        for info_hash in waiting.collect::<Vec<_>>() {
            self.add_or_hold(info_hash);
        }
    }

    /// Whether a content of the torrent is held.
    pub(super) fn is_held(&self, info_hash: &InfoHash) -> bool {
        let Some(transfer) = self.all.get(info_hash).filter(|_| !self.held.is_empty()) else { return false };
        transfer.revision.contents.iter().filter_map(|c| c.key()).any(|key| self.held.contains_key(&key))
    }

    /// Claims a piece or a part of it for a waiter or a cursor, with a deadline for the engine counted from now.
    pub(super) fn claim(
        &mut self,
        (info_hash, piece): TorrentPiece,
        by: ClaimId,
        level: ClaimLevel,
        deadline: Duration,
        extent: Extent,
    ) {
        if let Some(transfer) = self.all.get_mut(&info_hash) {
            transfer.wants.claim(piece, by, level, deadline, extent, self.effects.now);
            self.effects.mark_changed(info_hash);
        }
    }

    /// Ends claims of a waiter or a cursor.
    pub(super) fn release<'a>(&mut self, claims: impl IntoIterator<Item = &'a TorrentPiece>, by: ClaimId) {
        for (info_hash, piece) in claims {
            if let Some(transfer) = self.all.get_mut(info_hash) {
                transfer.wants.release(*piece, by);
                self.effects.mark_changed(*info_hash);
            }
        }
    }

    /// Lets the engine learn again of pieces that were held back, if they are claimed.
    pub(super) fn reconsider(&mut self, info_hash: InfoHash, pieces: impl IntoIterator<Item = u32>) {
        if let Some(transfer) = self.all.get_mut(&info_hash) {
            pieces.into_iter().for_each(|piece| transfer.wants.mark_changed(piece));
            self.effects.mark_changed(info_hash);
        }
    }

    /// Starts the search for peers of a torrent while a read waits.
    pub(super) fn start_search(&mut self, info_hash: InfoHash) {
        let now = self.effects.now;
        if let Some(transfer) = self.all.get_mut(&info_hash) {
            let mut next = transfer.peers.search.start(now);
            if transfer.is_silent(now) {
                next = transfer.peers.dial.start_now(now).min(next);
            }
            self.effects.wake_by(next);
        }
    }

    /// Requests the metainfo with all piece layers of a torrent whose pieces the engine has, unless it is saved.
    pub(super) fn export_if_seed(&mut self, info_hash: InfoHash) {
        let Some(transfer) = self.all.get_mut(&info_hash) else { return };
        if let Some(id) = transfer.running().filter(|_| transfer.starts_export()) {
            self.effects.send(EngineCommand::ExportMetainfo(id));
        }
    }

    /// When a torrent's files are complete, makes it a seed that has all piece layers.
    pub(super) fn completed(&mut self, info_hash: InfoHash) {
        let Some(transfer) = self.all.get(&info_hash) else { return };
        if transfer.running().is_none() || !transfer.revision.is_complete() {
            return;
        }
        if transfer.engine_has.is_full() {
            self.export_if_seed(info_hash);
        } else {
            // Some bytes came through other torrents.
            self.add_again(info_hash);
        }
    }

    /// Requests the resume data of transfers that changed: of all, or of those whose next save is due.
    pub(super) fn save_changed(&mut self, all: bool) {
        let now = self.effects.now;
        for transfer in self.all.values_mut() {
            let Some(id) = transfer.running().filter(|_| transfer.resume_dirty) else { continue };
            if !all && now < transfer.next_save {
                continue;
            }
            transfer.resume_dirty = false;
            transfer.saving = true;
            self.effects.send(EngineCommand::SaveResume(id));
            if !all {
                transfer.next_save = now + SAVE_EVERY;
                if transfer.starts_export() {
                    self.effects.send(EngineCommand::ExportMetainfo(id));
                }
            }
        }
    }
}
