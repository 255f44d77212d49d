//! What happened in the engine, and what follows from it.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tokio::time::Instant;

use super::handed::Source;
use super::saving::Save;
use super::state::{Command, State};
use super::transfer::Phase;
use super::waiters::{Kind, Waiter};
use super::{Fetch, ReadError, lock};
use crate::model::{InfoHash, PieceIndex};
use crate::store::{Content, ContentKey, SpaceClass};
use crate::torrent::{DiskErrorKind, Event, TorrentId};

impl Fetch {
    pub(super) fn take(&self, event: Event) {
        let Some(id) = torrent_of(&event) else {
            if let Event::EventsLost = event {
                self.with(State::add_all_anew);
            }
            return;
        };
        if !lock(&self.state).ids.contains_key(&id) {
            // It may be just being added: whoever does that holds this lock until the number is known.
            drop(lock(&self.issuing));
        }
        match event {
            Event::PieceVerified(_, piece) => self.piece_verified(id, piece),
            Event::PieceRejected(_, piece) => self.piece_rejected(id, piece),
            Event::PieceDamaged(_, piece) => self.piece_damaged(id, piece),
            Event::ResumeData(_, bytes) => self.resume_came(id, bytes),
            Event::Metainfo(_, bytes) => self.metainfo_came(id, bytes),
            Event::Failed(_, why) => self.failed(id, &why),
            Event::DiskError(_, path, kind, text) => self.disk_failed(id, &path, kind, &text),
            Event::Removed(_) => {
                self.with(|state, now| state.removed(id, now));
                self.changed.notify_waiters();
            }
            event => self.with(|state, now| state.simple_event(id, event, now)),
        }
    }

    fn piece_verified(&self, id: TorrentId, piece: PieceIndex) {
        let found = { lock(&self.state).owners(id, piece) };
        let Some((root, bytes, contents)) = found else { return };
        // Marked before anybody is woken, and outside the lock, since it writes to the block map's file. A content
        // that has moved since the engine was given its path does not have these bytes where it is now.
        let mut here = false;
        for (content, moves) in contents {
            match content.mark_verified_at(bytes.clone(), moves) {
                Ok(marked) => here |= marked,
                Err(error) => {
                    // It counts in this process all the same.
                    here = true;
                    let path = content.path();
                    tracing::warn!(path = %path.display(), %error, "A verified piece could not be recorded.");
                    self.with(|state, _| state.note_error(id, format!("disk: {}: {error}", path.display())));
                }
            }
        }
        if !here {
            // Whoever wants it wants it still.
            return;
        }
        self.with(|state, now| state.piece_came(id, piece, &root, &bytes, now));
    }

    fn piece_rejected(&self, id: TorrentId, piece: PieceIndex) {
        let Some((content, wrong)) = self.with(|state, _| state.piece_rejected(id, piece)) else { return };
        // Outside the lock, since it writes to the file of the block map.
        if let Err(error) = content.forget_unproved(wrong) {
            let path = content.path();
            tracing::warn!(path = %path.display(), %error, "That cached bytes are wrong could not be recorded.");
        }
    }

    fn resume_came(&self, id: TorrentId, bytes: Vec<u8>) {
        let save = self.with(|state, _| {
            let ih = *state.ids.get(&id)?;
            let transfer = state.transfers.get_mut(&ih)?;
            transfer.saving = false;
            (!transfer.metainfo_saved).then_some(Save::Resume(ih, bytes))
        });
        if let Some(save) = save {
            self.saver.save(save);
        }
        self.changed.notify_waiters();
    }

