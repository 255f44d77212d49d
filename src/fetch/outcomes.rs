//! What events of the engine change in the state.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tokio::time::Instant;

use super::contents::Contents;
use super::handed::Origin;
use super::issue::AddedWith;
use super::state::FetchState;
use super::transfers::Transfers;
use super::waiters::{WaitKind, Waiter};
use super::{ReadError, effects::Command};
use crate::model::{InfoHash, PieceIndex};
use crate::store::{Content, ContentKey, Lies};
use crate::torrent::{DiskErrorKind, EngineError, Event, TorrentId};

/// The content of a piece, the bytes of it that the piece holds, and where they are stored after how many moves.
pub(super) type PieceOwners = (ContentKey, Range<u64>, Vec<(Arc<Content>, u64)>);

impl FetchState {
    /// The engine accepted or refused a torrent.
    pub(super) fn added(
        &mut self,
        info_hash: InfoHash,
        result: Result<TorrentId, EngineError>,
        with: AddedWith,
        now: Instant,
    ) {
        match result {
            Ok(id) => {
                if self.transfers.added(info_hash, id, with, now) {
                    self.proofs.expect(&mut self.transfers.effects, now);
                }
            }
            Err(error) => {
                tracing::warn!(%info_hash, %error, "the engine refused a torrent");
                self.transfer_failed(info_hash, &error.to_string(), now);
            }
        }
    }

    /// The engine refused a command.
    pub(super) fn refused(&mut self, id: TorrentId, error: &EngineError) {
        let Some(transfer) = self.transfers.by_id(id) else { return };
        transfer.saving = false;
        transfer.exporting = false;
        match error {
            // Its `Removed` follows.
            EngineError::UnknownTorrent => {}
            EngineError::BadTorrent(_)
            | EngineError::BadItem(_)
            | EngineError::Busy
            | EngineError::Internal(_)
            | EngineError::MessageTooLong(_)
            | EngineError::Listen { .. } => {
                tracing::warn!(%error, "the engine refused a command");
                transfer.last_error = Some(error.to_string());
            }
        }
    }

    fn transfer_failed(&mut self, info_hash: InfoHash, why: &str, now: Instant) {
        let Some(transfer) = self.transfers.all.get_mut(&info_hash) else { return };
        transfer.failed(why, now);
        let error = ReadError::Broken(why.to_owned());
        self.contents.fail_waiters_of(info_hash, &error, &mut self.transfers, now);
    }

    /// The contents that have the bytes of a piece.
    pub(super) fn owners(&self, id: TorrentId, piece: PieceIndex) -> Option<PieceOwners> {
        let transfer = self.transfers.all.get(self.transfers.ids.get(&id)?)?;
        let (file, bytes) = transfer.revision.layout.owner(piece)?;
        let own = &transfer.revision.contents[file];
        let key = own.key()?;
        // Without it the piece is of an earlier stay in the engine, and may be in a file that was removed.
        let given = *transfer.given.get(file)?;
        let mut contents = vec![(own.clone(), given)];
        if let Some(shared) = self.contents.all.get(&key).filter(|s| !Arc::ptr_eq(&s.content, own)) {
            contents.push((shared.content.clone(), shared.content.moves()));
        }
        Some((key, bytes, contents))
    }

    /// A piece is verified and recorded.
    pub(super) fn piece_came(
        &mut self,
        id: TorrentId,
        piece: PieceIndex,
        key: &ContentKey,
        bytes: &Range<u64>,
        now: Instant,
    ) {
        let Self { transfers, contents, settings, .. } = self;
        let Some(&info_hash) = transfers.ids.get(&id) else { return };
        if let Some(transfer) = transfers.all.get_mut(&info_hash) {
            transfer.piece_came(piece.0, bytes.end - bytes.start, now);
            transfer.space.came(piece.0, &settings.rooms);
            if transfer.resume_dirty {
                transfers.effects.wake_by(transfer.next_save);
            }
            transfers.effects.mark_changed(info_hash);
        }
        cancel_duplicates(contents, transfers, (info_hash, piece.0), key, bytes);
        contents.answer_ready(key, transfers);
        contents.claim_windows(key, transfers, now);
        if contents.all.get(key).is_some_and(|joined| joined.content.is_complete()) {
            contents.drop_windows(key, transfers);
            for (of, _) in contents.uses(key) {
                transfers.completed(of, now);
            }
        }
    }

