//! Open files of contents that were read lately, bounded in number.
//!
//! A mount reads the same few files over and over; opening one anew for each 128 KiB would cost more than the
//! read. The key carries how often the content has moved, so that a file opened before a move is never found
//! after it.

use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

/// Far below the usual limit of 1024 open files, which sockets share.
const MAX_OPEN: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Which file: the content's number in this process, and how often it has moved.
pub(super) type FdKey = (u64, u64);

/// The open files.
pub(super) struct FdCache(Mutex<LruCache<FdKey, Arc<File>>>);

impl FdCache {
    pub fn new() -> Self {
        Self(Mutex::new(LruCache::new(MAX_OPEN)))
    }

    /// The open file of `key`; `open` is called, outside the lock, where there is none.
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

    /// Closes the file of `key` once its readers are done.
    pub fn forget(&self, key: FdKey) {
        let _file = self.lock().pop(&key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<FdKey, Arc<File>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_once_until_forgotten_and_keeps_no_more_than_the_bound() {
        let cache = FdCache::new();
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
        for n in 1..=MAX_OPEN.get() as u64 {
            open(n);
        }
        open(0);
        assert_eq!(opened, MAX_OPEN.get() + 2);
        assert_eq!(cache.lock().len(), MAX_OPEN.get());
        cache.forget((0, 0));
        assert_eq!(cache.lock().len(), MAX_OPEN.get() - 1);
    }
}
