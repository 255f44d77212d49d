//! Verified bytes that are wrong on the disk: they are withdrawn from all swarms, and fetched again when they are read.

use std::ops::Range;

use tokio::time::Instant;

use super::state::{Command, State};
use super::{Fetch, lock};
use crate::model::{InfoHash, PieceIndex};
use crate::store::ContentKey;
use crate::torrent::TorrentId;

impl Fetch {
    /// The bytes of a piece of a joined torrent are not what its hash says: withdraws it. Returns whether it counted as
    /// verified. Writes to files.
    pub fn withdraw_damaged(&self, info_hash: &InfoHash, piece: PieceIndex) -> bool {
        let found = {
            let state = lock(&self.state);
            state.transfers.get(info_hash).and_then(|transfer| {
                let (file, bytes) = transfer.revision.layout.owner(piece)?;
                Some((transfer.revision.contents[file].clone(), bytes))
            })
        };
        let Some((content, bytes)) = found else { return false };
        let Some(key) = content.key() else { return false };
        let (path, cached) = (content.path(), !content.is_placed());
        let counted = content.mark_wrong(bytes.clone()).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "That bytes are wrong could not be recorded.");
            true
        });
        if counted {
            tracing::warn!(path = %path.display(), ?bytes, "Verified bytes are damaged on the disk; they are withdrawn.");
        }
        self.with(|state, now| {
            if let Some(transfer) = state.transfers.get_mut(info_hash).filter(|_| counted && cached) {
                transfer.damaged += bytes.end - bytes.start;
            }
            state.withdraw(&key, &bytes, now);
        });
        counted
    }

    pub(super) fn piece_damaged(&self, id: TorrentId, piece: PieceIndex) {
        let ih = { lock(&self.state).ids.get(&id).copied() };
        if let Some(ih) = ih {
            self.withdraw_damaged(&ih, piece);
        }
    }
}

impl State {
    /// Bytes of a content no longer count: all torrents that hold it withdraw the pieces.
    fn withdraw(&mut self, root: &ContentKey, bytes: &Range<u64>, now: Instant) {
        let uses = self.contents.get(root).map(|content| content.uses.clone()).unwrap_or_default();
        for (ih, file) in uses {
            let Some(transfer) = self.transfers.get_mut(&ih) else { continue };
            let pieces = transfer.revision.layout.pieces_of(file, bytes.start, bytes.end - bytes.start);
            let pieces: Vec<PieceIndex> = pieces.map(PieceIndex).collect();
            for piece in &pieces {
                transfer.engine_has.set(piece.0 as usize, false);
                // The engine is to be asked for it again.
                transfer.wants.say_again(piece.0);
            }
            if transfer.has_moved(file) {
                self.add_anew(ih, now);
            } else if let Some(id) = transfer.id() {
                self.outbox.push_back(Command::Withdraw(id, pieces));
                self.touched.insert(ih);
            }
        }
        self.reroute(root, now);
    }
}
