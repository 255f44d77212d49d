//! One file's bytes and the map of its verified blocks.
//!
//! A content is either in a file that the store does not own (*placed*), or in a sparse file of the store with a block map
//! next to it (*own*). Bytes outside the map are never returned. An own file may hold *unproved* bytes too (see `mapfile`):
//! they are read only to be proved, and count as missing until then. When a placed file turns out to be changed or damaged,
//! the content leaves it for the cache. The store never writes to a placed file.
//!
//! Locks: `journal` orders changes of the location and of the map files and is held across them (see [`ContentWriter`]);
//! `state` is held for a few lines and never across I/O. `journal` is taken before `state`. Readers take `state` only. The
//! journal is also held while the content's own file is renamed, until the content has its new location. A path that is
//! looked up without the journal may therefore name no file for a moment: bytes are lost only if they are missing under the
//! journal, too.

mod delete;
mod fds;
mod marks;
mod memory;
mod read;
mod relocate;
mod state;
mod twin;
mod writer;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};

use super::blockmap::{BlockMap, MapKind};
use super::hub::HubContent;
use super::mapfile::Loaded;
use super::parts::Parts;
use super::placement::{PlacedFile, Stamp, change_time};
use super::{ContentKey, HubKey, StoreError, mapfile};
use crate::model::PiecesRoot;
use crate::{fsutil, nofollow};
pub(crate) use delete::SpaceClass;
pub(super) use fds::FdCache;
pub(crate) use memory::open_memory;
pub(super) use read::ATTEMPTS;
use state::ContentState;
pub(crate) use state::ContentVersion;
pub(super) use state::Location;
pub(super) use twin::HubSide;

/// The bytes of one file.
pub struct Content {
    key: Option<ContentKey>,
    id: u64,
    pub(super) parts: Arc<Parts>,
    journal: Mutex<MapJournal>,
    state: Mutex<ContentState>,
    /// Seconds since 1970 of the last read.
    used: AtomicU64,
    /// The value of `used` that is recorded on disk.
    used_recorded: AtomicU64,
    pins: AtomicUsize,
    /// Whether the own file is on the file system of the cache.
    on_cache_disk: AtomicBool,
    /// Whether it is a file of the user that is not shared: no swarm has its bytes, so a fault is an error and never a
    /// reason to fetch.
    local: bool,
    /// The hub's side, if the bytes come from a hub: then `key` is no pieces root.
    hub: Option<HubSide>,
}

/// The state of the map files on disk.
#[derive(Debug)]
struct MapJournal {
    /// Whether the live map agrees with memory, so that it may be patched.
    pub live: bool,
}

