//! Verified bytes that are wrong on the disk: all swarms withdraw them, and reads fetch them again.

use std::ops::Range;

use super::contents::AllContents;
use super::core::Core;
use super::effects::EngineCommand;
use super::transfers::AllTransfers;
use crate::model::{InfoHash, PieceIndex};
use crate::store::ContentKey;

/// See [`Fetch::withdraw_damaged`](super::Fetch::withdraw_damaged).
pub(super) fn withdraw(core: &Core, info_hash: &InfoHash, piece: PieceIndex) -> bool {
    let found = core.state.lock().transfers.all.get(info_hash).and_then(|transfer| {
        let (file, bytes) = transfer.revision.layout.owner(piece)?;
        Some((transfer.revision.contents[file].clone(), bytes))
    });
    let Some((content, bytes)) = found else { return false };
    let Some(key) = content.key() else { return false };
    let (path, cached) = (content.path(), !content.is_placed());
    let counted = content.mark_wrong(bytes.clone()).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "could not record that bytes are wrong");
        true
    });
    if counted {
        tracing::warn!(path = %path.display(), ?bytes, "verified bytes are damaged on the disk; withdrawing them");
    }
    core.with(|state| {
        if let Some(transfer) = state.transfers.all.get_mut(info_hash).filter(|_| counted && cached) {
            transfer.damaged += bytes.end - bytes.start;
        }
        state.contents.withdraw(&key, &bytes, &mut state.transfers);
    });
    counted
}

impl AllContents {
    /// Withdraws pieces with bytes of a content from all torrents that have it.
    fn withdraw(&mut self, key: &ContentKey, bytes: &Range<u64>, transfers: &mut AllTransfers) {
        for (info_hash, file) in self.uses(key) {
            let Some(transfer) = transfers.all.get_mut(&info_hash) else { continue };
            let pieces = transfer.revision.layout.pieces_of(file, bytes.start, bytes.end - bytes.start);
            let pieces: Vec<PieceIndex> = pieces.map(PieceIndex).collect();
            for piece in &pieces {
                transfer.forget_piece(piece.0);
            }
            if transfer.has_moved(file) {
                transfers.add_again(info_hash);
            } else if let Some(id) = transfer.id() {
                transfers.withdraws(id, &pieces);
                transfers.effects.send(EngineCommand::Withdraw(id, pieces));
                transfers.effects.mark_changed(info_hash);
            }
        }
        self.reroute(key, transfers);
    }
}
