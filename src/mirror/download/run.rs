//! A running download: several workers take contents from one queue.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::job::{DownloadJob, PlannedFile, free_space};
use super::plan::{self, ContentTask, DownloadPlan};
use super::ranges;
use super::receive::{BodyEnd, PartWriter, Received, lacks_range};
use crate::http::HttpError;
use crate::mirror::error::FileProblem;
use crate::mirror::journal::{StagingJournal, part_path};
use crate::mirror::part::{Part, PartError};
use crate::mirror::progress::{FileGuard, ProgressBoard};
use crate::mirror::retry::Retries;
use crate::mirror::source::{FileBody, OpenedFile, RemoteFile, RepositorySource};
use crate::mirror::{Identity, MirrorError, blocking};
use crate::model::hash::FileHashes;

/// The state that the workers of a download share.
pub(super) struct Download<'a> {
    source: &'a dyn RepositorySource,
    job: &'a DownloadJob<'a>,
    board: &'a ProgressBoard,
    journal: Arc<StagingJournal>,
    etags: HashMap<Identity, String>,
    queue: Mutex<VecDeque<ContentTask>>,
    hashes: Mutex<HashMap<String, FileHashes>>,
    /// Bytes received from the source.
    pub(super) fetched: AtomicU64,
    /// Contents that are not complete, from which the missing space is computed.
    unfinished: Mutex<HashMap<Identity, RemoteFile>>,
    /// Whether the source does not send ranges after all.
    no_ranges: AtomicBool,
}

impl<'a> Download<'a> {
    pub fn new(
        source: &'a dyn RepositorySource,
        job: &'a DownloadJob<'a>,
        board: &'a ProgressBoard,
        plan: DownloadPlan,
    ) -> Self {
        let DownloadPlan { journal, etags, done, tasks } = plan;
        board.add_done(done.values().map(|hashes| hashes.metadata.len()).sum());
        let unfinished = tasks.iter().filter(|task| task.ready.is_none()).map(|task| &task.file.remote);
        let unfinished = unfinished.map(|file| (file.identity, file.clone())).collect();
        Self {
            source,
            job,
            board,
            journal: Arc::new(journal),
            etags,
            queue: Mutex::new(tasks),
            hashes: Mutex::new(done),
            fetched: AtomicU64::new(0),
            unfinished: Mutex::new(unfinished),
            no_ranges: AtomicBool::new(false),
        }
    }

    /// The hashes of all files by path, and the number of bytes received from the source.
    pub fn into_results(self) -> (HashMap<String, FileHashes>, u64) {
        (self.hashes.into_inner(), self.fetched.into_inner())
    }

    fn next_task(&self) -> Option<ContentTask> {
        self.queue.lock().pop_front()
    }

    /// Bytes that remain to be written.
    pub fn needed(&self) -> u64 {
        plan::needed(self.job, self.unfinished.lock().values())
    }

    /// One worker: processes tasks until the queue is empty.
    pub async fn work(&self) -> Result<(), MirrorError> {
        while let Some(task) = self.next_task() {
            let size = task.file.remote.size;
            let (at, hashes) = self.obtain(&task).await?;
            self.unfinished.lock().remove(&task.file.remote.identity);
            let copies = task.paths.len() as u64 - 1;
            let (journal, staging) = (self.journal.clone(), self.job.staging.to_owned());
            let placed =
                blocking::run(move |_| plan::place_content(&journal, &staging, &task, at, hashes)).await??;
            self.board.add_done(size * copies);
            self.hashes.lock().extend(placed);
        }
        Ok(())
    }

