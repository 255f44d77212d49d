//! The limits of the cache: pieces that wait for space.
//!
//! A piece of a cached content is requested only when its bytes are reserved (see [`Rooms`]). Pieces that lack space are held
//! back in `lacking`; pieces whose bytes are being deleted, in `deleting`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::claim::ClaimLevel;
use super::orders::Need;
use super::parts::EngineBlocks;
use super::wants::Wants;
use crate::model::{BLOCK_LEN, PieceIndex};
use crate::store::{Rooms, SpaceClass, StoredRevision};

/// How long a torrent may have no space for any of its pieces before whole files fail: other programs may release space in
/// the meantime.
const JOB_WITHOUT_SPACE: Duration = Duration::from_secs(20);

/// The pieces of one torrent that are held back, and those for which space is reserved.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Where space is reserved, and how many bytes.
    reserved: BTreeMap<u32, (SpaceClass, u64)>,
    lacking: BTreeMap<u32, (SpaceClass, u64)>,
    deleting: BTreeSet<u32>,
    /// Since when pieces lack space while none has any.
    stuck_since: Option<Instant>,
}

impl Space {
    /// Whether a piece, or blocks of it, may be requested. Reserves space for the blocks that the engine lacks, unless that is
    /// done.
    pub(super) fn admit(
        &mut self,
        revision: &StoredRevision,
        engine_has: &EngineBlocks,
        rooms: &Rooms,
        need: Need,
        now: Instant,
    ) -> bool {
        let Need { piece, level, blocks } = need;
        if self.deleting.contains(&piece) {
            return false;
        }
        let Some((file, bytes)) = revision.layout.owner(PieceIndex(piece)) else { return true };
        let lies = revision.contents[file].space_class();
        let whole = bytes.end - bytes.start;
        let missing = whole.saturating_sub(u64::from(engine_has.count(piece)) * BLOCK_LEN);
        let len = blocks.map_or(missing, |blocks| whole.min(u64::from(blocks) * BLOCK_LEN));
        let reserved = match self.reserved.get(&piece) {
            Some(&(before, reserved)) if before == lies => reserved,
            Some(&(before, reserved)) => {
                // The content has moved to memory, or back, and its bytes are requested again.
                rooms.end_reservation(before, reserved);
                self.reserved.remove(&piece);
                0
            }
            None => 0,
        };
        if reserved >= len {
            return true;
        }
        let len = len - reserved;
        if rooms.reserve(lies, len, level == ClaimLevel::Urgent) {
            self.lacking.remove(&piece);
            self.reserved.insert(piece, (lies, reserved + len));
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

    /// Blocks of a piece are verified: their bytes are written.
    pub(super) fn blocks_came(&mut self, piece: u32, blocks: u32, rooms: &Rooms) {
        if let Some((lies, len)) = self.reserved.get_mut(&piece) {
            // The last block of a file may be shorter; whole blocks were reserved.
            let written = (u64::from(blocks) * BLOCK_LEN).min(*len);
            *len -= written;
            rooms.end_reservation(*lies, written);
            if *len == 0 {
                self.reserved.remove(&piece);
            }
        }
    }

    /// Ordered blocks cannot be verified, so their whole pieces are needed: the reservations of the blocks must not stop each
    /// other. `refused` names these pieces.
    pub(super) fn cancel_parts(&mut self, wants: &Wants, rooms: &Rooms, refused: impl Fn(u32) -> bool) {
        self.reserved.retain(|&piece, (lies, len)| {
            let in_blocks = wants.is_ordered_in_blocks(piece) && refused(piece);
            if in_blocks {
                rooms.cancel_reservation(*lies, *len);
            }
            !in_blocks
        });
    }

    /// Forgets pieces that are not claimed any more, and releases their space.
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

    /// Ends all reservations: the torrent is left, or the requested pieces are lost.
    pub(super) fn release_all(&mut self, rooms: &Rooms) {
        self.release_unclaimed(&Wants::default(), rooms);
    }

    /// Whether some piece lacks space.
    pub(super) fn lacks_any(&self) -> bool {
        !self.lacking.is_empty()
    }

    /// Whether space is reserved for some piece.
    pub(super) fn has_any(&self) -> bool {
        !self.reserved.is_empty()
    }

    /// The pieces that lack space.
    pub(super) fn lacking_pieces(&self) -> Vec<u32> {
        self.lacking.keys().copied().collect()
    }

    /// Bytes of the pieces that lack space in memory, or on the disk.
    pub(super) fn lacking_bytes(&self, in_memory: bool) -> u64 {
        let lacking = self.lacking.values();
        lacking.filter(|(lies, _)| (*lies == SpaceClass::Memory) == in_memory).map(|(_, bytes)| bytes).sum()
    }

    /// Whether a piece lacks space in the cache.
    pub(super) fn lacks_cache(&self, piece: u32) -> bool {
        self.lacking.get(&piece).is_some_and(|(lies, _)| *lies == SpaceClass::Cache)
    }

    /// The bytes of a piece are being deleted: it is held back.
    pub(super) fn begin_deletion(&mut self, piece: u32) {
        self.deleting.insert(piece);
    }

    /// The bytes of a piece are deleted. Returns whether it was held back for that.
    pub(super) fn end_deletion(&mut self, piece: u32) -> bool {
        self.deleting.remove(&piece)
    }

    /// The pieces that have lacked space on the disk for too long to wait for a whole file.
    pub(super) fn hopeless(&self, now: Instant) -> impl Iterator<Item = u32> {
        let stuck = self.stuck_since.is_some_and(|since| now >= since + JOB_WITHOUT_SPACE);
        let on_disk = self.lacking.iter().filter(|(_, (lies, _))| *lies != SpaceClass::Memory);
        on_disk.map(|(piece, _)| *piece).filter(move |_| stuck)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fetch::claim::Extent;
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

    fn whole(piece: u32, level: ClaimLevel) -> Need {
        Need { piece, level, blocks: None }
    }

    fn rooms(max_size: u64) -> Arc<Rooms> {
        Rooms::new(std::env::temp_dir(), max_size, 0, 0)
    }

    #[test]
    fn piece_reserves_space_once_until_it_is_verified() {
        let dir = tempfile::tempdir().unwrap();
        let (revision, rooms) = (revision(dir.path()), rooms(2 * MIB));
        let admit = |space: &mut Space, piece, level| {
            space.admit(&revision, &EngineBlocks::default(), &rooms, whole(piece, level), Instant::now())
        };
        let mut space = Space::default();
        for _ in 0..3 {
            assert!(admit(&mut space, 0, ClaimLevel::Ahead));
            assert!(admit(&mut space, 1, ClaimLevel::Ahead));
        }
        assert!(!admit(&mut space, 2, ClaimLevel::Ahead));
        assert!(space.holds(2) && space.lacks_any() && !space.holds(0));

        space.came(0, &rooms);
        assert!(!admit(&mut space, 2, ClaimLevel::Ahead), "its bytes are in the cache now");
        rooms.cache.freed(MIB);
        assert!(admit(&mut space, 2, ClaimLevel::Ahead));
        assert!(!space.holds(2) && !space.lacks_any());
    }

    #[test]
    fn urgent_piece_may_exceed_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let (revision, rooms) = (revision(dir.path()), rooms(MIB));
        let admit = |space: &mut Space, piece, level| {
            space.admit(&revision, &EngineBlocks::default(), &rooms, whole(piece, level), Instant::now())
        };
        let mut space = Space::default();
        assert!(admit(&mut space, 0, ClaimLevel::Bulk));
        for level in [ClaimLevel::Bulk, ClaimLevel::Ahead, ClaimLevel::Near] {
            assert!(!admit(&mut space, 1, level), "{level:?}");
        }
        assert!(admit(&mut space, 1, ClaimLevel::Urgent));
    }

    #[test]
    fn piece_is_not_requested_while_it_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let (revision, rooms) = (revision(dir.path()), rooms(8 * MIB));
        let admit = |space: &mut Space, piece, level| {
            space.admit(&revision, &EngineBlocks::default(), &rooms, whole(piece, level), Instant::now())
        };
        let mut space = Space::default();
        space.begin_deletion(3);
        assert!(!admit(&mut space, 3, ClaimLevel::Urgent) && space.holds(3));
        assert!(!rooms.cache.is_reserved());
        assert!(space.end_deletion(3) && !space.end_deletion(3));
        assert!(admit(&mut space, 3, ClaimLevel::Urgent));
    }

    #[test]
    fn unclaimed_pieces_neither_have_nor_lack_space() {
        let dir = tempfile::tempdir().unwrap();
        let (revision, rooms) = (revision(dir.path()), rooms(2 * MIB));
        let admit = |space: &mut Space, piece, level| {
            space.admit(&revision, &EngineBlocks::default(), &rooms, whole(piece, level), Instant::now())
        };
        let mut space = Space::default();
        let mut wants = Wants::default();
        for piece in 0..4 {
            wants.claim(piece, 1, ClaimLevel::Ahead, Duration::ZERO, Extent::Whole, Instant::now());
            assert_eq!(admit(&mut space, piece, ClaimLevel::Ahead), piece < 2);
        }
        for piece in [0, 2] {
            wants.release(piece, 1);
        }
        space.release_unclaimed(&wants, &rooms);
        assert_eq!(space.reserved.keys().collect::<Vec<_>>(), [&1]);
        assert_eq!(space.lacking.keys().collect::<Vec<_>>(), [&3]);
        // Its blocks may have been written: the space is free when the cache is measured.
        assert!(!admit(&mut space, 3, ClaimLevel::Ahead));
        rooms.cache.measured(0);
        assert!(admit(&mut space, 3, ClaimLevel::Ahead));
        space.release_all(&rooms);
        assert!(!rooms.cache.is_reserved() && !space.lacks_any());
    }

    #[test]
    fn blocks_reserve_only_their_own_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (revision, rooms) = (revision(dir.path()), rooms(MIB));
        let granule = |piece| Need { piece, level: ClaimLevel::Ahead, blocks: Some(4) };
        let mut space = Space::default();
        let admit = |space: &mut Space, need| {
            space.admit(&revision, &EngineBlocks::default(), &rooms, need, Instant::now())
        };
        assert!(
            admit(&mut space, granule(0)) && admit(&mut space, granule(0)) && admit(&mut space, granule(1))
        );
        assert_eq!(space.reserved.values().map(|(_, len)| len).sum::<u64>(), 128 << 10);
        assert!(!admit(&mut space, whole(0, ClaimLevel::Ahead)), "the piece is longer than the room");
        space.blocks_came(0, 4, &rooms);
        space.blocks_came(1, 4, &rooms);
        assert!(!space.has_any() && !rooms.cache.is_reserved());
    }
    #[test]
    fn blocks_of_a_piece_that_came_need_no_space() {
        let dir = tempfile::tempdir().unwrap();
        let (revision, rooms) = (revision(dir.path()), rooms(MIB));
        let mut engine_has = EngineBlocks::default();
        engine_has.insert(0, &(0..4));
        let mut space = Space::default();
        assert!(space.admit(&revision, &engine_has, &rooms, whole(0, ClaimLevel::Ahead), Instant::now()));
        assert_eq!(space.reserved[&0].1, MIB - (64 << 10));
        engine_has.insert(0, &(4..64));
        space.blocks_came(0, 60, &rooms);
        assert!(space.admit(&revision, &engine_has, &rooms, whole(0, ClaimLevel::Ahead), Instant::now()));
        assert!(!space.has_any() && !rooms.cache.is_reserved());
    }
    #[test]
    fn content_that_moved_needs_space_at_its_new_place() {
        let dir = tempfile::tempdir().unwrap();
        let (revision, rooms) = (revision(dir.path()), rooms(8 * MIB));
        let mut space = Space::default();
        let engine_has = EngineBlocks::default();
        let mut admit = || {
            let need = whole(0, ClaimLevel::Ahead);
            assert!(space.admit(&revision, &engine_has, &rooms, need, Instant::now()));
            (rooms.cache.is_reserved(), rooms.memory.is_reserved())
        };
        assert_eq!(admit(), (true, false));
        revision.contents[0].enter_memory().unwrap();
        assert_eq!(admit(), (false, true));
        revision.contents[0].leave_memory().unwrap();
        assert_eq!(admit(), (true, false));
    }
}
