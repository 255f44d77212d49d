//! The bound of the cache: what is in it, and what goes when it is too large.
//!
//! Contents are dropped least recently read first. Of the last one that has to give way, only as much as needed
//! goes, from its end, in extents of 64 MiB: the beginning of a model file holds its header, which every reader
//! needs again.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::content::remove_data;
use super::{ContentKey, Store, StoreError, mapfile};
use crate::config::{CacheConfig, SizeOrPercent};
use crate::model::PiecesRoot;

/// The unit of eviction within a file, in bytes.
const EXTENT: u64 = 64 << 20;

/// One file of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// Which content.
    pub key: ContentKey,
    /// Where it is.
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
    pub fn taken(&self) -> u64 {
        self.allocated.saturating_add(self.maps)
    }
}

/// Bytes that were dropped from the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    /// Of which content.
    pub key: ContentKey,
    /// Which bytes; they may have been missing before.
    pub range: Range<u64>,
    /// How many bytes of the disk that freed.
    pub freed: u64,
}

impl Store {
    /// The files of the cache, least recently used first.
    pub fn cache_entries(&self) -> Result<Vec<CacheEntry>, StoreError> {
        let cache = self.shared.paths.cache();
        let mut entries = Vec::new();
        for dir in list(&cache).map_err(|e| StoreError::io(&cache, e))? {
            // A file among the directories is none of ours.
            let Ok(files) = list(&dir) else { continue };
            for path in files {
                let Some(key) = path.file_name().and_then(|n| n.to_str()).and_then(ContentKey::parse) else {
                    continue;
                };
                let Ok(meta) = fs::metadata(&path) else { continue };
                let (maps, written) = mapfile::figures(&path);
                let written = written.unwrap_or(meta.mtime());
                let read = self.live_content(&key).map_or(0, |c| c.last_used());
                let last_used = read.max(u64::try_from(written).unwrap_or(0));
                entries.push(CacheEntry { key, path, allocated: meta.blocks() * 512, maps, last_used });
            }
        }
        entries.sort_by_key(|e| (e.last_used, e.key));
        Ok(entries)
    }

    /// Bytes that the cache occupies on the disk.
    pub fn cache_usage(&self) -> Result<u64, StoreError> {
        Ok(self.cache_entries()?.iter().map(CacheEntry::taken).sum())
    }

    /// `cache.max_size` in bytes. A percentage is one of the file system that holds the cache.
    pub fn cache_bound(&self, config: &CacheConfig) -> Result<u64, StoreError> {
        let (total, _) = disk_space(&self.shared.paths.cache())?;
        Ok(resolve_size(config.max_size, total))
    }

    /// How many bytes must go so that the cache keeps to its bounds.
    pub fn cache_excess(&self, config: &CacheConfig) -> Result<u64, StoreError> {
        let usage = self.cache_usage()?;
        let (_, free) = disk_space(&self.shared.paths.cache())?;
        let over_size = usage.saturating_sub(self.cache_bound(config)?);
        let under_free = config.min_free.saturating_sub(free);
        Ok(over_size.max(under_free).min(usage))
    }

    /// Frees at least `target` bytes of the cache, or as many as `keep` and pins allow, and tells what went. The
    /// engine has let go of every content that `keep` does not keep.
    pub fn evict(&self, target: u64, keep: &dyn Fn(&PiecesRoot) -> bool) -> Result<Vec<Evicted>, StoreError> {
        let mut evicted = Vec::new();
        let mut left = target;
        let _moving = self.moving();
        for entry in self.cache_entries()? {
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

    /// Frees `wanted` bytes of one file, or all it has. None if it is pinned.
    fn evict_entry(&self, entry: &CacheEntry, wanted: u64) -> io::Result<Option<(Range<u64>, u64)>> {
        let content = match self.content(entry.key, &[]) {
            Ok(content) => content,
            Err(StoreError::Io { source, .. }) => return Err(source),
            Err(e) => return Err(io::Error::other(e)),
        };
        if content.own_path().as_ref() != Some(&entry.path) {
            // Left over from a content that stands elsewhere, unless it has just come back.
            let _journal = content.journal();
            if content.own_path().as_ref() == Some(&entry.path) {
                return Ok(None);
            }
            remove_data(&entry.path)?;
            return Ok(Some((0..0, entry.taken())));
        }
        if content.is_pinned() {
            return Ok(None);
        }
        if entry.allocated > wanted.saturating_add(EXTENT)
            && let Some(done) = self.punch_tail(&content, &entry.path, wanted)?
        {
            return Ok(Some(done));
        }
        content.discard()?;
        Ok(Some((0..entry.key.len, entry.taken())))
    }

    /// Gives extents back from the end until `wanted` bytes are free. None where the file system cannot.
    fn punch_tail(
        &self,
        content: &super::Content,
        path: &Path,
        wanted: u64,
    ) -> io::Result<Option<(Range<u64>, u64)>> {
        let file = File::options().write(true).open(path)?;
        let before = file.metadata()?.blocks() * 512;
        let len = content.len();
        let mut start = len;
        let mut freed = 0;
        while freed < wanted && start > 0 {
            let extent = (start - 1) / EXTENT * EXTENT..start;
            start = extent.start;
            // First the maps, durably; then the bytes.
            content.mark_missing(extent.clone())?;
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match fallocate(&file, flags, extent.start, extent.end - extent.start) {
                Ok(()) => {}
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
            freed = before.saturating_sub(file.metadata()?.blocks() * 512);
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

/// Size of the file system that holds `path`, and what is free there for this user, in bytes.
pub fn disk_space(path: &Path) -> Result<(u64, u64), StoreError> {
    let stat = statvfs(path).map_err(|e| StoreError::io(path, e.into()))?;
    Ok((stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
}

fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect()
}
