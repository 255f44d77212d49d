//! The windows ahead of readers: pure arithmetic over byte ranges of one file.
//!
//! A file has several cursors, shared by all its handles. A read that continues at a cursor moves it and doubles its window;
//! any other read starts a cursor without a window. So opening a file or reading one row fetches only the pieces that the
//! read needs, and a stream reaches the widest window within a few megabytes.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::claim::FileUse;
use super::claim::{ClaimId, TorrentPiece};

/// Cursors a file may have; the least recently used is removed first. Loaders use up to 16 threads.
pub(super) const MAX_CURSORS: usize = 16;

/// How far before or behind a cursor a read may start and still belong to it, in bytes. The kernel splits its
/// read-ahead into requests of 128 KiB to 1 MiB, and several threads answer them out of order.
const SLACK: u64 = 2 << 20;

/// A window is at most this many times the bytes that the run has read.
const TRUST: u64 = 8;

/// The same while other hosts read too. Hosts that all want the same few pieces cannot share the work.
const SHARED_TRUST: u64 = 128;

/// A window has room for at least so many pieces, alone and while other hosts read too.
const PIECES: u64 = 2;
const SHARED_PIECES: u64 = 32;

/// A run that has read fewer bytes has no window: for one page fault the kernel reads 128 KiB around the page, in several
/// requests.
const PROVEN: u64 = 256 << 10;

/// A cursor that no read has moved for this time wants nothing more.
pub(super) const STALE: Duration = Duration::from_secs(10);

/// One reader's position in a file.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    /// Names the cursor's claims.
    pub id: ClaimId,
    /// The first byte of the run.
    pub start: u64,
    /// The furthest byte read, exclusive.
    pub pos: u64,
    /// Bytes between `start` and `pos` that the run has read.
    read: u64,
    /// Bytes wanted beyond `pos`.
    window: u64,
    /// The last read.
    pub used: Instant,
    /// False once stale, until the next read.
    pub active: bool,
    /// The file that the reader named.
    pub via: Option<FileUse>,
    /// The pieces of that file's torrent that the window covered when the claims were last computed.
    pub pieces: Range<u32>,
    pub claims: Vec<TorrentPiece>,
}

impl Cursor {
    fn accepts(&self, start: u64) -> bool {
        start <= self.pos.saturating_add(SLACK) && start.saturating_add(SLACK) >= self.pos
    }

    fn advance(&mut self, range: &Range<u64>, reach: WindowReach) {
        let len = range.end - range.start;
        self.start = self.start.min(range.start);
        if range.end <= self.pos {
            // One of several threads was overtaken.
            self.read = self.read.saturating_add(len).min(self.pos - self.start);
            return;
        }
        let fresh = range.end - range.start.max(self.pos);
        self.pos = range.end;
        self.read = self.read.saturating_add(fresh).min(self.pos - self.start);
        if self.read < (self.pos - self.start) / 2 {
            // More was skipped than read: it was a jump.
            (self.start, self.read, self.window) = (range.start, len, 0);
            return;
        }
        if self.read < PROVEN {
            return;
        }
        let grown = if reach.shared {
            SHARED_TRUST.saturating_mul(self.read)
        } else {
            (2 * self.window).max(2 * len).min(TRUST.saturating_mul(self.read))
        };
        self.window = grown.min(reach.max);
    }

    /// Sets the file that the reader named. The claims in another torrent are computed again.
    pub(super) fn follow(&mut self, via: FileUse) {
        if self.via != Some(via) {
            (self.via, self.pieces) = (Some(via), 0..0);
        }
    }

    /// Bytes that the run has read.
    pub(super) fn run(&self) -> u64 {
        self.read
    }

    /// Whether the cursor takes part in the sharing of the budget.
    pub(super) fn is_hungry(&self) -> bool {
        self.active && self.window > 0
    }

    /// The bytes wanted beyond the position, cut to `share` bytes and to `bound`.
    pub(super) fn wanted(&self, share: u64, bound: u64) -> Range<u64> {
        if !self.active {
            return self.pos..self.pos;
        }
        let end = self.pos.saturating_add(self.window.min(share)).min(bound);
        self.pos..end.max(self.pos)
    }
}

/// How far windows may reach.
#[derive(Debug, Clone, Copy)]
pub(super) struct WindowReach {
    /// Bytes of the widest window.
    max: u64,
    /// Whether other hosts read the torrent too.
    shared: bool,
}

impl WindowReach {
    /// For a file with pieces of `piece` bytes: the setting, but never under two pieces, or 32 while other hosts read too, and
    /// never over `bound` bytes.
    pub(super) fn new(readahead_max: u64, piece: u64, bound: u64, shared: bool) -> Self {
        let pieces = if shared { SHARED_PIECES } else { PIECES };
        Self { max: readahead_max.max(pieces * piece).min(bound), shared }
    }
}

