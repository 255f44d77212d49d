//! The parts of the store that contents and revisions use.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::StoreError;
use super::content::FdCache;
use super::data::DataFiles;
use super::granules::Granules;
use super::placement::Placements;
use super::scrub::Scrub;
use super::withheld::WithheldModels;
use crate::paths::Paths;

/// One part for each kind of file and state.
pub(crate) struct Parts {
    /// The data files of contents, with their maps.
    pub(super) files: DataFiles,
    pub(super) fds: Arc<FdCache>,
    /// The number of the next content in this process.
    pub(super) ids: AtomicU64,
    /// The records of verified files outside the cache.
    pub(super) placements: Placements,
    /// The hashes of granules.
    pub granules: Granules,
    /// The progress of the background check.
    pub scrub: Scrub,
    /// Models that are not shared.
    pub withheld: WithheldModels,
}

impl Parts {
    /// Opens the parts below real paths. `locked` is whether the process has the node's lock.
    pub(super) fn open(paths: Paths, boot: [u8; 16], locked: bool) -> Result<Self, StoreError> {
        Ok(Self {
            fds: FdCache::new(),
            ids: AtomicU64::new(0),
            placements: Placements::open(&paths)?,
            granules: Granules { dir: paths.granules() },
            scrub: Scrub::open(paths.scrub(), &boot, locked),
            withheld: WithheldModels::default(),
            files: DataFiles { paths, boot, locked },
        })
    }
}
