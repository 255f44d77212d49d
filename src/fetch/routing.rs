//! Source choice: through which torrent, and which of its pieces, the bytes of a content are fetched.

use std::ops::Range;
use std::time::Duration;

use super::claim::FileUse;
use super::claim::{ClaimId, ClaimLevel, Extent, TorrentPiece};
use super::contents::JoinedContent;
use super::parts::{extent_of, numbers};
use super::transfer::Transfer;
use super::transfers::AllTransfers;
use super::waiters::WaitKind;
use crate::model::{Layout, PieceIndex};

impl JoinedContent {
    /// The pieces through which the missing bytes of a range are fetched, in order. Normally pieces of the torrent that was
    /// named; pieces of another one where it already fetches the same bytes, or where only it has peers.
    pub(super) fn route(
        &self,
        via: FileUse,
        range: &Range<u64>,
        transfers: &AllTransfers,
    ) -> Vec<TorrentPiece> {
        let Some(own) = transfers.all.get(&via.0) else { return Vec::new() };
        let layout = &own.revision.layout;
        let mut out = Vec::new();
        for piece in self.missing_pieces(layout, via.1, range) {
            let other = layout
                .owner(PieceIndex(piece))
                .filter(|_| self.uses.len() > 1)
                .and_then(|(_, bytes)| self.other_source(via, piece, &bytes, transfers));
            match other {
                Some(pieces) => out.extend(pieces),
                None => out.push((via.0, piece)),
            }
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    fn other_source(
        &self,
        via: FileUse,
        piece: u32,
        bytes: &Range<u64>,
        transfers: &AllTransfers,
    ) -> Option<Vec<TorrentPiece>> {
        let now = transfers.effects.now;
        let own = transfers.all.get(&via.0)?;
        let own_alive = own.is_alive(now);
        let own_claimed = own_alive && own.wants.is_claimed(piece);
        let mut spare = None;
        for &(info_hash, file) in self.uses.iter().filter(|&&other| other != via) {
            let transfer = transfers.all.get(&info_hash);
            let Some(transfer) = transfer.filter(|t| info_hash == via.0 || t.is_alive(now)) else { continue };
            let pieces = self.missing_pieces(&transfer.revision.layout, file, bytes);
            let claimed = pieces.iter().all(|&p| transfer.wants.is_claimed(p));
            let found = || pieces.iter().map(|&p| (info_hash, p)).collect();
            // Where several fetch the same bytes, all choose alike.
            if claimed && (!own_claimed || (info_hash, file) < via) {
                return Some(found());
            }
            if !own_alive && info_hash != via.0 && spare.is_none() {
                spare = Some(found());
            }
        }
        spare
    }

    /// The pieces of a file that hold bytes of a range and are not verified.
    fn missing_pieces(&self, layout: &Layout, file: usize, range: &Range<u64>) -> Vec<u32> {
        // A file outside the cache is never written to; it lacks only bytes that are wrong in it.
        if self.content.is_placed() {
            return Vec::new();
        }
        let pieces = layout.pieces_of(file, range.start, range.end - range.start);
        let missing = |p: &u32| layout.owner(PieceIndex(*p)).is_some_and(|(_, b)| !self.content.has(b));
        pieces.filter(missing).collect()
    }

    /// The part of a piece that a read waits for.
    fn extent(&self, claim: TorrentPiece, read: &Range<u64>, transfers: &AllTransfers) -> Extent {
        let blocks = |transfer: &Transfer| transfer.peers.supply_blocks(claim.1, transfers.effects.now);
        match self.bytes_of(claim, transfers) {
            Some(bytes) if transfers.all.get(&claim.0).is_some_and(blocks) => {
                extent_of(&self.content, &bytes, read)
            }
            _ => Extent::Whole,
        }
    }

    /// The bytes of the content that a piece holds.
    fn bytes_of(&self, (info_hash, piece): TorrentPiece, transfers: &AllTransfers) -> Option<Range<u64>> {
        let (_, bytes) = transfers.all.get(&info_hash)?.revision.layout.owner(PieceIndex(piece))?;
        Some(bytes)
    }

    /// Whether the engine believes to have bytes of a range in this piece that the content lacks.
    pub(super) fn is_lost(&self, claim: TorrentPiece, range: &Range<u64>, transfers: &AllTransfers) -> bool {
        let (info_hash, piece) = claim;
        let Some(transfer) = transfers.all.get(&info_hash).filter(|t| t.id().is_some()) else { return false };
        if transfer.engine_has.contains(piece as usize) {
            return true;
        }
        let Some(bytes) = self.bytes_of(claim, transfers) else { return false };
        let inside = range.start.max(bytes.start)..range.end.min(bytes.end);
        let missing = self.content.missing_ranges(inside);
        missing.iter().any(|part| transfer.engine_blocks.has_some(piece, &numbers(&bytes, part)))
    }

    /// Claims for a waiter the pieces through which its bytes are fetched now, and releases all other pieces.
    pub(super) fn claim_for_waiter(&mut self, id: ClaimId, transfers: &mut AllTransfers) {
        let Some(waiter) = self.waiters.get(&id) else { return };
        let mut new = self.route(waiter.via, &waiter.range, transfers);
        if let Some(own) = transfers.all.get(&waiter.via.0).filter(|_| waiter.spread) {
            let own = self.missing_pieces(&own.revision.layout, waiter.via.1, &waiter.range);
            new.extend(own.into_iter().map(|piece| (waiter.via.0, piece)));
            new.sort_unstable();
            new.dedup();
        }
        transfers.release(waiter.claims.iter().filter(|c| new.binary_search(c).is_err()), id);
        let is_read = waiter.kind == WaitKind::Read;
        let level = if is_read { ClaimLevel::Urgent } else { ClaimLevel::Bulk };
        for &piece in &new {
            let extent = if is_read { self.extent(piece, &waiter.range, transfers) } else { Extent::Whole };
            transfers.claim(piece, id, level, Duration::ZERO, extent);
        }
        if let Some(waiter) = self.waiters.get_mut(&id) {
            waiter.claims = new;
        }
    }
}
