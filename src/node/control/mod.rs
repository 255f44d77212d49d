//! The control socket: HTTP/1.1 and JSON over a Unix socket of mode 0600.
//!
//! | route | response |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/models` | array of [`KnownModel`](super::models::KnownModel): what `list` shows |
//! | `GET /v1/transfers` | array of [`TransferStatus`]; with `Accept: text/event-stream` or `?follow` a stream |
//! | `GET /v1/metrics` | figures in Prometheus' text form |
//! | `POST /v1/reload` | 204 when the registry has been read again |
//! | `POST /v1/stop` `{pid, replaced}`, or no body | 202; the node stops and releases the base directory |
//! | `POST /v1/mount` [`MountRequest`](super::mounts::MountRequest), with the descriptor of the connection | stream: progress `null` when models can be read; it ends with a held mount |
//! | `POST /v1/unmount` [`UnmountRequest`](super::mounts::UnmountRequest) | whether the node served that mount, which is unmounted now |
//! | `POST /v1/serve` [`ServeRequest`](super::endpoint::ServeRequest) | [`EndpointStatus`] of the endpoint that is served now |
//! | `POST /v1/serve/stop` | whether an endpoint was served, which has ended now |
//! | `POST /v1/warm` [`WarmRequest`] | [`Warmed`] when the bytes are stored |
//! | `POST /v1/get` [`GetRequest`](super::get::GetRequest) | stream ending in a [`GetReport`](super::get::GetReport) |
//! | `POST /v1/discover` [`DiscoverRequest`](super::discover::DiscoverRequest) | stream ending in [`Discovered`](super::discover::Discovered) |
//! | `POST /v1/share` [`ShareRequest`](super::share::ShareRequest) | stream ending in [`Shared`](super::share::Shared) |
//! | `POST /v1/adopt` [`AdoptRequest`](super::adopt::AdoptRequest) | stream ending in [`AdoptedDir`](super::adopt::AdoptedDir)s |
//! | `POST /v1/seed` [`Seed`] | stream ending in [`Seeded`] |
//! | `POST /v1/import` [`ImportRequest`](super::import::ImportRequest) | stream ending in the manifest |
//! | `POST /v1/verify` [`OfModel`] | stream ending in [`Verified`](super::verify::Verified) |
//! | `POST /v1/remove` [`OfModel`] | stream ending in `null` |
//! | `POST /v1/cache/clear` | stream ending in the bytes freed |
//!
//! A stream is lines of JSON: `{"progress": …}` any number of times, then `{"done": …}` or `{"error": …}`; empty lines
//! show that the node lives. When a client disconnects, its job ends and keeps the received bytes.
//!
//! The stream of transfers consists of server-sent events named `transfers`, each with the whole array: one
//! immediately, and another when it has changed, at most one a second.
//!
//! Errors are `{"kind": …, "error": text}` with a 4xx or 5xx status; the kind is an [`ErrorKind`], which has the same
//! meaning on both sides. The socket is reached through a descriptor of its directory
//! (`/proc/self/fd/N/silmaril.sock`), because `sun_path` holds only 108 bytes, which is too few for a deep base
//! directory.
//!
//! A descriptor is passed with the first byte of its request (`SCM_RIGHTS`, unix(7)), at most one per connection.

mod client;
mod error_reply;
mod figures;
mod handle;
mod jobs;
mod passing;
mod server;
mod stream;

pub use client::DaemonClient;
pub(super) use handle::ControlServer;
pub(super) use server::serve;

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::catalog::CatalogStatus;
use crate::fetch::TransferStatus;
use crate::fetch::hub::HubStatus;
use crate::model::ModelRef;
use crate::mount::Namespaces;
use crate::node::clients::JobStatus;
use crate::node::directory_faults::StorageProblem;
use crate::node::disputes::{DisputedName, ModelNote};
use crate::node::endpoint::EndpointStatus;
use crate::node::limited::LimitedProcess;
use crate::node::mounts::MountStatus;
use crate::node::space::LackOfSpace;
use crate::node::unresolved::UnresolvedName;
use crate::node::{ErrorKind, NodeError, Surroundings, chain};
use crate::paths::Paths;
use crate::store::RefutedManifest;

