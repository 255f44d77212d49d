//! The limits of the cache: requests that wait for space, and bytes that are deleted to make some.
//!
//! A piece of a cached content is requested only when its bytes are reserved (see [`Rooms`]). Pieces that lack space are held
//! back in `lacking`; pieces whose bytes are being deleted, in `deleting`. Whole pieces are deleted, under `issuing`, so that
//! no request for them can be made before the engine and the block map have forgotten them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::state::{ContentState, State};
use super::tensors::Shape;
use super::waiters::{Kind, Waiter};
use super::wants::{Level, Wants};
use super::{Fetch, ReadError, lock};
use crate::model::{InfoHash, Layout, PieceIndex};
use crate::store::{Content, ContentKey, Rooms, SpaceClass, StoredRevision};
use crate::torrent::TorrentId;

/// Kept behind a reader, in bytes: several threads of one reader read out of order.
const BEHIND: u64 = 2 << 20;

/// How long a torrent may have no space for any of its pieces before whole files are given up: other programs may return
/// space in the meantime.
const JOB_WITHOUT_SPACE: Duration = Duration::from_secs(20);

/// The unit of deletion of a content that no joined torrent uses, in bytes.
const UNUSED_UNIT: u64 = 64 << 20;

/// The pieces of one torrent that are held back, and those for which space is reserved.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Where it is reserved, and how many bytes.
    reserved: BTreeMap<u32, (SpaceClass, u64)>,
    lacking: BTreeMap<u32, (SpaceClass, u64)>,
    deleting: BTreeSet<u32>,
    /// Since when pieces lack space while none has any.
    stuck_since: Option<Instant>,
}

impl Space {
    /// Whether a piece may be requested; reserves space for it, where it takes some.
    pub(super) fn admit(
        &mut self,
        revision: &StoredRevision,
        rooms: &Rooms,
        piece: u32,
        level: Level,
        now: Instant,
    ) -> bool {
        if self.deleting.contains(&piece) {
            return false;
        }
        let Some((file, bytes)) = revision.layout.owner(PieceIndex(piece)) else { return true };
        if self.reserved.contains_key(&piece) {
            return true;
        }
        let (lies, len) = (revision.contents[file].space_class(), bytes.end - bytes.start);
        if rooms.reserve(lies, len, level == Level::Urgent) {
            self.lacking.remove(&piece);
            self.reserved.insert(piece, (lies, len));
            self.stuck_since = None;
            return true;
        }
        if self.reserved.is_empty() {
            self.stuck_since.get_or_insert(now);
        }
        self.lacking.insert(piece, (lies, len));
        false
    }

    /// Whether a piece is held back.
    pub(super) fn holds(&self, piece: u32) -> bool {
        self.lacking.contains_key(&piece) || self.deleting.contains(&piece)
    }

    /// A piece is verified: its bytes are written.
    pub(super) fn came(&mut self, piece: u32, rooms: &Rooms) {
        if let Some((lies, len)) = self.reserved.remove(&piece) {
            rooms.end_reservation(lies, len);
        }
        self.lacking.remove(&piece);
    }

    /// Ends what pieces that nothing claims any more have or lack.
    pub(super) fn release_unclaimed(&mut self, wants: &Wants, rooms: &Rooms) {
        self.lacking.retain(|&piece, _| wants.is_claimed(piece));
        self.reserved.retain(|&piece, (lies, len)| {
            let claimed = wants.is_claimed(piece);
            if !claimed {
                rooms.end_reservation(*lies, *len);
            }
            claimed
        });
        if self.lacking.is_empty() {
            self.stuck_since = None;
        }
    }

    /// Ends all reservations: the torrent is left, or what was requested is lost.
    pub(super) fn release_all(&mut self, rooms: &Rooms) {
        self.release_unclaimed(&Wants::default(), rooms);
    }

    /// Whether some piece lacks space.
    pub(super) fn lacks_any(&self) -> bool {
        !self.lacking.is_empty()
    }

