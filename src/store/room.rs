//! The space that the cache may still take: `cache.max_size` and `cache.min_free` as limits.
//!
//! Space is reserved before bytes are requested. Reserved bytes count as used until they are verified or no longer
//! requested; then the next measurement of the files decides. The estimate is therefore never too low.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::SpaceClass;
use super::eviction::disk_space;

/// How far a read that waits may take the cache above `max_size`, in bytes: one piece of the usual length. The documentation
/// promises at most 8 MiB.
const URGENT_EXCESS: u64 = 6 << 20;

/// Bytes above `min_free` that are not reserved either. The node writes block maps, records, resume data and its catalog
/// without a reservation, and blocks of a cancelled piece may still arrive.
const OWN_FILES: u64 = 4 << 20;

/// Free space is measured again after this time.
const MEASURE_EVERY: Duration = Duration::from_millis(100);

/// After a write for which the disk had no space, no space is reserved for this time, unless bytes were deleted.
const REFUSED_FOR: Duration = Duration::from_secs(2);

/// Bytes of memory for files that find no space on the disk.
const MEMORY: u64 = 64 << 20;

/// Bytes that no model may use, so that `min_free` bytes stay free at every moment. 0 without such a limit.
pub fn kept_free(min_free: u64) -> u64 {
    if min_free == 0 { 0 } else { min_free.saturating_add(OWN_FILES) }
}

/// The limited spaces. Safe to use from any thread.
#[derive(Debug)]
pub struct Rooms {
    /// The cache.
    pub cache: Room,
    /// The files in memory.
    pub memory: Room,
    requested: Notify,
}

impl Rooms {
    /// Space without a limit.
    pub fn unlimited() -> Arc<Self> {
        Self::of(Room::default())
    }

    /// The space of the cache in `dir`: at most `max_size` bytes, of which `used` are used now; at least `min_free` bytes of the
    /// file system stay free.
    pub fn new(dir: PathBuf, max_size: u64, min_free: u64, used: u64) -> Arc<Self> {
        Self::of(Room::new(max_size, Some(Disk { dir, min_free }), used))
    }

    fn of(cache: Room) -> Arc<Self> {
        Arc::new(Self { cache, memory: Room::new(MEMORY, None, 0), requested: Notify::new() })
    }

    /// Reserves bytes of a class. Returns false, and reserves no byte, if the limits do not permit them.
    #[must_use]
    pub fn reserve(&self, class: SpaceClass, bytes: u64, urgent: bool) -> bool {
        match class {
            SpaceClass::Cache => self.cache.reserve(bytes, urgent),
            SpaceClass::Memory => self.memory.reserve(bytes, urgent),
            SpaceClass::CacheDisk => self.cache.reserve_outside(bytes),
            SpaceClass::Unlimited => true,
        }
    }

    /// Ends a reservation of bytes that are about to be reserved again.
    pub fn cancel_reservation(&self, class: SpaceClass, bytes: u64) {
        match class {
            SpaceClass::Cache => self.cache.cancel_reservation(bytes),
            SpaceClass::Memory => self.memory.cancel_reservation(bytes),
            SpaceClass::CacheDisk => self.cache.cancel_reservation_outside(bytes),
            SpaceClass::Unlimited => {}
        }
    }

    /// Records that reserved bytes were written, or are no longer requested and may have been written in part.
    pub fn end_reservation(&self, class: SpaceClass, bytes: u64) {
        match class {
            SpaceClass::Cache => self.cache.end_reservation(bytes),
            SpaceClass::Memory => self.memory.end_reservation(bytes),
            SpaceClass::CacheDisk => self.cache.end_reservation_outside(bytes),
            SpaceClass::Unlimited => {}
        }
    }

    /// Reports that requests wait for space.
    pub fn request_space(&self) {
        self.requested.notify_one();
    }

    /// Waits until requests wait for space.
    pub async fn space_requested(&self) {
        self.requested.notified().await;
    }
}

/// One limited space.
#[derive(Debug, Default)]
pub struct Room {
    limits: Option<RoomLimits>,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct RoomLimits {
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
    /// Bytes reserved on the same file system, outside the cache.
    outside: u64,
    /// Free bytes at the last measurement, less the bytes written since.
    free: u64,
    measured: Option<Instant>,
    refused: Option<Instant>,
}

impl Room {
    fn new(max_size: u64, disk: Option<Disk>, used: u64) -> Self {
        Self {
            limits: Some(RoomLimits { max_size, disk }),
            book: Mutex::new(Book { used, ..Book::default() }),
        }
    }

