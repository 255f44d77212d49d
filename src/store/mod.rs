//! Where bytes live: the registry of manifests, complete models, and the cache of partly read ones.
//!
//! The unit is the *content*: the bytes of one file, named by its pieces root, whichever models and revisions
//! hold it. A content has one path on disk and a map of verified 16 KiB blocks; bytes outside that map are never
//! handed out. Verified blocks are recorded in a small file beside the data as they come, with plain `pwrite`,
//! so that a killed process loses at most the pieces in flight.

pub mod content;
pub mod registry;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fixedbitset::FixedBitSet;

use crate::model::{Layout, Manifest};
use crate::paths::Paths;
pub use content::Content;
pub use registry::Registry;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// One revision with the contents of its files.
#[derive(Debug)]
pub struct StoredRevision {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// Where the files stand among the pieces.
    pub layout: Layout,
    /// One per file of the manifest, in its order. Revisions that hold equal files share the `Arc`.
    pub contents: Vec<Arc<Content>>,
}

impl StoredRevision {
    /// The pieces whose bytes are all verified here, as the engine wants them on `add`.
    pub fn have_pieces(&self) -> FixedBitSet {
        todo!()
    }

    /// Whether every byte is here.
    pub fn is_complete(&self) -> bool {
        todo!()
    }

    /// Verified bytes that are here.
    pub fn cached_bytes(&self) -> u64 {
        todo!()
    }
}

/// All contents of this node.
pub struct Store;

impl Store {
    /// Opens the store below `paths`, creating directories. Reads no file's data.
    pub fn open(_paths: &Paths) -> Result<Arc<Self>, StoreError> {
        todo!()
    }

    /// Finds the contents of a revision: placements (complete models, shared in place), then the cache. A placed
    /// file whose size, mtime or inode is not as recorded does not count.
    pub fn revision(&self, _manifest: Arc<Manifest>) -> Result<Arc<StoredRevision>, StoreError> {
        todo!()
    }

    /// Records that the files of a revision stand, verified, below `dir`.
    pub fn record_placement(&self, _manifest: &Manifest, _dir: &Path) -> Result<(), StoreError> {
        todo!()
    }
}