    /// The pieces that have found no space on the disk for too long to wait for all of a file.
    fn hopeless(&self, now: Instant) -> impl Iterator<Item = u32> {
        let stuck = self.stuck_since.is_some_and(|since| now >= since + JOB_WITHOUT_SPACE);
        let on_disk = self.lacking.iter().filter(|(_, (lies, _))| *lies != SpaceClass::Memory);
        on_disk.map(|(piece, _)| *piece).filter(move |_| stuck)
    }
}

/// What to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shedding {
    /// What no read waits for and no reader needs soon.
    Spare,
    /// All but what the read that has waited longest needs: reads that wait for more than there is space for must not
    /// stop each other.
    AllButOldest,
}

/// A read that waits.
#[derive(Debug, Clone)]
struct Oldest {
    key: ContentKey,
    range: Range<u64>,
    claims: Vec<(InfoHash, u32)>,
}

impl Fetch {
    /// Bytes of the pieces that wait for space in one place; in the cache, or beside it, or in memory.
    pub fn lacking_bytes(&self, in_memory: bool) -> u64 {
        let state = lock(&self.state);
        let pieces = state.transfers.values().flat_map(|transfer| transfer.space.lacking.values());
        let here = pieces.filter(|(lies, _)| (*lies == SpaceClass::Memory) == in_memory);
        here.map(|(_, bytes)| bytes).sum()
    }

    /// Contents of the cache for which reads wait that lack space.
    pub fn starved(&self) -> Vec<Arc<Content>> {
        let state = lock(&self.state);
        let lacks = |(ih, piece): &(InfoHash, u32)| {
            let lacking = state.transfers.get(ih).and_then(|transfer| transfer.space.lacking.get(piece));
            lacking.is_some_and(|(lies, _)| *lies == SpaceClass::Cache)
        };
        let starves = |waiter: &Waiter| waiter.kind == Kind::Read && waiter.claims.iter().any(lacks);
        let starved = state.contents.values().filter(|used| used.waiters.values().any(starves));
        starved.map(|used| used.content.clone()).collect()
    }

    /// Contents in memory of joined torrents, and whether some reader uses them.
    pub fn in_memory(&self) -> Vec<(Arc<Content>, bool)> {
        let state = lock(&self.state);
        let contents = state.contents.iter().filter(|(_, used)| used.content.is_in_memory());
        contents.map(|(key, used)| (used.content.clone(), state.hot.contains(key))).collect()
    }

    /// Space may have been made: pieces that wait for some are requested, as far as it reaches, and first those of the
    /// read that has waited longest. Whole files that have waited too long for space are given up.
    pub fn space_came(&self) {
        self.with(|state, _| {
            let oldest = state.oldest_read();
            for (ih, piece) in oldest.into_iter().flat_map(|oldest| oldest.claims) {
                if let Some(transfer) = state.transfers.get_mut(&ih) {
                    transfer.wants.say_again(piece);
                    state.touched.insert(ih);
                }
            }
        });
        self.with(|state, _| {
            for (ih, transfer) in &mut state.transfers {
                for &piece in transfer.space.lacking.keys() {
                    transfer.wants.say_again(piece);
                }
                if transfer.space.lacks_any() {
                    state.touched.insert(*ih);
                }
            }
        });
        self.with(|state, now| state.give_up_jobs_without_space(now));
    }

    /// Whether a joined torrent uses a content.
    pub fn uses(&self, key: &ContentKey) -> bool {
        lock(&self.state).contents.contains_key(key)
    }

    /// Whether bytes of a content are on their way into it.
    pub fn receives(&self, key: &ContentKey) -> bool {
        let state = lock(&self.state);
        let uses = state.contents.get(key).map(|used| used.uses.as_slice()).unwrap_or_default();
        uses.iter().any(|(ih, _)| state.transfers.get(ih).is_some_and(|t| !t.space.reserved.is_empty()))
    }

