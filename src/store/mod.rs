//! Where bytes live: the registry of manifests, complete models, and the cache of partly read ones.
//!
//! The unit is the *content*: the bytes of one file, named by its pieces root and length, whichever models and
//! revisions hold it. A content has one path on disk and a map of verified 16 KiB blocks; bytes outside that map
//! are never handed out. Blocks that an older version recorded are *unproved*: they count as missing until they are
//! proved (see `unproved`). Verified blocks are recorded in a small file beside the data as they come, with plain
//! `pwrite`, so that a killed process loses at most the pieces in flight; [`Store::sync`] makes them survive a
//! power cut.
//!
//! Everything here blocks on the disk: async callers use a blocking thread. Only the holder of the node's lock
//! calls what writes; `open`, `revision` and the reading functions are safe beside it.

pub mod adopt;
mod aside;
pub mod beside;
mod blockmap;
pub mod cache;
pub mod content;
pub(crate) mod copy;
mod fds;
mod former;
mod granules;
mod keep;
mod local;
mod mapfile;
mod memory;
pub mod placement;
mod plain;
mod publish;
mod record;
mod recordfile;
pub mod registry;
mod remove;
mod reserved;
pub mod room;
mod scrub;
mod shed;
mod staging;
pub mod states;
mod syncing;
pub mod tend;
#[cfg(test)]
mod tests;
mod torrents;
mod unproved;
pub mod vacant;
pub mod verify;
mod whole;
mod yielding;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use fixedbitset::FixedBitSet;
use parking_lot::{Mutex, MutexGuard};

use crate::model::{Layout, Manifest, PiecesRoot};
use crate::paths::Paths;
use crate::{fsutil, nofollow};
pub use adopt::Adopted;
pub use aside::Kept;
pub use beside::Beside;
pub use cache::{CacheEntry, Evicted};
use content::Home;
pub use content::{Content, ContentPin};
pub use former::Former;
pub use memory::open_memory;
pub use placement::Stamp;
use placement::{PlacedEntry, Placements};
pub use registry::Registry;
pub use room::{Room, Rooms, kept_free};
pub use scrub::Pass;
pub use shed::{Lies, Taken};
pub use states::{Announced, State, States};
pub use verify::VerifyReport;

/// Longest file that is stored: 16 TiB, so that no manifest makes us allocate a block map beyond 128 MiB.
const MAX_CONTENT: u64 = 1 << 44;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of ours does not parse.
    #[error("{path} is damaged: {reason}", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The manifest gives a non-empty file no pieces root, or a length that cannot be stored.
    #[error("{model}: {path} cannot be stored: {reason}")]
    Unstorable {
        /// The model.
        model: String,
        /// The file's path in the manifest.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// A file that should be complete is not.
    #[error("{path} is not complete")]
    Incomplete {
        /// The file's path in the manifest.
        path: String,
    },
    /// The directory beside a destination where files are collected cannot be used.
    #[error("cannot collect files in {path}: {source}", path = path.display())]
    Staging {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something else stands where a file should go.
    #[error("{path} is already there and is something else; move it away or choose another directory", path = path.display())]
    Occupied {
        /// What is in the way.
        path: PathBuf,
    },
}

impl StoreError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// What names a content. The root alone would not do: a liar may claim a root with another length, and must not
/// get at the bytes of the honest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentKey {
    /// Root of the merkle tree over the bytes (BEP 52).
    pub root: PiecesRoot,
    /// Length in bytes.
    pub len: u64,
}

impl ContentKey {
    /// Name of the file that holds the content, in the cache and in staging directories.
    fn file_name(&self) -> String {
        format!("{}.{}", self.root, self.len)
    }

    /// The content whose file has a name, if any.
    fn parse(name: &str) -> Option<Self> {
        let (root, len) = name.split_once('.')?;
        Some(Self { root: root.parse().ok()?, len: len.parse().ok()? })
    }
}

/// What contents need of the store.
struct Shared {
    /// Real paths, as all that are kept here.
    paths: Paths,
    /// The models directory as it was named.
    named_models: PathBuf,
    boot: [u8; 16],
    fds: Arc<fds::FdCache>,
    placements: Placements,
    scrub: scrub::Scrub,
    withheld: Mutex<Arc<reserved::Withheld>>,
    ids: AtomicU64,
    /// Whether this process has the node's lock.
    locked: bool,
}

