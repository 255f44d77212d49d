//! The file that is read, and the reasons why a read fails.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::model::{FileEntry, InfoHash};
use crate::store::{Content, StoredRevision};

/// The reason why a read failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// No piece came in time; the text names the reason (no peers, no peer with the piece, …).
    #[error("timed out: {0}")]
    TimedOut(String),
    /// The node is stopping.
    #[error("stopped")]
    Stopped,
    /// The swarm was left while the node runs: the model was removed, replaced or withheld.
    #[error("it was removed, replaced or withheld during the read")]
    Left,
    /// The hub refuses the bytes to this user; the text is its reason.
    #[error("{0}")]
    Denied(String),
    /// The local disk failed: the text for people, and the kind of the failure.
    #[error("disk: {0}")]
    Disk(String, io::ErrorKind),
    /// There has been no space for the bytes of a whole file for a while.
    #[error("there is no space for it any more")]
    NoSpace,
    /// The torrent cannot be used (metainfo refused by the engine).
    #[error("{0}")]
    Broken(String),
}

/// One file of one revision.
#[derive(Debug, Clone)]
pub struct FileRef {
    /// The revision.
    pub revision: Arc<StoredRevision>,
    /// Index into its manifest's files.
    pub file: usize,
}

impl FileRef {
    pub(super) fn content(&self) -> &Arc<Content> {
        &self.revision.contents[self.file]
    }

    /// The file as it is read now: a file that was read from a hub continues as a file of its manifest, once that is known.
    /// None if the manifest has no such file.
    /// So does a file of a manifest that was found to contradict the hub, as the file of the same commit at the hub.
    pub fn present(&self) -> Option<Self> {
        let refutation = self.revision.refutation.as_ref();
        if let Some(of_hub) = refutation.and_then(|refutation| refutation.successor()) {
            return self.same_at_hub(of_hub)?.present();
        }
        let Some(successor) = self.revision.hub.as_ref().and_then(|hub| hub.successor()) else {
            return Some(self.clone());
        };
        let FileEntry { path, size, .. } = &self.revision.manifest.files[self.file];
        let same = |entry: &FileEntry| entry.path == *path && entry.size == *size;
        let file = successor.manifest.files.iter().position(same)?;
        Self { revision: successor, file }.present()
    }

    /// The same file of a revision that is read from a hub.
    fn same_at_hub(&self, revision: Arc<StoredRevision>) -> Option<Self> {
        let FileEntry { path, size, .. } = &self.revision.manifest.files[self.file];
        let identity = self.revision.listed.as_ref()?.identity(self.file);
        let listing = &revision.hub.as_ref()?.listing;
        let file = listing
            .files
            .iter()
            .position(|file| file.path == *path && file.size == *size && file.identity == identity)?;
        Some(Self { revision, file })
    }

    pub(super) fn path(&self) -> &str {
        &self.revision.manifest.files[self.file].path
    }

    pub(super) fn has_successor(&self) -> bool {
        self.revision.hub.as_ref().is_some_and(|hub| hub.successor().is_some())
    }

    pub(super) fn info_hash(&self) -> InfoHash {
        self.revision.manifest.torrent.info_hash
    }

    /// Bytes `offset..offset + len`, cut at the end of the file.
    pub(super) fn cut(&self, offset: u64, len: u64) -> Range<u64> {
        let size = self.content().len();
        offset.min(size)..offset.saturating_add(len).min(size)
    }
}