    /// Obtains a complete content in the staging directory: from an earlier run, from a local copy, or from the source.
    async fn obtain(&self, task: &ContentTask) -> Result<(PathBuf, FileHashes), MirrorError> {
        let file = &task.file.remote;
        if let Some((at, hashes)) = &task.ready {
            self.board.add_done(file.size);
            return Ok((at.clone(), hashes.clone()));
        }
        let part = part_path(self.job.staging, &file.identity);
        if let Some(local) = (self.job.have)(file) {
            let (target, identity, size, piece_length) =
                (part.clone(), file.identity, file.size, self.job.piece_length);
            let copy = move |_: &_| plan::copy_local(&local, &target, identity, size, piece_length);
            let copied = blocking::run(copy).await?.map_err(|error| self.disk_failed(&part, error))?;
            if let Some(hashes) = copied {
                self.board.add_done(size);
                return Ok((part, hashes));
            }
        }
        let shown = self.board.file(&file.path, file.size);
        let hashes = self.fetch(&task.file, &part, &shown).await?;
        shown.finish(file.size);
        Ok((part, hashes))
    }

    /// Fetches a file. Repeats temporary failures, and fetches a damaged file once more.
    async fn fetch(
        &self,
        planned: &PlannedFile,
        path: &Path,
        shown: &FileGuard<'_>,
    ) -> Result<FileHashes, MirrorError> {
        let file = &planned.remote;
        let mode = if file.executable { 0o777 } else { 0o666 };
        let mut retries = Retries::new(self.board);
        let mut etag = self.etags.get(&file.identity).cloned();
        let mut part = self.open_part(file, path).await?;
        let mut damaged_before = false;
        let mut best = part.len();
        loop {
            shown.set(part.len());
            let damage = if part.is_full() {
                match blocking::run(move |_| part.finish(mode)).await? {
                    Ok(hashes) => return Ok(hashes),
                    Err(PartError::Io(error)) => return Err(self.disk_failed(path, error)),
                    Err(PartError::Damaged(why)) => why,
                }
            } else {
                let received = self.receive(planned, part, etag.as_deref(), shown).await?;
                (part, etag) = (received.part, received.etag);
                if part.len() > best {
                    best = part.len();
                    retries.progressed();
                }
                match received.end {
                    BodyEnd::Damaged(why) => why,
                    BodyEnd::Ended if part.is_full() => continue,
                    BodyEnd::Ended => {
                        let why = format!("it ended after {} of {} bytes", part.len(), file.size);
                        retries.wait_anyway(MirrorError::file(&file.path, FileProblem::Damaged(why))).await?;
                        continue;
                    }
                    BodyEnd::Failed(error) => {
                        retries.wait(error).await.map_err(|error| with_path(file, error))?;
                        continue;
                    }
                    BodyEnd::NoRange(error) => {
                        (part, etag) = (self.start_over(part, path).await?, None);
                        retries.wait_anyway(error).await.map_err(|error| with_path(file, error))?;
                        continue;
                    }
                }
            };
            let again = self.open_part(file, path).await?;
            part = self.start_over(again, path).await?;
            (etag, best) = (None, 0);
            if damaged_before {
                return Err(MirrorError::file(&file.path, FileProblem::Damaged(damage)));
            }
            damaged_before = true;
            let path = crate::model::text::clean(&file.path);
            tracing::warn!(%path, %damage, "fetching a damaged file once more");
        }
    }

    /// Requests the rest of a file and appends it to the part. Returns an error only if the whole download must end.
    async fn receive(
        &self,
        planned: &PlannedFile,
        mut part: Part,
        etag: Option<&str>,
        shown: &FileGuard<'_>,
    ) -> Result<Received, MirrorError> {
        let file = &planned.remote;
        let from = part.len();
        if planned.pointer.is_none()
            && self.source.sends_ranges()
            && !self.no_ranges.load(Ordering::Relaxed)
            && file.size - from >= ranges::MIN
        {
            return self.receive_ranges(file, part, shown).await;
        }
        let opened = match self.open(planned, from, etag).await {
            Ok(opened) => opened,
            Err(error) => {
                let end = match error {
                    MirrorError::File { reason: FileProblem::Damaged(why), .. } => BodyEnd::Damaged(why),
                    error if from > 0 && lacks_range(&error) => BodyEnd::NoRange(error),
                    error => BodyEnd::Failed(error),
                };
                return Ok(Received { part, etag: etag.map(str::to_owned), end });
            }
        };
        let path = part_path(self.job.staging, &file.identity);
        if opened.from != from {
            part = self.start_over(part, &path).await?;
        }
        if let Some(etag) = opened.etag.as_deref().filter(|_| opened.from == 0) {
            self.journal.part(file.identity, etag).map_err(|e| self.disk_failed(self.journal.path(), e))?;
        }
        let mut writer = PartWriter::new(part);
        let (received, written) = writer.write_body(opened.body.into_stream(), shown).await?;
        self.fetched.fetch_add(received, Ordering::Relaxed);
        let part = writer.into_part()?;
        let end = match written {
            Ok(end) => end,
            Err(PartError::Damaged(why)) => BodyEnd::Damaged(why),
            Err(PartError::Io(error)) => return Err(self.disk_failed(&path, error)),
        };
        Ok(Received { part, etag: opened.etag, end })
    }

