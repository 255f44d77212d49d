//! Receives a body: one thread hashes and writes bytes while the next bytes are received.

use std::pin::pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::task::JoinHandle;

use crate::http::HttpError;
use crate::mirror::MirrorError;
use crate::mirror::part::{Part, PartError};
use crate::mirror::progress::FileGuard;

/// Largest number of received bytes that wait for the disk.
const MAX_WAITING: usize = 4 << 20;

/// The result of receiving a body.
pub(super) struct Received {
    /// The part with the received bytes.
    pub part: Part,
    /// The entity tag of the part.
    pub etag: Option<String>,
    pub end: BodyEnd,
}

/// How a body ended.
pub(super) enum BodyEnd {
    /// The server ended it, with or without all bytes.
    Ended,
    /// It failed, perhaps temporarily.
    Failed(MirrorError),
    /// The server cannot send the requested range.
    NoRange(MirrorError),
    /// The bytes do not match the file.
    Damaged(String),
}

/// A write on another thread. It returns the part together with the result.
type RunningWrite = JoinHandle<(Part, Result<(), PartError>)>;

/// Writes to a part on another thread.
pub(super) struct PartWriter {
    /// The part while no write runs.
    idle: Option<Part>,
    running: Option<RunningWrite>,
    /// Bytes of the part before this writer.
    begun: u64,
}

impl PartWriter {
    pub fn new(part: Part) -> Self {
        Self { begun: part.len(), idle: Some(part), running: None }
    }

    /// The part. Fails if a write runs, or panicked.
    pub fn into_part(self) -> Result<Part, MirrorError> {
        self.idle.ok_or(MirrorError::Cancelled)
    }

    /// Writes a body while it is received, and waits until all is written. Returns the number of received bytes, and how
    /// the body ended or the error of a write.
    pub async fn write_body(
        &mut self,
        body: impl Stream<Item = Result<Bytes, MirrorError>>,
        shown: &FileGuard<'_>,
    ) -> Result<(u64, Result<BodyEnd, PartError>), MirrorError> {
        let (mut waiting, mut len, mut received) = (Vec::new(), 0, 0);
        let mut body = pin!(body);
        let end = loop {
            match body.next().await {
                Some(Ok(bytes)) => {
                    received += bytes.len() as u64;
                    len += bytes.len();
                    shown.set(self.begun + received);
                    waiting.push(bytes);
                }
                None => break BodyEnd::Ended,
                Some(Err(error)) if lacks_range(&error) => break BodyEnd::NoRange(error),
                Some(Err(error)) => break BodyEnd::Failed(error),
            }
            if !self.is_running() || len >= MAX_WAITING {
                len = 0;
                if let Err(error) = self.write(std::mem::take(&mut waiting)).await? {
                    return Ok((received, Err(error)));
                }
            }
        };
        let written = match self.write(waiting).await? {
            Ok(()) => self.wait().await?,
            failed => failed,
        };
        Ok((received, written.map(|()| end)))
    }

    fn is_running(&self) -> bool {
        self.running.as_ref().is_some_and(|write| !write.is_finished())
    }

    /// Waits for the running write and returns its result.
    async fn wait(&mut self) -> Result<Result<(), PartError>, MirrorError> {
        let Some(write) = self.running.take() else { return Ok(Ok(())) };
        let (part, written) = write.await.map_err(|_| MirrorError::Cancelled)?;
        self.idle = Some(part);
        Ok(written)
    }

    /// Waits for the running write, then starts another one. Returns the result of the former.
    async fn write(&mut self, buffers: Vec<Bytes>) -> Result<Result<(), PartError>, MirrorError> {
        if let Err(error) = self.wait().await? {
            return Ok(Err(error));
        }
        let Some(mut part) = self.idle.take() else { return Err(MirrorError::Cancelled) };
        self.running = Some(tokio::task::spawn_blocking(move || {
            let written = part.write(&buffers);
            (part, written)
        }));
        Ok(Ok(()))
    }
}

/// Whether a server refused a request because of its range.
pub(super) fn lacks_range(error: &MirrorError) -> bool {
    match error {
        MirrorError::Http(HttpError::WrongRange { .. }) => true,
        MirrorError::Http(error) => error.status().is_some_and(|status| status.as_u16() == 416),
        _ => false,
    }
}
