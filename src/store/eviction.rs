//! The bound of the cache: its files, and their eviction when it is too large.
//!
//! Contents are evicted in the order of their last read, the oldest first. Of the last evicted content only as many bytes as
//! needed are deleted, from its end, in extents of 64 MiB: the beginning of a model file has its header, which every reader
//! needs again.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::statvfs;
use rustix::io::Errno;

use super::data::remove_data;
use super::{ContentKey, HubKey, Store, StoreError, mapfile};
use crate::config::{CacheConfig, SizeOrPercent};
use crate::fsutil::punch;
use crate::model::PiecesRoot;

/// The unit of eviction within a file, in bytes.
const EXTENT: u64 = 64 << 20;

/// One file of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// The content.
    pub key: ContentKey,
    /// The hub's hash of the content, if it comes from a hub.
    pub hub: Option<HubKey>,
    /// The data file.
    pub path: PathBuf,
    /// Bytes it occupies on the disk.
    pub allocated: u64,
    /// Bytes that its maps occupy on the disk.
    pub maps: u64,
    /// Seconds since 1970 of the last read or write.
    pub last_used: u64,
}

impl CacheEntry {
    /// Bytes that the file and its maps occupy on the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.allocated.saturating_add(self.maps)
    }
}

/// Bytes that were evicted from the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    /// The content.
    pub key: ContentKey,
    /// The range; some of its bytes may have been missing before.
    pub range: Range<u64>,
    /// Freed bytes of the disk.
    pub freed: u64,
}

/// The cache of partly read files.
pub struct Cache<'a> {
    pub(super) store: &'a Arc<Store>,
}

impl Cache<'_> {
    /// The files of the cache, least recently used first.
    pub fn entries(&self) -> Result<Vec<CacheEntry>, StoreError> {
        let cache = self.store.parts.files.paths.cache();
        let mut entries = Vec::new();
        let dirs = list(&cache).map_err(|e| StoreError::io(&cache, e))?;
        let from_hub = list(&self.store.parts.files.paths.hub_cache()).unwrap_or_default();
        let all = dirs.into_iter().map(|dir| (dir, false)).chain(from_hub.into_iter().map(|dir| (dir, true)));
        for (dir, is_hub) in all {
            // A file among the directories does not belong to the store.
            let Ok(files) = list(&dir) else { continue };
            for path in files {
                let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
                let hub = if is_hub { HubKey::parse(name) } else { None };
                let key = if is_hub { hub.map(|hub| hub.content_key()) } else { ContentKey::parse(name) };
                let Some(key) = key else { continue };
                let Ok(meta) = fs::metadata(&path) else { continue };
                let (maps, written) = mapfile::figures(&path);
                let written = written.unwrap_or(meta.mtime());
                let read = self.store.live.get(&key).map_or(0, |c| c.last_used());
                let last_used = read.max(u64::try_from(written).unwrap_or(0));
                entries.push(CacheEntry { key, hub, path, allocated: meta.blocks() * 512, maps, last_used });
            }
        }
        entries.sort_by_key(|e| (e.last_used, e.key));
        Ok(entries)
    }

    /// Bytes that the cache occupies on the disk.
    pub fn usage(&self) -> Result<u64, StoreError> {
        Ok(self.entries()?.iter().map(CacheEntry::disk_bytes).sum())
    }

    /// `cache.max_size` in bytes. A percentage refers to the size of the file system that holds the cache.
    pub fn bound(&self, config: &CacheConfig) -> Result<u64, StoreError> {
        let (total, _) = disk_space(&self.store.parts.files.paths.cache())?;
        Ok(resolve_size(config.max_size, total))
    }

    /// Frees at least `target` bytes of the cache, or as many as `keep` and pins allow, and returns the evicted ranges. The
    /// engine must have no file open of a content for which `keep` is false.
    pub fn evict(&self, target: u64, keep: &dyn Fn(&PiecesRoot) -> bool) -> Result<Vec<Evicted>, StoreError> {
        let mut evicted = Vec::new();
        let mut left = target;
        let _moving = self.store.moving.lock();
        for entry in self.entries()? {
            if left == 0 {
                break;
            }
            if keep(&entry.key.root) {
                continue;
            }
            let gone = self.evict_entry(&entry, left).map_err(|e| StoreError::io(&entry.path, e))?;
            if let Some((range, freed)) = gone {
                left = left.saturating_sub(freed);
                evicted.push(Evicted { key: entry.key, range, freed });
            }
        }
        Ok(evicted)
    }

    /// Frees `wanted` bytes of one file, or all its bytes if there are fewer. None if it is pinned.
    fn evict_entry(&self, entry: &CacheEntry, wanted: u64) -> io::Result<Option<(Range<u64>, u64)>> {
        let content = match entry.hub {
            Some(hub) => self.store.hub().content(hub),
            None => self.store.content(entry.key, &[]),
        };
        let content = match content {
            Ok(content) => content,
            Err(StoreError::Io { source, .. }) => return Err(source),
            Err(e) => return Err(io::Error::other(e)),
        };
        if content.own_path().as_ref() != Some(&entry.path) {
            // The content has another location and left this file behind, unless it has just come back.
            let _writer = content.writer();
            if content.own_path().as_ref() == Some(&entry.path) {
                return Ok(None);
            }
            remove_data(&entry.path)?;
            return Ok(Some((0..0, entry.disk_bytes())));
        }
        if content.is_pinned() {
            return Ok(None);
        }
        if entry.allocated > wanted.saturating_add(EXTENT)
            && let Some(done) = self.punch_tail(&content, &entry.path, wanted)?
        {
            return Ok(Some(done));
        }
        content.writer().discard()?;
        Ok(Some((0..entry.key.len, entry.disk_bytes())))
    }

    /// Deletes extents from the end until `wanted` bytes are free. None if the file system cannot make holes.
    fn punch_tail(
        &self,
        content: &super::Content,
        path: &Path,
        wanted: u64,
    ) -> io::Result<Option<(Range<u64>, u64)>> {
        let file = File::options().write(true).open(path)?;
        let len = content.len();
        let (mut start, mut freed) = (len, 0);
        while freed < wanted && start > 0 {
            let extent = (start - 1) / EXTENT * EXTENT..start;
            start = extent.start;
            // First the maps, durably; then the bytes.
            content.mark_missing(extent.clone())?;
            match punch(&file, &extent) {
                Ok(bytes) => freed += bytes,
                Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::OPNOTSUPP | Errno::NOSYS)) => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Some((start..len, freed)))
    }
}

/// The bytes that `size` means on a file system of `total` bytes.
pub fn resolve_size(size: SizeOrPercent, total: u64) -> u64 {
    match size {
        SizeOrPercent::Bytes(bytes) => bytes,
        SizeOrPercent::Percent(percent) => (total as f64 * percent / 100.0) as u64,
    }
}

/// The size of the file system that holds `path`, and its free space for this user, in bytes.
pub fn disk_space(path: &Path) -> Result<(u64, u64), StoreError> {
    let stat = statvfs(path).map_err(|e| StoreError::io(path, e.into()))?;
    Ok((stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
}

fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect()
}