/// `GET /v1/status`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Status {
    /// The node's process.
    pub pid: u32,
    /// Its version of silmaril.
    pub version: String,
    /// Its namespaces; none if /proc does not show them.
    #[serde(default)]
    pub namespaces: Option<Namespaces>,
    /// The mounts that it serves.
    #[serde(default)]
    pub mounts: Vec<MountStatus>,
    /// Seconds since it started.
    pub uptime: u64,
    /// Base directory.
    pub base_dir: PathBuf,
    /// The keys of its configuration that differ from the defaults, as `section.key=value` on one line.
    #[serde(default)]
    pub config: Option<String>,
    /// Addresses it listens on for peers.
    pub listening: Vec<SocketAddr>,
    /// The swarms that it has joined, by name of the model.
    pub transfers: Vec<TransferStatus>,
    /// Whether it uses the DHT.
    #[serde(default)]
    pub dht: bool,
    /// The state of the catalog; none if this node has none.
    #[serde(default)]
    pub catalog: Option<CatalogStatus>,
    /// The jobs that it does for commands now.
    #[serde(default)]
    pub jobs: Vec<JobStatus>,
    /// The models that its mounts could not show to programs that looked them up, the latest last.
    #[serde(default)]
    pub unresolved: Vec<UnresolvedName>,
    /// The processes that look up more unknown names than one process may, the latest last.
    #[serde(default)]
    pub limited: Vec<LimitedProcess>,
    /// The names that several publishers dispute.
    #[serde(default)]
    pub disputed: Vec<DisputedName>,
    /// Facts that readers of the models in swarms should know.
    #[serde(default)]
    pub notes: Vec<ModelNote>,
    /// The files that are read through memory because the cache has no space for them.
    #[serde(default)]
    pub space: Option<LackOfSpace>,
    /// Files that were verified and are absent, changed or damaged.
    #[serde(default)]
    pub problems: Vec<StorageProblem>,
    /// The endpoint for other programs; none if none is served.
    #[serde(default)]
    pub endpoint: Option<EndpointStatus>,
    /// The reason why the endpoint of the configuration is not served.
    #[serde(default)]
    pub endpoint_problem: Option<String>,
    /// The address that serves figures over TCP; none if none does.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
    /// The reason why the figures of the configuration are not served over TCP.
    #[serde(default)]
    pub metrics_problem: Option<String>,
    /// The models that are read from the hub because no manifest of them is known.
    #[serde(default)]
    pub hub: Vec<HubStatus>,
    /// Manifests that were refused because they contradict the hub.
    #[serde(default)]
    pub refuted: Vec<RefutedManifest>,
}

/// The part of the status that every version of a node reports.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Hello {
    /// The node's process.
    pub pid: u32,
    /// Its version of silmaril.
    pub version: String,
    /// Its namespaces.
    #[serde(default)]
    pub namespaces: Option<Namespaces>,
    /// The keys of its configuration that differ from the defaults.
    #[serde(default)]
    pub config: Option<String>,
}

/// Body of `POST /v1/seed`.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Seed {
    /// The model; none means all models with stored bytes.
    pub model: Option<ModelRef>,
    /// Hosts to connect to.
    pub peers: Vec<SocketAddr>,
    /// Whether the user confirms the right to share a model that is withheld for its licence or by its hub.
    pub right: bool,
    /// Whether the model is kept out of the DHT from now on.
    pub skip_dht: bool,
    /// How long to wait for the first announcement, in milliseconds.
    pub announce_within: u64,
}

/// Answer to `POST /v1/seed`.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Seeded {
    /// The models.
    pub models: Vec<ModelRef>,
    /// Whether other hosts can find them: an announcement succeeded, or none is made.
    pub announced: bool,
}

/// Body of `POST /v1/stop`.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct StopRequest {
    /// The process to stop; a later node continues.
    pub pid: u32,
    /// Whether another node continues the jobs that this node does for clients.
    #[serde(default)]
    pub replaced: bool,
}

/// Body of jobs that need only the name of a model.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct OfModel {
    /// The model.
    pub model: ModelRef,
}

/// Progress of jobs that read files.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct BytesDone {
    /// Bytes done.
    pub done: u64,
    /// Bytes to do.
    pub total: u64,
}

/// Body of `POST /v1/warm`.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct WarmRequest {
    /// A model, a directory in it or a file, relative to the mount point: `org/name@revision/path`.
    pub path: String,
    /// Whether to look up a model that is not known.
    pub resolve: bool,
    /// Whether to fetch only the headers of weights, and small files.
    #[serde(default)]
    pub header_only: bool,
    /// Whether to take the present commit of a model that is read from the hub.
    #[serde(default)]
    pub update: bool,
    /// How the command reaches the web.
    #[serde(default)]
    pub surroundings: Surroundings,
}

/// Answer to `POST /v1/warm`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Warmed {
    /// Number of files that are complete now.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Body of every error.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct ErrorBody {
    kind: ErrorKind,
    error: String,
}

impl From<&NodeError> for ErrorBody {
    fn from(e: &NodeError) -> Self {
        Self { kind: e.kind(), error: chain(e) }
    }
}

impl From<ErrorBody> for NodeError {
    fn from(ErrorBody { kind, error }: ErrorBody) -> Self {
        match kind {
            ErrorKind::HostLost => Self::HostLost,
            ErrorKind::Stopped => Self::Stopped,
            kind => Self::Remote { kind, message: error },
        }
    }
}

/// One line of a stream.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<P, T> {
    Progress(P),
    Done(T),
    Error(ErrorBody),
}

/// How long a stream sends nothing at most: an empty line then shows that the node lives.
const SILENCE: Duration = Duration::from_secs(5);

/// A path for the socket that is short however deep the base directory is. Valid while the `File` lives.
fn short_path(paths: &Paths) -> std::io::Result<(File, PathBuf)> {
    let socket = paths.socket();
    let dir = File::open(socket.parent().unwrap_or(&paths.base))?;
    let name = socket.file_name().unwrap_or_default();
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    Ok((dir, short))
}
