//! All files of a commit, brought into a staging directory.
//!
//! Complete files stand in `tree/`, under their paths; what is not complete in `parts/`, under what it must hash to; the
//! journal remembers both. Each content is fetched once, several at a time. Dropping the future stops all soon; what came is
//! there for the next run.

mod plan;
mod receive;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use futures_util::future::try_join_all;
use parking_lot::{Mutex, MutexGuard};

use super::error::FileProblem;
use super::journal::{Journal, part_path};
use super::part::{Part, PartError};
use super::progress::{Board, FileGuard};
use super::retry::Retries;
use super::source::{Body, Opened, RemoteFile, Snapshot, Source};
use super::{GitOid, Identity, MirrorError, blocking};
use crate::http::HttpError;
use crate::model::files::{FilesError, MAX_PIECES};
use crate::model::hash::FileHashes;
use plan::{Plan, Task};
use receive::Outcome;

/// A copy of a file that is here already, verified.
#[derive(Debug, Clone)]
pub struct Local {
    /// Where it is.
    pub path: PathBuf,
    /// Its hashes, and how it looked when they were computed.
    pub hashes: FileHashes,
    /// Whether it is ours, and may become one file with the new one where the disk cannot share extents.
    pub ours: bool,
}

/// How to download.
pub struct Job<'a> {
    /// Where to collect; kept for the next run unless the caller removes it. One download at a time.
    pub staging: &'a Path,
    /// Bytes a piece of the torrent to come.
    pub piece_length: u32,
    /// Whether LFS pointers are written in place of their files.
    pub skip_lfs: bool,
    /// Finds a copy that is here.
    pub have: &'a (dyn Fn(&RemoteFile) -> Option<Local> + Send + Sync),
    /// How many files at a time; at least one.
    pub parallel: usize,
    /// Bytes of the file system that stay free.
    pub min_free: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Downloaded {
    /// The directory of the files; it may be renamed.
    pub dir: PathBuf,
    /// The hashes of every file by path, good for as long as it is not written to.
    pub hashes: HashMap<String, FileHashes>,
    /// The files whose LFS pointers stand in their places.
    pub pointers: Vec<String>,
    /// Bytes that came from the source in this run.
    pub fetched: u64,
}

/// Downloads the files of a snapshot that `source` gave.
pub async fn download(
    source: &dyn Source,
    snapshot: &Snapshot,
    job: Job<'_>,
    board: &Board,
) -> Result<Downloaded, MirrorError> {
    check_pieces(source, snapshot, &job)?;
    let wants = wants(source, snapshot, job.skip_lfs).await?;
    let pointers =
        wants.iter().filter(|want| want.pointer.is_some()).map(|want| want.file.path.clone()).collect();
    board.begin(wants.iter().map(|want| want.file.size).sum());
    let staging = job.staging.to_owned();
    let piece_length = job.piece_length;
    let plan = blocking::run(move |_| Plan::make(&staging, wants, piece_length)).await??;
    let run = Run::new(source, &job, board, plan);
    check_space(&job, run.needed())?;
    try_join_all((0..job.parallel.max(1)).map(|_| run.work())).await?;
    let hashes = run.hashes.into_inner();
    let fetched = run.fetched.into_inner();
    Ok(Downloaded { dir: job.staging.join("tree"), hashes, pointers, fetched })
}

/// A file to bring.
#[derive(Debug, Clone)]
struct Want {
    /// The file, or its pointer.
    file: RemoteFile,
    /// The bytes, where they are a pointer.
    pointer: Option<bytes::Bytes>,
}

/// The files to bring; of those in LFS the pointers, where they are to be skipped.
async fn wants(source: &dyn Source, snapshot: &Snapshot, skip_lfs: bool) -> Result<Vec<Want>, MirrorError> {
    let mut wants = Vec::with_capacity(snapshot.files.len());
    for file in &snapshot.files {
        let mut want = Want { file: file.clone(), pointer: None };
        if let Some(pointer) = file.pointer().filter(|_| skip_lfs) {
            let bytes = source.pointer(file).await?.unwrap_or_else(|| pointer.to_string().into_bytes());
            if GitOid::of_blob(&bytes) != file.blob {
                return Err(MirrorError::file(&file.path, FileProblem::Pointer));
            }
            (want.file.size, want.file.identity) = (bytes.len() as u64, Identity::Git(file.blob));
            want.pointer = Some(bytes.into());
        }
        wants.push(want);
    }
    Ok(wants)
}

/// Refuses before it is fetched what could not be shared afterwards.
fn check_pieces(source: &dyn Source, snapshot: &Snapshot, job: &Job<'_>) -> Result<(), MirrorError> {
    let piece_length = job.piece_length;
    let pieces = snapshot.files.iter().map(|file| file.size.div_ceil(u64::from(piece_length))).sum();
    if pieces > MAX_PIECES && !job.skip_lfs {
        let repository = source.describe(snapshot.commit).url.unwrap_or_else(|| "the repository".to_owned());
        let source = FilesError::TooManyPieces { pieces, piece_length };
        return Err(MirrorError::Files { repository, source });
    }
    Ok(())
}

