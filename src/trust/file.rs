//! `trust.yaml` on disk: read again when it changed, and changed under a lock that all processes share.
//!
//! Readers never wait: the file is replaced as a whole. A change reads the file again under the lock, so that two processes
//! that change it at the same time lose nothing. A malformed file is never overwritten.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::document::LIMITS;
use super::{TrustDocument, TrustError};
use crate::fsutil::{self, FileVersion};
use crate::paths::Paths;

/// A value that was read from a version of a file; no version is a missing file.
type VersionedValue<T> = (Option<FileVersion>, T);

/// A value that is read from a file, and read again when the file has changed.
pub(super) struct Watched<T> {
    path: PathBuf,
    seen: Mutex<Option<VersionedValue<T>>>,
}

impl<T: Clone> Watched<T> {
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: Mutex::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the value again at the next call: a file that replaces another within one tick of the clock can look the same.
    pub fn forget(&self) {
        *self.seen.lock() = None;
    }

    /// The value. `make` is called if the file has changed since the last call, or if the last value was not `lasting`, such
    /// as an error that does not come from the content. An error of `stat` counts as no file.
    pub fn get(&self, make: impl FnOnce(&Path) -> T, lasting: impl FnOnce(&T) -> bool) -> T {
        // Before the file is read: a change in between is noticed at the next call.
        let now = self.path.metadata().ok().map(|meta| FileVersion::of(&meta));
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
    /// Acquires the lock. Waits for another process for as long as a write may take.
    pub fn acquire(paths: &Paths) -> Result<Self, TrustError> {
        let path = paths.trust_lock();
        let file = fsutil::lock_file(&path).map_err(|error| failed(&path, error))?;
        Ok(Self { _file: file })
    }
}

fn failed(path: &Path, error: io::Error) -> TrustError {
    let (reason, kind) = (error.to_string(), Some(error.kind()));
    TrustError::File { path: path.to_owned(), line: None, reason, kind }
}

/// The file and its content.
pub(super) struct TrustFile {
    paths: Paths,
    watched: Watched<Result<Arc<TrustDocument>, ReadFailure>>,
}

impl TrustFile {
    pub fn new(paths: &Paths) -> Self {
        Self { paths: paths.clone(), watched: Watched::new(paths.trust()) }
    }

    pub fn exists(&self) -> bool {
        self.watched.path().exists()
    }

    /// The present content; empty without a file.
    pub fn read(&self) -> Result<Arc<TrustDocument>, TrustError> {
        let lasting = |read: &Result<_, ReadFailure>| !matches!(read, Err(ReadFailure::Failed(_)));
        self.watched.get(|path| parse(path).map(Arc::new), lasting).map_err(TrustError::from)
    }

    /// Changes the content in one step. Writes the file if the content has changed or there was no file, and not if
    /// `change` fails.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut TrustDocument) -> Result<T, TrustError>,
    ) -> Result<T, TrustError> {
        let _lock = TrustLock::acquire(&self.paths)?;
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

/// The reason why the file has no usable content.
#[derive(Debug, Clone)]
enum ReadFailure {
    /// Reading failed. The cause may be temporary.
    Failed(TrustError),
    /// The content is malformed.
    Malformed(TrustError),
}

impl From<ReadFailure> for TrustError {
    fn from(unread: ReadFailure) -> Self {
        match unread {
            ReadFailure::Failed(error) | ReadFailure::Malformed(error) => error,
        }
    }
}

fn parse(path: &Path) -> Result<TrustDocument, ReadFailure> {
    let bytes = match fsutil::read_capped(path, LIMITS.bytes as u64) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(TrustDocument::default()),
        Err(error) => return Err(ReadFailure::Failed(failed(path, error))),
    };
    TrustDocument::parse(&bytes, path).map_err(ReadFailure::Malformed)
}
