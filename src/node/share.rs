//! `share`: a directory becomes a manifest and a torrent, in place.

use std::path::PathBuf;
use std::sync::Arc;

use crate::model::{Manifest, ModelName, Revision};
use crate::node::{Library, NodeError};

/// What to share.
#[derive(Debug, Clone)]
pub struct ShareRequest {
    /// The directory.
    pub path: PathBuf,
    /// Under which name.
    pub name: ModelName,
    /// Which revision.
    pub version: Revision,
    /// Licence identifier; none takes it from the model card.
    pub license: Option<String>,
    /// Bytes a piece.
    pub piece_length: u32,
    /// Whether to sign.
    pub sign: bool,
    /// Whether to make a hybrid (v1 + v2) torrent as well.
    pub hybrid: bool,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The manifest, now in the registry.
    pub manifest: Arc<Manifest>,
    /// Things the publisher should know: unknown licence, pickles, …
    pub warnings: Vec<String>,
}

impl Library {
    /// Hashes the directory in one pass and records manifest, metainfo and placement. `progress` gets bytes done
    /// and bytes in all. The caller holds the node lock.
    pub fn publish(
        &self,
        _request: &ShareRequest,
        _progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Shared, NodeError> {
        todo!()
    }
}
