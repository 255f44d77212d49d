//! Open files of contents that were read recently, bounded in number.
//!
//! A mount reads the same few files many times; opening one again for each 128 KiB would cost more than the
//! read. The key contains the number of moves of the content, so that a file that was opened before a move is never returned
//! after it. The bound depends on the limit on open files of the process. Files that are not read are closed: an open file
//! would prevent the user from unmounting the disk of a shared directory.

use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::descriptors::{self, FileCache, Shares};

/// The number of a content in this process, and how often the content has moved.
pub(crate) type FdKey = (u64, u64);

/// The open files.
pub(crate) struct FdCache(Mutex<OpenDescriptors>);

struct OpenDescriptors {
    files: LruCache<FdKey, OpenFile>,
    /// How often idle files were closed.
    period: u64,
}

struct OpenFile {
    file: Arc<File>,
    /// The period in which it was last read.
    read_in: u64,
}

impl FdCache {
    /// A cache of the store's share of the limit on open files, which is emptied when descriptors are short.
    pub fn new() -> Arc<Self> {
        let cache = Arc::new(Self::bounded(Shares::now().cached));
        descriptors::register(&cache);
        cache
    }

    fn bounded(bound: usize) -> Self {
        let files = LruCache::new(NonZeroUsize::new(bound).unwrap_or(NonZeroUsize::MIN));
        Self(Mutex::new(OpenDescriptors { files, period: 0 }))
    }

    /// The open file of `key`; if there is none, `open` is called, outside the lock.
    pub fn get(
        &self,
        key: FdKey,
        open: impl FnOnce() -> std::io::Result<File>,
    ) -> std::io::Result<Arc<File>> {
        if let Some(file) = self.known(key) {
            return Ok(file);
        }
        let file = Arc::new(open()?);
        // Dropped after the lock is released: closing may wait for the disk.
        let _evicted = {
            let mut open = self.0.lock();
            let read_in = open.period;
            open.files.push(key, OpenFile { file: file.clone(), read_in })
        };
        Ok(file)
    }

    fn known(&self, key: FdKey) -> Option<Arc<File>> {
        let mut open = self.0.lock();
        let period = open.period;
        let known = open.files.get_mut(&key)?;
        known.read_in = period;
        Some(known.file.clone())
    }

    /// Closes the file of `key` once its readers are done.
    pub fn forget(&self, key: FdKey) {
        let _file = self.0.lock().files.pop(&key);
    }

    /// Closes the files that were not read since the last call.
    pub fn close_idle(&self) {
        let idle: Vec<_> = {
            let mut open = self.0.lock();
            open.period += 1;
            let period = open.period;
            let files = &mut open.files;
            std::iter::from_fn(|| {
                files.peek_lru().filter(|(_, file)| file.read_in + 1 < period)?;
                files.pop_lru()
            })
            .collect()
        };
        // Dropped without the lock, as above.
        drop(idle);
    }
}

impl FileCache for FdCache {
    fn close_all(&self) {
        let files: Vec<_> = {
            let mut open = self.0.lock();
            std::iter::from_fn(|| open.files.pop_lru()).collect()
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
        assert_eq!(cache.0.lock().files.len(), MAX_OPEN);
        cache.forget((0, 0));
        assert_eq!(cache.0.lock().files.len(), MAX_OPEN - 1);
        // The file that was read since the last call stays open.
        cache.close_idle();
        cache.get((MAX_OPEN as u64, 0), || unreachable!("it is open")).unwrap();
        cache.close_idle();
        assert_eq!(cache.0.lock().files.len(), 1);
        cache.close_all();
        assert_eq!(cache.0.lock().files.len(), 0);
    }
}
