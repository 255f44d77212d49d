//! The store of bytes: the registry of manifests, complete models, and the cache of partly read ones.
//!
//! The unit is the *content*: the bytes of one file, named by its pieces root and length, in whichever models and
//! revisions. A content has one path on disk and a map of verified 16 KiB blocks; bytes outside that map
//! are never returned. Blocks that an older version recorded are *unproved*: they count as missing until they are
//! proved (see `content::marks`). Verified blocks are recorded in a small file next to the data as they come, with plain
//! `pwrite`, so that a killed process loses at most the pieces in flight; [`Store::sync`] makes them survive a
//! power cut.
//!
//! The [`Store`] owns one part for each kind of file and state, for example [`Store::torrents`] and [`Store::scrub`].
//! Operations on several parts are grouped in views that borrow the store: [`Store::cache`], [`Store::placed`],
//! [`Store::staging`], [`Store::former_states`] and [`Store::partial_mirrors`].
//!
//! All functions block on the disk: async callers use a blocking thread. Only the holder of the node's lock calls functions
//! that write; `open`, `revision` and the reading functions may run in other processes at the same time.

mod adopt;
mod aside;
mod blockmap;
mod by_publisher;
pub mod content;
pub(crate) mod copy;
mod data;
mod dirs;
pub mod eviction;
mod former_states;
mod granules;
pub mod hub;
mod live;
mod mapfile;
pub mod partial_mirrors;
pub mod placed;
pub mod placement;
mod placement_index;
mod publish;
mod publish_step;
mod record;
mod recordfile;
pub mod registry;
mod removable;
mod remove;
mod revision;
pub mod room;
mod scrub;
pub mod staging;
pub mod states;
mod syncing;
pub mod tend;
#[cfg(test)]
mod tests;
mod torrents;
pub mod vacant;
pub mod verify;
mod withheld;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use crate::model::files::MAX_FILE;
use crate::model::{FileEntry, Manifest, PiecesRoot};
use crate::paths::Paths;
use crate::{fsutil, nofollow};
pub use adopt::Adopted;
pub use aside::Kept;
pub use by_publisher::ByPublisher;
pub(crate) use content::ContentVersion;
pub use content::{Content, ContentPin, RemovedRanges, SpaceClass, open_memory};
use content::{FdCache, Location};
use data::DataFiles;
use dirs::ModelDirs;
pub use eviction::{Cache, CacheEntry, Evicted};
pub use former_states::{FormerState, FormerStates};
use granules::Granules;
pub use hub::{
    HubContent, HubFile, HubKey, HubListing, HubModel, HubProof, HubRevisionError, HubScope, HubStore,
    OpenHubFile,
};
use live::LiveContents;
pub use partial_mirrors::PartialMirrors;
pub use placed::PlacedFiles;
use placement::Placements;
pub use placement::Stamp;
pub use registry::Registry;
pub use revision::StoredRevision;
pub use room::{Room, Rooms, kept_free};
pub use scrub::Pass;
use scrub::Scrub;
pub use staging::Staging;
pub use states::{Announced, SignedState, SignedStates};
use torrents::TorrentFiles;
pub use verify::VerifyReport;
use withheld::WithheldModels;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A file of the store does not parse.
    #[error("{path} is damaged: {reason}", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// The reason.
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
    /// A staging directory cannot be used.
    #[error("cannot collect files in {path}: {source}", path = path.display())]
    Staging {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another file has the path of a file of a model.
    #[error("{path} exists already and is another file; move it away or choose another directory", path = path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
    },
}

impl StoreError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// Whether a write failed because the disk is full or read-only.
    pub(crate) fn is_full_or_read_only(&self) -> bool {
        matches!(self, Self::Io { source, .. } if fsutil::is_full_or_read_only(source.kind()))
    }
}