    /// An event that changes nothing but the state.
    pub(super) fn simple_event(&mut self, id: TorrentId, event: Event, now: Instant) {
        let Some(transfer) = self.transfers.by_id(id) else { return };
        let info_hash = transfer.info_hash();
        if transfer.id() != Some(id) {
            if let Event::Stats(_, stats) = event {
                transfer.last_stats_came(id, stats);
            }
            return;
        }
        match event {
            Event::Added(_) => {
                transfer.started(id, now);
                self.transfers.effects.mark_changed(info_hash);
                self.contents.reroute_all(info_hash, &mut self.transfers, now);
                self.transfers.export_if_seed(info_hash);
                if self.contents.has_waiters(&info_hash) {
                    self.transfers.start_search(info_hash, now);
                }
            }
            Event::PeerConnected(_, peer) => {
                let first = transfer.peer_came(peer, now);
                if first && transfer.unproved.any() {
                    self.proofs.expect(&mut self.transfers.effects, now);
                }
                if first {
                    self.contents.reroute_shared(info_hash, &mut self.transfers, now);
                }
            }
            Event::PeerDisconnected(_, peer, why) => {
                tracing::debug!(%info_hash, %peer, %why, "a peer disconnected");
                transfer.peers.connected.remove(&peer);
                if transfer.peers.connected.is_empty() {
                    self.last_peer_left(info_hash, now);
                }
            }
            Event::Stats(_, stats) => transfer.stats_came(stats, now),
            Event::SilentSeeds(_, seeds) => transfer.peers.silent_seeds = seeds,
            Event::Metadata(..)
            | Event::DiskError(..)
            | Event::Removed(_)
            | Event::Failed(..)
            | Event::PieceVerified(..)
            | Event::PieceRejected(..)
            | Event::PieceDamaged(..)
            | Event::ResumeData(..)
            | Event::Metainfo(..)
            | Event::Listening(_)
            | Event::ListenFailed(..)
            | Event::Overlay(_)
            | Event::EventsLost => {}
        }
    }

    fn last_peer_left(&mut self, info_hash: InfoHash, now: Instant) {
        self.contents.reroute_shared(info_hash, &mut self.transfers, now);
        if self.contents.has_waiters(&info_hash) {
            self.transfers.start_search(info_hash, now);
            let transfer = self.transfers.all.get_mut(&info_hash);
            if let Some(when) = transfer.and_then(|transfer| transfer.peers.call_again(now)) {
                self.transfers.effects.wake_by(when);
            }
        }
    }

    /// The engine discarded a piece. Returns the cached bytes that were wrong, if it was made of them.
    pub(super) fn piece_rejected(
        &mut self,
        id: TorrentId,
        piece: PieceIndex,
    ) -> Option<(Arc<Content>, Range<u64>)> {
        let transfer = self.transfers.staying(id)?;
        let info_hash = transfer.info_hash();
        if transfer.handed.remove(piece.0) == Some(Origin::Web) {
            // The piece was right when the engine got it: peers had sent other blocks of it before.
            tracing::warn!(%info_hash, piece = piece.0, "the engine refused a piece that came over HTTP");
            if let Some(web) = &mut transfer.web {
                web.was_refused(piece.0);
            }
            self.transfers.effects.mark_changed(info_hash);
            return None;
        }
        if let Some(wrong) = transfer.unproved_bytes(piece.0) {
            tracing::warn!(%info_hash, piece = piece.0, "cached bytes of an older version are wrong; fetching them again");
            transfer.unproved.done(piece.0);
            self.transfers.reconsider(info_hash, [piece.0]);
            return Some(wrong);
        }
        tracing::warn!(%info_hash, piece = piece.0, "a peer sent bad data; discarded the piece");
        transfer.piece_rejected();
        None
    }

