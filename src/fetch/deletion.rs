//! Deletion of cached bytes when the cache is full: which, and in which order.
//!
//! Whole pieces are deleted, under `issuing`, so that no request for them can be made before the engine and the block map
//! have forgotten them.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::claim::TorrentPiece;
use super::contents::{AllContents, JoinedContent};
use super::state::FetchState;
use super::tensors::FileTensors;
use super::transfers::AllTransfers;
use super::waiters::{WaitKind, Waiter};
use super::{Fetch, ReadError};
use crate::model::{Layout, PieceIndex};
use crate::store::{Content, ContentKey};
use crate::torrent::TorrentId;

/// Bytes behind a reader that are not deleted: several threads of one reader read out of order.
const BEHIND: u64 = 2 << 20;

/// The unit of deletion of a content that no joined torrent uses, in bytes.
const UNUSED_UNIT: u64 = 64 << 20;

/// Which bytes may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shedding {
    /// Bytes that no read waits for and no reader needs soon.
    Spare,
    /// All but the bytes of the read that has waited longest: reads that wait for more than there is space for must not
    /// stop each other.
    AllButOldest,
}

impl Fetch {
    /// Bytes of the pieces that wait for space in memory, or on the disk: in the cache and next to it.
    pub fn lacking_bytes(&self, in_memory: bool) -> u64 {
        let state = self.core.state.lock();
        state.transfers.all.values().map(|transfer| transfer.space.lacking_bytes(in_memory)).sum()
    }

    /// Contents of the cache for which reads wait that lack space.
    pub fn starved(&self) -> Vec<Arc<Content>> {
        let state = self.core.state.lock();
        let lacks = |(info_hash, piece): &TorrentPiece| {
            state.transfers.all.get(info_hash).is_some_and(|t| t.space.lacks_cache(*piece))
        };
        let starves = |waiter: &Waiter| waiter.kind == WaitKind::Read && waiter.claims.iter().any(lacks);
        let starved = state.contents.all.values().filter(|joined| joined.waiters.values().any(starves));
        starved.map(|joined| joined.content.clone()).collect()
    }

    /// Contents in memory of joined torrents, and whether some reader uses them.
    pub fn in_memory(&self) -> Vec<(Arc<Content>, bool)> {
        let state = self.core.state.lock();
        let contents = state.contents.all.iter().filter(|(_, joined)| joined.content.is_in_memory());
        let active = |key| state.contents.active.contains(key);
        contents.map(|(key, joined)| (joined.content.clone(), active(key))).collect()
    }

    /// Space may have become free: requests the pieces that wait for space, as far as it reaches, and first the pieces of
    /// the read that has waited longest. Whole files that have waited too long for space fail.
    pub fn space_came(&self) {
        self.core.with(|state| {
            let claims = state.contents.oldest_read().map(|(_, waiter)| waiter.claims.clone());
            for (info_hash, piece) in claims.into_iter().flatten() {
                state.transfers.reconsider(info_hash, [piece]);
            }
        });
        self.core.with(|state| {
            let lacking = state.transfers.all.iter().filter(|(_, transfer)| transfer.space.lacks_any());
            let lacking = lacking.map(|(info_hash, transfer)| (*info_hash, transfer.space.lacking_pieces()));
            for (info_hash, pieces) in lacking.collect::<Vec<_>>() {
                state.transfers.reconsider(info_hash, pieces);
            }
        });
        self.core.with(|state| state.contents.fail_jobs_without_space(&mut state.transfers));
    }

    /// Whether a joined torrent uses a content.
    pub fn uses(&self, key: &ContentKey) -> bool {
        self.core.state.lock().contents.all.contains_key(key)
    }

    /// Whether bytes of a content have been requested and have not come.
    pub fn receives(&self, key: &ContentKey) -> bool {
        let state = self.core.state.lock();
        let mut uses = state.contents.uses(key).into_iter();
        uses.any(|(info_hash, _)| state.transfers.all.get(&info_hash).is_some_and(|t| t.space.has_any()))
    }

