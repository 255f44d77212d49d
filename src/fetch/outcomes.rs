//! The changes of the state by events of the engine.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::ReadError;
use super::contents::AllContents;
use super::effects::EngineCommand;
use super::handed::HandedFrom;
use super::state::FetchState;
use super::transfer::AddedWith;
use super::transfers::AllTransfers;
use super::waiters::{WaitKind, Waiter};
use crate::model::{InfoHash, PieceIndex};
use crate::store::{Content, ContentKey, SpaceClass};
use crate::torrent::{DiskErrorKind, EngineError, SwarmStats, TorrentId};

/// The content of a piece, the bytes of it that the piece holds, and where they are stored after how many moves.
pub(super) type PieceOwners = (ContentKey, Range<u64>, Vec<(Arc<Content>, u64)>);

impl FetchState {
    /// The engine accepted or refused a torrent.
    pub(super) fn added(
        &mut self,
        info_hash: InfoHash,
        result: Result<TorrentId, EngineError>,
        with: AddedWith,
    ) {
        match result {
            Ok(id) => {
                if self.transfers.added(info_hash, id, with) {
                    self.proofs.expect(&mut self.transfers.effects);
                }
            }
            Err(error) => {
                tracing::warn!(%info_hash, %error, "the engine refused a torrent");
                self.transfer_failed(info_hash, &error.to_string());
            }
        }
    }

    /// The engine refused a command.
    pub(super) fn refused(&mut self, id: TorrentId, error: &EngineError) {
        let Some(transfer) = self.transfers.by_id(id) else { return };
        transfer.saving = false;
        transfer.exporting = false;
        // The `Removed` of an unknown torrent follows.
        if !matches!(error, EngineError::UnknownTorrent) {
            tracing::warn!(%error, "the engine refused a command");
            transfer.last_error = Some(error.to_string());
        }
    }

    fn transfer_failed(&mut self, info_hash: InfoHash, why: &str) {
        let now = self.transfers.effects.now;
        let Some(transfer) = self.transfers.all.get_mut(&info_hash) else { return };
        transfer.failed(why, now);
        let error = ReadError::Broken(why.to_owned());
        self.contents.fail_waiters_of(info_hash, &error, &mut self.transfers);
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
    ) {
        let now = self.transfers.effects.now;
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
        contents.claim_windows(key, transfers);
        if contents.all.get(key).is_some_and(|joined| joined.content.is_complete()) {
            contents.drop_windows(key, transfers);
            for (of, _) in contents.uses(key) {
                transfers.completed(of);
            }
        }
    }

    /// Blocks of a piece are verified and recorded.
    pub(super) fn blocks_came(
        &mut self,
        id: TorrentId,
        piece: PieceIndex,
        blocks: &Range<u32>,
        key: &ContentKey,
    ) {
        let now = self.transfers.effects.now;
        let Self { transfers, contents, settings, .. } = self;
        // Also if the torrent has left the engine since: reads that wait for these blocks would not be answered.
        let Some(&info_hash) = transfers.ids.get(&id) else { return };
        if let Some(transfer) = transfers.all.get_mut(&info_hash) {
            transfer.blocks_came(piece.0, blocks, now);
            transfer.space.blocks_came(piece.0, blocks.end - blocks.start, &settings.rooms);
            transfers.effects.mark_changed(info_hash);
        }
        // Whole files wait for the pieces, because then the engine can offer them.
        contents.answer_ready_reads(key, transfers);
    }

    /// No peer supplies the hashes of blocks of a piece: reads wait for the whole piece from now on.
    pub(super) fn blocks_refused(&mut self, id: TorrentId, piece: PieceIndex) {
        let now = self.transfers.effects.now;
        let Some(transfer) = self.transfers.staying(id) else { return };
        let info_hash = transfer.info_hash();
        transfer.peers.refuse_blocks(piece.0, now);
        let peers = &transfer.peers;
        transfer
            .space
            .cancel_parts(&transfer.wants, &self.settings.rooms, |piece| !peers.supply_blocks(piece, now));
        // The engine has ended the request.
        transfer.wants.forget_blocks(piece.0);
        let owner = transfer.revision.layout.owner(piece);
        let key = owner.and_then(|(file, _)| transfer.revision.contents[file].key());
        tracing::debug!(%info_hash, piece = piece.0, "no peer supplies hashes of blocks");
        self.transfers.effects.mark_changed(info_hash);
        if let Some(key) = key {
            self.contents.reroute(&key, &mut self.transfers);
        }
    }

    /// The torrent runs.
    pub(super) fn started(&mut self, id: TorrentId) {
        let now = self.transfers.effects.now;
        let Some(transfer) = self.transfers.staying(id) else { return };
        let info_hash = transfer.info_hash();
        transfer.started(id, now);
        self.transfers.effects.mark_changed(info_hash);
        self.contents.reroute_all(info_hash, &mut self.transfers);
        self.transfers.export_if_seed(info_hash);
        if self.contents.has_waiters(&info_hash) {
            self.transfers.start_search(info_hash);
        }
    }

    pub(super) fn peer_connected(&mut self, id: TorrentId, peer: SocketAddr) {
        let now = self.transfers.effects.now;
        let Some(transfer) = self.transfers.staying(id) else { return };
        let info_hash = transfer.info_hash();
        if transfer.peer_came(peer, now) {
            if transfer.unproved.any() {
                self.proofs.expect(&mut self.transfers.effects);
            }
            self.contents.reroute_shared(info_hash, &mut self.transfers);
        }
    }

