//! The mount: models as a read-only file system.
//!
//! `tree` holds inodes and knows nothing of FUSE; `fuse` converts types and nothing else; reads are parked as
//! tasks that own their reply. No handler waits: metadata is answered from memory, reads from the disk or later.

use std::path::PathBuf;
use std::sync::Arc;

use crate::fetch::Fetch;
use crate::store::StoredRevision;

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// An existing empty directory.
    pub mountpoint: PathBuf,
    /// Whether other users may read.
    pub allow_other: bool,
}

/// Why mounting failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The directory does not exist.
    #[error("mount point {0} does not exist")]
    Missing(PathBuf),
}

/// A live mount.
pub struct Mounted;

impl Mounted {
    /// Mounts. Detaches a dead predecessor first.
    pub fn new(
        _options: &MountOptions,
        _fetch: Arc<Fetch>,
        _runtime: tokio::runtime::Handle,
    ) -> Result<Self, MountError> {
        todo!()
    }

    /// Replaces the set of revisions that the mount shows.
    pub fn publish(&self, _revisions: Vec<Arc<StoredRevision>>) {
        todo!()
    }

    /// Waits until the mount is gone, by `stop` or by somebody's umount.
    pub async fn gone(&self) {
        todo!()
    }

    /// Unmounts, lazily if busy. The caller has stopped `Fetch`, so parked reads have their answers.
    pub async fn stop(&self) {
        todo!()
    }
}