    /// Reserves bytes. An urgent reservation, for a read that waits, may exceed `max_size` by one piece, so that reads continue
    /// when no byte of the cache can be deleted.
    fn reserve(&self, bytes: u64, urgent: bool) -> bool {
        let Some(limits) = &self.limits else { return true };
        let mut book = self.book.lock();
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

    fn reserve_outside(&self, bytes: u64) -> bool {
        let Some(limits) = &self.limits else { return true };
        let mut book = self.book.lock();
        if !limits.leaves_free(&mut book, bytes) {
            return false;
        }
        book.outside = book.outside.saturating_add(bytes);
        true
    }

    fn end_reservation(&self, bytes: u64) {
        let mut book = self.book.lock();
        book.reserved = book.reserved.saturating_sub(bytes);
        book.used = book.used.saturating_add(bytes);
        book.free = book.free.saturating_sub(bytes);
    }

    fn cancel_reservation(&self, bytes: u64) {
        let mut book = self.book.lock();
        book.reserved = book.reserved.saturating_sub(bytes);
    }

    fn cancel_reservation_outside(&self, bytes: u64) {
        let mut book = self.book.lock();
        book.outside = book.outside.saturating_sub(bytes);
    }

    fn end_reservation_outside(&self, bytes: u64) {
        let mut book = self.book.lock();
        book.outside = book.outside.saturating_sub(bytes);
        book.free = book.free.saturating_sub(bytes);
    }

    /// Records that bytes were deleted.
    pub fn freed(&self, bytes: u64) {
        let mut book = self.book.lock();
        book.used = book.used.saturating_sub(bytes);
        (book.measured, book.refused) = (None, None);
    }

    /// Records the number of bytes that the files use now.
    pub fn measured(&self, used: u64) {
        let mut book = self.book.lock();
        (book.used, book.measured) = (used, None);
    }

    /// Records that the disk had no space for a write, even if it reports free space.
    pub fn refused(&self) {
        self.book.lock().refused = Some(Instant::now());
    }

    /// How many bytes have to be deleted before `bytes` more can be reserved.
    pub fn excess(&self, bytes: u64) -> u64 {
        let Some(limits) = &self.limits else { return 0 };
        let mut book = self.book.lock();
        let over_size = book.taken().saturating_add(bytes).saturating_sub(limits.max_size);
        let needed = book.pending().saturating_add(bytes).saturating_add(limits.kept_free());
        over_size.max(needed.saturating_sub(limits.free(&mut book)))
    }

    /// Whether bytes are reserved, so that the used space changes without further requests.
    pub fn is_reserved(&self) -> bool {
        self.book.lock().pending() > 0
    }

    /// A sixteenth of the space, in bytes: deleting that much at a time keeps the cost low.
    pub fn batch(&self) -> u64 {
        self.limits.as_ref().map_or(0, |limits| limits.max_size / 16)
    }

    /// Bytes that are free on the file system, and bytes that must stay free.
    pub fn free(&self) -> (u64, u64) {
        let Some(limits) = &self.limits else { return (u64::MAX, 0) };
        (limits.free(&mut self.book.lock()), limits.min_free())
    }
}

impl Book {
    fn taken(&self) -> u64 {
        self.used.saturating_add(self.reserved)
    }

    fn pending(&self) -> u64 {
        self.reserved.saturating_add(self.outside)
    }
}

impl RoomLimits {
    fn min_free(&self) -> u64 {
        self.disk.as_ref().map_or(0, |disk| disk.min_free)
    }

    fn kept_free(&self) -> u64 {
        kept_free(self.min_free())
    }

    /// Whether enough bytes stay free when all reserved bytes, and these bytes, are written.
    fn leaves_free(&self, book: &mut Book, bytes: u64) -> bool {
        self.free(book) >= book.pending().saturating_add(bytes).saturating_add(self.kept_free())
    }

    fn free(&self, book: &mut Book) -> u64 {
        let Some(disk) = &self.disk else { return u64::MAX };
        if book.refused.is_some_and(|at| at.elapsed() < REFUSED_FOR) {
            return 0;
        }
        if book.measured.is_none_or(|at| at.elapsed() >= MEASURE_EVERY) {
            match disk_space(&disk.dir) {
                Ok((_, free)) => book.free = free,
                // The directory may be missing for a moment: the last measurement stays.
                Err(error) => tracing::debug!(%error, "could not measure the free space"),
            }
            book.measured = Some(Instant::now());
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
        room.end_reservation(4 * MIB);
        assert!(!room.reserve(4 * MIB, false), "written bytes still count");
        room.freed(2 * MIB);
        assert!(room.reserve(4 * MIB, false));
        room.end_reservation(4 * MIB);
        room.measured(3 * MIB);
        assert!(room.reserve(7 * MIB, false));
        assert!(!room.reserve(1, false));
    }

    #[test]
    fn waiting_read_may_exceed_max_size_by_one_piece() {
        let room = room(10 * MIB, 0, 10 * MIB);
        assert!(!room.reserve(4 * MIB, false));
        assert!(room.reserve(4 * MIB, true));
        assert!(!room.reserve(4 * MIB, true));
        room.end_reservation(4 * MIB);
        room.freed(4 * MIB);
        assert!(room.reserve(32 * MIB, true), "a long piece is requested alone");
        assert!(!room.reserve(1, true));
    }

    #[test]
    fn nothing_is_reserved_below_min_free() {
        let room = room(u64::MAX, u64::MAX / 2, 0);
        assert!(!room.reserve(1, false));
        assert!(!room.reserve(1, true));
        assert!(!room.reserve_outside(1));
        assert!(room.excess(1) > 0);
    }

    #[test]
    fn space_for_files_of_the_node_is_not_reserved() {
        let free = 100 * MIB;
        let mut book = Book { free, measured: Some(Instant::now()), ..Book::default() };
        let limits = |min_free| RoomLimits {
            max_size: u64::MAX,
            disk: Some(Disk { dir: std::env::temp_dir(), min_free }),
        };
        assert!(limits(free - OWN_FILES - 10).leaves_free(&mut book, 10));
        assert!(!limits(free - OWN_FILES - 10).leaves_free(&mut book, 11));
        assert!(limits(0).leaves_free(&mut book, free), "no space has to stay free");
    }

    #[test]
    fn bytes_outside_the_cache_count_as_free_space_only() {
        let room = room(10 * MIB, 0, 0);
        assert!(room.reserve_outside(100 * MIB));
        assert!(room.reserve(10 * MIB, false));
        room.end_reservation_outside(100 * MIB);
        assert!(!room.reserve(1, false));
    }

    #[test]
    fn refused_write_stops_reservations_until_deletion() {
        let room = room(10 * MIB, 0, 4 * MIB);
        room.refused();
        assert!(!room.reserve(1, true));
        assert_eq!(room.excess(MIB), MIB);
        room.freed(MIB);
        assert!(room.reserve(MIB, false));
    }
}