/// The name of a content. The root alone is not enough: a false manifest may claim a root with another length, and must not
/// give access to the bytes of the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentKey {
    /// Root of the merkle tree over the bytes (BEP 52).
    pub root: PiecesRoot,
    /// Length in bytes.
    pub len: u64,
}

impl ContentKey {
    /// Name of the file that has the content, in the cache and in staging directories.
    fn file_name(&self) -> String {
        format!("{}.{}", self.root, self.len)
    }

    /// The content of a file of a manifest; none for an empty file.
    pub fn of(file: &FileEntry) -> Option<Self> {
        Some(Self { root: file.pieces_root?, len: file.size })
    }

    /// The content whose file has a name, if any.
    fn parse(name: &str) -> Option<Self> {
        let (root, len) = name.split_once('.')?;
        Some(Self { root: root.parse().ok()?, len: len.parse().ok()? })
    }
}

/// All contents of this node.
pub struct Store {
    /// The data files of contents, with their maps.
    files: DataFiles,
    fds: Arc<FdCache>,
    /// The number of the next content in this process.
    ids: AtomicU64,
    /// The contents of revisions in use.
    pub(crate) live: LiveContents,
    /// The records of verified files outside the cache.
    placements: Placements,
    /// The real paths of the directories of models.
    pub(crate) dirs: ModelDirs,
    /// Metainfo and resume data.
    pub(crate) torrents: TorrentFiles,
    /// The hashes of granules.
    pub(crate) granules: Granules,
    /// The progress of the background check.
    pub(crate) scrub: Scrub,
    /// Models that are not shared.
    pub(crate) withheld: WithheldModels,
    /// Held while contents move or are evicted, so that no file is renamed or emptied between the check of it and its use by
    /// another thread. The first lock of all: taken before the locks of live contents, the journals of contents and the locks
    /// of the placements, never twice, and not by readers.
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

    fn open_as(named: &Paths, boot: [u8; 16], locked: bool) -> Result<Arc<Self>, StoreError> {
        for dir in [&named.base, &named.registry(), &named.cache()] {
            create_private(dir)?;
        }
        for dir in ["torrents", "resume"] {
            create_private(&named.base.join(dir))?;
        }
        fs::create_dir_all(&named.models).map_err(|e| StoreError::io(&named.models, e))?;
        let base = fs::canonicalize(&named.base).map_err(|e| StoreError::io(&named.base, e))?;
        let models = nofollow::real_path(&named.models, Path::new(""))
            .map_err(|e| StoreError::io(&named.models, e))?;
        let paths = Paths { base, models };
        Ok(Arc::new(Self {
            fds: FdCache::new(),
            ids: AtomicU64::new(0),
            live: LiveContents::default(),
            placements: Placements::open(&paths)?,
            dirs: ModelDirs { models: paths.models.clone(), named: named.models.clone() },
            torrents: TorrentFiles { paths: paths.clone() },
            granules: Granules { dir: paths.granules() },
            scrub: Scrub::open(paths.scrub(), &boot, locked),
            withheld: WithheldModels::default(),
            files: DataFiles { paths, boot, locked },
            moving: Mutex::new(()),
        }))
    }

    /// Finds the contents of a revision: placements (complete models, shared in place), then the cache. A placed
    /// file whose size, mtime or inode has changed does not count.
    pub fn revision(self: &Arc<Self>, manifest: Arc<Manifest>) -> Result<Arc<StoredRevision>, StoreError> {
        let staging = self.placements.record(&manifest.torrent.info_hash).staging;
        let mut contents = Vec::with_capacity(manifest.files.len());
        let mut empty = None;
        for file in &manifest.files {
            let refuse = |reason| StoreError::Unstorable {
                model: manifest.model_ref().to_string(),
                path: file.path.clone(),
                reason,
            };
            let content = match ContentKey::of(file) {
                _ if file.size == 0 => {
                    empty.get_or_insert_with(|| Arc::new(Content::empty(self.clone()))).clone()
                }
                _ if file.size > MAX_FILE => return Err(refuse("it is longer than 16 TiB")),
                None => return Err(refuse("its pieces root is not known")),
                Some(key) => self.content(key, &staging)?,
            };
            contents.push(content);
        }
        let layout = manifest.layout();
        Ok(Arc::new(StoredRevision { manifest, layout, contents, is_local: false, hub: None }))
    }

