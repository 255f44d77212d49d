//! The store below its views: its parts, and the contents of revisions.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::content::Content;
use super::dirs::ModelDirs;
use super::live::LiveContents;
use super::parts::Parts;
use super::torrents::TorrentFiles;
use super::witnessed::Witnessed;
use super::{ContentKey, Refutation, StoreError, StoredRevision, syncing};
use crate::model::Manifest;
use crate::model::files::MAX_FILE;
use crate::paths::Paths;
use crate::{fsutil, nofollow};

/// All contents of this node.
pub struct Store {
    /// The parts that contents and revisions use.
    pub(crate) parts: Arc<Parts>,
    /// The contents of revisions in use.
    pub(crate) live: LiveContents,
    /// The real paths of the directories of models.
    pub(crate) dirs: ModelDirs,
    /// Metainfo and resume data.
    pub(crate) torrents: TorrentFiles,
    /// The results of the comparison of manifests with the hub.
    pub(crate) witnessed: Witnessed,
    /// The state of the manifests in use that agree with the hub's list, by their signature.
    refutations: Mutex<HashMap<String, Weak<Refutation>>>,
    /// Held while contents move or are evicted, so that no file is renamed or emptied between the check of it and its use by
    /// another thread. The first lock of all: taken before the locks of live contents, the journals of contents and the locks
    /// of the placements, never twice, and not by readers.
    pub(super) moving: Mutex<()>,
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
    pub(super) fn open_in_boot(paths: &Paths, boot: [u8; 16]) -> Result<Arc<Self>, StoreError> {
        Self::open_as(paths, boot, true)
    }

    pub(super) fn open_as(named: &Paths, boot: [u8; 16], locked: bool) -> Result<Arc<Self>, StoreError> {
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
            live: LiveContents::default(),
            dirs: ModelDirs { models: paths.models.clone(), named: named.models.clone() },
            torrents: TorrentFiles { paths: paths.clone() },
            witnessed: Witnessed::open(paths.witnessed()),
            refutations: Mutex::default(),
            parts: Arc::new(Parts::open(paths, boot, locked)?),
            moving: Mutex::new(()),
        }))
    }

    /// Finds the contents of a revision: placements (complete models, shared in place), then the cache. A placed
    /// file whose size, mtime or inode has changed does not count.
    pub fn revision(&self, manifest: Arc<Manifest>) -> Result<Arc<StoredRevision>, StoreError> {
        let staging = self.parts.placements.record(&manifest.torrent.info_hash).staging;
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
                    empty.get_or_insert_with(|| Arc::new(Content::empty(self.parts.clone()))).clone()
                }
                _ if file.size > MAX_FILE => return Err(refuse("it is longer than 16 TiB")),
                None => return Err(refuse("its pieces root is not known")),
                Some(key) => self.content(key, &staging)?,
            };
            contents.push(content);
        }
        let layout = manifest.layout();
        let listed = self.witnessed.listed(&manifest).map(Arc::new);
        let refutation = listed.is_some().then(|| self.refutation(&manifest));
        Ok(Arc::new(StoredRevision {
            manifest,
            layout,
            contents,
            is_local: false,
            hub: None,
            listed,
            refutation,
        }))
    }

    /// The state of a manifest that revisions with it share.
    fn refutation(&self, manifest: &Manifest) -> Arc<Refutation> {
        let signature = manifest.signature.clone().unwrap_or_default();
        let mut all = self.refutations.lock();
        if let Some(known) = all.get(&signature).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, known| known.strong_count() > 0);
        let made = Arc::new(Refutation::default());
        all.insert(signature, Arc::downgrade(&made));
        made
    }

    /// The content of a key, opened if no revision has it now. It may be in one of the directories `staging`.
    pub(super) fn content(&self, key: ContentKey, staging: &[PathBuf]) -> Result<Arc<Content>, StoreError> {
        self.live.get_or_open(key, || match self.parts.placements.find_any(&key) {
            Some(file) => Ok(Content::placed(key, self.parts.clone(), file)),
            None => {
                let staged =
                    staging.iter().map(|dir| dir.join(key.file_name())).find(|p| nofollow::exists(p));
                let data = staged.unwrap_or_else(|| self.parts.files.cached(&key));
                Content::own(key, self.parts.clone(), data)
            }
        })
    }

    /// Moves a live content that is not complete to the placed file that now has more of it. The caller holds `moving`.
    /// Returns whether the content moved.
    pub(super) fn move_if_placed(&self, key: &ContentKey) -> bool {
        let Some(content) = self.live.get(key).filter(|c| !c.is_complete()) else { return false };
        let Some(file) = self.parts.placements.find_any(key) else { return false };
        let mut writer = content.writer();
        let more = file.map(key.len).bytes() > content.cached_bytes();
        if more {
            writer.move_to_placed(file);
        }
        more
    }

    /// Whether a path that may not exist yet is on the file system of the cache.
    pub fn is_on_cache_disk(&self, path: &Path) -> bool {
        self.parts.files.is_on_cache_disk(path)
    }

    /// Closes the files that were not read since the last call: an open file would prevent the unmounting of its disk.
    pub fn close_idle_files(&self) {
        self.parts.fds.close_idle();
    }

    /// Makes all verified bytes survive a power cut. Called about every half minute and on a clean stop.
    /// Continues after an error and returns the first.
    pub fn sync(&self) -> Result<(), StoreError> {
        syncing::sync(&self.live.all())
    }

    /// Deletes the hashes of granules of contents that have no bytes any more.
    pub fn prune_granules(&self) -> Result<(), StoreError> {
        let placed = self.parts.placements.keys();
        self.parts.granules.retain(|key| {
            placed.contains(key)
                || self.live.get(key).is_some_and(|content| content.cached_bytes() > 0)
                || nofollow::exists(&self.parts.files.cached(key))
        })
    }

    /// Makes everything verified so far survive a power cut, as the last step before the node ends. Without it, some bytes
    /// are proved again at the next start.
    pub fn close(&self) -> Result<(), StoreError> {
        self.sync()?;
        self.parts.scrub.close();
        Ok(())
    }
}

fn boot_id() -> Result<[u8; 16], StoreError> {
    fsutil::boot_id().map_err(|e| StoreError::io(Path::new("/proc/sys/kernel/random/boot_id"), e))
}

fn create_private(dir: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| StoreError::io(dir, e))
}
