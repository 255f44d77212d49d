//! Records which blocks of a content count: blocks that were verified, and blocks that turned out to be missing or wrong.
//!
//! Blocks that are cached but not proved by our own code are *unproved*: blocks that an older version recorded, and blocks that
//! were recorded just before a power cut. They are not readable and not offered to peers. `fetch` reads them piece by piece,
//! when a reader needs them or in the background, and gives them to the engine, which proves or rejects them like bytes from
//! a peer. `verify` does the same with the hashes that it knows. A piece is no longer unproved once it is proved, rejected,
//! evicted or lost.

use std::io;
use std::ops::Range;

use super::{Content, ContentVersion, Location};
use crate::model::BLOCK_LEN;
use crate::nofollow;
use crate::store::{Stamp, StoreError};

impl Content {
    /// Records that the range is verified and readable. `range` starts at a block and ends at a block or at the end.
    /// On an error the range counts in this process, and the next process fetches it again.
    pub fn mark_verified(&self, range: Range<u64>) -> io::Result<()> {
        self.mark(range, |_| true).map(drop)
    }

    /// Like [`Content::mark_verified`], for bytes that were written to the location after `moves` moves. Does nothing, and
    /// returns false, if the content has moved since: the new location may not have the bytes.
    pub fn mark_verified_at(&self, range: Range<u64>, moves: u64) -> io::Result<bool> {
        self.mark(range, |version| version.moves == moves)
    }

    /// Like [`Content::mark_verified`], for bytes that were read at or after `version` and proved. Does nothing, and returns
    /// false, if the content has moved or lost blocks since.
    pub(crate) fn mark_proved(&self, range: Range<u64>, version: ContentVersion) -> io::Result<bool> {
        self.mark(range, |now| now == version)
    }

    fn mark(&self, range: Range<u64>, counts: impl Fn(ContentVersion) -> bool) -> io::Result<bool> {
        let ends_well =
            range.end == self.len() || (range.end < self.len() && range.end.is_multiple_of(BLOCK_LEN));
        if !range.start.is_multiple_of(BLOCK_LEN) || !ends_well || range.start > range.end {
            let text = format!("{}..{} is not made of whole blocks", range.start, range.end);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut inserted = None;
        let completes = {
            let mut state = self.state();
            if !counts(state.version) {
                return Ok(false);
            }
            let completes = state.map.is_filled_by(&range);
            if !completes {
                inserted = state.insert(&range);
            }
            completes
        };
        if !completes && inserted.is_none() {
            return Ok(true);
        }
        let mut writer = self.writer();
        let mut stamped = Ok(());
        if completes {
            // From now on this program does not write to the file. As soon as all blocks count, a reader may get the file
            // itself: a change by another program after this moment must be noticed.
            stamped = writer.write_stamp();
            let mut state = self.state();
            if !counts(state.version) {
                return Ok(false);
            }
            inserted = state.insert(&range);
        }
        writer.write_map(&range)?;
        if inserted == Some(true) {
            writer.write_unproved(&range)?;
        }
        stamped.map(|()| true)
    }

    /// Records that the blocks that the range touches are missing. A content in a placed file moves to the cache (see
    /// [`Content::moves`]); it moves back when the unchanged file is found again. Does nothing for a local file.
    pub fn mark_missing(&self, range: Range<u64>) -> io::Result<()> {
        self.writer().remove_blocks(range)
    }

    /// Records that the hash of the blocks that the range touches is wrong. A placed file is not changed and keeps its other
    /// blocks; the content leaves it when none is left. Returns whether any of the blocks counted. Does nothing for a local
    /// file.
    pub fn mark_wrong(&self, range: Range<u64>) -> io::Result<bool> {
        let mut writer = self.writer();
        let Location::Placed(file) = self.location() else {
            let counted = self.has_some(&range);
            return writer.remove_blocks(range).map(|()| counted);
        };
        let Some(key) = self.key.filter(|_| !self.local) else { return Ok(false) };
        let wrong = {
            let mut state = self.state();
            if !state.remove(&range) {
                return Ok(false);
            }
            state.map.runs(&(0..key.len), false)
        };
        if self.cached_bytes() == 0 {
            return writer.distrust(&file).map(|()| true);
        }
        let wrong: Vec<(u64, u64)> = wrong.iter().map(|range| (range.start, range.end)).collect();
        let recorded = self.parts.placements.update_file(&key, &file.path, |entry| {
            entry.wrong.clone_from(&wrong);
        });
        recorded.map_err(io::Error::other).map(|()| true)
    }

    /// Makes bytes that a reader needs fetchable: if they are wrong in the placed file, the content moves to the cache.
    /// Returns whether it did.
    pub fn make_fetchable(&self, range: &Range<u64>) -> io::Result<bool> {
        let lacks = || {
            let state = self.state();
            matches!(state.location, Location::Placed(_)) && !state.map.has(range)
        };
        if self.local || !lacks() {
            return Ok(false);
        }
        let mut writer = self.writer();
        let Location::Placed(file) = self.location() else { return Ok(false) };
        if !lacks() {
            return Ok(false);
        }
        self.parts.placements.ignore_for_a_while(&file.path);
        writer.move_to_cache().map(|()| true)
    }

    /// Removes blocks that a reader did not find at the location after `moves` moves. Returns false, and removes nothing, if
    /// the content has moved since, or if its own file exists and is long enough now.
    pub(super) fn remove_lost(&self, moves: u64, lost: Range<u64>, error: &io::Error) -> io::Result<bool> {
        let mut writer = self.writer();
        let location = {
            let state = self.state();
            if state.version.moves != moves {
                return Ok(false);
            }
            state.location.clone()
        };
        match &location {
            Location::Own(data)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
                    && nofollow::metadata(data)
                        .is_ok_and(|found| found.is_file() && found.len() >= lost.end) =>
            {
                self.parts.fds.forget((self.id, moves));
                return Ok(false);
            }
            // The stamp of the file has not changed: without this, the content would return to a file that cannot be read.
            Location::Placed(file) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                self.parts.placements.ignore_for_a_while(&file.path);
            }
            _ => {}
        }
        writer.remove_blocks(lost).map(|()| true)
    }

    /// Moves the content away from a placed file that has changed since it was verified: readers may not have noticed yet. The
    /// caller holds `moving`.
    pub(in crate::store) fn leave_if_changed(&self) -> Result<(), StoreError> {
        match self.location() {
            Location::Placed(placed) if Stamp::at(&placed.path).ok() != Some(placed.stamp) => {
                self.start_over().map_err(|e| StoreError::io(&placed.path, e))
            }
            _ => Ok(()),
        }
    }

    /// Like [`Content::start_over`], for a file that is gone from the location after `moves` moves. Does nothing, and returns
    /// false, if the content has moved since, or is just moving.
    pub fn start_over_at(&self, moves: u64) -> io::Result<bool> {
        let mut writer = self.writer();
        if self.moves() != moves {
            return Ok(false);
        }
        writer.start_over().map(|()| true)
    }

    /// Forgets all bytes: the file is gone, or another file has its path. Counts as a move: files that are open and pieces
    /// that were written to the old file do not count for the new one.
    pub fn start_over(&self) -> io::Result<()> {
        self.writer().start_over()
    }

    /// Records that unproved bytes of the range are wrong: they are missing from then on. Proved bytes stay.
    pub fn forget_unproved(&self, range: Range<u64>) -> io::Result<()> {
        let writer = self.writer();
        if self.state().unproved.remove(&range) { writer.write_unproved(&range) } else { Ok(()) }
    }
}