    /// The content of a key, opened if no revision has it now. It may be in one of the directories `staging`.
    fn content(self: &Arc<Self>, key: ContentKey, staging: &[PathBuf]) -> Result<Arc<Content>, StoreError> {
        self.live.get_or_open(key, || match self.placements.find_any(&key) {
            Some(file) => Ok(Content::placed(key, self.clone(), file)),
            None => {
                let staged =
                    staging.iter().map(|dir| dir.join(key.file_name())).find(|p| nofollow::exists(p));
                let data = staged.unwrap_or_else(|| self.files.cached(&key));
                Content::own(key, self.clone(), data)
            }
        })
    }

    /// Moves a live content that is not complete to the placed file that now has more of it. The caller holds `moving`.
    /// Returns whether the content moved.
    fn move_if_placed(&self, key: &ContentKey) -> bool {
        let Some(content) = self.live.get(key).filter(|c| !c.is_complete()) else { return false };
        let Some(file) = self.placements.find_any(key) else { return false };
        let mut writer = content.writer();
        let more = file.map(key.len).bytes() > content.cached_bytes();
        if more {
            writer.move_to_placed(file);
        }
        more
    }

    /// Whether a path that may not exist yet is on the file system of the cache.
    pub fn is_on_cache_disk(&self, path: &Path) -> bool {
        self.files.is_on_cache_disk(path)
    }

    /// The cache of partly read files.
    pub fn cache(self: &Arc<Self>) -> Cache<'_> {
        Cache { store: self }
    }

    /// The models that are read from a hub.
    pub fn hub(self: &Arc<Self>) -> HubStore<'_> {
        HubStore { store: self }
    }

    /// The files outside the cache.
    pub fn placed(&self) -> PlacedFiles<'_> {
        PlacedFiles { store: self }
    }

    /// The files that are collected until a model is published.
    pub fn staging(&self) -> Staging<'_> {
        Staging { store: self }
    }

    /// Former states of models.
    pub fn former_states(self: &Arc<Self>) -> FormerStates<'_> {
        FormerStates { store: self }
    }

    /// The files of mirrors that left their large files out.
    pub fn partial_mirrors(&self) -> PartialMirrors<'_> {
        PartialMirrors { store: self }
    }

    /// Closes the files that were not read since the last call: an open file would prevent the unmounting of its disk.
    pub fn close_idle_files(&self) {
        self.fds.close_idle();
    }

    /// Makes all verified bytes survive a power cut. Called about every half minute and on a clean stop.
    /// Continues after an error and returns the first.
    pub fn sync(&self) -> Result<(), StoreError> {
        syncing::sync(&self.live.all())
    }

    /// Deletes the hashes of granules of contents that have no bytes any more.
    pub fn prune_granules(&self) -> Result<(), StoreError> {
        let placed = self.placements.keys();
        self.granules.retain(|key| {
            placed.contains(key)
                || self.live.get(key).is_some_and(|content| content.cached_bytes() > 0)
                || nofollow::exists(&self.files.cached(key))
        })
    }

    /// Makes everything verified so far survive a power cut, as the last step before the node ends. Without it, some bytes
    /// are proved again at the next start.
    pub fn close(&self) -> Result<(), StoreError> {
        self.sync()?;
        self.scrub.close();
        Ok(())
    }
}

fn boot_id() -> Result<[u8; 16], StoreError> {
    fsutil::boot_id().map_err(|e| StoreError::io(Path::new("/proc/sys/kernel/random/boot_id"), e))
}

fn create_private(dir: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| StoreError::io(dir, e))
}
