//! The changes of files by events of the engine: block maps, resume data, metainfo. `outcomes` has the changes of the state.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::saving::Save;
use super::{Fetch, damage, layers};
use crate::model::{BLOCK_LEN, PieceIndex};
use crate::store::{Content, ContentKey};
use crate::torrent::{DiskErrorKind, Event, TorrentId};

impl Fetch {
    /// Processes an event of the engine. Called by one task, in order.
    pub fn handle(&self, event: Event) {
        let Some(id) = torrent_of(&event) else {
            if let Event::EventsLost = event {
                self.core.with(|state| state.transfers.add_all_again());
            }
            return;
        };
        if !self.core.state.lock().transfers.ids.contains_key(&id) {
            // The torrent may be just being added: this lock is held until its number is stored.
            drop(self.core.issuer.issuing.lock());
        }
        match event {
            Event::PieceVerified(_, piece) => self.piece_verified(id, piece),
            Event::BlocksVerified(_, piece, blocks) => self.blocks_verified(id, piece, blocks),
            Event::BlocksRefused(_, piece) => self.core.with(|state| state.blocks_refused(id, piece)),
            Event::Withdrawn(_, piece) => self.core.with(|state| state.transfers.withdrawn(id, piece)),
            Event::PieceRejected(_, piece) => self.piece_rejected(id, piece),
            Event::PieceDamaged(_, piece) => {
                let info_hash = self.core.state.lock().transfers.ids.get(&id).copied();
                info_hash.into_iter().for_each(|info_hash| {
                    damage::withdraw(&self.core, &info_hash, piece);
                });
            }
            Event::ResumeData(_, bytes) => self.resume_came(id, bytes),
            Event::Metainfo(_, bytes) => self.metainfo_came(id, bytes),
            Event::Failed(_, why) => {
                if let Some(info_hash) = self.core.with(|state| state.gave_up(id, &why)) {
                    self.core.issuer.saver.save(Save::ForgetMetainfo(info_hash));
                }
                self.core.state.engine_changed.notify_waiters();
            }
            Event::DiskError(_, path, kind, text) => self.disk_failed(id, &path, kind, &text),
            Event::Removed(_) => {
                self.core.with(|state| state.released(id));
                self.core.state.engine_changed.notify_waiters();
            }
            Event::Added(_) => self.core.with(|state| state.started(id)),
            Event::PeerConnected(_, peer) => self.core.with(|state| state.peer_connected(id, peer)),
            Event::PeerDisconnected(_, peer, why) => self.core.with(|state| state.peer_left(id, peer, &why)),
            Event::Stats(_, stats) => self.core.with(|state| state.stats_came(id, stats)),
            Event::SilentSeeds(_, seeds) => self.core.with(|state| {
                if let Some(transfer) = state.transfers.staying(id) {
                    transfer.peers.silent_seeds = seeds;
                }
            }),
            Event::Readers(_, readers) => self.core.with(|state| {
                if let Some(transfer) = state.transfers.staying(id) {
                    transfer.peers.readers = readers;
                }
            }),
            Event::Metadata(..)
            | Event::Listening(_)
            | Event::ListenFailed(..)
            | Event::Overlay(_)
            | Event::EventsLost => {}
        }
    }

    fn piece_verified(&self, id: TorrentId, piece: PieceIndex) {
        let owners = { self.core.state.lock().owners(id, piece) };
        let Some((key, bytes, contents)) = owners else { return };
        let verified = self.mark(id, piece, &bytes, contents);
        // Otherwise the remaining claims keep the piece requested.
        if verified {
            self.core.with(|state| state.piece_came(id, piece, &key, &bytes));
        }
    }

    fn blocks_verified(&self, id: TorrentId, piece: PieceIndex, blocks: Range<u32>) {
        let owners = {
            let mut state = self.core.state.lock();
            if state.transfers.staying(id).is_none() { None } else { state.owners(id, piece) }
        };
        let Some((key, bytes, contents)) = owners else { return };
        let at = |block: u32| (bytes.start + u64::from(block) * BLOCK_LEN).min(bytes.end);
        let part = at(blocks.start)..at(blocks.end);
        if self.mark(id, piece, &part, contents) {
            self.core.with(|state| state.blocks_came(id, piece, &blocks, &key));
        }
    }

    /// Records that bytes of a piece are verified, and returns whether some content has them. Called before a waiter is woken,
    /// and without the lock, since it writes to the block map's file. A content that has moved since the engine was given its
    /// path does not have these bytes in its present file. Bytes that were deleted since the engine reported them do not count.
    fn mark(
        &self,
        id: TorrentId,
        piece: PieceIndex,
        bytes: &Range<u64>,
        contents: Vec<(Arc<Content>, u64)>,
    ) -> bool {
        let mut verified = false;
        for (content, moves) in contents {
            let marked = loop {
                // A deletion that begins after the check below changes the version.
                let version = content.version();
                if version.moves != moves || self.core.state.lock().transfers.is_withdrawing(id, piece) {
                    break Ok(false);
                }
                match content.mark_proved(bytes.clone(), version) {
                    Ok(false) => {}
                    marked => break marked,
                }
            };
            match marked {
                Ok(marked) => {
                    verified |= marked;
                    if marked
                        && content.is_complete()
                        && let Some(witness) = self.witness.get()
                    {
                        witness.completed();
                    }
                }
                Err(error) => {
                    // The block map in memory has the bytes.
                    verified = true;
                    let path = content.path();
                    tracing::warn!(path = %path.display(), %error, "could not record verified bytes");
                    self.core.with(|state| {
                        if let Some(transfer) = state.transfers.by_id(id) {
                            transfer.last_error = Some(format!("disk: {}: {error}", path.display()));
                        }
                    });
                }
            }
        }
        verified
    }

