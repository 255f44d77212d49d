//! One file's bytes and the map of its verified blocks.
//!
//! A content either stands whole in a file that it does not own (*placed*), or in a sparse file of the store with
//! a block map beside it (*own*). Bytes outside the map are never handed out. An own file may hold *unproved* bytes too
//! (see `mapfile`): they are read only to be proved, and count as missing until then. When a placed file turns out to be
//! changed or damaged, the content leaves it for the cache; nothing is ever written into a placed file.
//!
//! Locks: `journal` orders writes of the map files and is held across them; `state` is held for a few lines and
//! never across I/O. `journal` is taken before `state`. Readers take `state` only. The journal is also held while the
//! content's own file is renamed, until the content has its new home. A path that is looked at without the journal may
//! therefore name nothing for a moment: bytes are lost only if they are missing under the journal, too.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, MutexGuard};

use super::blockmap::BlockMap;
use super::mapfile::Loaded;
use super::memory::MemoryFile;
use super::placement::{PlacedFile, Stamp};
use super::{ContentKey, Shared, StoreError, mapfile};
use crate::model::{BLOCK_LEN, PiecesRoot};
use crate::nofollow;

/// How often a file that is there after all is opened again.
pub(super) const ATTEMPTS: u32 = 16;

/// Where a content's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Home {
    /// It has no bytes.
    Empty,
    /// In a sparse file of the store.
    Own(PathBuf),
    /// In a sparse file in memory.
    Memory(Arc<MemoryFile>),
    /// Whole, in a file that others may change.
    Placed(PlacedFile),
}

impl Home {
    fn path(&self) -> &Path {
        match self {
            Self::Empty => Path::new("/dev/null"),
            Self::Own(path) => path,
            Self::Memory(file) => file.path(),
            Self::Placed(file) => &file.path,
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub home: Home,
    pub map: BlockMap,
    /// Blocks that are cached but not proved. None of them is in `map`.
    pub unproved: BlockMap,
    /// How often blocks were taken back: a read that saw this change may have read anything.
    pub(super) removals: u64,
    /// How often `home` has changed.
    pub moves: u64,
    /// How often blocks were added, and at which of these the synced copy was written.
    pub(super) inserts: u64,
    pub(super) synced: u64,
}

/// When a content was looked at. It is another moment once the content has moved or lost blocks: what was found out about
/// its bytes does not count then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    moves: u64,
    removals: u64,
}

impl State {
    /// Blocks were taken back: bytes that are being read do not count.
    pub(super) fn note_removal(&mut self) {
        self.removals += 1;
    }

    fn moment(&self) -> Moment {
        Moment { moves: self.moves, removals: self.removals }
    }
}

/// What is known of the map files on disk.
#[derive(Debug)]
pub(super) struct Journal {
    /// Whether the live map agrees with memory, so that it may be patched.
    live: bool,
}

/// The bytes of one file.
pub struct Content {
    key: Option<ContentKey>,
    id: u64,
    pub(super) shared: Arc<Shared>,
    journal: Mutex<Journal>,
    state: Mutex<State>,
    /// Seconds since 1970 of the last read, and what of it is recorded on disk.
    used: AtomicU64,
    used_recorded: AtomicU64,
    pins: AtomicUsize,
    /// Whether its own file lies on the file system of the cache.
    beside: AtomicBool,
    /// Whether it is a file of the user that is not shared: no swarm has its bytes, so a fault is an error and never a
    /// reason to fetch.
    local: bool,
}

/// Keeps a content from being evicted until dropped.
#[derive(Debug)]
pub struct ContentPin(Arc<Content>);

impl Drop for ContentPin {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::AcqRel);
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("key", &self.key).field("path", &self.path()).finish_non_exhaustive()
    }
}

impl Content {
    /// The content of an empty file: complete, without bytes, path or root.
    pub(super) fn empty(shared: Arc<Shared>) -> Self {
        Self::new(None, shared, Home::Empty, Loaded::of(BlockMap::none(0), true, true))
    }

