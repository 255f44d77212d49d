//! The control socket: HTTP/1.1 and JSON over a Unix socket of mode 0600.

use std::path::PathBuf;
use std::time::Duration;

use crate::fetch::TransferStatus;
use crate::node::NodeError;
use crate::paths::Paths;

/// `GET /v1/status`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Status {
    /// The node's process.
    pub pid: u32,
    /// Its version of silmaril.
    pub version: String,
    /// What it does, e.g. `mount /home/u/models`.
    pub activity: String,
    /// Seconds since it started.
    pub uptime: u64,
    /// Base directory.
    pub base_dir: PathBuf,
    /// Addresses it listens on for peers.
    pub listening: Vec<std::net::SocketAddr>,
    /// Known models, and what each one's swarm does.
    pub transfers: Vec<TransferStatus>,
}

/// Speaks to the node of a base directory.
#[derive(Debug)]
pub struct Client;

impl Client {
    /// Connects; `Ok(None)` when no node runs.
    pub async fn connect(_paths: &Paths) -> Result<Option<Self>, NodeError> {
        todo!()
    }

    /// What the node does now.
    pub async fn status(&self) -> Result<Status, NodeError> {
        todo!()
    }

    /// Tells the node that the registry changed.
    pub async fn reload(&self) -> Result<(), NodeError> {
        todo!()
    }

    /// Asks the node to stop and waits until it let go of the base directory.
    pub async fn stop(&self, _within: Duration) -> Result<(), NodeError> {
        todo!()
    }

    /// Fetches a file or a directory of a model ahead (path relative to the mount point). Returns the bytes that
    /// are here now. There is no deadline but the node's own for stalled transfers.
    pub async fn warm(&self, _path: &str) -> Result<u64, NodeError> {
        todo!()
    }
}