    /// Whole pieces of a cached content that may be deleted now, in the order in which they should go: what a reader has
    /// just passed first, since a reader that starts again needs it last; then the end of the file before its beginning.
    pub fn deletable(&self, content: &Content, shedding: Shedding) -> Vec<Range<u64>> {
        let Some(key) = content.key() else { return Vec::new() };
        let state = lock(&self.state);
        let kept = self.kept(&state, &key, shedding);
        let used = state.contents.get(&key);
        let unit = used.map_or(UNUSED_UNIT, |used| state.unit_of(used));
        let rank = |range: &Range<u64>| match used.filter(|_| shedding == Shedding::Spare) {
            Some(used) => used.rank(range),
            None => Some(Rank::unread(range)),
        };
        let mut ranked: Vec<(Rank, Range<u64>)> = units(content.len(), unit)
            .filter(|range| content.has_some(range) && !kept.iter().any(|other| overlap(other, range)))
            .filter_map(|range| Some((rank(&range)?, range)))
            .collect();
        ranked.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        ranked.into_iter().map(|(_, range)| range).collect()
    }

    /// Deletes ranges of a cached content that [`Self::deletable`] named, while its torrents run. Blocks for the disk.
    /// Returns how many bytes that freed; nothing is deleted that a read has come to need since.
    pub fn delete(&self, content: &Content, ranges: &[Range<u64>], shedding: Shedding) -> io::Result<u64> {
        let Some(key) = content.key() else { return Ok(0) };
        let (taken, ranges) = {
            let _no_request_meanwhile = lock(&self.issuing);
            // Both under the lock under which reads begin to wait: a read that begins later finds the ranges missing.
            let (taken, ranges, withdrawn) = {
                let mut state = lock(&self.state);
                let kept = self.kept(&state, &key, shedding);
                let mut ranges = ranges.to_vec();
                ranges.retain(|range| !kept.iter().any(|other| overlap(other, range)));
                let Some(taken) = content.remove_from_map(&ranges) else { return Ok(0) };
                let withdrawn = state.forget_pieces(&key, &ranges);
                (taken, ranges, withdrawn)
            };
            for (id, pieces) in withdrawn {
                // A torrent that the engine does not know sends nothing.
                let _ = self.engine.withdraw(id, &pieces);
            }
            (taken, ranges)
        };
        let freed = content.delete_removed(&taken);
        self.with(|state, now| state.were_deleted(&key, &ranges, now));
        freed
    }

    /// What is not deleted of a content.
    fn kept(&self, state: &State, key: &ContentKey, shedding: Shedding) -> Vec<Range<u64>> {
        match shedding {
            Shedding::Spare => {
                let guarded = lock(&self.guards).get(key).cloned().unwrap_or_default();
                guarded.into_iter().chain(state.waited_for(key)).collect()
            }
            Shedding::AllButOldest => state
                .oldest_read()
                .filter(|oldest| oldest.key == *key)
                .map(|oldest| oldest.range)
                .into_iter()
                .collect(),
        }
    }
}

/// In which order pieces go: the smallest first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Behind a reader: so many bytes.
    Behind(u64),
    /// Read by no reader now: the distance from the end of the file, in bytes.
    Unread(Reverse<u64>),
}

impl Rank {
    fn unread(range: &Range<u64>) -> Self {
        Self::Unread(Reverse(range.start))
    }
}

