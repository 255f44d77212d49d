//! Open files of contents that were read recently, bounded in number.
//!
//! A mount reads the same few files many times; opening one again for each 128 KiB would cost more than the
//! read. The key carries how often the content has moved, so that a file opened before a move is never found
//! after it. The bound depends on the limit on open files of the process.

use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::descriptors::{self, FileCache, Shares};

/// Which file: the content's number in this process, and how often it has moved.
pub(crate) type FdKey = (u64, u64);

/// The open files.
pub(crate) struct FdCache(Mutex<LruCache<FdKey, Arc<File>>>);

impl FdCache {
    /// A cache of the store's share of the limit on open files, which is emptied when descriptors are short.
    pub fn new() -> Arc<Self> {
        let cache = Arc::new(Self::bounded(Shares::now().cached));
        descriptors::register(&cache);
        cache
    }

    fn bounded(bound: usize) -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(bound).unwrap_or(NonZeroUsize::MIN))))
    }

    /// The open file of `key`; if there is none, `open` is called, outside the lock.
    pub fn get(
        &self,
        key: FdKey,
        open: impl FnOnce() -> std::io::Result<File>,
    ) -> std::io::Result<Arc<File>> {
        if let Some(file) = self.lock().get(&key) {
            return Ok(file.clone());
        }
        let file = Arc::new(open()?);
        // Dropped after the lock is released: closing may wait for the disk.
        let _evicted = self.lock().push(key, file.clone());
        Ok(file)
    }

    /// FileCache the file of `key` once its readers are done.
    pub fn forget(&self, key: FdKey) {
        let _file = self.lock().pop(&key);
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, LruCache<FdKey, Arc<File>>> {
        self.0.lock()
    }
}

impl FileCache for FdCache {
    fn close_all(&self) {
        let files: Vec<_> = {
            let mut open = self.lock();
            std::iter::from_fn(|| open.pop_lru()).collect()
        };
        // Dropped without the lock, as above.
        drop(files);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_OPEN: usize = 5;

    #[test]
    fn files_are_opened_once_and_bounded_in_number() {
        let cache = FdCache::bounded(MAX_OPEN);
        let mut opened = 0;
        let mut open = |n: u64| {
            cache
                .get((n, 0), || {
                    opened += 1;
                    File::open("/dev/null")
                })
                .unwrap()
        };
        open(0);
        open(0);
        for n in 1..=MAX_OPEN as u64 {
            open(n);
        }
        open(0);
        assert_eq!(opened, MAX_OPEN + 2);
        assert_eq!(cache.lock().len(), MAX_OPEN);
        cache.forget((0, 0));
        assert_eq!(cache.lock().len(), MAX_OPEN - 1);
        cache.close_all();
        assert_eq!(cache.lock().len(), 0);
    }
}
