//! Windows turned into claims: which pieces ahead of the readers are wanted, and how much.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::FileRef;
use super::state::{CursorClaims, State};
use super::tensors::Shape;
use super::wants::{ClaimId, Level};
use super::window::{STALE, share, widest, within};
use crate::model::{InfoHash, PieceIndex};
use crate::store::ContentKey;

/// So many pieces at the front of a window have deadlines, the others plain priorities. Deadlines scale badly in
/// libtorrent, and while one stands, a reader's request does not cancel what is already on its way.
const NEAR_PIECES: usize = 3;

/// Distance between the deadlines of pieces at the front of a window.
const NEAR_STEP: Duration = Duration::from_millis(500);

/// All windows together want at most so many times the widest one.
const BUDGET: u64 = 4;

/// Whether the claims of a cursor are looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Apply {
    /// If its window covers other pieces than before.
    IfMoved,
    /// In any case: what is here, or who has it, changed.
    Always,
}

impl State {
    /// Takes in a read of bytes, here or waited for, and moves the file's cursors and windows.
    pub(super) fn touch(&mut self, file: &FileRef, range: Range<u64>, now: Instant) {
        let content = &file.revision.contents[file.file];
        let ih = file.revision.manifest.torrent.info_hash;
        let Some(root) = content.key().filter(|_| !content.is_complete()) else { return };
        if !self.transfers.contains_key(&ih) {
            return;
        }
        let piece_length = u64::from(file.revision.layout.piece_length());
        let max = widest(self.settings.readahead_max, piece_length, self.settings.window_bound);
        let new_id = self.new_id();
        let Some(state) = self.contents.get_mut(&root) else { return };
        let (id, evicted) = state.windows.on_read(range, now, max, new_id);
        let via = (ih, file.file);
        let fresh = || CursorClaims { via, pieces: 0..0, claims: Vec::new() };
        let held = state.cursor_claims.entry(id).or_insert_with(fresh);
        if held.via != via {
            (held.via, held.pieces) = (via, 0..0);
        }
        let gone = evicted.and_then(|gone| Some((gone, state.cursor_claims.remove(&gone)?)));
        if let Some((gone, claims)) = gone {
            self.release(claims.claims.iter(), gone);
        }
        self.hot.insert(root);
        self.look_at(now + STALE);
        self.apply_cursor(&root, id, Apply::IfMoved, now);
    }

    /// Brings the claims of all cursors of a content up to date.
    pub(super) fn apply_windows(&mut self, root: &ContentKey, now: Instant) {
        let Some(content) = self.contents.get(root) else { return };
        for id in content.windows.cursors().iter().map(|c| c.id).collect::<Vec<_>>() {
            self.apply_cursor(root, id, Apply::Always, now);
        }
    }

    fn apply_cursor(&mut self, root: &ContentKey, id: ClaimId, when: Apply, now: Instant) {
        let hungry = self.hungry();
        let budget = self.settings.readahead_max.saturating_mul(BUDGET);
        let Some(content) = self.contents.get_mut(root) else { return };
        let Some(held) = content.cursor_claims.get_mut(&id) else { return };
        let Some(layout) = self.transfers.get(&held.via.0).map(|t| &t.revision.layout) else { return };
        let wanted = match content.windows.cursors().iter().find(|c| c.id == id) {
            Some(cursor) => {
                let bound = match &content.shape {
                    Shape::Tensors(tensors) => tensors.bound(cursor.start, cursor.pos),
                    Shape::Plain | Shape::Unread => content.content.len(),
                };
                let piece = u64::from(layout.piece_length());
                cursor.wanted(share(budget, hungry, piece), bound.min(content.content.len()))
            }
            None => 0..0,
        };
        let pieces = layout.pieces_of(held.via.1, wanted.start, wanted.end - wanted.start);
        // Most reads stay within the pieces of the one before.
        if when == Apply::IfMoved && pieces == held.pieces {
            return;
        }
        held.pieces = pieces;
        let (via, old) = (held.via, std::mem::take(&mut held.claims));
        let mut new = if wanted.is_empty() { Vec::new() } else { self.route(root, via, &wanted, now) };
        // A window may begin and end inside a piece, and the whole piece is requested.
        let lengths = new.iter().map(|claim| self.piece_bytes(claim));
        new.truncate(within(self.settings.window_bound, lengths));
        self.release(old.iter().filter(|c| new.binary_search(c).is_err()), id);
        for (i, (ih, piece)) in new.iter().enumerate() {
            if let Some(transfer) = self.transfers.get_mut(ih) {
                let level = if i < NEAR_PIECES { Level::Near } else { Level::Ahead };
                transfer.wants.claim(*piece, id, level, NEAR_STEP * (i as u32 + 1), now);
                self.touched.insert(*ih);
            }
        }
        if let Some(held) = self.contents.get_mut(root).and_then(|c| c.cursor_claims.get_mut(&id)) {
            held.claims = new;
        }
    }

    /// Length of a claimed piece in bytes; 0 where its torrent was left.
    fn piece_bytes(&self, (ih, piece): &(InfoHash, u32)) -> u64 {
        let owner = self.transfers.get(ih).and_then(|t| t.revision.layout.owner(PieceIndex(*piece)));
        owner.map_or(0, |(_, bytes)| bytes.end - bytes.start)
    }

    /// Cursors that share the budget.
    fn hungry(&self) -> usize {
        let hot = self.hot.iter().filter_map(|root| self.contents.get(root));
        hot.flat_map(|c| c.windows.cursors()).filter(|c| c.is_hungry()).count()
    }

    /// Forgets the cursors of a content; their pieces are no longer wanted.
    pub(super) fn drop_windows(&mut self, root: &ContentKey) {
        let Some(content) = self.contents.get_mut(root) else { return };
        content.windows.clear();
        let claims: Vec<(ClaimId, CursorClaims)> = content.cursor_claims.drain().collect();
        self.cool(root);
        for (id, held) in claims {
            self.release(held.claims.iter(), id);
        }
    }

    /// Forgets the cursors of a torrent's files.
    pub(super) fn drop_windows_of(&mut self, ih: &InfoHash) {
        let roots: Vec<ContentKey> = self
            .hot
            .iter()
            .filter(|root| self.contents.get(root).is_some_and(|c| c.uses.iter().any(|(of, _)| of == ih)))
            .copied()
            .collect();
        for root in roots {
            self.drop_windows(&root);
        }
    }

    /// Puts cursors to rest that nobody has moved for a while. One whose reader waits is not stale.
    pub(super) fn rest_stale_cursors(&mut self, now: Instant) {
        for root in self.hot.iter().copied().collect::<Vec<_>>() {
            let Some(content) = self.contents.get_mut(&root) else { continue };
            if content.waiters.is_empty() && content.windows.rest_stale(now) {
                self.apply_windows(&root, now);
                self.cool(&root);
            }
        }
    }

    /// Takes a content off the list of those with waiters or moving cursors if it has none.
    pub(super) fn cool(&mut self, root: &ContentKey) {
        let Some(content) = self.contents.get(root) else { return };
        if content.waiters.is_empty() && !content.windows.cursors().iter().any(|c| c.active) {
            self.hot.remove(root);
        }
    }

    /// When the next cursor of a content may go stale.
    pub(super) fn next_stale(&self) -> Option<Instant> {
        let hot = self.hot.iter().filter_map(|root| self.contents.get(root)).filter(|c| c.waiters.is_empty());
        hot.flat_map(|c| c.windows.cursors()).filter(|c| c.active).map(|c| c.used + STALE).min()
    }
}