impl ContentState {
    /// None for what a reader needs again, or soon.
    fn rank(&self, range: &Range<u64>) -> Option<Rank> {
        let cursors = self.windows.cursors().iter().filter(|cursor| cursor.active);
        let mut behind = None;
        for cursor in cursors {
            let header = match &self.shape {
                Shape::Tensors(tensors) => tensors.header_end(),
                Shape::Plain | Shape::Unread => 1,
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
}

impl State {
    fn give_up_jobs_without_space(&mut self, now: Instant) {
        let hopeless: BTreeSet<(InfoHash, u32)> = (self.transfers.iter())
            .flat_map(|(ih, transfer)| transfer.space.hopeless(now).map(|piece| (*ih, piece)))
            .collect();
        if !hopeless.is_empty() {
            let is_job = |waiter: &Waiter| waiter.kind == Kind::Job;
            self.answer_all(&Err(ReadError::NoSpace), |waiter| {
                is_job(waiter) && waiter.claims.iter().any(|claim| hopeless.contains(claim))
            });
        }
    }

    /// The read that has waited longest.
    fn oldest_read(&self) -> Option<Oldest> {
        let waiting = self.hot.iter().filter_map(|key| Some((key, self.contents.get(key)?)));
        let reads = waiting.flat_map(|(key, used)| used.waiters.values().map(move |waiter| (key, waiter)));
        let oldest =
            reads.filter(|(_, waiter)| waiter.kind == Kind::Read).min_by_key(|(_, waiter)| waiter.since);
        oldest.map(|(key, waiter)| Oldest {
            key: *key,
            range: waiter.range.clone(),
            claims: waiter.claims.clone(),
        })
    }

    /// The longest piece of the torrents that use a content, in bytes: then whole pieces of each of them are deleted.
    fn unit_of(&self, used: &ContentState) -> u64 {
        let layouts = used.uses.iter().filter_map(|(ih, _)| Some(&self.transfers.get(ih)?.revision.layout));
        layouts.map(|layout| u64::from(layout.piece_length())).max().unwrap_or(UNUSED_UNIT)
    }

    /// The pieces of a range count as missing. Returns those that the engine has to forget, also in torrents on their way
    /// out of it.
    fn forget_pieces(
        &mut self,
        key: &ContentKey,
        ranges: &[Range<u64>],
    ) -> Vec<(TorrentId, Vec<PieceIndex>)> {
        let uses = self.contents.get(key).map(|used| used.uses.clone()).unwrap_or_default();
        let mut withdrawn = Vec::new();
        for (ih, file) in uses {
            let Some(transfer) = self.transfers.get_mut(&ih) else { continue };
            let pieces = pieces_in(&transfer.revision.layout, file, ranges);
            for &piece in &pieces {
                transfer.engine_has.set(piece as usize, false);
                transfer.space.deleting.insert(piece);
            }
            let pieces: Vec<PieceIndex> = pieces.into_iter().map(PieceIndex).collect();
            let ids = self.ids.iter().filter(|(_, of)| **of == ih).map(|(id, _)| *id);
            withdrawn.extend(ids.map(|id| (id, pieces.clone())));
        }
        withdrawn
    }

    /// The bytes of a range are deleted: its pieces may be requested again.
    fn were_deleted(&mut self, key: &ContentKey, ranges: &[Range<u64>], now: Instant) {
        let uses = self.contents.get(key).map(|used| used.uses.clone()).unwrap_or_default();
        for (ih, file) in uses {
            let Some(transfer) = self.transfers.get_mut(&ih) else { continue };
            for piece in pieces_in(&transfer.revision.layout, file, ranges) {
                if transfer.space.deleting.remove(&piece) {
                    transfer.wants.say_again(piece);
                    self.touched.insert(ih);
                }
            }
        }
        // Reads that wait for these bytes besides others did not claim them: they were there.
        self.reroute(key, now);
    }
}

/// The pieces of a file that lie in ranges of it.
fn pieces_in(layout: &Layout, file: usize, ranges: &[Range<u64>]) -> Vec<u32> {
    ranges.iter().flat_map(|range| layout.pieces_of(file, range.start, range.end - range.start)).collect()
}

fn units(len: u64, unit: u64) -> impl Iterator<Item = Range<u64>> {
    (0..len.div_ceil(unit)).map(move |i| i * unit..((i + 1) * unit).min(len))
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Bytes that a read is about to copy; they are not deleted until this is dropped.
pub(super) struct ReadGuard<'a> {
    fetch: &'a Fetch,
    key: Option<ContentKey>,
    range: Range<u64>,
}

impl Fetch {
    /// Keeps a range of a content from being deleted.
    pub(super) fn guard(&self, content: &Content, range: &Range<u64>) -> ReadGuard<'_> {
        let key = content.key();
        if let Some(key) = key {
            lock(&self.guards).entry(key).or_default().push(range.clone());
        }
        ReadGuard { fetch: self, key, range: range.clone() }
    }
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut guards = lock(&self.fetch.guards);
        if let Some(ranges) = guards.get_mut(&key) {
            if let Some(at) = ranges.iter().position(|range| *range == self.range) {
                ranges.swap_remove(at);
            }
            if ranges.is_empty() {
                guards.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FileEntry, Manifest, PiecesRoot};
    use crate::paths::Paths;
    use crate::store::Store;

    const MIB: u64 = 1 << 20;

    /// A model of one file of eight pieces of 1 MiB, none of which is cached.
    fn revision(dir: &std::path::Path) -> Arc<StoredRevision> {
        let file = FileEntry::new("w.bin", 8 * MIB, None, Some(PiecesRoot([7; 32])));
        let manifest =
            Manifest::new("o/m".parse().unwrap(), Default::default(), MIB as u32, vec![file]).unwrap();
        Store::open(&Paths::below(dir)).unwrap().revision(Arc::new(manifest)).unwrap()
    }

    fn rooms(max_size: u64) -> Arc<Rooms> {
        Rooms::new(std::env::temp_dir(), max_size, 0, 0)
    }

    #[test]
    fn a_piece_takes_space_once_until_its_bytes_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (revision, rooms) = (revision(dir.path()), rooms(2 * MIB));
        let admit =
            |space: &mut Space, piece, level| space.admit(&revision, &rooms, piece, level, Instant::now());
        let mut space = Space::default();
        for _ in 0..3 {
            assert!(admit(&mut space, 0, Level::Ahead));
            assert!(admit(&mut space, 1, Level::Ahead));
        }
        assert!(!admit(&mut space, 2, Level::Ahead));
        assert!(space.holds(2) && space.lacks_any() && !space.holds(0));

        space.came(0, &rooms);
        assert!(!admit(&mut space, 2, Level::Ahead), "its bytes lie in the cache now");
        rooms.cache.freed(MIB);
        assert!(admit(&mut space, 2, Level::Ahead));
        assert!(!space.holds(2) && !space.lacks_any());
    }

    #[test]
    fn a_piece_for_which_a_read_waits_may_exceed_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let (revision, rooms) = (revision(dir.path()), rooms(MIB));
        let admit =
            |space: &mut Space, piece, level| space.admit(&revision, &rooms, piece, level, Instant::now());
        let mut space = Space::default();
        assert!(admit(&mut space, 0, Level::Bulk));
        for level in [Level::Bulk, Level::Ahead, Level::Near] {
            assert!(!admit(&mut space, 1, level), "{level:?}");
        }
        assert!(admit(&mut space, 1, Level::Urgent));
    }

    #[test]
    fn a_piece_that_is_being_deleted_is_not_requested() {
        let dir = tempfile::tempdir().unwrap();
        let (revision, rooms) = (revision(dir.path()), rooms(8 * MIB));
        let admit =
            |space: &mut Space, piece, level| space.admit(&revision, &rooms, piece, level, Instant::now());
        let mut space = Space { deleting: [3].into(), ..Space::default() };
        assert!(!admit(&mut space, 3, Level::Urgent) && space.holds(3));
        assert!(!rooms.cache.is_reserved());
        space.deleting.clear();
        assert!(admit(&mut space, 3, Level::Urgent));
    }

    #[test]
    fn pieces_that_are_not_claimed_any_more_neither_have_nor_lack_space() {
        let dir = tempfile::tempdir().unwrap();
        let (revision, rooms) = (revision(dir.path()), rooms(2 * MIB));
        let admit =
            |space: &mut Space, piece, level| space.admit(&revision, &rooms, piece, level, Instant::now());
        let mut space = Space::default();
        let mut wants = Wants::default();
        for piece in 0..4 {
            wants.claim(piece, 1, Level::Ahead, Duration::ZERO, Instant::now());
            assert_eq!(admit(&mut space, piece, Level::Ahead), piece < 2);
        }
        for piece in [0, 2] {
            wants.release(piece, 1);
        }
        space.release_unclaimed(&wants, &rooms);
        assert_eq!(space.reserved.keys().collect::<Vec<_>>(), [&1]);
        assert_eq!(space.lacking.keys().collect::<Vec<_>>(), [&3]);
        // What was written of it is not known until the cache is measured.
        assert!(!admit(&mut space, 3, Level::Ahead));
        rooms.cache.measured(0);
        assert!(admit(&mut space, 3, Level::Ahead));
        space.release_all(&rooms);
        assert!(!rooms.cache.is_reserved() && !space.lacks_any());
    }
}