    /// The content that is in a file outside the cache, whole or but for bytes that are wrong.
    pub(super) fn placed(key: ContentKey, shared: Arc<Shared>, file: PlacedFile) -> Self {
        let map = file.map(key.len);
        Self::new(Some(key), shared, Home::Placed(file), Loaded::of(map, true, true))
    }

    /// The content of a file that is not shared. `key` names it in this process only: the file was not hashed.
    pub(super) fn local(key: ContentKey, shared: Arc<Shared>, file: PlacedFile) -> Self {
        Self { local: true, ..Self::placed(key, shared, file) }
    }

    /// The content in a sparse file of the store, which need not exist yet.
    pub(super) fn own(key: ContentKey, shared: Arc<Shared>, data: PathBuf) -> Result<Self, StoreError> {
        let loaded = shared.load_map(&data, key.len).map_err(|e| StoreError::io(&data, e))?;
        let content = Self::new(Some(key), shared, Home::Own(data.clone()), loaded);
        if content.is_complete() && nofollow::metadata(&data).is_ok_and(|found| is_other(&data, &found)) {
            content.doubt_all(content.moves()).map_err(|e| StoreError::io(&data, e))?;
        }
        Ok(content)
    }

    fn new(key: Option<ContentKey>, shared: Arc<Shared>, home: Home, loaded: Loaded) -> Self {
        let Loaded { map, unproved, live, synced } = loaded;
        let (inserts, synced) = (1, if synced { 1 } else { 0 });
        let beside = matches!(&home, Home::Own(data) if shared.is_beside_cache(data));
        Self {
            key,
            id: shared.next_id(),
            shared,
            journal: Mutex::new(Journal { live }),
            state: Mutex::new(State { home, map, unproved, removals: 0, moves: 0, inserts, synced }),
            used: AtomicU64::new(0),
            used_recorded: AtomicU64::new(0),
            pins: AtomicUsize::new(0),
            beside: AtomicBool::new(beside),
            local: false,
        }
    }

    /// Its name; none for the empty file.
    pub fn root(&self) -> Option<PiecesRoot> {
        self.key.map(|k| k.root)
    }