/// The exclusive right to change the location and the map files of a content, until dropped.
pub(super) struct ContentWriter<'a> {
    pub(super) content: &'a Content,
    journal: MutexGuard<'a, MapJournal>,
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
    pub(super) fn empty(parts: Arc<Parts>) -> Self {
        Self::new(None, parts, Location::Empty, Loaded::of(BlockMap::none(0), true, true))
    }

    /// The content of a file outside the cache, of which some bytes may be wrong.
    pub(super) fn placed(key: ContentKey, parts: Arc<Parts>, file: PlacedFile) -> Self {
        let map = file.map(key.len);
        Self::new(Some(key), parts, Location::Placed(file), Loaded::of(map, true, true))
    }

    /// The content of a file that is not shared. `key` names it in this process only: the file was not hashed.
    pub(super) fn local(key: ContentKey, parts: Arc<Parts>, file: PlacedFile) -> Self {
        Self { local: true, ..Self::placed(key, parts, file) }
    }

    /// The content in a sparse file of the parts, which need not exist yet.
    pub(super) fn own(key: ContentKey, parts: Arc<Parts>, data: PathBuf) -> Result<Self, StoreError> {
        let failed = |e| StoreError::io(&data, e);
        let loaded = parts.files.load_map(&data, key.len).map_err(failed)?;
        let content = Self::new(Some(key), parts, Location::Own(data.clone()), loaded);
        content.doubt_if_changed(&data).map_err(failed)?;
        Ok(content)
    }

    /// The content in a sparse file of bytes that come from a hub. They are never offered to a swarm.
    pub(super) fn from_hub(hub: HubKey, parts: Arc<Parts>) -> Result<Self, StoreError> {
        let data = parts.files.cached_from_hub(&hub);
        let failed = |e| StoreError::io(&data, e);
        let loaded = parts.files.load_hub_map(&data, hub.len).map_err(failed)?;
        let content = Self {
            hub: Some(HubSide::new(hub)),
            ..Self::new(Some(hub.content_key()), parts, Location::Own(data.clone()), loaded)
        };
        content.doubt_if_changed(&data).map_err(failed)?;
        Ok(content)
    }

    /// Calls [`ContentWriter::doubt_all`] if another program has changed the complete own file since its stamp was recorded.
    fn doubt_if_changed(&self, data: &Path) -> io::Result<()> {
        if self.is_complete() && nofollow::metadata(data).is_ok_and(|found| mapfile::is_other(data, &found)) {
            self.writer().doubt_all(self.moves())?;
        }
        Ok(())
    }

    fn new(key: Option<ContentKey>, parts: Arc<Parts>, location: Location, loaded: Loaded) -> Self {
        let Loaded { map, unproved, live, synced } = loaded;
        let on_cache_disk = matches!(&location, Location::Own(data) if parts.files.is_on_cache_disk(data));
        let (version, inserts, synced) = (ContentVersion::default(), 1, u64::from(synced));
        Self {
            key,
            id: parts.ids.fetch_add(1, Ordering::Relaxed),
            parts,
            journal: Mutex::new(MapJournal { live }),
            state: Mutex::new(ContentState { location, map, unproved, version, inserts, synced }),
            used: AtomicU64::new(0),
            used_recorded: AtomicU64::new(0),
            pins: AtomicUsize::new(0),
            on_cache_disk: AtomicBool::new(on_cache_disk),
            local: false,
            hub: None,
        }
    }

    /// The pieces root; none for the empty file.
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

    /// The path of the file that holds the bytes, or will hold them. Meaningless for the empty file. See
    /// [`Content::moves`].
    pub fn path(&self) -> PathBuf {
        self.state().location.path().to_owned()
    }

    /// The path of the file, and for a placed file its stamp when it was verified, with its change time in nanoseconds since
    /// 1970 if that is known.
    pub fn place(&self) -> (PathBuf, Option<(Stamp, Option<i64>)>) {
        let state = self.state();
        let stamp = match &state.location {
            Location::Placed(file) => Some((file.stamp, file.changed_ns)),
            Location::Empty | Location::Own(_) | Location::Memory(_) => None,
        };
        (state.location.path().to_owned(), stamp)
    }

    /// The path of the file, and the version to which the path belongs. Not read under the journal: a caller that finds no
    /// file at the path compares the version under the lock of renames.
    pub(super) fn path_and_version(&self) -> (PathBuf, ContentVersion) {
        let state = self.state();
        (state.location.path().to_owned(), state.version)
    }

    pub(crate) fn version(&self) -> ContentVersion {
        self.state().version
    }

    /// The path of the hashes of its granules; none for a content of a single granule.
    pub fn granules(&self) -> Option<PathBuf> {
        self.key.and_then(|key| self.parts.granules.path(&key))
    }

    /// How often [`Content::path`] has changed. An engine that received an older path must receive the new one before it
    /// writes again.
    pub fn moves(&self) -> u64 {
        self.version().moves
    }

    /// Whether the content has moved since it had moved `moves` times. Waits until a rename of its file is over.
    pub fn has_moved(&self, moves: u64) -> bool {
        let _writer = self.writer();
        self.moves() != moves
    }

    /// Whether the bytes are in a file outside the cache, which is read and never written.
    pub fn is_placed(&self) -> bool {
        matches!(self.state().location, Location::Placed(_))
    }

    /// The change time of the placed file that holds the bytes, nanoseconds since 1970; none if no placed file holds them or
    /// its metadata cannot be read.
    pub fn change_time(&self) -> Option<i64> {
        match self.location() {
            Location::Placed(file) => nofollow::metadata(&file.path).ok().as_ref().map(change_time),
            _ => None,
        }
    }

    /// The hub's hash of the bytes, if they come from a hub.
    pub fn hub_key(&self) -> Option<HubKey> {
        self.hub.as_ref().map(|hub| hub.key)
    }

    /// The operations of a content that comes from a hub; none for other contents.
    pub fn of_hub(&self) -> Option<HubContent<'_>> {
        self.hub.as_ref().map(|hub| HubContent::new(self, hub))
    }

    /// The content of a manifest that has all bytes of this content, which comes from a hub.
    pub fn twin(&self) -> Option<Arc<Self>> {
        self.hub.as_ref()?.twin()
    }

    fn map_kind(&self) -> MapKind {
        if self.hub.is_some() { MapKind::Hub } else { MapKind::Proved }
    }

    /// The path of its file in the cache.
    fn cache_path(&self, key: &ContentKey) -> PathBuf {
        match &self.hub {
            Some(hub) => self.parts.files.cached_from_hub(&hub.key),
            None => self.parts.files.cached(key),
        }
    }

    /// Whether all bytes of the range are verified.
    pub fn has(&self, range: Range<u64>) -> bool {
        self.twin().is_some() || self.state().map.has(&range)
    }

    /// Whether some bytes of the range are verified.
    pub fn has_some(&self, range: &Range<u64>) -> bool {
        !self.state().map.runs(range, true).is_empty()
    }

    /// Whether all bytes are verified.
    pub fn is_complete(&self) -> bool {
        self.twin().is_some() || self.state().map.is_full()
    }

    /// Number of verified bytes.
    pub fn cached_bytes(&self) -> u64 {
        if self.twin().is_some() { self.len() } else { self.state().map.bytes() }
    }

    /// The parts of `range`, widened to blocks and cut at the end, that are not verified, in order.
    pub fn missing_ranges(&self, range: Range<u64>) -> Vec<Range<u64>> {
        if self.twin().is_some() { Vec::new() } else { self.state().map.runs(&range, false) }
    }

    /// The parts of `range`, widened to blocks and cut at the end, that are verified, in order. Bytes of a twin do not count.
    pub fn verified_ranges(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.state().map.runs(&range, true)
    }

    /// Number of cached bytes that are not proved.
    pub fn unproved_bytes(&self) -> u64 {
        self.state().unproved.bytes()
    }

    /// Whether all bytes of the range are cached and some of them are not proved.
    pub fn is_unproved(&self, range: &Range<u64>) -> bool {
        self.state().is_unproved(range)
    }

    /// The pieces of `piece_length` bytes that are cached and not proved as a whole.
    pub fn unproved_pieces(&self, piece_length: u64) -> Vec<u32> {
        let len = self.len();
        let runs = self.state().unproved.runs(&(0..len), true);
        let pieces = runs.iter().flat_map(|run| run.start / piece_length..run.end.div_ceil(piece_length));
        let mut pieces: Vec<u64> = pieces.collect();
        pieces.dedup();
        let cached =
            |piece: &u64| self.is_unproved(&(piece * piece_length..((piece + 1) * piece_length).min(len)));
        pieces.into_iter().filter(cached).filter_map(|piece| u32::try_from(piece).ok()).collect()
    }

    /// Keeps the content from being evicted while the pin lives.
    pub fn pin(self: &Arc<Self>) -> ContentPin {
        self.pins.fetch_add(1, Ordering::AcqRel);
        ContentPin(self.clone())
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::Acquire) > 0
    }

    /// Seconds since 1970 of the last read by this process; 0 if there was none.
    pub fn last_used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Records the last read as the modification time of the live map, for eviction after a restart.
    pub(super) fn record_use(&self) -> io::Result<()> {
        let used = self.last_used();
        if used <= self.used_recorded.swap(used, Ordering::Relaxed) {
            return Ok(());
        }
        let file = fsutil::existing(nofollow::write(&mapfile::live_path(&self.path())))?;
        file.map_or(Ok(()), |file| file.set_modified(SystemTime::now()))
    }

    pub(super) fn location(&self) -> Location {
        self.state().location.clone()
    }

    /// Whether everything verified is in the synced copy.
    pub(super) fn is_synced(&self) -> bool {
        let state = self.state();
        state.inserts == state.synced
    }

    /// The path of the sparse file of the store that holds the bytes; none if another file does.
    pub(super) fn own_path(&self) -> Option<PathBuf> {
        match self.location() {
            Location::Own(path) => Some(path),
            _ => None,
        }
    }

    /// Waits until no other thread changes the location or the map files, and keeps other threads from that.
    pub(super) fn writer(&self) -> ContentWriter<'_> {
        ContentWriter { content: self, journal: self.journal.lock() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, ContentState> {
        self.state.lock()
    }
}
