//! Downloads all files of a commit into a staging directory.
//!
//! Complete files are in `tree/`, under their paths. Incomplete files are in `parts/`, under their expected hashes. The
//! journal records both. Each content is fetched once, and several contents are fetched at the same time. Dropping the
//! future stops the download soon; the next run uses the received data.

mod job;
mod plan;
mod ranges;
mod receive;
mod run;

use std::collections::HashMap;
use std::path::PathBuf;

use futures_util::future::try_join_all;

use super::error::FileProblem;
use super::progress::ProgressBoard;
use super::source::{RepositorySource, Snapshot};
use super::{GitOid, Identity, MirrorError, blocking};
use crate::model::files::{FilesError, MAX_PIECES};
use crate::model::hash::FileHashes;
pub use job::DownloadJob;
pub(crate) use job::LocalCopy;
use job::PlannedFile;
pub(in crate::mirror) use job::free_space;
use plan::DownloadPlan;
use run::Download;

/// The result of a download.
#[derive(Debug)]
pub struct Downloaded {
    /// The directory of the files. It may be renamed.
    pub dir: PathBuf,
    /// The hashes of every file by path. They are valid until the file is changed.
    pub hashes: HashMap<String, FileHashes>,
    /// The paths of files that are LFS pointers.
    pub pointers: Vec<String>,
    /// Bytes that this run received from the source.
    pub fetched: u64,
}

/// Downloads the files of a snapshot of `source`.
pub async fn download(
    source: &dyn RepositorySource,
    snapshot: &Snapshot,
    job: DownloadJob<'_>,
    board: &ProgressBoard,
) -> Result<Downloaded, MirrorError> {
    check_pieces(source, snapshot, &job)?;
    let files = planned_files(source, snapshot, job.skip_lfs).await?;
    let pointers =
        files.iter().filter(|file| file.pointer.is_some()).map(|file| file.remote.path.clone()).collect();
    board.begin(files.iter().map(|file| file.remote.size).sum());
    let staging = job.staging.to_owned();
    let piece_length = job.piece_length;
    let plan = blocking::run(move |_| DownloadPlan::make(&staging, files, piece_length)).await??;
    let run = Download::new(source, &job, board, plan);
    check_space(&job, run.needed())?;
    try_join_all((0..job.parallel.max(1)).map(|_| run.work())).await?;
    let (hashes, fetched) = run.into_results();
    Ok(Downloaded { dir: job.staging.join("tree"), hashes, pointers, fetched })
}

/// The files to download. With `skip_lfs`, files in LFS are replaced by their pointers.
async fn planned_files(
    source: &dyn RepositorySource,
    snapshot: &Snapshot,
    skip_lfs: bool,
) -> Result<Vec<PlannedFile>, MirrorError> {
    let mut files = Vec::with_capacity(snapshot.files.len());
    for remote in &snapshot.files {
        let mut file = PlannedFile { remote: remote.clone(), pointer: None };
        if let Some(pointer) = remote.pointer().filter(|_| skip_lfs) {
            let bytes = source.pointer(remote).await?.unwrap_or_else(|| pointer.to_string().into_bytes());
            if GitOid::of_blob(&bytes) != remote.blob {
                return Err(MirrorError::file(&remote.path, FileProblem::Pointer));
            }
            (file.remote.size, file.remote.identity) = (bytes.len() as u64, Identity::Git(remote.blob));
            file.pointer = Some(bytes.into());
        }
        files.push(file);
    }
    Ok(files)
}

/// Refuses a snapshot with too many pieces, which could not be shared, before it is fetched.
fn check_pieces(
    source: &dyn RepositorySource,
    snapshot: &Snapshot,
    job: &DownloadJob<'_>,
) -> Result<(), MirrorError> {
    let piece_length = job.piece_length;
    let pieces = snapshot.files.iter().map(|file| file.size.div_ceil(u64::from(piece_length))).sum();
    if pieces > MAX_PIECES && !job.skip_lfs {
        let repository = source.describe(snapshot.commit).url.unwrap_or_else(|| "the repository".to_owned());
        let source = FilesError::TooManyPieces { pieces, piece_length };
        return Err(MirrorError::Files { repository, source });
    }
    Ok(())
}

fn check_space(job: &DownloadJob<'_>, needed: u64) -> Result<(), MirrorError> {
    let free = free_space(job.staging)?.saturating_sub(job.min_free);
    if needed > free {
        return Err(MirrorError::NoSpace { path: job.staging.to_owned(), needed, free, source: None });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