    fn piece_rejected(&self, id: TorrentId, piece: PieceIndex) {
        let Some((content, wrong)) = self.core.with(|state| state.piece_rejected(id, piece)) else { return };
        // Without the lock, since it writes to the file of the block map.
        if let Err(error) = content.forget_unproved(wrong) {
            let path = content.path();
            tracing::warn!(path = %path.display(), %error, "could not record that cached bytes are wrong");
        }
    }

    fn resume_came(&self, id: TorrentId, bytes: Vec<u8>) {
        let save = self.core.with(|state| {
            let transfer = state.transfers.by_id(id)?;
            transfer.saving = false;
            (!transfer.metainfo_saved).then(|| Save::Resume(transfer.info_hash(), bytes))
        });
        save.into_iter().for_each(|save| self.core.issuer.saver.save(save));
        self.core.state.engine_changed.notify_waiters();
    }

    fn metainfo_came(&self, id: TorrentId, bytes: Option<Vec<u8>>) {
        let mut without_layers = None;
        let save = self.core.with(|state| {
            let transfer = state.transfers.by_id(id)?;
            transfer.exporting = false;
            let Some(bytes) = bytes else {
                if transfer.revision.is_complete() && !std::mem::replace(&mut transfer.hashed, true) {
                    without_layers = Some(transfer.revision.clone());
                }
                return None;
            };
            transfer.metainfo_saved = true;
            transfer.distrust_saved = false;
            transfer.resume_dirty = false;
            Some(Save::Metainfo(transfer.info_hash(), bytes))
        });
        save.into_iter().for_each(|save| self.core.issuer.saver.save(save));
        if let Some(revision) = without_layers {
            layers::compute_in_background(self, revision);
        }
    }

    fn disk_failed(&self, id: TorrentId, path: &Path, kind: DiskErrorKind, text: &str) {
        let lost = match kind {
            DiskErrorKind::Missing => self.forget_lost_file(id, path),
            _ => Vec::new(),
        };
        self.core.with(|state| {
            state.disk_error(id, path, kind, text);
            if let Some(&info_hash) = state.transfers.ids.get(&id).filter(|_| !lost.is_empty()) {
                state.transfers.add_again(info_hash);
            }
            // Reads that wait for more than was missing when they began need these pieces too.
            for key in &lost {
                state.contents.reroute(key, &mut state.transfers);
            }
        });
    }

    /// Marks the bytes of a file that was removed or cut as missing. The engine may have created the file again, and holes
    /// in it look like data, so all of its bytes are fetched again. Returns the contents that lost bytes.
    fn forget_lost_file(&self, id: TorrentId, path: &Path) -> Vec<ContentKey> {
        let found = {
            let mut state = self.core.state.lock();
            // Errors of a torrent that is being removed concern files that have been marked already.
            state.transfers.staying(id).map(|t| (t.revision.clone(), t.given.clone()))
        };
        let Some((revision, given)) = found else { return Vec::new() };
        let mut lost = Vec::new();
        for (content, moves) in revision.contents.iter().zip(given).filter(|(c, _)| c.path() == path) {
            let bytes = content.cached_bytes() + content.unproved_bytes();
            let Some(key) = content.key().filter(|_| bytes > 0) else { continue };
            match content.start_over_at(moves) {
                // The file was renamed after the engine was given its path.
                Ok(false) => continue,
                Ok(true) => {
                    tracing::warn!(path = %path.display(), "verified bytes are missing in the file; fetching them again");
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "could not record that verified bytes are missing in the file");
                }
            }
            lost.push(key);
        }
        lost
    }
}

/// The torrent of an event.
fn torrent_of(event: &Event) -> Option<TorrentId> {
    match *event {
        Event::Added(id)
        | Event::Failed(id, _)
        | Event::PieceVerified(id, _)
        | Event::BlocksVerified(id, _, _)
        | Event::BlocksRefused(id, _)
        | Event::Withdrawn(id, _)
        | Event::PieceRejected(id, _)
        | Event::PieceDamaged(id, _)
        | Event::PeerConnected(id, _)
        | Event::PeerDisconnected(id, _, _)
        | Event::Stats(id, _)
        | Event::SilentSeeds(id, _)
        | Event::Readers(id, _)
        | Event::DiskError(id, _, _, _)
        | Event::ResumeData(id, _)
        | Event::Metainfo(id, _)
        | Event::Metadata(id, _)
        | Event::Removed(id) => Some(id),
        Event::Listening(_) | Event::ListenFailed(_, _) | Event::Overlay(_) | Event::EventsLost => None,
    }
}