impl Shared {
    /// The map of a data file (see [`mapfile::load`]).
    fn load_map(&self, data: &Path, len: u64) -> std::io::Result<mapfile::Loaded> {
        mapfile::load(data, len, &self.boot, self.locked)
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether a file that may not exist yet lies on the file system of the cache.
    fn is_beside_cache(&self, data: &Path) -> bool {
        let device =
            |path: &Path| path.ancestors().find_map(|dir| fs::metadata(dir).ok()).map(|found| found.dev());
        device(data) == device(&self.paths.cache())
    }

    /// Where the cache keeps a content.
    fn cached(&self, key: &ContentKey) -> PathBuf {
        self.paths.cached(&key.root).with_file_name(key.file_name())
    }
}

/// One revision with the contents of its files.
#[derive(Debug)]
pub struct StoredRevision {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// Where the files stand among the pieces.
    pub layout: Layout,
    /// One per file of the manifest, in its order. Revisions that hold equal files share the `Arc`.
    pub contents: Vec<Arc<Content>>,
    /// Whether its files are the user's and not shared. The hashes in its manifest are no hashes of bytes then, and
    /// must not be shown or sent.
    pub is_local: bool,
}

impl StoredRevision {
    /// The pieces whose bytes are all verified here, as the engine wants them on `add`.
    pub fn have_pieces(&self) -> FixedBitSet {
        let mut have = FixedBitSet::with_capacity(self.layout.piece_count() as usize);
        let piece_length = u64::from(self.layout.piece_length());
        for (span, content) in self.layout.spans().iter().zip(&self.contents) {
            let first = span.first_piece as usize;
            for held in content.verified_ranges(0..span.len) {
                let start = held.start.div_ceil(piece_length) as usize;
                let end = if held.end == span.len {
                    span.pieces as usize
                } else {
                    (held.end / piece_length) as usize
                };
                if start < end {
                    have.insert_range(first + start..first + end);
                }
            }
        }
        have
    }

    /// Whether every byte is here.
    pub fn is_complete(&self) -> bool {
        self.contents.iter().all(|c| c.is_complete())
    }

    /// Verified bytes that are here. Unproved ones do not count.
    pub fn cached_bytes(&self) -> u64 {
        self.contents.iter().map(|c| c.cached_bytes()).sum()
    }

    /// Bytes that are here, verified or unproved.
    pub fn held_bytes(&self) -> u64 {
        self.contents.iter().map(|c| c.cached_bytes() + c.unproved_bytes()).sum()
    }
}

/// All contents of this node.
pub struct Store {
    shared: Arc<Shared>,
    contents: Mutex<HashMap<ContentKey, Weak<Content>>>,
    /// Held while contents are opened, so that each is opened once; taken before `contents`.
    opening: Mutex<()>,
    /// Held while contents change their homes or are evicted, so that no file is renamed or emptied between another's
    /// look at it and its use. The first lock of all: taken before `opening`, the journals of contents and those of
    /// the placements, never twice, and not by readers.
    moving: Mutex<()>,
}

impl Store {
    /// Opens the store below `paths`, creating directories. Reads no file's data. The caller holds the node's lock.
    pub fn open(paths: &Paths) -> Result<Arc<Self>, StoreError> {
        Self::open_as(paths, boot_id()?, true)
    }

    /// Like [`Store::open`], without the lock: for reading only.
    pub fn open_to_read(paths: &Paths) -> Result<Arc<Self>, StoreError> {
        Self::open_as(paths, boot_id()?, false)
    }

    #[cfg(test)]
    fn open_in_boot(paths: &Paths, boot: [u8; 16]) -> Result<Arc<Self>, StoreError> {
        Self::open_as(paths, boot, true)
    }