    /// Root and length; none for the empty file.
    pub fn key(&self) -> Option<ContentKey> {
        self.key
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.key.map_or(0, |k| k.len)
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the bytes are, or go. Meaningless for the empty file. See [`Content::moves`].
    pub fn path(&self) -> PathBuf {
        self.place().0
    }

    /// Where the bytes are, or go, and for a file that is only read how it looked when it was verified, with its change
    /// time in nanoseconds since 1970 if that is known.
    pub fn place(&self) -> (PathBuf, Option<(Stamp, Option<i64>)>) {
        let state = self.state();
        let stamp = match &state.home {
            Home::Placed(file) => Some((file.stamp, file.changed_ns)),
            Home::Empty | Home::Own(_) | Home::Memory(_) => None,
        };
        (state.home.path().to_owned(), stamp)
    }

    /// Where the bytes are, and the moment to which that belongs.
    pub(super) fn seen(&self) -> (PathBuf, Moment) {
        // Not under the journal: who finds no file at the path compares the moment under the lock of renames.
        let (path, moment) = {
            let state = self.state();
            (state.home.clone(), state.moment())
        };
        (path.path().to_owned(), moment)
    }

    pub(super) fn moment(&self) -> Moment {
        self.state().moment()
    }

    /// Where the hashes of its granules are, or go; none for a content of a single one.
    pub fn granules(&self) -> Option<PathBuf> {
        self.key.and_then(|key| self.shared.granules(&key))
    }

    /// How often [`Content::path`] has changed. An engine that was given an older path must be given the new one
    /// before it writes again.
    pub fn moves(&self) -> u64 {
        self.state().moves
    }

    /// Whether the content has moved since it had moved `moves` times. Waits until a rename of its file is over.
    pub fn has_moved(&self, moves: u64) -> bool {
        let _journal = self.journal();
        self.moves() != moves
    }

    /// Whether the bytes stand in a file outside the cache, which is read and never written.
    pub fn is_placed(&self) -> bool {
        matches!(self.state().home, Home::Placed(_))
    }

    /// Whether all bytes of the range are verified.
    pub fn has(&self, range: Range<u64>) -> bool {
        self.state().map.has(&range)
    }

    /// Whether all bytes are verified.
    pub fn is_complete(&self) -> bool {
        self.state().map.is_full()
    }

    /// Number of verified bytes.
    pub fn cached_bytes(&self) -> u64 {
        self.state().map.bytes()
    }

    /// The parts of `range`, widened to blocks and cut at the end, that are not verified, in order.
    pub fn missing_ranges(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.state().map.runs(&range, false)
    }

    /// The parts of `range`, widened to blocks and cut at the end, that are verified, in order.
    pub fn verified_ranges(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.state().map.runs(&range, true)
    }

    /// Records that the range is verified and readable. `range` starts at a block and ends at one or at the end.
    /// On an error the range counts in this process and is fetched again by the next.
    pub fn mark_verified(&self, range: Range<u64>) -> io::Result<()> {
        self.mark(range, |_| true).map(drop)
    }

    /// Like [`Content::mark_verified`], for bytes that were written where the content was after `moves` moves. Does
    /// nothing, and tells so, if it has moved since: they may not be where it is now.
    pub fn mark_verified_at(&self, range: Range<u64>, moves: u64) -> io::Result<bool> {
        self.mark(range, |state| state.moves == moves)
    }

    /// Like [`Content::mark_verified`], for bytes that were read at or after `seen` and proved. Does nothing, and returns
    /// false, if the content has moved or lost blocks since.
    pub(super) fn mark_proved(&self, range: Range<u64>, seen: Moment) -> io::Result<bool> {
        self.mark(range, |state| state.moment() == seen)
    }

    fn mark(&self, range: Range<u64>, counts: impl FnOnce(&State) -> bool) -> io::Result<bool> {
        let ends_well =
            range.end == self.len() || (range.end < self.len() && range.end.is_multiple_of(BLOCK_LEN));
        if !range.start.is_multiple_of(BLOCK_LEN) || !ends_well || range.start > range.end {
            let text = format!("{}..{} is not made of whole blocks", range.start, range.end);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let was_unproved = {
            let mut state = self.state();
            if !counts(&state) {
                return Ok(false);
            }
            if !state.map.insert(&range) {
                return Ok(true);
            }
            state.inserts += 1;
            state.unproved.remove(&range)
        };
        let mut journal = self.journal();
        self.persist(&mut journal, &range)?;
        if was_unproved {
            self.persist_unproved(&range)?;
        }
        if let Some(data) = self.own_path().filter(|_| self.is_complete()) {
            // From now on nothing of this program writes to it.
            if let Ok(stamp) = Stamp::at(&data) {
                mapfile::write_stamp(&data, &stamp)?;
            }
        }
        Ok(true)
    }

    /// Takes the blocks that the range touches back: they are gone, or were deleted. A content that is in a placed file
    /// moves to the cache (see [`Content::moves`]); it returns when the file does. Does nothing for a local file.
    pub fn mark_missing(&self, range: Range<u64>) -> io::Result<()> {
        self.take_back(&mut self.journal(), range)
    }

    /// Takes the blocks that the range touches back: their hash is wrong. A placed file stays as it is and keeps its other
    /// blocks; it is given up when none is left. Returns whether any of the blocks counted. Does nothing for a local file.
    pub fn mark_wrong(&self, range: Range<u64>) -> io::Result<bool> {
        let mut journal = self.journal();
        let Home::Placed(file) = self.home() else {
            let counted = !self.verified_ranges(range.clone()).is_empty();
            return self.take_back(&mut journal, range).map(|()| counted);
        };
        let Some(key) = self.key.filter(|_| !self.local) else { return Ok(false) };
        let wrong = {
            let mut state = self.state();
            if !state.map.remove(&range) {
                return Ok(false);
            }
            state.removals += 1;
            state.map.runs(&(0..key.len), false)
        };
        if self.cached_bytes() == 0 {
            self.give_up_place(&mut journal, &file)?;
            return Ok(true);
        }
        let wrong: Vec<(u64, u64)> = wrong.iter().map(|range| (range.start, range.end)).collect();
        let recorded = self.shared.placements.update_file(&key, &file.path, |entry| {
            entry.wrong.clone_from(&wrong);
        });
        recorded.map_err(io::Error::other).map(|()| true)
    }

    /// A reader wants bytes of the range. If they are wrong in the placed file that holds the others, the content moves to
    /// the cache, where they can be fetched to. Returns whether it did.
    pub fn make_fetchable(&self, range: &Range<u64>) -> io::Result<bool> {
        let lacks = |content: &Self| {
            let state = content.state();
            matches!(state.home, Home::Placed(_)) && !state.map.has(range)
        };
        if self.local || !lacks(self) {
            return Ok(false);
        }
        let mut journal = self.journal();
        let Home::Placed(file) = self.home() else { return Ok(false) };
        if !lacks(self) {
            return Ok(false);
        }
        self.shared.placements.leave_alone(&file.path);
        self.leave_place(&mut journal).map(|()| true)
    }

    /// Takes back what a reader missed where the content was after `moves` moves. Returns false, and takes nothing back,
    /// if the content has moved since, or if its own file is there and long enough now.
    pub(super) fn take_back_lost(&self, moves: u64, lost: Range<u64>, error: &io::Error) -> io::Result<bool> {
        let mut journal = self.journal();
        let home = {
            let state = self.state();
            if state.moves != moves {
                return Ok(false);
            }
            state.home.clone()
        };
        if let Home::Own(data) = &home
            && matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
            && nofollow::metadata(data).is_ok_and(|found| found.is_file() && found.len() >= lost.end)
        {
            self.shared.fds.forget((self.id, moves));
            return Ok(false);
        }
        if let Home::Placed(file) = &home
            && error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
        {
            // Its stamp would call it back while it still cannot be read.
            self.shared.placements.leave_alone(&file.path);
        }
        self.take_back(&mut journal, lost).map(|()| true)
    }

    pub(super) fn take_back(&self, journal: &mut Journal, range: Range<u64>) -> io::Result<()> {
        if self.local {
            return Ok(());
        }
        let (home, was_unproved) = {
            let mut state = self.state();
            let was_unproved = state.unproved.remove(&range);
            if !matches!(state.home, Home::Placed(_)) {
                if !state.map.remove(&range) && !was_unproved {
                    return Ok(());
                }
                state.removals += 1;
            }
            (state.home.clone(), was_unproved)
        };
        match home {
            Home::Empty => Ok(()),
            Home::Own(data) => {
                if was_unproved {
                    self.persist_unproved(&range)?;
                }
                mapfile::forget_stamp(&data)?;
                let range = std::slice::from_ref(&range);
                mapfile::shrink_synced(&data, self.len(), range, &self.shared.boot)?;
                self.persist(journal, &range[0])
            }
            Home::Memory(file) => file.punch(&range).map(drop),
            Home::Placed(file) => {
                self.leave_place(journal)?;
                self.settle_at_another(journal, &file);
                Ok(())
            }
        }
    }

    /// Like [`Content::start_over`], for a file that is gone from where the content was after `moves` moves. Does nothing,
    /// and returns false, if the content has moved since, or is just moving.
    pub fn start_over_at(&self, moves: u64) -> io::Result<bool> {
        let mut journal = self.journal();
        if self.moves() != moves {
            return Ok(false);
        }
        match self.home() {
            Home::Empty => Ok(()),
            Home::Own(data) => self.discard_own(&mut journal, data),
            Home::Memory(_) => {
                drop(journal);
                self.leave_memory()
            }
            Home::Placed(_) => self.take_back(&mut journal, 0..self.len()),
        }?;
        Ok(true)
    }

    /// Forgets all bytes: the file is gone from where it was, or another one stands there. Counts as a move, so that
    /// neither open files nor pieces that were written to the old file are taken for the new one's.
    pub fn start_over(&self) -> io::Result<()> {
        match self.home() {
            Home::Empty => Ok(()),
            Home::Own(_) => self.discard(),
            Home::Memory(_) => self.leave_memory(),
            Home::Placed(_) => self.mark_missing(0..self.len()),
        }
    }

    /// Reads verified bytes. `Ok(None)` if some are not verified; an error or a file that is too short takes the
    /// range back and is told as an error.
    pub fn read(&self, range: Range<u64>) -> io::Result<Option<Vec<u8>>> {
        if range.start > range.end || range.end > self.len() {
            let text = format!("{}..{} is not inside {} bytes", range.start, range.end, self.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if range.is_empty() {
            return Ok(Some(Vec::new()));
        }
        self.used.store(now(), Ordering::Relaxed);
        let mut attempts = 1..=ATTEMPTS;
        loop {
            let (home, seen) = {
                let state = self.state();
                if !state.map.has(&range) {
                    return Ok(None);
                }
                (state.home.clone(), state.moment())
            };
            let result = self.read_at(&home, seen.moves, &range);
            // What was read may have been thrown away meanwhile: look again, against the new map.
            if self.moment() != seen {
                continue;
            }
            match result {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(ReadFault::Lost(lost, error)) => {
                    let lost = self.take_back_lost(seen.moves, lost, &error)?;
                    if lost {
                        tracing::warn!("{}: {error}; what it lacks is fetched again.", self.path().display());
                    }
                    // The file was just being renamed.
                    if lost || attempts.next().is_none() {
                        return Err(error);
                    }
                }
                Err(ReadFault::Other(error)) => return Err(error),
            }
        }
    }

    pub(super) fn read_at(&self, home: &Home, moves: u64, range: &Range<u64>) -> Result<Vec<u8>, ReadFault> {
        let all = 0..self.len();
        let file = self.open(home, moves).map_err(|e| match e.kind() {
            // A link or another user's directory in its place is as good as nothing.
            io::ErrorKind::NotFound | io::ErrorKind::InvalidData => ReadFault::Lost(all.clone(), e),
            _ => ReadFault::Other(e),
        })?;
        if let Home::Placed(placed) = home {
            // The same inode, changed in place. A file that was replaced by rename is still whole in our handle.
            let stamp = Stamp::of(&file.metadata().map_err(ReadFault::Other)?);
            if stamp != placed.stamp {
                let text = "the file has changed since it was verified";
                return Err(ReadFault::Lost(all, io::Error::new(io::ErrorKind::InvalidData, text)));
            }
        }
        let len = (range.end - range.start) as usize;
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = range.start + bytes.len() as u64;
            bytes.reserve_exact(len - bytes.len());
            match rustix::io::pread(&*file, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => {
                    let text = "the file is shorter than it was";
                    let lost = at / BLOCK_LEN * BLOCK_LEN..self.len();
                    return Err(ReadFault::Lost(lost, io::Error::new(io::ErrorKind::UnexpectedEof, text)));
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::IO) => {
                    return Err(ReadFault::Lost(range.clone(), rustix::io::Errno::IO.into()));
                }
                Err(e) => return Err(ReadFault::Other(e.into())),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn open(&self, home: &Home, moves: u64) -> io::Result<Arc<File>> {
        let path = match home {
            Home::Empty => return Err(io::ErrorKind::NotFound.into()),
            Home::Own(path) => path,
            Home::Memory(file) => return self.shared.fds.get((self.id, moves), || file.open()),
            Home::Placed(file) => &file.path,
        };
        self.shared.fds.get((self.id, moves), || nofollow::read(path))
    }

    /// The file, if all of it is verified and, for a placed one, unchanged; for FUSE passthrough. Whoever holds it
    /// holds a [`Content::pin`] as well, or an eviction could empty the file under its reader.
    pub fn open_for_passthrough(&self) -> Option<File> {
        let (home, seen) = {
            let state = self.state();
            if !state.map.is_full() {
                return None;
            }
            (state.home.clone(), state.moment())
        };
        let file = match home {
            Home::Empty | Home::Memory(_) => None,
            Home::Own(path) => self.open_own(&path, seen.moves),
            Home::Placed(placed) => {
                let file = nofollow::read(&placed.path).ok()?;
                (Stamp::of(&file.metadata().ok()?) == placed.stamp).then_some(file)
            }
        };
        // Another file may have been opened by the name of the one that the map describes.
        file.filter(|_| self.moment() == seen)
    }

    /// Opens the content's own file if it has the right length: the kernel shows a file as long as it is. Of one that was
    /// cut, the rest counts as missing; one that was lengthened is cut again.
    fn open_own(&self, path: &Path, moves: u64) -> Option<File> {
        let opened = nofollow::read(path).and_then(|file| {
            let found = file.metadata()?;
            if found.len() == self.len() && is_other(path, &found) {
                self.doubt_all(moves)?;
                return Err(io::Error::other("it is proved again"));
            }
            Ok((found.len(), file))
        });
        let (found, lost, error) = match opened {
            Ok((len, file)) if len == self.len() => return Some(file),
            Ok((len, _)) if len > self.len() => {
                let cut = nofollow::write(path).and_then(|file| file.set_len(self.len()));
                tracing::warn!("{} is longer than its content; it is cut.", path.display());
                return match mapfile::stamp(path) {
                    Some(_) => cut.and_then(|()| self.doubt_all(moves)).ok().and(None),
                    None => cut.and_then(|()| nofollow::read(path)).ok(),
                };
            }
            Ok((len, _)) => (len, len / BLOCK_LEN * BLOCK_LEN, io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (0, 0, error),
            Err(_) => return None,
        };
        match self.take_back_lost(moves, lost..self.len(), &error) {
            Ok(true) => {
                tracing::warn!("{} has {found} bytes; what it lacks is fetched again.", path.display());
            }
            Ok(false) => {}
            Err(error) => tracing::warn!("{} was cut, and {error}.", path.display()),
        }
        None
    }

    /// All blocks of a complete own file are to be proved again before they count: something has changed the file where the
    /// content was after `moves` moves. Does nothing if it has moved since.
    fn doubt_all(&self, moves: u64) -> io::Result<()> {
        let all = 0..self.len();
        let mut journal = self.journal();
        let data = {
            let mut state = self.state();
            let Home::Own(data) = &state.home else { return Ok(()) };
            if state.moves != moves {
                return Ok(());
            }
            let data = data.clone();
            state.unproved = std::mem::replace(&mut state.map, BlockMap::none(self.len()));
            state.removals += 1;
            data
        };
        tracing::warn!("{} was changed by another program; it is proved again.", data.display());
        if !self.shared.locked {
            return Ok(());
        }
        mapfile::forget_stamp(&data)?;
        self.persist_unproved(&all)?;
        mapfile::shrink_synced(&data, self.len(), std::slice::from_ref(&all), &self.shared.boot)?;
        self.persist(&mut journal, &all)
    }

    /// Keeps the content from being evicted while the pin lives.
    pub fn pin(self: &Arc<Self>) -> ContentPin {
        self.pins.fetch_add(1, Ordering::AcqRel);
        ContentPin(self.clone())
    }

    /// Whether its own file lies on the file system of the cache.
    pub(super) fn is_beside(&self) -> bool {
        self.beside.load(Ordering::Relaxed)
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::Acquire) > 0
    }

    /// Seconds since 1970 of the last read by this process; 0 if there was none.
    pub fn last_used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Remembers the last read as the live map's modification time, for eviction after a restart.
    pub(super) fn record_use(&self) -> io::Result<()> {
        let used = self.last_used();
        if used <= self.used_recorded.swap(used, Ordering::Relaxed) {
            return Ok(());
        }
        match nofollow::write(&mapfile::live_path(&self.path())) {
            Ok(file) => file.set_modified(SystemTime::now()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    pub(super) fn boot(&self) -> &[u8; 16] {
        &self.shared.boot
    }

    /// Writes the bits of `range` to the live map.
    pub(super) fn persist(&self, journal: &mut Journal, range: &Range<u64>) -> io::Result<()> {
        let (data, whole, patch) = {
            let state = self.state();
            let Home::Own(data) = &state.home else { return Ok(()) };
            let whole = (!journal.live).then(|| state.map.clone());
            (data.clone(), whole, state.map.patch(range))
        };
        if whole.is_none() {
            match mapfile::patch_live(&data, patch.0, &patch.1) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        let map = whole.unwrap_or_else(|| self.state().map.clone());
        journal.live = false;
        mapfile::write_live(&data, &map, &self.shared.boot)?;
        journal.live = true;
        Ok(())
    }

    /// Removes the maps: for the next process, no byte of the file is verified.
    pub(super) fn forget_maps(&self, journal: &mut Journal, data: &Path) -> io::Result<()> {
        journal.live = false;
        mapfile::remove(data)?;
        nofollow::sync_dir(crate::fsutil::parent(data))
    }

    /// Writes the bits of `range` to the map of unproved blocks. The caller holds the journal.
    pub(super) fn persist_unproved(&self, range: &Range<u64>) -> io::Result<()> {
        let (data, clear, (at, bytes)) = {
            let state = self.state();
            let Home::Own(data) = &state.home else { return Ok(()) };
            (data.clone(), state.unproved.is_clear(), state.unproved.patch(range))
        };
        if !clear {
            match mapfile::patch_unproved(&data, at, &bytes) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        let map = self.state().unproved.clone();
        mapfile::write_unproved(&data, &map, &self.shared.boot)
    }

    /// Goes on in the cache: a placed file is not there, or is not as it was. Its record stays, for when it returns.
    pub(super) fn leave_place(&self, journal: &mut Journal) -> io::Result<()> {
        let Some(key) = self.key else { return Ok(()) };
        let data = self.shared.cached(&key);
        let loaded = self.shared.load_map(&data, key.len)?;
        // A publication may have removed the maps here without waiting for the disk. They must not come back after a power
        // cut, when other bytes are here.
        match nofollow::sync_dir(crate::fsutil::parent(&data)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        self.settle_loaded(journal, Home::Own(data), loaded);
        Ok(())
    }

    /// Goes on in the cache, and records that the bytes of a placed file are wrong.
    pub(super) fn give_up_place(&self, journal: &mut Journal, file: &PlacedFile) -> io::Result<()> {
        let Some(key) = self.key.filter(|_| !self.local) else { return Ok(()) };
        self.leave_place(journal)?;
        self.shared.placements.distrust(&key, &file.path).map_err(io::Error::other)?;
        self.settle_at_another(journal, file);
        Ok(())
    }

    /// Goes on in another placed file that holds all of a content which has just left `file`, if there is one.
    fn settle_at_another(&self, journal: &mut Journal, file: &PlacedFile) {
        let Some(key) = self.key else { return };
        let others = self.shared.placements.find_all(&key);
        if let Some(other) = others.into_iter().find(|other| other.path != file.path) {
            self.settle_placed(journal, other);
        }
    }

    /// Puts the content into another home, with no unproved bytes. Blocks that `map` lacks are gone; bytes read before
    /// do not count.
    pub(super) fn settle(&self, journal: &mut Journal, home: Home, map: BlockMap, live: bool, synced: bool) {
        self.settle_loaded(journal, home, Loaded::of(map, live, synced));
    }

    /// Like [`Content::settle`], with the maps of the new home.
    pub(super) fn settle_loaded(&self, journal: &mut Journal, home: Home, loaded: Loaded) {
        let Loaded { map, unproved, live, synced } = loaded;
        let beside = matches!(&home, Home::Own(data) if self.shared.is_beside_cache(data));
        self.beside.store(beside, Ordering::Relaxed);
        let old = {
            let mut state = self.state();
            state.home = home;
            state.map = map;
            state.unproved = unproved;
            state.moves += 1;
            state.removals += 1;
            state.inserts += 1;
            state.synced = if synced { state.inserts } else { 0 };
            journal.live = live;
            state.moves - 1
        };
        self.shared.fds.forget((self.id, old));
    }

    /// Goes on in another home, with nothing.
    pub(super) fn settle_empty(&self, journal: &mut Journal, home: Home) {
        self.settle(journal, home, BlockMap::none(self.len()), false, true);
    }

    /// Goes on in a file outside the cache.
    pub(super) fn settle_placed(&self, journal: &mut Journal, file: PlacedFile) {
        let map = file.map(self.len());
        self.settle(journal, Home::Placed(file), map, true, true);
    }

    /// Holds back all changes of the map files.
    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock()
    }

    pub(super) fn home(&self) -> Home {
        self.state().home.clone()
    }

    pub(super) fn map(&self) -> BlockMap {
        self.state().map.clone()
    }

    pub(super) fn unproved(&self) -> BlockMap {
        self.state().unproved.clone()
    }

    /// Whether everything verified is in the synced copy.
    pub(super) fn is_synced(&self) -> bool {
        let state = self.state();
        state.inserts == state.synced
    }

    /// Whether the bytes are in a sparse file of the store, and where.
    pub(super) fn own_path(&self) -> Option<PathBuf> {
        match self.home() {
            Home::Own(path) => Some(path),
            _ => None,
        }
    }

    /// Forgets all bytes of an own file and removes it, the maps first.
    pub(super) fn discard(&self) -> io::Result<()> {
        let mut journal = self.journal();
        match self.home() {
            Home::Own(data) => self.discard_own(&mut journal, data),
            Home::Empty | Home::Placed(_) | Home::Memory(_) => Ok(()),
        }
    }

    fn discard_own(&self, journal: &mut Journal, data: PathBuf) -> io::Result<()> {
        self.settle_empty(journal, Home::Own(data.clone()));
        remove_data(&data)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Whether a complete data file of the store looks other than when it was recorded. Its length is judged elsewhere.
fn is_other(data: &Path, found: &std::fs::Metadata) -> bool {
    mapfile::stamp(data).is_some_and(|stamp| stamp.size == found.len() && stamp != Stamp::of(found))
}

/// Removes a data file of the store and its maps, for a caller that syncs the directory. Returns whether one was there.
pub(super) fn remove_data_unsynced(data: &Path) -> io::Result<bool> {
    let mapped = mapfile::remove(data)?;
    Ok(nofollow::remove_if_there(data)? || mapped)
}

/// Removes a data file of the store and its maps, durably.
pub(super) fn remove_data(data: &Path) -> io::Result<()> {
    remove_data_unsynced(data)?;
    match nofollow::sync_dir(crate::fsutil::parent(data)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Why bytes could not be read.
pub(super) enum ReadFault {
    /// These bytes are not there any more.
    Lost(Range<u64>, io::Error),
    /// The bytes may be fine.
    Other(io::Error),
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
