//! The errors of the store.

use std::path::{Path, PathBuf};

use crate::fsutil;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A file of the store does not parse.
    #[error("{path} is damaged: {reason}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The error of the parser, or the contradiction.
        reason: String,
    },
    /// The manifest gives a non-empty file no pieces root, or a length that cannot be stored.
    #[error("{model}: {path} cannot be stored: {reason}")]
    Unstorable {
        /// The model.
        model: String,
        /// The file's path in the manifest.
        path: String,
        /// The reason, a sentence without its first capital letter.
        reason: &'static str,
    },
    /// A file that should be complete is not.
    #[error("{path} is not complete")]
    Incomplete {
        /// The file's path in the manifest.
        path: String,
    },
    /// A staging directory cannot be used.
    #[error("cannot collect files in {path}: {source}", path = path.display())]
    Staging {
        /// The directory.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// Another file has the path of a file of a model.
    #[error("{path} exists already and is another file; move it away or choose another directory", path = path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
    },
}

impl StoreError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// Whether a write failed because the disk is full or read-only.
    pub(crate) fn is_full_or_read_only(&self) -> bool {
        matches!(self, Self::Io { source, .. } if fsutil::is_full_or_read_only(source.kind()))
    }
}
