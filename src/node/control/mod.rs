//! The control socket: HTTP/1.1 and JSON over a Unix socket of mode 0600.
//!
//! | route | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `POST /v1/reload` | 204 once the registry was read again |
//! | `POST /v1/stop` | 202; the node stops and lets go of the base directory |
//! | `POST /v1/warm` `{path}` | [`Warmed`] once every byte below the path is here |
//!
//! Errors are `{"error": text}` with a 4xx or 5xx status. The socket is reached through a descriptor of its
//! directory (`/proc/self/fd/N/silmaril.sock`), so that a deep base directory is not stopped by the 108 bytes
//! that `sun_path` holds.

mod client;
mod server;

pub use client::Client;
pub(super) use server::serve;

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use crate::fetch::TransferStatus;
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
    pub listening: Vec<SocketAddr>,
    /// The swarms it is in, by name of the model.
    pub transfers: Vec<TransferStatus>,
}

/// Body of `POST /v1/warm`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Warm {
    /// A model, a directory in it or a file, relative to the mount point: `org/name@revision/path`.
    pub path: String,
}

/// Answer to `POST /v1/warm`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Warmed {
    /// Number of files that are wholly here now.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Body of every error.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Failure {
    error: String,
}

/// A path for the socket that is short however deep the base directory is. Valid while the `File` lives.
fn short_path(paths: &Paths) -> std::io::Result<(File, PathBuf)> {
    let socket = paths.socket();
    let dir = File::open(socket.parent().unwrap_or(&paths.base))?;
    let name = socket.file_name().unwrap_or_default();
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    Ok((dir, short))
}
