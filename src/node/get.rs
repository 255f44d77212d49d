//! `get`: a model into a directory, whole or by pattern.

use std::path::PathBuf;

use crate::model::ModelRef;
use crate::node::{Node, NodeError};

/// What to get.
#[derive(Debug, Clone)]
pub struct GetRequest {
    /// Which model.
    pub model: ModelRef,
    /// Where to; none is the models directory.
    pub output: Option<PathBuf>,
    /// Globs of paths to fetch; empty is all.
    pub include: Vec<String>,
    /// Globs of paths to leave out.
    pub exclude: Vec<String>,
    /// Whether to check sha256 at the end.
    pub verify: bool,
    /// Only a manifest signed by this publisher will do (hex key or its fingerprint).
    pub publisher: Option<String>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GetProgress {
    /// Bytes of the wanted files here, of how many, and how fast and from how many peers.
    Fetching {
        /// Verified bytes here.
        have: u64,
        /// Bytes wanted.
        want: u64,
        /// Bytes per second.
        rate: u64,
        /// Connected peers.
        peers: u32,
    },
    /// Bytes checked against sha256, of how many.
    Checking {
        /// Bytes checked.
        done: u64,
        /// Bytes to check.
        want: u64,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct GetReport {
    /// The model.
    pub model: String,
    /// Where it is now.
    pub path: PathBuf,
    /// Number of files wanted.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that came over the network just now.
    pub downloaded: u64,
    /// Whether sha256 was checked.
    pub verified: bool,
}

impl Node {
    /// Gets a model. Resumes what an earlier call left. Dropping the future stops it, keeping what came.
    pub async fn get(
        &self,
        _request: &GetRequest,
        _progress: impl Fn(GetProgress) + Send + Sync,
    ) -> Result<GetReport, NodeError> {
        todo!()
    }
}
