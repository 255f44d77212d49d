//! Taking in a body: while one thread hashes and writes what came, the next bytes come.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::{Run, Want};
use crate::http::HttpError;
use crate::mirror::MirrorError;
use crate::mirror::error::FileProblem;
use crate::mirror::part::{Part, PartError};
use crate::mirror::progress::FileGuard;
use crate::mirror::source::Body;

/// The most bytes that wait for the disk.
const MAX_WAITING: usize = 4 << 20;

/// What came.
pub(super) struct Received {
    /// The part, with what came.
    pub part: Part,
    /// The state of the server's that it is of.
    pub etag: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a body ended.
pub(super) enum Outcome {
    /// By itself.
    Ended,
    /// By an error that may pass.
    Failed(MirrorError),
    /// The server cannot send the rest.
    NoRange(MirrorError),
    /// It is not that of the file.
    Damaged(String),
}

type Writing = JoinHandle<(Part, Result<(), PartError>)>;

/// A part that is being written to, or not.
struct Writer {
    idle: Option<Part>,
    busy: Option<Writing>,
}

impl Writer {
    fn is_busy(&self) -> bool {
        self.busy.as_ref().is_some_and(|writing| !writing.is_finished())
    }

    /// Has the part back, with what was written.
    async fn wait(&mut self) -> Result<Result<(), PartError>, MirrorError> {
        let Some(writing) = self.busy.take() else { return Ok(Ok(())) };
        let (part, written) = writing.await.map_err(|_| MirrorError::Cancelled)?;
        self.idle = Some(part);
        Ok(written)
    }

    async fn write(&mut self, buffers: Vec<Bytes>) -> Result<Result<(), PartError>, MirrorError> {
        if let Err(error) = self.wait().await? {
            return Ok(Err(error));
        }
        let Some(mut part) = self.idle.take() else { return Err(MirrorError::Cancelled) };
        self.busy = Some(tokio::task::spawn_blocking(move || {
            let written = part.write(&buffers);
            (part, written)
        }));
        Ok(Ok(()))
    }
}

impl Run<'_> {
    /// Asks for the rest of a file and takes it in. An error is one that ends everything.
    pub(super) async fn receive(
        &self,
        want: &Want,
        mut part: Part,
        etag: Option<&str>,
        shown: &FileGuard<'_>,
    ) -> Result<Received, MirrorError> {
        let file = &want.file;
        let from = part.len();
        let opened = match self.open(want, from, etag).await {
            Ok(opened) => opened,
            Err(error) => {
                let outcome = match error {
                    MirrorError::File { reason: FileProblem::Damaged(why), .. } => Outcome::Damaged(why),
                    error if from > 0 && lacks_range(&error) => Outcome::NoRange(error),
                    error => Outcome::Failed(error),
                };
                return Ok(Received { part, etag: etag.map(str::to_owned), outcome });
            }
        };
        let path = crate::mirror::journal::part_path(self.job.staging, &file.identity);
        if opened.from != from {
            part = self.start_over(part, &path).await?;
        }
        if let Some(etag) = opened.etag.as_deref().filter(|_| opened.from == 0) {
            self.journal.part(file.identity, etag).map_err(|e| self.disk_failed(self.journal.path(), e))?;
        }
        let begun = part.len();
        let mut writer = Writer { idle: Some(part), busy: None };
        let (came, outcome) = self.pump(opened.body, &mut writer, begun, shown).await?;
        self.fetched.fetch_add(came, Ordering::Relaxed);
        let Some(part) = writer.idle.take() else { return Err(MirrorError::Cancelled) };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(PartError::Damaged(why)) => Outcome::Damaged(why),
            Err(PartError::Io(error)) => return Err(self.disk_failed(&path, error)),
        };
        Ok(Received { part, etag: opened.etag, outcome })
    }

    /// Writes a body as it comes. Afterwards the writer is idle. Returns how many bytes came, and how it ended.
    async fn pump(
        &self,
        mut body: Body,
        writer: &mut Writer,
        begun: u64,
        shown: &FileGuard<'_>,
    ) -> Result<(u64, Result<Outcome, PartError>), MirrorError> {
        let (mut waiting, mut len, mut came) = (Vec::new(), 0, 0);
        let ended = loop {
            match body.next().await {
                Ok(Some(bytes)) => {
                    came += bytes.len() as u64;
                    len += bytes.len();
                    shown.at(begun + came);
                    waiting.push(bytes);
                }
                Ok(None) => break Outcome::Ended,
                Err(error) => break Outcome::Failed(error),
            }
            if !writer.is_busy() || len >= MAX_WAITING {
                len = 0;
                if let Err(error) = writer.write(std::mem::take(&mut waiting)).await? {
                    return Ok((came, Err(error)));
                }
            }
        };
        let written = match writer.write(waiting).await? {
            Ok(()) => writer.wait().await?,
            failed => failed,
        };
        Ok((came, written.map(|()| ended)))
    }
}

/// Whether a server refused because of the range that it was asked for.
fn lacks_range(error: &MirrorError) -> bool {
    match error {
        MirrorError::Http(HttpError::WrongRange { .. }) => true,
        MirrorError::Http(error) => error.status().is_some_and(|status| status.as_u16() == 416),
        _ => false,
    }
}
