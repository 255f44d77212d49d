//! The request of a `get`, its progress and its result.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{ModelRef, PublisherKey};
use crate::node::Surroundings;

/// How long a name is looked up in the network.
pub(in crate::node) const RESOLVE_WITHIN: Duration = Duration::from_secs(30);

/// The body of `POST /v1/get`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetRequest {
    /// The model.
    pub model: ModelRef,
    /// The destination, an absolute path; none is the models directory.
    pub output: Option<PathBuf>,
    /// Globs of paths to fetch; empty is all.
    pub include: Vec<String>,
    /// Globs of paths to leave out.
    pub exclude: Vec<String>,
    /// Whether to check sha256 at the end.
    pub verify: bool,
    /// Only a manifest signed by this publisher is accepted (see [`Trust::find`](crate::trust::Trust::find)).
    pub publisher: Option<String>,
    /// Hosts that have it.
    pub peers: Vec<SocketAddr>,
    /// Whether to look for a newer state in the network, also if one is known here.
    #[serde(default)]
    pub update: bool,
    /// Whether the state may be older than the known one of its publisher.
    #[serde(default)]
    pub allow_older: bool,
    /// Whether the node seeds it afterwards: `false` turns that off for this model, `true` turns it on again, none
    /// changes nothing.
    #[serde(default)]
    pub seed: Option<bool>,
    /// How the command reaches the web.
    #[serde(default)]
    pub surroundings: Surroundings,
}

/// The progress of a `get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GetProgress {
    /// The name is looked up in the network.
    Looking {
        /// Connected peers of the catalog.
        peers: usize,
    },
    /// The wanted files are received.
    Fetching {
        /// Verified bytes.
        have: u64,
        /// Bytes wanted.
        want: u64,
        /// Bytes per second.
        rate: u64,
        /// Connected peers.
        peers: u32,
        /// Whether some bytes arrive over HTTP now.
        #[serde(default)]
        web: bool,
    },
    /// The files are compared with their sha256.
    Checking {
        /// Bytes checked.
        done: u64,
        /// Bytes to check.
        want: u64,
    },
}

impl GetProgress {
    /// Bytes done and bytes to do.
    pub fn bytes(&self) -> (u64, u64) {
        match *self {
            Self::Looking { .. } => (0, 0),
            Self::Fetching { have, want, .. } => (have, want),
            Self::Checking { done, want } => (done, want),
        }
    }
}

/// The result of a `get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GetReport {
    /// The model.
    pub model: String,
    /// Its directory.
    pub path: PathBuf,
    /// Number of files wanted.
    pub files: usize,
    /// Their bytes.
    pub total_size: u64,
    /// Bytes that this job received from the network.
    pub downloaded: u64,
    /// How many of them arrived over HTTP instead of from peers.
    #[serde(default)]
    pub downloaded_web: u64,
    /// Whether the sha256 of every file was checked.
    pub verified: bool,
    /// The key that signed it; none if it is not signed.
    #[serde(default)]
    pub publisher: Option<PublisherKey>,
    /// The fingerprint of the key, for people to compare.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// The alias that the user has given the publisher.
    #[serde(default)]
    pub alias: Option<String>,
    /// The origin of its manifest.
    #[serde(default)]
    pub origin: ManifestOrigin,
    /// Warnings for the user.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Whether the node seeds it.
    #[serde(default)]
    pub seeded: bool,
}

/// The origin of the manifest of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestOrigin {
    /// It was known here.
    #[default]
    Known,
    /// It was known here, and a newer state of the same publisher is announced.
    Outdated,
    /// It was just found in the network.
    Found,
    /// A newer state was looked for, and no peer knew one.
    NoneNewer,
    /// The files were read from the hub, because no peer has the model.
    Hub,
}
