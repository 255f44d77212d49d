//! `trust.yaml` on disk: read again when it changed, changed under a lock that all processes share.
//!
//! Readers never wait: the file is replaced as a whole. A change reads the file anew under the lock, so that two
//! processes that change it at once lose nothing. A file that cannot be understood is never overwritten.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::document::LIMITS;
use super::{Document, TrustError};
use crate::fsutil;
use crate::paths::Paths;

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// What was made of a file, and of which state of it; no state is a file that is not there.
type Seen<T> = (Option<Stamp>, T);

/// A value made of a file, and made anew when the file has changed.
pub(super) struct Watched<T> {
    path: PathBuf,
    seen: Mutex<Option<Seen<T>>>,
}

impl<T: Clone> Watched<T> {
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: Mutex::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has the value made anew: a file that replaces another within a tick of the clock can look like it.
    pub fn forget(&self) {
        *self.seen.lock() = None;
    }

    /// The value; `make` is called where the file changed since the last call, or the last value was not `lasting`, as an
    /// error that has nothing to do with the file is not. An error of `stat` counts as no file.
    pub fn get(&self, make: impl FnOnce(&Path) -> T, lasting: impl FnOnce(&T) -> bool) -> T {
        // Before the file is read: a change in between is seen the next time.
        let now = self.path.metadata().ok().map(|meta| Stamp::of(&meta));
        let mut seen = self.seen.lock();
        if let Some((_, value)) = seen.as_ref().filter(|(then, _)| *then == now) {
            return value.clone();
        }
        let value = make(&self.path);
        *seen = lasting(&value).then(|| (now, value.clone()));
        value
    }
}

/// The lock on `trust.yaml` and on the keys that belong to it, held until dropped.
#[derive(Debug)]
pub(crate) struct TrustLock {
    _file: File,
}

impl TrustLock {
    /// Takes it, waiting for another process for as long as a write may take.
    pub fn take(paths: &Paths) -> Result<Self, TrustError> {
        let path = paths.trust_lock();
        let file = fsutil::lock_file(&path).map_err(|error| failed(&path, error))?;
        Ok(Self { _file: file })
    }
}

fn failed(path: &Path, error: io::Error) -> TrustError {
    TrustError::File { path: path.to_owned(), line: None, reason: error.to_string() }
}

/// The file, and what it says.
pub(super) struct TrustFile {
    paths: Paths,
    watched: Watched<Result<Arc<Document>, Unread>>,
}

impl TrustFile {
    pub fn new(paths: &Paths) -> Self {
        Self { paths: paths.clone(), watched: Watched::new(paths.trust()) }
    }

    pub fn exists(&self) -> bool {
        self.watched.path().exists()
    }

    /// What the file says now; nothing where there is none.
    pub fn read(&self) -> Result<Arc<Document>, TrustError> {
        let lasting = |read: &Result<_, Unread>| !matches!(read, Err(Unread::Failed(_)));
        self.watched.get(|path| parse(path).map(Arc::new), lasting).map_err(TrustError::from)
    }

    /// Changes what the file says, as one step. It is written where it changed or was not there, and not where
    /// `change` fails.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut Document) -> Result<T, TrustError>,
    ) -> Result<T, TrustError> {
        let _lock = TrustLock::take(&self.paths)?;
        let path = self.watched.path();
        let before = parse(path)?;
        let mut document = before.clone();
        let done = change(&mut document)?;
        if document != before || !path.exists() {
            let text = document.to_text().map_err(|e| failed(path, io::Error::other(e)))?;
            fsutil::write_atomic(path, text.as_bytes(), fsutil::MODE_PRIVATE).map_err(|e| failed(path, e))?;
            self.watched.forget();
        }
        Ok(done)
    }
}

/// Why the file says nothing.
#[derive(Debug, Clone)]
enum Unread {
    /// The system did not let it be read: that may pass without a change of the file.
    Failed(TrustError),
    /// It cannot be understood.
    Wrong(TrustError),
}

impl From<Unread> for TrustError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Failed(error) | Unread::Wrong(error) => error,
        }
    }
}

fn parse(path: &Path) -> Result<Document, Unread> {
    let bytes = match fsutil::read_capped(path, LIMITS.bytes as u64) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Document::default()),
        Err(error) => return Err(Unread::Failed(failed(path, error))),
    };
    Document::parse(&bytes, path).map_err(Unread::Wrong)
}