/// How many pieces of a window, given by their lengths in order, fit into `bound` bytes.
pub(super) fn within(bound: u64, lengths: impl Iterator<Item = u64>) -> usize {
    let sums = lengths.scan(0u64, |sum, length| {
        *sum = sum.saturating_add(length);
        Some(*sum)
    });
    sums.take_while(|&sum| sum <= bound).count()
}

/// The part of a budget that each of `hungry` cursors gets: an equal part, and at least one piece.
pub(super) fn share(budget: u64, hungry: usize, piece: u64) -> u64 {
    (budget / hungry.max(1) as u64).max(piece)
}

/// The cursors of one file, the most recently used first.
#[derive(Debug, Default)]
pub(super) struct Windows {
    cursors: Vec<Cursor>,
}

impl Windows {
    /// Records a read. Returns the cursor that it moved or made (named `new_id`), and a cursor that was removed for it.
    pub(super) fn on_read(
        &mut self,
        range: Range<u64>,
        now: Instant,
        reach: WindowReach,
        new_id: ClaimId,
    ) -> (ClaimId, Option<Cursor>) {
        let nearest = (0..self.cursors.len())
            .filter(|&i| self.cursors[i].accepts(range.start))
            .min_by_key(|&i| self.cursors[i].pos.abs_diff(range.start));
        let cursor = match nearest {
            Some(i) => {
                let mut cursor = self.cursors.remove(i);
                cursor.advance(&range, reach);
                cursor.used = now;
                cursor.active = true;
                cursor
            }
            None => Cursor {
                id: new_id,
                start: range.start,
                pos: range.end,
                read: range.end - range.start,
                window: 0,
                used: now,
                active: true,
                via: None,
                pieces: 0..0,
                claims: Vec::new(),
            },
        };
        let id = cursor.id;
        self.cursors.insert(0, cursor);
        let evicted = (self.cursors.len() > MAX_CURSORS).then(|| self.cursors.pop()).flatten();
        (id, evicted)
    }

    /// All cursors, the most recently used first.
    pub(super) fn cursors(&self) -> &[Cursor] {
        &self.cursors
    }

    pub(super) fn cursor_mut(&mut self, id: ClaimId) -> Option<&mut Cursor> {
        self.cursors.iter_mut().find(|cursor| cursor.id == id)
    }

    /// Ends the windows of cursors that no read has moved for [`STALE`]. Returns whether there were any.
    pub(super) fn rest_stale(&mut self, now: Instant) -> bool {
        let mut any = false;
        for cursor in self.cursors.iter_mut().filter(|c| c.active && c.used + STALE <= now) {
            cursor.active = false;
            any = true;
        }
        any
    }