    /// Reading or writing a file of a torrent failed. The pieces in flight are lost.
    pub(super) fn disk_error(
        &mut self,
        id: TorrentId,
        path: &Path,
        kind: DiskErrorKind,
        text: &str,
        now: Instant,
    ) {
        let Self { transfers, contents, settings, .. } = self;
        let Some(transfer) = transfers.by_id(id) else { return };
        let info_hash = transfer.info_hash();
        tracing::warn!(%info_hash, path = %path.display(), text, "the disk failed");
        let text = format!("{}: {text}", path.display());
        transfer.last_error = Some(format!("disk: {text}"));
        let of = transfer.revision.contents.iter().find(|content| content.path() == path);
        let gives_way = of.is_some_and(|content| content.is_sheddable());
        let waits = kind == DiskErrorKind::Full && of.is_some_and(|content| content.lies() == Lies::Beside);
        let lasting = match kind {
            DiskErrorKind::Full | DiskErrorKind::ReadOnly if gives_way || waits => {
                // Other bytes are deleted, or bytes that reads wait for go to memory; a whole file that is fetched next to
                // the cache waits for space. The engine would fetch again all that it was asked for, with or without space.
                settings.rooms.cache.refused();
                transfer.space.release_all(&settings.rooms);
                return transfers.add_again(info_hash, now);
            }
            DiskErrorKind::Full | DiskErrorKind::ReadOnly => true,
            DiskErrorKind::Missing | DiskErrorKind::Other => transfer.disk_failed,
            DiskErrorKind::Shortage => false,
        };
        transfer.disk_failed |= kind != DiskErrorKind::Shortage;
        transfer.handed.clear();
        transfer.unproved.engine_lost_pieces();
        if lasting {
            contents.drop_windows_of(&info_hash, transfers);
            if kind == DiskErrorKind::Full {
                let is_job = |w: &Waiter| w.kind == WaitKind::Job && w.concerns(&info_hash);
                contents.answer_all(&Err(ReadError::NoSpace), is_job, transfers);
            }
            contents.answer_all(&Err(ReadError::Disk(text)), |w| w.concerns(&info_hash), transfers);
        } else {
            transfer.wants.forget_requests();
        }
        transfers.effects.mark_changed(info_hash);
    }

    /// The engine released a torrent.
    pub(super) fn released(&mut self, id: TorrentId, now: Instant) {
        if let Some(info_hash) = self.transfers.released(id).map(|transfer| transfer.info_hash()) {
            self.transfer_failed(info_hash, "the engine dropped the torrent", now);
        }
    }

    /// The engine gave up a torrent. Returns it if the metainfo stored on disk may be the cause.
    pub(super) fn gave_up(&mut self, id: TorrentId, why: &str, now: Instant) -> Option<InfoHash> {
        let transfer = self.transfers.staying(id)?;
        let info_hash = transfer.info_hash();
        tracing::warn!(%info_hash, why, "the engine gave up a torrent");
        let distrust = std::mem::take(&mut transfer.metainfo_saved);
        if distrust {
            transfer.distrust_saved = true;
            transfer.left_engine();
        }
        self.transfers.ids.remove(&id);
        self.transfers.effects.send(Command::Remove(id));
        if distrust {
            self.transfers.add_or_hold(info_hash);
            return Some(info_hash);
        }
        self.transfer_failed(info_hash, why, now);
        None
    }
}

/// Cancels in other torrents, and in other files of the same one, the pieces whose bytes came through `came`.
fn cancel_duplicates(
    contents: &Contents,
    transfers: &mut Transfers,
    came: (InfoHash, u32),
    key: &ContentKey,
    bytes: &Range<u64>,
) {
    let Some(joined) = contents.all.get(key).filter(|joined| joined.uses.len() > 1) else { return };
    for &(of, file) in &joined.uses {
        let Some(transfer) = transfers.all.get_mut(&of) else { continue };
        let layout = &transfer.revision.layout;
        for piece in layout.pieces_of(file, bytes.start, bytes.end - bytes.start) {
            let whole = layout.owner(PieceIndex(piece)).is_some_and(|(_, b)| joined.content.has(b));
            if whole && (of, piece) != came {
                transfer.wants.cancel(piece);
                transfers.effects.mark_changed(of);
            }
        }
    }
}