    /// Whole pieces of a cached content that may be deleted now, in the order in which they should be deleted: bytes that
    /// a reader has just passed first, since a reader that starts again needs them last; then the end of the file before
    /// its beginning.
    pub fn deletable(&self, content: &Content, shedding: Shedding) -> Vec<Range<u64>> {
        let Some(key) = content.key() else { return Vec::new() };
        let state = self.core.state.lock();
        let kept = self.kept(&state, &key, shedding);
        let joined = state.contents.all.get(&key);
        let unit = joined.map_or(UNUSED_UNIT, |joined| joined.deletion_unit(&state.transfers));
        let rank = |range: &Range<u64>| match joined.filter(|_| shedding == Shedding::Spare) {
            Some(joined) => joined.rank(range),
            None => Some(Rank::unread(range)),
        };
        let mut ranked: Vec<(Rank, Range<u64>)> = units(content.len(), unit)
            .filter(|range| content.has_some(range) && !kept.iter().any(|other| overlap(other, range)))
            .filter_map(|range| Some((rank(&range)?, range)))
            .collect();
        ranked.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        ranked.into_iter().map(|(_, range)| range).collect()
    }

    /// Deletes ranges of a cached content that [`Self::deletable`] returned, while its torrents run. Blocks for the disk.
    /// Returns how many bytes that freed. Ranges that a read has come to need since are not deleted.
    pub fn delete(&self, content: &Content, ranges: &[Range<u64>], shedding: Shedding) -> io::Result<u64> {
        let Some(key) = content.key() else { return Ok(0) };
        let (taken, ranges) = {
            let _no_request_meanwhile = self.core.issuer.issuing.lock();
            // Both under the lock under which reads begin to wait: a read that begins later finds the ranges missing.
            let (taken, ranges, withdrawn) = {
                let mut state = self.core.state.lock();
                let kept = self.kept(&state, &key, shedding);
                let mut ranges = ranges.to_vec();
                ranges.retain(|range| !kept.iter().any(|other| overlap(other, range)));
                let Some(taken) = content.remove_from_map(&ranges) else { return Ok(0) };
                let FetchState { contents, transfers, .. } = &mut *state;
                let withdrawn = contents.forget_pieces(&key, &ranges, transfers);
                (taken, ranges, withdrawn)
            };
            for (id, pieces) in withdrawn {
                // A torrent that the engine does not know sends nothing.
                let _ = self.core.issuer.engine.withdraw(id, &pieces);
            }
            (taken, ranges)
        };
        let freed = content.delete_removed(&taken);
        self.core.with(|state| state.contents.were_deleted(&key, &ranges, &mut state.transfers));
        freed
    }

    /// The ranges of a content that are not deleted.
    fn kept(&self, state: &FetchState, key: &ContentKey, shedding: Shedding) -> Vec<Range<u64>> {
        match shedding {
            Shedding::Spare => [self.guards.ranges(key), state.contents.waited_for(key)].concat(),
            Shedding::AllButOldest => {
                let oldest = state.contents.oldest_read().filter(|(of, _)| *of == key);
                oldest.map(|(_, waiter)| waiter.range.clone()).into_iter().collect()
            }
        }
    }
}

/// The order of deletion: the smallest first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The distance behind a reader, in bytes.
    Behind(u64),
    /// For bytes that no reader reads: the start of the range. Later ranges are deleted first.
    Unread(Reverse<u64>),
}

impl Rank {
    fn unread(range: &Range<u64>) -> Self {
        Self::Unread(Reverse(range.start))
    }
}

