//! Open files: their limit, its division, and the handling of a shortage.
//!
//! The soft limit of many systems is 1024, or 256 where an administrator set it. The process raises its soft limit to the
//! hard limit when it starts. This limit is divided between connections, the files of the store and the files of
//! the engine; the rest is for all other uses. When a file still cannot be opened because no descriptor is free, the caches of
//! open files are emptied and the file is opened again: a temporary shortage is no fault of the file.

use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit is not raised beyond this: programs that this one starts may close every possible descriptor one by one.
const HIGHEST: u64 = 1 << 20;

/// More connections than this serve no purpose.
const MAX_CONNECTIONS: u64 = 8000;

/// More cached files than this, in the store and in the engine each, serve no purpose.
const MAX_CACHED: u64 = 1024;

/// The number of descriptors for each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Connections to peers.
    pub connections: usize,
    /// Files that the store keeps open, and as many that the engine keeps open.
    pub cached: usize,
}

impl Shares {
    /// Divides a limit on open files: one half for connections, one eighth for each cache, the last quarter for sockets,
    /// mounts, logs and files that are open for a moment.
    pub fn of(limit: u64) -> Self {
        let part = |part: u64, most: u64| usize::try_from(part.clamp(8, most)).unwrap_or(usize::MAX);
        Self { connections: part(limit / 2, MAX_CONNECTIONS), cached: part(limit / 8, MAX_CACHED) }
    }

    /// Divides the soft limit of this process.
    pub fn now() -> Self {
        Self::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }
}

/// Raises the soft limit on open files to the hard limit. Called once, before threads are started. If it fails, the
/// process continues with the old limit.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(HIGHEST).min(HIGHEST);
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        tracing::debug!(%error, "could not raise the limit on open files");
    }
}

/// Whether an operation failed because descriptors, or memory for them, are short, in this process or in the whole system.
pub fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

/// A cache that keeps files open only to save time.
pub trait FileCache: Send + Sync {
    /// FileCache the files that are not in use.
    fn close_all(&self);
}

static CACHES: Mutex<Vec<Weak<dyn FileCache>>> = Mutex::new(Vec::new());

/// Registers a cache: it is emptied whenever descriptors are short, until it is dropped.
pub fn register(cache: &Arc<impl FileCache + 'static>) {
    let weak: Weak<dyn FileCache> = Arc::downgrade(&(cache.clone() as Arc<dyn FileCache>));
    let mut caches = CACHES.lock();
    caches.retain(|cache| cache.strong_count() > 0);
    caches.push(weak);
}

/// Calls `open`; if descriptors are short, empties all caches of open files and calls it again, once.
pub fn open<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match open() {
        Err(error) if is_shortage(&error) => {
            // Not under the lock: closing a file may wait for its disk.
            let caches: Vec<_> = {
                let caches = CACHES.lock();
                caches.iter().filter_map(Weak::upgrade).collect()
            };
            caches.iter().for_each(|cache| cache.close_all());
            open()
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn shares_leave_room_below_every_limit() {
        for limit in [64, 256, 1024, 4096, 1 << 20] {
            let Shares { connections, cached } = Shares::of(limit);
            assert!((connections + 2 * cached) as u64 <= limit * 3 / 4, "{limit}");
        }
        assert_eq!(Shares::of(256), Shares { connections: 128, cached: 32 });
        assert_eq!(Shares::of(u64::MAX), Shares { connections: 8000, cached: 1024 });
    }

    #[test]
    fn shortage_empties_the_caches_and_tries_again() {
        #[derive(Default)]
        struct EmptiedCache(AtomicUsize);
        impl FileCache for EmptiedCache {
            fn close_all(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let cache = Arc::new(EmptiedCache::default());
        register(&cache);
        let emptied = || cache.0.load(Ordering::Relaxed);
        let opened = open(|| match emptied() {
            0 => Err(Errno::MFILE.into()),
            _ => Ok(7),
        });
        assert_eq!(opened.unwrap(), 7);
        let before = emptied();
        let refused = open(|| Err::<(), _>(io::Error::from(Errno::ACCESS)));
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
        assert_eq!(emptied(), before, "another error empties no cache");
    }
}