/// Free bytes of the file system that holds a directory.
fn free_space(dir: &Path) -> Result<u64, MirrorError> {
    let stat = rustix::fs::statvfs(dir).map_err(|e| MirrorError::io(dir)(e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn check_space(job: &Job<'_>, needed: u64) -> Result<(), MirrorError> {
    let free = free_space(job.staging)?.saturating_sub(job.min_free);
    if needed > free {
        return Err(MirrorError::NoSpace { path: job.staging.to_owned(), needed, free });
    }
    Ok(())
}

/// What the workers of a download share.
struct Run<'a> {
    source: &'a dyn Source,
    job: &'a Job<'a>,
    board: &'a Board,
    journal: Arc<Journal>,
    etags: HashMap<Identity, String>,
    queue: Mutex<VecDeque<Task>>,
    hashes: Mutex<HashMap<String, FileHashes>>,
    fetched: AtomicU64,
    /// Contents that are not complete, for who asks how much the disk lacks.
    unfinished: Mutex<HashMap<Identity, RemoteFile>>,
}

impl<'a> Run<'a> {
    fn new(source: &'a dyn Source, job: &'a Job<'a>, board: &'a Board, plan: Plan) -> Self {
        let Plan { journal, etags, done, tasks } = plan;
        board.add_done(done.values().map(|hashes| hashes.metadata.len()).sum());
        let unfinished = tasks.iter().filter(|task| task.ready.is_none()).map(|task| &task.want.file);
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
        }
    }

    fn next(&self) -> Option<Task> {
        self.queue.lock().pop_front()
    }

    fn unfinished(&self) -> MutexGuard<'_, HashMap<Identity, RemoteFile>> {
        self.unfinished.lock()
    }

    /// Bytes still to be written.
    fn needed(&self) -> u64 {
        plan::needed(self.job, self.unfinished().values())
    }

    async fn work(&self) -> Result<(), MirrorError> {
        while let Some(task) = self.next() {
            let size = task.want.file.size;
            let (at, hashes) = self.obtain(&task).await?;
            self.unfinished().remove(&task.want.file.identity);
            let copies = task.paths.len() as u64 - 1;
            let (journal, staging) = (self.journal.clone(), self.job.staging.to_owned());
            let placed = blocking::run(move |_| plan::place(&journal, &staging, &task, at, hashes)).await??;
            self.board.add_done(size * copies);
            self.hashes.lock().extend(placed);
        }
        Ok(())
    }

    /// Has a content somewhere below the staging directory, complete.
    async fn obtain(&self, task: &Task) -> Result<(PathBuf, FileHashes), MirrorError> {
        let file = &task.want.file;
        if let Some((at, hashes)) = &task.ready {
            self.board.add_done(file.size);
            return Ok((at.clone(), hashes.clone()));
        }
        let part = part_path(self.job.staging, &file.identity);
        if let Some(local) = (self.job.have)(file) {
            let (target, identity, size, piece_length) =
                (part.clone(), file.identity, file.size, self.job.piece_length);
            let take = move |_: &_| plan::take_local(&local, &target, identity, size, piece_length);
            let taken = blocking::run(take).await?.map_err(|error| self.disk_failed(&part, error))?;
            if let Some(hashes) = taken {
                self.board.add_done(size);
                return Ok((part, hashes));
            }
        }
        let shown = self.board.file(&file.path, file.size);
        let hashes = self.fetch(&task.want, &part, &shown).await?;
        shown.finish(file.size);
        Ok((part, hashes))
    }

    /// Fetches a file, however often it takes within reason.
    async fn fetch(
        &self,
        want: &Want,
        path: &Path,
        shown: &FileGuard<'_>,
    ) -> Result<FileHashes, MirrorError> {
        let file = &want.file;
        let mode = if file.executable { 0o777 } else { 0o666 };
        let mut retries = Retries::new(self.board);
        let mut etag = self.etags.get(&file.identity).cloned();
        let mut part = self.open_part(file, path).await?;
        let mut damaged_before = false;
        let mut best = part.len();
        loop {
            shown.at(part.len());
            let damage = if part.is_full() {
                match blocking::run(move |_| part.finish(mode)).await? {
                    Ok(hashes) => return Ok(hashes),
                    Err(PartError::Io(error)) => return Err(self.disk_failed(path, error)),
                    Err(PartError::Damaged(why)) => why,
                }
            } else {
                let received = self.receive(want, part, etag.as_deref(), shown).await?;
                (part, etag) = (received.part, received.etag);
                if part.len() > best {
                    best = part.len();
                    retries.progressed();
                }
                match received.outcome {
                    Outcome::Damaged(why) => why,
                    Outcome::Ended if part.is_full() => continue,
                    Outcome::Ended => {
                        let why = format!("it ended after {} of {} bytes", part.len(), file.size);
                        retries.wait_anyway(MirrorError::file(&file.path, FileProblem::Damaged(why))).await?;
                        continue;
                    }
                    Outcome::Failed(error) => {
                        retries.wait(error).await.map_err(|error| of_file(file, error))?;
                        continue;
                    }
                    Outcome::NoRange(error) => {
                        (part, etag) = (self.start_over(part, path).await?, None);
                        retries.wait_anyway(error).await.map_err(|error| of_file(file, error))?;
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
            tracing::warn!("{}: {damage}; it is fetched once more.", crate::model::text::clean(&file.path));
        }
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

    async fn open(&self, want: &Want, from: u64, etag: Option<&str>) -> Result<Opened, MirrorError> {
        match &want.pointer {
            Some(bytes) => Ok(Opened { from: 0, etag: None, body: Body::Whole(Some(bytes.clone())) }),
            None => self.source.open(&want.file, from, etag).await,
        }
    }

    /// An error of the disk; of a full one, with what it lacks.
    fn disk_failed(&self, path: &Path, source: std::io::Error) -> MirrorError {
        if source.kind() == std::io::ErrorKind::StorageFull {
            let needed = self.needed().max(1);
            let free = free_space(self.job.staging).unwrap_or(0);
            return MirrorError::NoSpace { path: self.job.staging.to_owned(), needed, free };
        }
        MirrorError::Io { path: path.to_owned(), source }
    }
}

/// Names the file that an error of HTTP is about, unless it is about all of them.
fn of_file(file: &RemoteFile, error: MirrorError) -> MirrorError {
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

#[cfg(test)]
mod tests;