    fn metainfo_came(&self, id: TorrentId, bytes: Option<Vec<u8>>) {
        let mut unknown = None;
        let save = self.with(|state, _| {
            let ih = *state.ids.get(&id)?;
            let transfer = state.transfers.get_mut(&ih)?;
            transfer.exporting = false;
            let Some(bytes) = bytes else {
                if transfer.revision.is_complete() && !std::mem::replace(&mut transfer.hashed, true) {
                    unknown = Some((ih, transfer.revision.clone()));
                }
                return None;
            };
            transfer.metainfo_saved = true;
            transfer.distrust_saved = false;
            transfer.resume_dirty = false;
            Some(Save::Metainfo(ih, bytes))
        });
        if let Some(save) = save {
            self.saver.save(save);
        }
        if let Some((ih, revision)) = unknown {
            self.compute_layers(ih, revision);
        }
    }

    fn disk_failed(&self, id: TorrentId, path: &Path, kind: DiskErrorKind, text: &str) {
        let gone = match kind {
            DiskErrorKind::Missing => self.take_back_what_is_gone(id, path),
            _ => Vec::new(),
        };
        self.with(|state, now| {
            state.disk_error(id, path, kind, text, now);
            if let Some(&ih) = state.ids.get(&id).filter(|_| !gone.is_empty()) {
                state.add_anew(ih, now);
            }
            // Whoever waits for more than was missing when it came wants these pieces too.
            for root in &gone {
                state.reroute(root, now);
            }
        });
    }

    /// Takes back the verified bytes of a file that was removed or cut. The engine has made it anew by now, perhaps:
    /// what is a hole in it cannot be told from what is not, so all of it goes. Returns the contents that lost bytes.
    fn take_back_what_is_gone(&self, id: TorrentId, path: &Path) -> Vec<ContentKey> {
        let known = {
            let state = lock(&self.state);
            let transfer = state.ids.get(&id).and_then(|ih| state.transfers.get(ih));
            // Errors of a torrent on its way out are of files that have been taken back already.
            transfer.filter(|t| t.id() == Some(id)).map(|t| (t.revision.clone(), t.given.clone()))
        };
        let Some((revision, given)) = known else { return Vec::new() };
        let mut gone = Vec::new();
        for (content, moves) in revision.contents.iter().zip(given).filter(|(c, _)| c.path() == path) {
            let lost = content.cached_bytes() + content.unproved_bytes();
            let Some(key) = content.key().filter(|_| lost > 0) else { continue };
            match content.start_over_at(moves) {
                // The file was renamed after the engine was given its path.
                Ok(false) => continue,
                Ok(true) => {
                    tracing::warn!(path = %path.display(), "Verified bytes are gone from the file; they are fetched again.");
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "That verified bytes are gone from the file could not be recorded.");
                }
            }
            gone.push(key);
        }
        gone
    }

    fn failed(&self, id: TorrentId, why: &str) {
        if let Some(ih) = self.with(|state, now| state.failed_event(id, why, now)) {
            self.saver.save(Save::ForgetMetainfo(ih));
        }
        self.changed.notify_waiters();
    }
}

/// The torrent an event is about.
fn torrent_of(event: &Event) -> Option<TorrentId> {
    match *event {
        Event::Added(id)
        | Event::Failed(id, _)
        | Event::PieceVerified(id, _)
        | Event::PieceRejected(id, _)
        | Event::PieceDamaged(id, _)
        | Event::PeerConnected(id, _)
        | Event::PeerDisconnected(id, _, _)
        | Event::Stats(id, _)
        | Event::SilentSeeds(id, _)
        | Event::DiskError(id, _, _, _)
        | Event::ResumeData(id, _)
        | Event::Metainfo(id, _)
        | Event::Metadata(id, _)
        | Event::Removed(id) => Some(id),
        Event::Listening(_) | Event::ListenFailed(_, _) | Event::Overlay(_) | Event::EventsLost => None,
    }
}

/// The content of a piece, the bytes of it that the piece holds, and where they are kept after how many moves.
type Owners = (ContentKey, Range<u64>, Vec<(Arc<Content>, u64)>);

