//! Source choice: through which torrent, and which of its pieces, the bytes of a content are to come.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::state::{ContentState, State};
use super::transfer::QUIET;
use super::waiters::Kind;
use super::wants::{ClaimId, Level};
use crate::model::{InfoHash, PieceIndex};
use crate::store::ContentKey;

impl State {
    /// The pieces through which the missing bytes of a range are to come. Normally those of the torrent that was
    /// named; those of another one where it already fetches the same bytes, or where only it has peers.
    pub(super) fn route(
        &self,
        root: &ContentKey,
        via: (InfoHash, usize),
        range: &Range<u64>,
        now: Instant,
    ) -> Vec<(InfoHash, u32)> {
        let (Some(content), Some(own)) = (self.contents.get(root), self.transfers.get(&via.0)) else {
            return Vec::new();
        };
        // It lacks only what is wrong there, and is never written to.
        if content.content.is_placed() {
            return Vec::new();
        }
        let layout = &own.revision.layout;
        let mut out = Vec::new();
        for piece in layout.pieces_of(via.1, range.start, range.end - range.start) {
            let Some((_, bytes)) = layout.owner(PieceIndex(piece)) else { continue };
            if content.content.has(bytes.clone()) {
                continue;
            }
            let other = if content.uses.len() > 1 {
                self.other_source(content, via, piece, &bytes, now)
            } else {
                None
            };
            match other {
                Some(pieces) => out.extend(pieces),
                None => out.push((via.0, piece)),
            }
        }
        out.sort_unstable_by_key(|&(ih, piece)| (ih, piece));
        out.dedup();
        out
    }

    fn other_source(
        &self,
        content: &ContentState,
        via: (InfoHash, usize),
        piece: u32,
        bytes: &Range<u64>,
        now: Instant,
    ) -> Option<Vec<(InfoHash, u32)>> {
        let own = self.transfers.get(&via.0)?;
        let own_alive = own.is_alive(now);
        let own_claimed = own_alive && own.wants.is_claimed(piece);
        let mut spare = None;
        for &(ih, file) in content.uses.iter().filter(|&&other| other != via) {
            let Some(transfer) = self.transfers.get(&ih).filter(|t| ih == via.0 || t.is_alive(now)) else {
                continue;
            };
            let layout = &transfer.revision.layout;
            let pieces: Vec<u32> = layout
                .pieces_of(file, bytes.start, bytes.end - bytes.start)
                .filter(|&p| layout.owner(PieceIndex(p)).is_some_and(|(_, b)| !content.content.has(b)))
                .collect();
            let claimed = pieces.iter().all(|&p| transfer.wants.is_claimed(p));
            let found = || pieces.iter().map(|&p| (ih, p)).collect();
            // Where several fetch the same bytes, all choose alike.
            if claimed && (!own_claimed || (ih, file) < via) {
                return Some(found());
            }
            if !own_alive && ih != via.0 && spare.is_none() {
                spare = Some(found());
            }
        }
        spare
    }

    /// Claims for a waiter the pieces through which its bytes are to come now, and releases all others.
    pub(super) fn claim_for_waiter(&mut self, root: &ContentKey, id: ClaimId, now: Instant) {
        let Some(waiter) = self.contents.get_mut(root).and_then(|c| c.waiters.get_mut(&id)) else { return };
        let (via, range, kind, spread) = (waiter.via, waiter.range.clone(), waiter.kind, waiter.spread);
        let old = std::mem::take(&mut waiter.claims);
        let mut new = self.route(root, via, &range, now);
        if spread {
            new.extend(self.own_pieces(root, via, &range));
            new.sort_unstable();
            new.dedup();
        }
        self.release(old.iter().filter(|c| new.binary_search(c).is_err()), id);
        let level = if kind == Kind::Read { Level::Urgent } else { Level::Bulk };
        for (ih, piece) in &new {
            if let Some(transfer) = self.transfers.get_mut(ih) {
                transfer.wants.claim(*piece, id, level, Duration::ZERO, now);
                self.touched.insert(*ih);
            }
        }
        if let Some(waiter) = self.contents.get_mut(root).and_then(|c| c.waiters.get_mut(&id)) {
            waiter.claims = new;
        }
    }

    /// The missing pieces of a range in the torrent that was named.
    fn own_pieces(
        &self,
        root: &ContentKey,
        via: (InfoHash, usize),
        range: &Range<u64>,
    ) -> Vec<(InfoHash, u32)> {
        let (Some(content), Some(own)) = (self.contents.get(root), self.transfers.get(&via.0)) else {
            return Vec::new();
        };
        if content.content.is_placed() {
            return Vec::new();
        }
        let layout = &own.revision.layout;
        let pieces = layout.pieces_of(via.1, range.start, range.end - range.start);
        let missing = |p: &u32| layout.owner(PieceIndex(*p)).is_some_and(|(_, b)| !content.content.has(b));
        pieces.filter(missing).map(|p| (via.0, p)).collect()
    }

    /// Has those who have relied on another torrent for long ask their own too: its peers may lack the piece.
    pub(super) fn spread_long_waits(&mut self, now: Instant) {
        let mut long: Vec<(ContentKey, ClaimId)> = Vec::new();
        for root in &self.hot {
            let Some(content) = self.contents.get_mut(root) else { continue };
            for (id, waiter) in
                content.waiters.iter_mut().filter(|(_, w)| w.may_spread() && w.since + QUIET <= now)
            {
                waiter.spread = true;
                long.push((*root, *id));
            }
        }
        for (root, id) in long {
            self.claim_for_waiter(&root, id, now);
        }
    }

    pub(super) fn release<'a>(&mut self, claims: impl Iterator<Item = &'a (InfoHash, u32)>, id: ClaimId) {
        for (ih, piece) in claims {
            if let Some(transfer) = self.transfers.get_mut(ih) {
                transfer.wants.release(*piece, id);
                self.touched.insert(*ih);
            }
        }
    }

    /// Finds new sources for everybody who waits for a content.
    pub(super) fn reroute(&mut self, root: &ContentKey, now: Instant) {
        let ids: Vec<ClaimId> =
            self.contents.get(root).map(|c| c.waiters.keys().copied().collect()).unwrap_or_default();
        for id in ids {
            self.claim_for_waiter(root, id, now);
        }
        self.apply_windows(root, now);
    }

    /// Claims for everybody who waits for a content of the torrent what is missing now: some of it may have been here
    /// when they began to wait, and be gone since.
    pub(super) fn reroute_all(&mut self, ih: InfoHash, now: Instant) {
        let Some(transfer) = self.transfers.get(&ih) else { return };
        let keys: Vec<ContentKey> = transfer.revision.contents.iter().filter_map(|c| c.key()).collect();
        for key in keys {
            self.reroute(&key, now);
        }
    }
}