impl JoinedContent {
    /// None for bytes that a reader needs again, or soon.
    fn rank(&self, range: &Range<u64>) -> Option<Rank> {
        let cursors = self.windows.cursors().iter().filter(|cursor| cursor.active);
        let mut behind = None;
        for cursor in cursors {
            let header = match &self.shape {
                FileTensors::Tensors(tensors) => tensors.header_end(),
                FileTensors::Plain | FileTensors::Unread => 1,
            };
            let wanted = cursor.wanted(u64::MAX, self.content.len());
            let near = cursor.pos.saturating_sub(BEHIND)..wanted.end.max(cursor.pos + 1);
            if range.start < header || overlap(&near, range) {
                return None;
            }
            if range.end <= cursor.pos {
                let distance = cursor.pos - range.end;
                behind = Some(behind.map_or(distance, |least: u64| least.min(distance)));
            }
        }
        Some(behind.map_or_else(|| Rank::unread(range), Rank::Behind))
    }

    /// The longest piece of the torrents that use the content, in bytes: so whole pieces of each of them are deleted.
    fn deletion_unit(&self, transfers: &AllTransfers) -> u64 {
        let layouts =
            self.uses.iter().filter_map(|(hash, _)| Some(&transfers.all.get(hash)?.revision.layout));
        layouts.map(|layout| u64::from(layout.piece_length())).max().unwrap_or(UNUSED_UNIT)
    }
}

impl AllContents {
    fn fail_jobs_without_space(&mut self, transfers: &mut AllTransfers) {
        let hopeless: BTreeSet<TorrentPiece> = (transfers.all.iter())
            .flat_map(|(hash, transfer)| {
                transfer.space.hopeless(transfers.effects.now).map(|piece| (*hash, piece))
            })
            .collect();
        let fails = |waiter: &Waiter| {
            waiter.kind == WaitKind::Job && waiter.claims.iter().any(|claim| hopeless.contains(claim))
        };
        if !hopeless.is_empty() {
            self.answer_all(&Err(ReadError::NoSpace), fails, transfers);
        }
    }

    /// Counts the pieces of a range as missing. Returns the pieces that the engine has to forget, also in torrents that
    /// are being removed.
    fn forget_pieces(
        &self,
        key: &ContentKey,
        ranges: &[Range<u64>],
        transfers: &mut AllTransfers,
    ) -> Vec<(TorrentId, Vec<PieceIndex>)> {
        let mut withdrawn = Vec::new();
        for (info_hash, file) in self.uses(key) {
            let Some(transfer) = transfers.all.get_mut(&info_hash) else { continue };
            let pieces = pieces_in(&transfer.revision.layout, file, ranges);
            for &piece in &pieces {
                transfer.forget_piece(piece);
                transfer.space.begin_deletion(piece);
            }
            let pieces: Vec<PieceIndex> = pieces.into_iter().map(PieceIndex).collect();
            let ids = transfers.ids.iter().filter(|(_, of)| **of == info_hash).map(|(id, _)| *id);
            for id in ids.collect::<Vec<_>>() {
                transfers.effects.drop_orders(id, &pieces);
                transfers.withdraws(id, &pieces);
                withdrawn.push((id, pieces.clone()));
            }
        }
        withdrawn
    }

    /// The bytes of a range are deleted: its pieces may be requested again.
    fn were_deleted(&mut self, key: &ContentKey, ranges: &[Range<u64>], transfers: &mut AllTransfers) {
        for (info_hash, file) in self.uses(key) {
            let Some(transfer) = transfers.all.get_mut(&info_hash) else { continue };
            let mut pieces = pieces_in(&transfer.revision.layout, file, ranges);
            pieces.retain(|&piece| transfer.space.end_deletion(piece));
            transfers.reconsider(info_hash, pieces);
        }
        // A read that waits for these bytes and more did not claim them: they were verified when it began.
        self.reroute(key, transfers);
    }
}

/// The pieces of a file with bytes of these ranges.
fn pieces_in(layout: &Layout, file: usize, ranges: &[Range<u64>]) -> Vec<u32> {
    ranges.iter().flat_map(|range| layout.pieces_of(file, range.start, range.end - range.start)).collect()
}

fn units(len: u64, unit: u64) -> impl Iterator<Item = Range<u64>> {
    (0..len.div_ceil(unit)).map(move |i| i * unit..((i + 1) * unit).min(len))
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}