impl State {
    fn owners(&self, id: TorrentId, piece: PieceIndex) -> Option<Owners> {
        let transfer = self.transfers.get(self.ids.get(&id)?)?;
        let (file, bytes) = transfer.revision.layout.owner(piece)?;
        let own = &transfer.revision.contents[file];
        let root = own.key()?;
        // Without it the piece is of an earlier stay in the engine, and may stand in a file that is gone.
        let given = *transfer.given.get(file)?;
        let mut contents = vec![(own.clone(), given)];
        if let Some(shared) = self.contents.get(&root).filter(|s| !Arc::ptr_eq(&s.content, own)) {
            contents.push((shared.content.clone(), shared.content.moves()));
        }
        Some((root, bytes, contents))
    }

    fn piece_came(
        &mut self,
        id: TorrentId,
        piece: PieceIndex,
        root: &ContentKey,
        bytes: &Range<u64>,
        now: Instant,
    ) {
        let Some(&ih) = self.ids.get(&id) else { return };
        if let Some(transfer) = self.transfers.get_mut(&ih) {
            transfer.piece_came(piece.0, bytes.end - bytes.start, now);
            transfer.space.came(piece.0, &self.settings.rooms);
            self.touched.insert(ih);
            if transfer.resume_dirty {
                let next_save = transfer.next_save;
                self.look_at(next_save);
            }
        }
        self.cancel_elsewhere(ih, piece, root, bytes);
        self.wake_ready(root);
        self.apply_windows(root, now);
        if self.contents.get(root).is_some_and(|c| c.content.is_complete()) {
            self.drop_windows(root);
            let uses = self.contents.get(root).map(|c| c.uses.clone()).unwrap_or_default();
            for (of, _) in uses {
                self.completed(of, now);
            }
        }
    }

    /// Other torrents need not fetch what came through this one.
    fn cancel_elsewhere(&mut self, ih: InfoHash, piece: PieceIndex, root: &ContentKey, bytes: &Range<u64>) {
        let Some(content) = self.contents.get(root).filter(|c| c.uses.len() > 1) else { return };
        for &(of, file) in &content.uses {
            let Some(transfer) = self.transfers.get_mut(&of) else { continue };
            let layout = &transfer.revision.layout;
            for other in layout.pieces_of(file, bytes.start, bytes.end - bytes.start) {
                let whole = layout.owner(PieceIndex(other)).is_some_and(|(_, b)| content.content.has(b));
                if whole && (of, other) != (ih, piece.0) {
                    transfer.wants.cancel(other);
                    self.touched.insert(of);
                }
            }
        }
    }

