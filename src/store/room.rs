//! How many more bytes the cache may take: `cache.max_size` and `cache.min_free` as limits.
//!
//! Space is reserved before bytes are requested. What is reserved counts as used until the bytes are verified or not
//! wanted any more; then the next measurement of the files decides. So the estimate errs on the side of too much.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::Lies;
use super::cache::disk_space;

/// How far a read that waits may take the cache above `max_size`, in bytes: one piece of the usual length. The bound that
/// is promised is 8 MiB.
const URGENT_EXCESS: u64 = 6 << 20;

/// Bytes above `min_free` that are not reserved either. The node writes block maps, records, resume data and its catalog
/// without a reservation, and blocks of a piece that is not wanted any more may still arrive.
const OWN_FILES: u64 = 4 << 20;

/// Free space is measured again after this time.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// After a write for which the disk had no space, nothing is reserved for so long, unless bytes were deleted.
const REFUSED_FOR: Duration = Duration::from_secs(2);

/// Bytes of memory for files that find no space on the disk.
const MEMORY: u64 = 64 << 20;

/// How many bytes stay free of bytes of models so that `min_free` bytes stay free at every moment. 0 without such a limit.
pub fn kept_free(min_free: u64) -> u64 {
    if min_free == 0 { 0 } else { min_free.saturating_add(OWN_FILES) }
}

/// Where space is limited. Safe to use from any thread.
#[derive(Debug)]
pub struct Rooms {
    /// The cache.
    pub cache: Room,
    /// The files in memory.
    pub memory: Room,
    wanted: Notify,
}

impl Rooms {
    /// Space without a limit.
    pub fn unlimited() -> Arc<Self> {
        Self::of(Room::default())
    }

    /// The space of the cache in `dir`: at most `max_size` bytes, of which `used` are taken now, and never so much that
    /// fewer than `min_free` bytes of the file system stay free.
    pub fn new(dir: PathBuf, max_size: u64, min_free: u64, used: u64) -> Arc<Self> {
        Self::of(Room::new(max_size, Some(Disk { dir, min_free }), used))
    }

    fn of(cache: Room) -> Arc<Self> {
        Arc::new(Self { cache, memory: Room::new(MEMORY, None, 0), wanted: Notify::new() })
    }

    /// Reserves bytes where a content lies. Returns false, and reserves nothing, where the limits do not permit them.
    #[must_use]
    pub fn reserve(&self, lies: Lies, bytes: u64, urgent: bool) -> bool {
        match lies {
            Lies::Cache => self.cache.reserve(bytes, urgent),
            Lies::Memory => self.memory.reserve(bytes, urgent),
            Lies::Beside => self.cache.reserve_beside(bytes),
            Lies::Away => true,
        }
    }

    /// Reserved bytes were written, or are not wanted any more and may have been written in part.
    pub fn settle(&self, lies: Lies, bytes: u64) {
        match lies {
            Lies::Cache => self.cache.settle(bytes),
            Lies::Memory => self.memory.settle(bytes),
            Lies::Beside => self.cache.settle_beside(bytes),
            Lies::Away => {}
        }
    }

    /// The limits of sheddable contents.
    pub fn of_sheddable(&self, in_memory: bool) -> &Room {
        if in_memory { &self.memory } else { &self.cache }
    }

    /// Requests wait for space.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Waits until requests wait for space.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

/// One limited space.
#[derive(Debug, Default)]
pub struct Room {
    limits: Option<Limits>,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Limits {
    max_size: u64,
    disk: Option<Disk>,
}

#[derive(Debug)]
struct Disk {
    dir: PathBuf,
    min_free: u64,
}

#[derive(Debug, Default)]
struct Book {
    used: u64,
    reserved: u64,
    /// Reserved on the same file system, outside the cache.
    beside: u64,
    /// What was free when it was last looked at, less what was written since.
    free: u64,
    looked: Option<Instant>,
    refused: Option<Instant>,
}

impl Room {
    fn new(max_size: u64, disk: Option<Disk>, used: u64) -> Self {
        Self { limits: Some(Limits { max_size, disk }), book: Mutex::new(Book { used, ..Book::default() }) }
    }

    /// Reserves bytes. An urgent reservation, for a read that waits, may exceed `max_size` by one piece, so that a cache of
    /// which nothing can be deleted now does not stop all reads.
    fn reserve(&self, bytes: u64, urgent: bool) -> bool {
        let Some(limits) = &self.limits else { return true };
        let mut book = self.book();
        let bound = limits.max_size.saturating_add(if urgent { URGENT_EXCESS } else { 0 });
        // A piece that is longer than the excess is requested alone.
        let alone = urgent && book.reserved == 0 && book.used <= limits.max_size;
        let fits = alone || book.taken().saturating_add(bytes) <= bound;
        if !fits || !limits.leaves_free(&mut book, bytes) {
            return false;
        }
        book.reserved = book.reserved.saturating_add(bytes);
        true
    }

    fn reserve_beside(&self, bytes: u64) -> bool {
        let Some(limits) = &self.limits else { return true };
        let mut book = self.book();
        if !limits.leaves_free(&mut book, bytes) {
            return false;
        }
        book.beside = book.beside.saturating_add(bytes);
        true
    }

    fn settle(&self, bytes: u64) {
        let mut book = self.book();
        book.reserved = book.reserved.saturating_sub(bytes);
        book.used = book.used.saturating_add(bytes);
        book.free = book.free.saturating_sub(bytes);
    }

    fn settle_beside(&self, bytes: u64) {
        let mut book = self.book();
        book.beside = book.beside.saturating_sub(bytes);
        book.free = book.free.saturating_sub(bytes);
    }

