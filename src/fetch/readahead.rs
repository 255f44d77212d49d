//! Windows turned into claims: which pieces ahead of the readers are wanted, and how much.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::claim::{ClaimId, ClaimLevel, Extent, TorrentPiece};
use super::contents::{AllContents, JoinedContent};
use super::tensors::FileTensors;
use super::transfers::AllTransfers;
use super::window::{STALE, WindowReach, share, within};
use super::{FetchSettings, FileRef};
use crate::model::{InfoHash, PieceIndex};
use crate::store::ContentKey;

/// So many pieces at the front of a window have deadlines, the rest plain priorities. Deadlines scale badly in libtorrent,
/// and while a piece has one, the request of a reader does not cancel blocks that are already on their way.
const NEAR_PIECES: usize = 3;

/// Distance between the deadlines of pieces at the front of a window.
const NEAR_STEP: Duration = Duration::from_millis(500);

/// All windows together want at most this many times the widest one.
pub(super) const BUDGET: u64 = 4;

/// The bounds of the claims of one window.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Bytes of all windows together.
    budget: u64,
    /// Windows that share the budget.
    hungry: usize,
    /// Bytes of the pieces of one window.
    window: u64,
}

/// When the claims of a cursor are computed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Apply {
    /// If its window covers other pieces than before.
    IfMoved,
    /// In any case: the missing pieces, or their sources, changed.
    Always,
}

impl AllContents {
    /// Records a read of verified or awaited bytes: moves the file's cursors and windows.
    pub(super) fn touch(&mut self, file: &FileRef, range: Range<u64>, transfers: &mut AllTransfers) {
        let now = transfers.effects.now;
        let (content, info_hash) = (file.content(), file.info_hash());
        let Some(key) = content.key().filter(|_| !content.is_complete()) else { return };
        let Some(transfer) = transfers.all.get(&info_hash) else { return };
        let shared = transfer.peers.readers > 0;
        let piece_length = u64::from(file.revision.layout.piece_length());
        let FetchSettings { readahead_max, window_bound, .. } = *self.settings;
        let reach = WindowReach::new(readahead_max, piece_length, window_bound, shared);
        let new_id = transfers.effects.new_id();
        let Some(joined) = self.all.get_mut(&key) else { return };
        let (id, evicted) = joined.windows.on_read(range, now, reach, new_id);
        if let Some(cursor) = joined.windows.cursor_mut(id) {
            cursor.follow((info_hash, file.file));
        }
        if let Some(evicted) = evicted {
            transfers.release(&evicted.claims, evicted.id);
        }
        self.active.insert(key);
        transfers.effects.wake_by(now + STALE);
        let bounds = self.bounds();
        if let Some(joined) = self.all.get_mut(&key) {
            joined.claim_window(id, Apply::IfMoved, bounds, transfers);
        }
    }

    /// Updates the claims of all cursors of a content.
    pub(super) fn claim_windows(&mut self, key: &ContentKey, transfers: &mut AllTransfers) {
        let Some(joined) = self.all.get(key) else { return };
        let ids: Vec<_> = joined.windows.cursors().iter().map(|cursor| cursor.id).collect();
        // The bounds cost a pass over all contents that are being read: thousands during `get` of thousands of files, none of
        // which has a cursor.
        if ids.is_empty() {
            return;
        }
        let bounds = self.bounds();
        let Some(joined) = self.all.get_mut(key) else { return };
        for id in ids {
            joined.claim_window(id, Apply::Always, bounds, transfers);
        }
    }

    fn bounds(&self) -> Bounds {
        let cursors = self.active().flat_map(|(_, joined)| joined.windows.cursors());
        Bounds {
            budget: self.settings.readahead_max.saturating_mul(BUDGET),
            hungry: cursors.filter(|cursor| cursor.is_hungry()).count(),
            window: self.settings.window_bound,
        }
    }

    /// Removes the cursors of a content and their claims.
    pub(super) fn drop_windows(&mut self, key: &ContentKey, transfers: &mut AllTransfers) {
        let Some(joined) = self.all.get_mut(key) else { return };
        let cursors = joined.windows.take();
        self.deactivate_if_idle(key);
        for cursor in cursors {
            transfers.release(&cursor.claims, cursor.id);
        }
    }

    /// Removes the cursors of a torrent's files.
    pub(super) fn drop_windows_of(&mut self, info_hash: &InfoHash, transfers: &mut AllTransfers) {
        for key in self.active_of(info_hash) {
            self.drop_windows(&key, transfers);
        }
    }

    /// Ends the windows of cursors that no read has moved for a while. A cursor whose reader waits is not stale.
    pub(super) fn rest_stale_cursors(&mut self, transfers: &mut AllTransfers) {
        for key in self.active.iter().copied().collect::<Vec<_>>() {
            let Some(joined) = self.all.get_mut(&key) else { continue };
            if joined.waiters.is_empty() && joined.windows.rest_stale(transfers.effects.now) {
                self.claim_windows(&key, transfers);
                self.deactivate_if_idle(&key);
            }
        }
    }

    /// When the next cursor may become stale.
    pub(super) fn next_stale(&self) -> Option<Instant> {
        let unwaited = self.active().filter(|(_, joined)| joined.waiters.is_empty());
        let cursors = unwaited.flat_map(|(_, joined)| joined.windows.cursors());
        cursors.filter(|cursor| cursor.active).map(|cursor| cursor.used + STALE).min()
    }
}

impl JoinedContent {
    fn claim_window(&mut self, id: ClaimId, when: Apply, bounds: Bounds, transfers: &mut AllTransfers) {
        let len = self.content.len();
        let Some(cursor) = self.windows.cursor_mut(id) else { return };
        let Some(via) = cursor.via else { return };
        let Some(layout) = transfers.all.get(&via.0).map(|t| &t.revision.layout) else { return };
        let end = match &self.shape {
            FileTensors::Tensors(tensors) => tensors.bound(cursor.start, cursor.pos).min(len),
            FileTensors::Plain | FileTensors::Unread => len,
        };
        let piece_length = u64::from(layout.piece_length());
        let wanted = cursor.wanted(share(bounds.budget, bounds.hungry, piece_length), end);
        let pieces = layout.pieces_of(via.1, wanted.start, wanted.end - wanted.start);
        // Most reads stay within the pieces of the one before.
        if when == Apply::IfMoved && pieces == cursor.pieces {
            return;
        }
        cursor.pieces = pieces;
        let old = std::mem::take(&mut cursor.claims);
        let mut new = if wanted.is_empty() { Vec::new() } else { self.route(via, &wanted, transfers) };
        // A window may begin and end inside a piece, and the whole piece is requested.
        let lengths = new.iter().map(|claim| piece_bytes(claim, transfers));
        new.truncate(within(bounds.window, lengths));
        transfers.release(old.iter().filter(|c| new.binary_search(c).is_err()), id);
        for (i, &piece) in new.iter().enumerate() {
            let level = if i < NEAR_PIECES { ClaimLevel::Near } else { ClaimLevel::Ahead };
            transfers.claim(piece, id, level, NEAR_STEP * (i as u32 + 1), Extent::Whole);
        }
        if let Some(cursor) = self.windows.cursor_mut(id) {
            cursor.claims = new;
        }
    }
}

/// Length of a piece in bytes; 0 where its torrent was left.
fn piece_bytes((info_hash, piece): &TorrentPiece, transfers: &AllTransfers) -> u64 {
    let owner = transfers.all.get(info_hash).and_then(|t| t.revision.layout.owner(PieceIndex(*piece)));
    owner.map_or(0, |(_, bytes)| bytes.end - bytes.start)
}
