//! The bytes of a file as the body of a response: each part is sent as soon as it is proved.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures_util::stream::{self, Stream, StreamExt as _};
use hyper::body::Bytes;
use parking_lot::Mutex;

use super::ModelSource;
use crate::fetch::{Fetch, FileRef, ReadError};
use crate::model::{GRANULE_LEN, InfoHash};

/// The most bytes of one part. One part of each body is in memory.
const MAX_PART: u64 = 1 << 20;
/// How long the first part may take before the status is sent: until then a failure gets a status of its own.
const STATUS_WITHIN: Duration = Duration::from_secs(3);

/// Reads files for bodies.
pub struct Bodies {
    models: Arc<dyn ModelSource>,
    fetch: Arc<Fetch>,
    runtime: tokio::runtime::Handle,
    /// How many bodies read each file.
    open: Mutex<HashMap<(InfoHash, usize), usize>>,
}

impl Bodies {
    /// Reads from `fetch`, bytes that are not stored only while `models` shows the model. Must be called inside the runtime of
    /// the daemon.
    pub fn new(models: Arc<dyn ModelSource>, fetch: Arc<Fetch>) -> Arc<Self> {
        let runtime = tokio::runtime::Handle::current();
        Arc::new(Self { models, fetch, runtime, open: Mutex::default() })
    }

    /// The first bytes of a file, at most `len`.
    pub async fn start_of(&self, file: &FileRef, len: u64) -> Result<Vec<u8>, ReadError> {
        self.read_part(file, 0, len).await
    }

    async fn read_part(&self, file: &FileRef, at: u64, len: u64) -> Result<Vec<u8>, ReadError> {
        let is_shown = || file.present().is_some_and(|file| self.models.is_shown(&file.revision));
        self.fetch.read_while(file, at, len, &is_shown).await
    }

    /// Number of bodies that are being sent.
    pub fn count(&self) -> usize {
        self.open.lock().values().sum()
    }

    /// The bytes of a file in a range that is within it. Waits a moment for the first part, and fails if that fails.
    /// Dropping the body cancels the reading.
    pub async fn read(
        self: &Arc<Self>,
        file: FileRef,
        range: std::ops::Range<u64>,
    ) -> Result<Body, ReadError> {
        self.fetch.opened(&file);
        let parts = self.parts(file, range).peekable();
        let mut parts = Box::pin(parts);
        let first = tokio::time::timeout(STATUS_WITHIN, parts.as_mut().peek()).await;
        if let Ok(Some(Err(error))) = first {
            return Err(error.clone());
        }
        Ok(Body::from_stream(parts.map(|part| part.map_err(io::Error::other))))
    }

    fn parts(
        self: &Arc<Self>,
        file: FileRef,
        range: std::ops::Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, ReadError>> + Send + use<> {
        let reader = BodyFile::new(self, file);
        stream::unfold(Some((reader, range.start)), move |state| async move {
            let (reader, at) = state.filter(|(_, at)| *at < range.end)?;
            let len = reader.next_len(at, range.end);
            match reader.bodies.read_part(&reader.file, at, len).await {
                Ok(bytes) if bytes.len() as u64 == len => Some((Ok(bytes.into()), Some((reader, at + len)))),
                Ok(_) => {
                    let text = "too few bytes were read".to_owned();
                    Some((Err(ReadError::Disk(text, std::io::ErrorKind::UnexpectedEof)), None))
                }
                Err(error) => {
                    let manifest = &reader.file.revision.manifest;
                    let path = &manifest.files[reader.file.file].path;
                    tracing::warn!(model = %manifest.name, path, offset = at, %error, "a read for a client failed");
                    Some((Err(error), None))
                }
            }
        })
    }
}

/// A file that a body reads.
struct BodyFile {
    bodies: Arc<Bodies>,
    file: FileRef,
}

impl BodyFile {
    fn new(bodies: &Arc<Bodies>, file: FileRef) -> Self {
        *bodies.open.lock().entry(Self::key(&file)).or_default() += 1;
        Self { bodies: bodies.clone(), file }
    }

    fn key(file: &FileRef) -> (InfoHash, usize) {
        (file.revision.manifest.torrent.info_hash, file.file)
    }

    /// The length of the next part: as many bytes as are verified, otherwise the rest of the granule.
    fn next_len(&self, at: u64, end: u64) -> u64 {
        let most = end.min(at.saturating_add(MAX_PART));
        if self.file.revision.contents[self.file.file].has(at..most) {
            return most - at;
        }
        most.min((at / GRANULE_LEN + 1) * GRANULE_LEN) - at
    }
}

impl Drop for BodyFile {
    fn drop(&mut self) {
        let is_last = {
            let mut open = self.bodies.open.lock();
            let key = Self::key(&self.file);
            let left = open.get(&key).map_or(0, |count| count.saturating_sub(1));
            if left == 0 {
                open.remove(&key);
            } else {
                open.insert(key, left);
            }
            left == 0
        };
        if is_last {
            // The scheduler may start tasks and timers.
            let _inside = self.bodies.runtime.enter();
            self.bodies.fetch.released(&self.file);
        }
    }
}