    /// Answers everybody whose bytes are here.
    pub(super) fn wake_ready(&mut self, root: &ContentKey) {
        let Some(content) = self.contents.get(root) else { return };
        let waiters = content.waiters.iter().filter(|(_, w)| content.content.has(w.range.clone()));
        for id in waiters.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.answer(root, id, Ok(()));
        }
    }

    /// When a torrent's files are all here, it is made a seed that knows its layers.
    pub(super) fn completed(&mut self, ih: InfoHash, now: Instant) {
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        let Some(id) = transfer.running().filter(|_| transfer.revision.is_complete()) else { return };
        if !transfer.engine_has.is_full() {
            // Some bytes came through other torrents.
            self.add_anew(ih, now);
        } else if !transfer.metainfo_saved && !transfer.exporting {
            transfer.exporting = true;
            self.outbox.push_back(Command::ExportMetainfo(id));
        }
    }

    fn simple_event(&mut self, id: TorrentId, event: Event, now: Instant) {
        let Some(&ih) = self.ids.get(&id) else { return };
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        if transfer.id() != Some(id) {
            if let Event::Stats(_, stats) = event {
                transfer.take_last_stats(id, stats);
            }
            return;
        }
        match event {
            Event::Added(_) => {
                transfer.started(id, now);
                self.touched.insert(ih);
                self.reroute_all(ih, now);
                self.export_if_seed(ih);
                if self.has_waiters(&ih) {
                    self.start_search(ih, now);
                }
            }
            Event::PeerConnected(_, peer) => {
                let first = transfer.peers.is_empty();
                transfer.peer_came(peer, now);
                if first {
                    if transfer.unproved.any() {
                        self.expect_proofs(now);
                    }
                    self.reroute_waiters_of(ih, now);
                }
            }
            Event::PeerDisconnected(_, peer, why) => {
                tracing::debug!(%ih, %peer, %why, "A peer is gone.");
                transfer.peers.remove(&peer);
                if transfer.peers.is_empty() {
                    self.reroute_waiters_of(ih, now);
                    if self.has_waiters(&ih) {
                        self.start_search(ih, now);
                        let called =
                            self.transfers.get_mut(&ih).and_then(|transfer| transfer.call_again(now));
                        called.into_iter().for_each(|when| self.look_at(when));
                    }
                }
            }
            Event::Stats(_, stats) => {
                transfer.take_stats(stats, now);
            }
            Event::SilentSeeds(_, seeds) => transfer.silent_seeds = seeds,
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

    /// The engine threw a piece away. Returns the cached bytes that were wrong, if it was made of them.
    fn piece_rejected(&mut self, id: TorrentId, piece: PieceIndex) -> Option<(Arc<Content>, Range<u64>)> {
        let ih = *self.ids.get(&id)?;
        let transfer = self.transfers.get_mut(&ih).filter(|t| t.id() == Some(id))?;
        if transfer.handed.take(piece.0) == Some(Source::Web) {
            // The piece was right when the engine got it: peers had sent other blocks of it before.
            tracing::warn!(%ih, piece = piece.0, "The engine refused a piece that came over HTTP.");
            if let Some(web) = &mut transfer.web {
                web.was_refused(piece.0);
            }
            self.touched.insert(ih);
            return None;
        }
        let wrong = self.unproved_was_rejected(ih, piece.0);
        match wrong {
            Some(_) => {
                tracing::warn!(%ih, piece = piece.0, "Cached bytes of an older version are wrong; they are fetched again.");
            }
            None => {
                tracing::warn!(%ih, piece = piece.0, "A peer sent bad data; the piece was thrown away.");
                if let Some(transfer) = self.transfers.get_mut(&ih) {
                    transfer.piece_rejected();
                }
            }
        }
        wrong
    }

    fn export_if_seed(&mut self, ih: InfoHash) {
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        let Some(id) = transfer.running() else { return };
        if transfer.engine_has.is_full() && !transfer.metainfo_saved && !transfer.exporting {
            transfer.exporting = true;
            self.outbox.push_back(Command::ExportMetainfo(id));
        }
    }

    fn note_error(&mut self, id: TorrentId, text: String) {
        if let Some(transfer) = self.ids.get(&id).and_then(|ih| self.transfers.get_mut(ih)) {
            transfer.last_error = Some(text);
        }
    }

    fn disk_error(&mut self, id: TorrentId, path: &Path, kind: DiskErrorKind, text: &str, now: Instant) {
        let Some(&ih) = self.ids.get(&id) else { return };
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        tracing::warn!(%ih, path = %path.display(), text, "The disk failed.");
        let text = format!("{}: {text}", path.display());
        transfer.last_error = Some(format!("disk: {text}"));
        let of = transfer.revision.contents.iter().find(|content| content.path() == path);
        let gives_way = of.is_some_and(|content| content.is_sheddable());
        let waits = kind == DiskErrorKind::Full
            && of.is_some_and(|content| content.space_class() == SpaceClass::CacheDisk);
        let lasting = match kind {
            DiskErrorKind::Full | DiskErrorKind::ReadOnly if gives_way || waits => {
                // Other bytes give way, or what reads wait for goes to memory; a whole file that is fetched next to the cache
                // waits for space. The engine would fetch again all that it was asked for, with or without space.
                self.settings.rooms.cache.refused();
                transfer.space.release_all(&self.settings.rooms);
                return self.add_anew(ih, now);
            }
            DiskErrorKind::Full | DiskErrorKind::ReadOnly => true,
            DiskErrorKind::Missing | DiskErrorKind::Other => transfer.disk_failed,
            DiskErrorKind::Shortage => false,
        };
        transfer.disk_failed |= kind != DiskErrorKind::Shortage;
        transfer.handed.clear();
        transfer.unproved.engine_lost_pieces();
        if lasting {
            self.drop_windows_of(&ih);
            let concerns = |w: &Waiter| w.via.0 == ih || w.claims.iter().any(|(of, _)| *of == ih);
            if kind == DiskErrorKind::Full {
                self.answer_all(&Err(ReadError::NoSpace), |w| w.kind == Kind::Job && concerns(w));
            }
            self.answer_all(&Err(ReadError::Disk(text.clone())), concerns);
        } else {
            // The pieces in flight are lost: say the deadlines again.
            transfer.wants.forget_requests();
        }
        self.touched.insert(ih);
    }

    fn removed(&mut self, id: TorrentId, now: Instant) {
        self.leaving.retain(|_, of| *of != id);
        let Some(ih) = self.ids.remove(&id) else { return };
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        match transfer.phase {
            Phase::Removing { id: old, .. } if old == id => self.out_of_engine(ih),
            _ if transfer.id() == Some(id) => {
                let why = "the engine dropped the torrent";
                transfer.failed(why, now);
                self.fail_waiters_of(ih, &ReadError::Broken(why.to_owned()), now);
            }
            _ => {}
        }
    }

    /// A torrent that is to be added anew is out: add it, or hold it back.
    pub(super) fn out_of_engine(&mut self, ih: InfoHash) {
        let held = self.is_held(&ih);
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        if held {
            transfer.phase = Phase::Held;
        } else {
            transfer.phase = Phase::Queued;
            self.outbox.push_back(Command::Add(ih));
        }
    }

    /// The engine gave up a torrent. Returns it if the metainfo kept on disk may be to blame.
    fn failed_event(&mut self, id: TorrentId, why: &str, now: Instant) -> Option<InfoHash> {
        let ih = self.ids.get(&id).copied()?;
        let transfer = self.transfers.get_mut(&ih).filter(|t| t.id() == Some(id))?;
        tracing::warn!(%ih, why, "The engine refused a torrent.");
        self.ids.remove(&id);
        self.outbox.push_back(Command::Remove(id));
        if transfer.metainfo_saved {
            transfer.metainfo_saved = false;
            transfer.distrust_saved = true;
            transfer.left_engine();
            self.out_of_engine(ih);
            return Some(ih);
        }
        transfer.failed(why, now);
        self.fail_waiters_of(ih, &ReadError::Broken(why.to_owned()), now);
        None
    }

    /// Fails those who named a torrent; others who only profited from it find another source.
    pub(super) fn fail_waiters_of(&mut self, ih: InfoHash, why: &ReadError, now: Instant) {
        self.answer_all(&Err(why.clone()), |w| w.via.0 == ih);
        self.reroute_waiters_of(ih, now);
    }

    /// Finds new sources for everybody who waits for contents of a torrent.
    pub(super) fn reroute_waiters_of(&mut self, ih: InfoHash, now: Instant) {
        let shared: Vec<ContentKey> = self
            .hot
            .iter()
            .filter(|root| {
                let content = self.contents.get(root);
                content.is_some_and(|c| c.uses.len() > 1 && c.uses.iter().any(|(of, _)| *of == ih))
            })
            .copied()
            .collect();
        for root in shared {
            self.reroute(&root, now);
        }
    }

    /// The engine lost events: nothing it said before counts. Its torrents are added anew with what is here.
    fn add_all_anew(&mut self, now: Instant) {
        for ih in self.transfers.keys().copied().collect::<Vec<_>>() {
            self.add_anew(ih, now);
        }
    }
}