    pub(super) fn peer_left(&mut self, id: TorrentId, peer: SocketAddr, why: &str) {
        let now = self.transfers.effects.now;
        let Some(transfer) = self.transfers.staying(id) else { return };
        let info_hash = transfer.info_hash();
        tracing::debug!(%info_hash, %peer, why, "a peer disconnected");
        transfer.peers.connected.remove(&peer);
        if !transfer.peers.connected.is_empty() {
            return;
        }
        self.contents.reroute_shared(info_hash, &mut self.transfers);
        if self.contents.has_waiters(&info_hash) {
            self.transfers.start_search(info_hash);
            let transfer = self.transfers.all.get_mut(&info_hash);
            if let Some(when) = transfer.and_then(|transfer| transfer.peers.call_again(now)) {
                self.transfers.effects.wake_by(when);
            }
        }
    }

    pub(super) fn stats_came(&mut self, id: TorrentId, stats: SwarmStats) {
        let now = self.transfers.effects.now;
        match self.transfers.by_id(id) {
            Some(transfer) if transfer.id() == Some(id) => transfer.stats_came(stats, now),
            Some(transfer) => transfer.last_stats_came(id, stats),
            None => {}
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
        if transfer.handed.remove(piece.0) == Some(HandedFrom::Web) {
            // The piece was right when the engine got it: peers had sent other blocks of it before.
            tracing::warn!(%info_hash, piece = piece.0, "the engine refused a piece that came over HTTP");
            if let Some(web) = &mut transfer.web {
                web.was_refused(piece.0);
            }
            self.transfers.effects.mark_changed(info_hash);
            return None;
        }
        if let Some(wrong) = transfer.unproved_bytes(piece.0) {
            tracing::warn!(%info_hash, piece = piece.0, "cached bytes are wrong; fetching them again");
            transfer.unproved.done(piece.0);
            transfer.damaged += wrong.1.end - wrong.1.start;
            self.transfers.reconsider(info_hash, [piece.0]);
            return Some(wrong);
        }
        tracing::warn!(%info_hash, piece = piece.0, "a peer sent bad data; discarded the piece");
        transfer.piece_rejected();
        None
    }

    /// Reading or writing a file of a torrent failed. The pieces in flight are lost.
    pub(super) fn disk_error(&mut self, id: TorrentId, path: &Path, kind: DiskErrorKind, text: &str) {
        let Self { transfers, contents, settings, .. } = self;
        let Some(transfer) = transfers.by_id(id) else { return };
        let info_hash = transfer.info_hash();
        tracing::warn!(%info_hash, path = %path.display(), text, "the disk failed");
        let text = format!("{}: {text}", path.display());
        transfer.last_error = Some(format!("disk: {text}"));
        let of = transfer.revision.contents.iter().find(|content| content.path() == path);
        let gives_way = of.is_some_and(|content| content.is_sheddable());
        let waits = kind == DiskErrorKind::Full
            && of.is_some_and(|content| content.space_class() == SpaceClass::CacheDisk);
        let lasting = match kind {
            DiskErrorKind::Full | DiskErrorKind::ReadOnly if gives_way || waits => {
                // Other bytes are deleted, or bytes that reads wait for go to memory; a whole file that is fetched next to
                // the cache waits for space. The engine would fetch all requested pieces again, with or without space.
                settings.rooms.cache.refused();
                transfer.space.release_all(&settings.rooms);
                return transfers.add_again(info_hash);
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
            let kind = match kind {
                DiskErrorKind::Full => io::ErrorKind::StorageFull,
                DiskErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
                DiskErrorKind::Missing | DiskErrorKind::Other | DiskErrorKind::Shortage => {
                    io::ErrorKind::Other
                }
            };
            contents.answer_all(&Err(ReadError::Disk(text, kind)), |w| w.concerns(&info_hash), transfers);
        } else {
            transfer.wants.forget_requests();
        }
        transfers.effects.mark_changed(info_hash);
    }

    /// The engine released a torrent.
    pub(super) fn released(&mut self, id: TorrentId) {
        if let Some(info_hash) = self.transfers.released(id).map(|transfer| transfer.info_hash()) {
            self.transfer_failed(info_hash, "the engine dropped the torrent");
        }
    }

    /// The engine gave up a torrent. Returns it if the metainfo stored on disk may be the cause.
    pub(super) fn gave_up(&mut self, id: TorrentId, why: &str) -> Option<InfoHash> {
        let transfer = self.transfers.staying(id)?;
        let info_hash = transfer.info_hash();
        tracing::warn!(%info_hash, why, "the engine gave up a torrent");
        let distrust = std::mem::take(&mut transfer.metainfo_saved);
        if distrust {
            transfer.distrust_saved = true;
            transfer.left_engine();
        }
        self.transfers.ids.remove(&id);
        self.transfers.effects.send(EngineCommand::Remove(id));
        if distrust {
            self.transfers.add_or_hold(info_hash);
            return Some(info_hash);
        }
        self.transfer_failed(info_hash, why);
        None
    }
}

/// Cancels in other torrents, and in other files of the same one, the pieces whose bytes came through `came`.
fn cancel_duplicates(
    contents: &AllContents,
    transfers: &mut AllTransfers,
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
