//! The names of contents.

use crate::model::{FileEntry, PiecesRoot};

/// The name of a content. The root alone is not enough: a false manifest may claim a root with another length, and must not
/// give access to the bytes of the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentKey {
    /// Root of the merkle tree over the bytes (BEP 52).
    pub root: PiecesRoot,
    /// Length in bytes.
    pub len: u64,
}

impl ContentKey {
    /// Name of the file that has the content, in the cache and in staging directories.
    pub(super) fn file_name(&self) -> String {
        format!("{}.{}", self.root, self.len)
    }

    /// The content of a file of a manifest; none for an empty file.
    pub fn of(file: &FileEntry) -> Option<Self> {
        Some(Self { root: file.pieces_root?, len: file.size })
    }

    /// The content whose file has a name, if any.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (root, len) = name.split_once('.')?;
        Some(Self { root: root.parse().ok()?, len: len.parse().ok()? })
    }
}