    /// Bytes were deleted.
    pub fn freed(&self, bytes: u64) {
        let mut book = self.book();
        book.used = book.used.saturating_sub(bytes);
        (book.looked, book.refused) = (None, None);
    }

    /// The files take this many bytes now.
    pub fn measured(&self, used: u64) {
        let mut book = self.book();
        (book.used, book.looked) = (used, None);
    }

    /// The disk had no space for a write, whatever it says is free.
    pub fn refused(&self) {
        self.book().refused = Some(Instant::now());
    }

    /// How many bytes have to be deleted before `bytes` more can be reserved.
    pub fn excess(&self, bytes: u64) -> u64 {
        let Some(limits) = &self.limits else { return 0 };
        let mut book = self.book();
        let over_size = book.taken().saturating_add(bytes).saturating_sub(limits.max_size);
        let needed = book.pending().saturating_add(bytes).saturating_add(limits.kept_free());
        over_size.max(needed.saturating_sub(limits.free(&mut book)))
    }

    /// Whether bytes are reserved, so that space comes or goes without further requests.
    pub fn is_reserved(&self) -> bool {
        self.book().pending() > 0
    }

    /// A sixteenth of the space: deleting so much at a time makes the cost of deleting small.
    pub fn batch(&self) -> u64 {
        self.limits.as_ref().map_or(0, |limits| limits.max_size / 16)
    }

    /// Bytes that are free on the file system, and bytes that stay free.
    pub fn free(&self) -> (u64, u64) {
        let Some(limits) = &self.limits else { return (u64::MAX, 0) };
        (limits.free(&mut self.book()), limits.min_free())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }
}

impl Book {
    fn taken(&self) -> u64 {
        self.used.saturating_add(self.reserved)
    }

    fn pending(&self) -> u64 {
        self.reserved.saturating_add(self.beside)
    }
}

impl Limits {
    fn min_free(&self) -> u64 {
        self.disk.as_ref().map_or(0, |disk| disk.min_free)
    }

    fn kept_free(&self) -> u64 {
        kept_free(self.min_free())
    }

    /// Whether enough bytes stay free when all that is reserved, and these bytes, are written.
    fn leaves_free(&self, book: &mut Book, bytes: u64) -> bool {
        self.free(book) >= book.pending().saturating_add(bytes).saturating_add(self.kept_free())
    }

    fn free(&self, book: &mut Book) -> u64 {
        let Some(disk) = &self.disk else { return u64::MAX };
        if book.refused.is_some_and(|at| at.elapsed() < REFUSED_FOR) {
            return 0;
        }
        if book.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            match disk_space(&disk.dir) {
                Ok((_, free)) => book.free = free,
                // The directory may be gone for a moment: what is known stays.
                Err(error) => tracing::debug!("free space is not known: {error}"),
            }
            book.looked = Some(Instant::now());
        }
        book.free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn room(max_size: u64, min_free: u64, used: u64) -> Room {
        Room::new(max_size, Some(Disk { dir: std::env::temp_dir(), min_free }), used)
    }

    #[test]
    fn reservations_end_at_max_size() {
        let room = room(10 * MIB, 0, 4 * MIB);
        assert!(room.reserve(4 * MIB, false));
        assert!(!room.reserve(4 * MIB, false));
        assert_eq!(room.excess(4 * MIB), 2 * MIB);
        room.settle(4 * MIB);
        assert!(!room.reserve(4 * MIB, false), "written bytes still count");
        room.freed(2 * MIB);
        assert!(room.reserve(4 * MIB, false));
        room.settle(4 * MIB);
        room.measured(3 * MIB);
        assert!(room.reserve(7 * MIB, false));
        assert!(!room.reserve(1, false));
    }

    #[test]
    fn a_waiting_read_may_exceed_max_size_by_one_piece() {
        let room = room(10 * MIB, 0, 10 * MIB);
        assert!(!room.reserve(4 * MIB, false));
        assert!(room.reserve(4 * MIB, true));
        assert!(!room.reserve(4 * MIB, true));
        room.settle(4 * MIB);
        room.freed(4 * MIB);
        assert!(room.reserve(32 * MIB, true), "a long piece is requested alone");
        assert!(!room.reserve(1, true));
    }

    #[test]
    fn nothing_is_reserved_below_min_free() {
        let room = room(u64::MAX, u64::MAX / 2, 0);
        assert!(!room.reserve(1, false));
        assert!(!room.reserve(1, true));
        assert!(!room.reserve_beside(1));
        assert!(room.excess(1) > 0);
    }

    #[test]
    fn space_for_files_of_the_node_is_not_reserved() {
        let free = 100 * MIB;
        let mut book = Book { free, looked: Some(Instant::now()), ..Book::default() };
        let limits = |min_free| Limits {
            max_size: u64::MAX,
            disk: Some(Disk { dir: std::env::temp_dir(), min_free }),
        };
        assert!(limits(free - OWN_FILES - 10).leaves_free(&mut book, 10));
        assert!(!limits(free - OWN_FILES - 10).leaves_free(&mut book, 11));
        assert!(limits(0).leaves_free(&mut book, free), "no space has to stay free");
    }

    #[test]
    fn bytes_beside_the_cache_count_as_free_space_only() {
        let room = room(10 * MIB, 0, 0);
        assert!(room.reserve_beside(100 * MIB));
        assert!(room.reserve(10 * MIB, false));
        room.settle_beside(100 * MIB);
        assert!(!room.reserve(1, false));
    }

    #[test]
    fn a_refused_write_stops_reservations_until_bytes_are_deleted() {
        let room = room(10 * MIB, 0, 4 * MIB);
        room.refused();
        assert!(!room.reserve(1, true));
        assert_eq!(room.excess(MIB), MIB);
        room.freed(MIB);
        assert!(room.reserve(MIB, false));
    }
}