    fn open_as(paths: &Paths, boot: [u8; 16], locked: bool) -> Result<Arc<Self>, StoreError> {
        for dir in [&paths.base, &paths.registry(), &paths.cache()] {
            create_private(dir)?;
        }
        for dir in ["torrents", "resume"] {
            create_private(&paths.base.join(dir))?;
        }
        fs::create_dir_all(&paths.models).map_err(|e| StoreError::io(&paths.models, e))?;
        let base = fs::canonicalize(&paths.base).map_err(|e| StoreError::io(&paths.base, e))?;
        let models = nofollow::real_path(&paths.models, Path::new(""))
            .map_err(|e| StoreError::io(&paths.models, e))?;
        let real = Paths { base, models };
        let shared = Shared {
            placements: Placements::open(&real)?,
            scrub: scrub::Scrub::open(real.scrub(), &boot, locked),
            named_models: paths.models.clone(),
            paths: real,
            boot,
            fds: fds::FdCache::new(),
            withheld: Mutex::default(),
            ids: AtomicU64::new(0),
            locked,
        };
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
            contents: Mutex::new(HashMap::new()),
            opening: Mutex::new(()),
            moving: Mutex::new(()),
        }))
    }

    /// Finds the contents of a revision: placements (complete models, shared in place), then the cache. A placed
    /// file whose size, mtime or inode is not as recorded does not count.
    pub fn revision(&self, manifest: Arc<Manifest>) -> Result<Arc<StoredRevision>, StoreError> {
        let staging = self.shared.placements.record(&manifest.torrent.info_hash).staging;
        let mut contents = Vec::with_capacity(manifest.files.len());
        let mut empty = None;
        for file in &manifest.files {
            let refuse = |reason| StoreError::Unstorable {
                model: manifest.model_ref().to_string(),
                path: file.path.clone(),
                reason,
            };
            let content = match file.pieces_root {
                _ if file.size == 0 => {
                    empty.get_or_insert_with(|| Arc::new(Content::empty(self.shared.clone()))).clone()
                }
                _ if file.size > MAX_CONTENT => return Err(refuse("it is longer than 16 TiB")),
                None => return Err(refuse("its pieces root is not known")),
                Some(root) => self.content(ContentKey { root, len: file.size }, &staging)?,
            };
            contents.push(content);
        }
        let layout = manifest.layout();
        Ok(Arc::new(StoredRevision { manifest, layout, contents, is_local: false }))
    }

    /// The content of a key, opened if no revision holds it now.
    fn content(&self, key: ContentKey, staging: &[PathBuf]) -> Result<Arc<Content>, StoreError> {
        let _opening = self.opening.lock();
        if let Some(content) = self.live_content(&key) {
            return Ok(content);
        }
        let shared = self.shared.clone();
        let content = match self.shared.placements.find_any(&key) {
            Some(file) => Content::placed(key, shared, file),
            None => {
                let staged =
                    staging.iter().map(|dir| dir.join(key.file_name())).find(|p| nofollow::exists(p));
                let data = staged.unwrap_or_else(|| self.shared.cached(&key));
                Content::own(key, shared, data)?
            }
        };
        let content = Arc::new(content);
        let mut contents = self.contents();
        // Forgotten contents leave a dead entry each; sweep when they may be many.
        if contents.len() == contents.capacity() {
            contents.retain(|_, c| c.strong_count() > 0);
        }
        contents.insert(key, Arc::downgrade(&content));
        Ok(content)
    }

    /// The content, if some revision that is in use has it.
    pub fn live_content(&self, key: &ContentKey) -> Option<Arc<Content>> {
        self.contents().get(key).and_then(Weak::upgrade)
    }

    fn live_contents(&self) -> Vec<Arc<Content>> {
        self.contents().values().filter_map(Weak::upgrade).collect()
    }

    /// Whether a path that may not exist yet lies on the file system of the cache.
    pub fn is_beside_cache(&self, path: &Path) -> bool {
        self.shared.is_beside_cache(path)
    }

    fn moving(&self) -> MutexGuard<'_, ()> {
        self.moving.lock()
    }

    fn contents(&self) -> MutexGuard<'_, HashMap<ContentKey, Weak<Content>>> {
        self.contents.lock()
    }

    /// A file, whole and verified, with the bytes of that root and length, in some model's directory or one shared in
    /// place; how it looked when it was verified; and whether this program put it there, so that it may be linked.
    pub fn find_file(&self, root: &PiecesRoot, len: u64) -> Option<(PathBuf, Stamp, bool)> {
        let file = self.shared.placements.find(&ContentKey { root: *root, len })?;
        Some((file.path, file.stamp, file.ours))
    }

    /// Records that the files of a revision stand, verified, below `dir`, as they look now. The files stay their
    /// owner's: they are never written, replaced or removed.
    pub fn record_placement(&self, manifest: &Manifest, dir: &Path) -> Result<(), StoreError> {
        let stamps = manifest
            .files
            .iter()
            .map(|file| {
                let path = dir.join(&file.path);
                Stamp::at(&path).map_err(|e| StoreError::io(&path, e))
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.record_placement_as(manifest, dir, &stamps, &HashMap::new())
    }

    /// Like [`Store::record_placement`], for files that looked like `stamps` (one per file of the manifest) before
    /// their bytes were hashed: what changed since then does not count. `targets` has the real paths of those to which a
    /// symbolic link leads; they are read there from now on, wherever the link may lead later.
    pub fn record_placement_as(
        &self,
        manifest: &Manifest,
        dir: &Path,
        stamps: &[Stamp],
        targets: &HashMap<String, PathBuf>,
    ) -> Result<(), StoreError> {
        self.record_files(manifest, dir, stamps, targets, false)
    }

    /// Like [`Store::record_placement_as`], for files that this program made there: it may move, replace and remove them.
    pub fn record_own(&self, manifest: &Manifest, dir: &Path, stamps: &[Stamp]) -> Result<(), StoreError> {
        self.record_files(manifest, dir, stamps, &HashMap::new(), true)
    }

    fn record_files(
        &self,
        manifest: &Manifest,
        dir: &Path,
        stamps: &[Stamp],
        targets: &HashMap<String, PathBuf>,
        ours: bool,
    ) -> Result<(), StoreError> {
        let dir = fs::canonicalize(dir).map_err(|e| StoreError::io(dir, e))?;
        let _moving = self.moving();
        // A file that was put there since then, and is on record, stays on record.
        let known = self.shared.placements.record(&manifest.torrent.info_hash);
        let known = known.places.iter().filter(|place| place.dir == dir).flat_map(|place| &place.files);
        let known: HashMap<&str, Stamp> = known.map(|file| (file.path.as_str(), file.stamp)).collect();
        let is_newer = |path: &str, stamp: &Stamp| {
            let on_record = known.get(path).filter(|known| *known != stamp);
            on_record.is_some_and(|known| Stamp::at(&dir.join(path)).is_ok_and(|now| now == *known))
        };
        let files = manifest.files.iter().zip(stamps).filter(|(file, stamp)| !is_newer(&file.path, stamp));
        let entries = files.map(|(file, stamp)| PlacedEntry {
            target: targets.get(&file.path).cloned(),
            ..PlacedEntry::verified(file.path.clone(), file.pieces_root, file.size, *stamp, ours)
        });
        self.shared.placements.put(manifest, &dir, entries.collect())?;
        for file in &manifest.files {
            let Some(root) = file.pieces_root else { continue };
            self.settle_if_placed(&ContentKey { root, len: file.size });
        }
        Ok(())
    }

    /// Moves a live content that is not complete to the placed file that now holds all of it, or more than the content
    /// has. With `moving` held. Returns whether it did.
    fn settle_if_placed(&self, key: &ContentKey) -> bool {
        let Some(content) = self.live_content(key).filter(|c| !c.is_complete()) else { return false };
        let Some(file) = self.shared.placements.find_any(key) else { return false };
        let mut journal = content.journal();
        let more = file.map(key.len).bytes() > content.cached_bytes();
        if more {
            content.settle_placed(&mut journal, file);
        }
        more
    }

    /// Reads the placement records again, after another process wrote them.
    pub fn reload(&self) -> Result<(), StoreError> {
        let _moving = self.moving();
        self.shared.placements.reload()?;
        for content in self.live_contents() {
            if let Some(key) = content.key() {
                self.settle_if_placed(&key);
            }
        }
        Ok(())
    }

    /// Makes everything verified so far survive a power cut, as the last thing before the node ends. Nothing
    /// breaks if it is not called.
    pub fn close(&self) -> Result<(), StoreError> {
        self.sync()?;
        self.shared.scrub.close();
        Ok(())
    }
}

fn boot_id() -> Result<[u8; 16], StoreError> {
    fsutil::boot_id().map_err(|e| StoreError::io(Path::new("/proc/sys/kernel/random/boot_id"), e))
}

fn create_private(dir: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| StoreError::io(dir, e))
}
