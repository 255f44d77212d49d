//! The job of a download: its files, their destination, and verified local copies.

use std::path::{Path, PathBuf};

use crate::mirror::{MirrorError, RemoteFile};
use crate::model::hash::FileHashes;

/// A verified local copy of a file.
#[derive(Debug, Clone)]
pub struct LocalCopy {
    /// The path of the copy.
    pub path: PathBuf,
    /// The hashes, and the metadata of the file at the time when they were computed.
    pub hashes: FileHashes,
    /// Whether silmaril made the copy. It may then share its inode with the new file if the disk cannot share extents.
    pub ours: bool,
}

/// Options of a download.
pub struct DownloadJob<'a> {
    /// The staging directory, kept for the next run unless the caller removes it. Only one download may use it at a time.
    pub staging: &'a Path,
    /// Piece length of the future torrent, in bytes.
    pub piece_length: u32,
    /// Whether LFS pointers are written instead of their files.
    pub skip_lfs: bool,
    /// Finds a local copy of a file.
    pub have: &'a (dyn Fn(&RemoteFile) -> Option<LocalCopy> + Send + Sync),
    /// Number of files that are fetched at the same time; at least one.
    pub parallel: usize,
    /// Bytes of the file system that remain free.
    pub min_free: u64,
}

/// A file to download.
#[derive(Debug, Clone)]
pub(super) struct PlannedFile {
    /// The file, or its LFS pointer.
    pub remote: RemoteFile,
    /// The bytes of the pointer, if it is one.
    pub pointer: Option<bytes::Bytes>,
}

/// Free bytes of the file system of a directory.
pub(in crate::mirror) fn free_space(dir: &Path) -> Result<u64, MirrorError> {
    let stat = rustix::fs::statvfs(dir).map_err(|e| MirrorError::io(dir)(e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