    /// Removes all cursors.
    pub(super) fn take(&mut self) -> Vec<Cursor> {
        std::mem::take(&mut self.cursors)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const MAX: u64 = 32 * MIB;
    const ALONE: WindowReach = WindowReach { max: MAX, shared: false };

    fn read(w: &mut Windows, start: u64, len: u64, id: ClaimId) -> ClaimId {
        w.on_read(start..start + len, Instant::now(), ALONE, id).0
    }

    fn window(w: &Windows, id: ClaimId) -> u64 {
        let cursor = w.cursors().iter().find(|c| c.id == id).expect("cursor");
        let wanted = cursor.wanted(u64::MAX, u64::MAX);
        wanted.end - wanted.start
    }

    #[test]
    fn window_stays_within_its_bound() {
        let widest = |setting, piece, bound, shared| WindowReach::new(setting, piece, bound, shared).max;
        assert_eq!(widest(MIB, 4 * MIB, MAX, false), 8 * MIB);
        assert_eq!(widest(MAX, 4 * MIB, 16 * MIB, false), 16 * MIB);
        assert_eq!(widest(MIB, 4 * MIB, 2 * MIB, false), 2 * MIB);
        assert_eq!(widest(MAX, 4 * MIB, 256 * MIB, true), 128 * MIB);
        assert_eq!(widest(MAX, 4 * MIB, MAX, true), MAX);
        let pieces = [4 * MIB, 4 * MIB, MIB];
        assert_eq!(within(9 * MIB, pieces.into_iter()), 3);
        assert_eq!(within(9 * MIB - 1, pieces.into_iter()), 2);
        assert_eq!(within(2 * MIB, pieces.into_iter()), 0, "a bound below one piece admits none");
    }

    #[test]
    fn first_read_wants_nothing_ahead() {
        let mut w = Windows::default();
        let id = read(&mut w, 0, 128 * KIB, 1);
        assert_eq!(window(&w, id), 0);
    }

    #[test]
    fn reads_around_a_page_fault_want_nothing_ahead() {
        let mut w = Windows::default();
        let id = read(&mut w, 64 * MIB, 4 * KIB, 1);
        read(&mut w, 64 * MIB - 64 * KIB, 64 * KIB, 2);
        read(&mut w, 64 * MIB + 4 * KIB, 60 * KIB, 3);
        assert_eq!(window(&w, id), 0);
    }

    #[test]
    fn stream_reaches_the_widest_window_within_6_mib() {
        for step in [128 * KIB, MIB] {
            let mut w = Windows::default();
            let mut at = 0;
            while w.cursors().first().is_none_or(|c| window(&w, c.id) < MAX) {
                assert_eq!(read(&mut w, at, step, at + 1), 1);
                at += step;
            }
            assert!(at <= 6 * MIB, "step {step}: {at}");
        }
    }

    #[test]
    fn stream_next_to_other_readers_has_a_wide_window_soon() {
        let mut w = Windows::default();
        let shared = WindowReach::new(MAX, 4 * MIB, 256 * MIB, true);
        let mut read = |start| w.on_read(start..start + 128 * KIB, Instant::now(), shared, 1).0;
        assert_eq!((read(0), read(128 * KIB)), (1, 1));
        assert_eq!(window(&w, 1), MAX, "after 256 KiB");
        for step in 2..8 {
            w.on_read(step * 128 * KIB..(step + 1) * 128 * KIB, Instant::now(), shared, 1);
        }
        assert_eq!(window(&w, 1), 128 * MIB);
    }

    #[test]
    fn requests_out_of_order_are_one_stream() {
        let mut w = Windows::default();
        for (i, k) in [0u64, 2, 1, 3, 6, 4, 5, 7, 9, 8].into_iter().enumerate() {
            assert_eq!(read(&mut w, k * 128 * KIB, 128 * KIB, i as u64 + 1), 1);
        }
        assert!(window(&w, 1) >= 4 * MIB);
    }

    #[test]
    fn jump_starts_a_cursor_and_keeps_the_old_one() {
        let mut w = Windows::default();
        for k in 0..4 {
            read(&mut w, k * MIB, MIB, 1);
        }
        let before = window(&w, 1);
        assert_eq!(read(&mut w, 500 * MIB, 4096, 2), 2);
        assert_eq!(window(&w, 2), 0);
        assert_eq!(read(&mut w, 4 * MIB, MIB, 3), 1);
        assert!(window(&w, 1) >= before);
        assert_eq!(read(&mut w, 0, MIB, 4), 4, "a second reader from the start has its own cursor");
    }

    #[test]
    fn short_jump_has_no_window() {
        let mut w = Windows::default();
        read(&mut w, 0, 16 * KIB, 1);
        let id = read(&mut w, MIB, 16 * KIB, 2);
        assert_eq!(window(&w, id), 0);
        assert!(w.cursors()[0].start == MIB);
    }

    #[test]
    fn repeated_read_does_not_grow_the_window() {
        let mut w = Windows::default();
        for _ in 0..100 {
            read(&mut w, 0, 4096, 1);
        }
        assert_eq!(window(&w, 1), 0);
    }

    #[test]
    fn stale_cursor_wants_nothing_until_the_next_read() {
        let mut w = Windows::default();
        read(&mut w, 0, MIB, 1);
        read(&mut w, MIB, MIB, 1);
        let grown = window(&w, 1);
        assert!(!w.rest_stale(Instant::now()));
        assert!(w.rest_stale(Instant::now() + STALE + Duration::from_secs(1)));
        assert_eq!(window(&w, 1), 0);
        read(&mut w, 2 * MIB, MIB, 1);
        assert!(window(&w, 1) >= grown);
    }

    #[test]
    fn share_of_the_budget_is_at_least_a_piece() {
        assert_eq!(share(128 * MIB, 0, 4 * MIB), 128 * MIB);
        assert_eq!(share(128 * MIB, 4, 4 * MIB), 32 * MIB);
        assert_eq!(share(128 * MIB, 1000, 4 * MIB), 4 * MIB);
    }

    proptest! {
        #[test]
        fn windows_stay_within_their_bounds(
            reads in prop::collection::vec((0u64..64 * MIB, 1u64..2 * MIB), 1..200),
            max in 1u64..64 * MIB,
            bound in 0u64..70 * MIB,
            granted in 1u64..64 * MIB,
        ) {
            let mut w = Windows::default();
            let mut total = 0;
            for (i, &(start, len)) in reads.iter().enumerate() {
                let (id, evicted) = w.on_read(start..start + len, Instant::now(), WindowReach { max, shared: false }, i as u64 + 1);
                total += len;
                prop_assert!(w.cursors().len() <= MAX_CURSORS);
                prop_assert_eq!(w.cursors()[0].id, id);
                prop_assert!(evicted.is_none_or(|gone| w.cursors().iter().all(|c| c.id != gone.id)));
                for cursor in w.cursors() {
                    let wanted = cursor.wanted(granted, bound);
                    let len = wanted.end - wanted.start;
                    prop_assert!(len <= max.min(granted));
                    prop_assert!(len == 0 || wanted.end <= bound);
                    prop_assert!(len <= TRUST * total, "at most {} times the bytes read", TRUST);
                }
            }
        }
    }
}