    /// [`Self::receive`] with several ranges at the same time.
    async fn receive_ranges(
        &self,
        file: &RemoteFile,
        part: Part,
        shown: &FileGuard<'_>,
    ) -> Result<Received, MirrorError> {
        let body = ranges::of(self.source, file, part.len());
        let mut writer = PartWriter::new(part);
        let (received, written) = writer.write_body(body, shown).await?;
        self.fetched.fetch_add(received, Ordering::Relaxed);
        let part = writer.into_part()?;
        let end = match written {
            Ok(BodyEnd::NoRange(error)) => {
                self.no_ranges.store(true, Ordering::Relaxed);
                BodyEnd::NoRange(error)
            }
            Ok(BodyEnd::Failed(MirrorError::File { reason: FileProblem::Damaged(why), .. })) => {
                BodyEnd::Damaged(why)
            }
            Ok(end) => end,
            Err(PartError::Damaged(why)) => BodyEnd::Damaged(why),
            Err(PartError::Io(error)) => {
                return Err(self.disk_failed(&part_path(self.job.staging, &file.identity), error));
            }
        };
        Ok(Received { part, etag: None, end })
    }

    async fn open_part(&self, file: &RemoteFile, path: &Path) -> Result<Part, MirrorError> {
        let (target, identity, size, piece_length) =
            (path.to_owned(), file.identity, file.size, self.job.piece_length);
        let open = move |cancel: &Arc<AtomicBool>| Part::open(&target, identity, size, piece_length, cancel);
        blocking::run(open).await?.map_err(|error| self.disk_failed(path, error))
    }

    async fn start_over(&self, mut part: Part, path: &Path) -> Result<Part, MirrorError> {
        let again = move || part.start_over().map(|()| part);
        blocking::run(move |_| again()).await?.map_err(|error| self.disk_failed(path, error))
    }

    async fn open(
        &self,
        planned: &PlannedFile,
        from: u64,
        etag: Option<&str>,
    ) -> Result<OpenedFile, MirrorError> {
        match &planned.pointer {
            Some(bytes) => Ok(OpenedFile { from: 0, etag: None, body: FileBody::Whole(Some(bytes.clone())) }),
            None => self.source.open(&planned.remote, from, etag).await,
        }
    }

    /// The error for a failure of the disk. If the disk is full, it has the missing space.
    pub(super) fn disk_failed(&self, path: &Path, source: std::io::Error) -> MirrorError {
        if source.kind() == std::io::ErrorKind::StorageFull {
            let needed = self.needed().max(1);
            let free = free_space(self.job.staging).unwrap_or(0);
            let path = self.job.staging.to_owned();
            return MirrorError::NoSpace { path, needed, free, source: Some(source) };
        }
        MirrorError::Io { path: path.to_owned(), source }
    }
}

/// Adds the path of the file to an HTTP error that concerns only this file.
fn with_path(file: &RemoteFile, error: MirrorError) -> MirrorError {
    match error {
        MirrorError::Http(
            error @ (HttpError::Stalled { .. }
            | HttpError::Cut { .. }
            | HttpError::TooLong { .. }
            | HttpError::WrongRange { .. }),
        ) => MirrorError::file(&file.path, FileProblem::Http(error)),
        MirrorError::LinkExpired(error) => MirrorError::file(&file.path, FileProblem::Http(*error)),
        other => other,
    }
}
