//! The request of a `mirror`, its progress and its result.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::mirror::{self, FileProgress, Snapshot};
use crate::model::{InfoHash, ModelName, ModelRef, license};
use crate::node::Surroundings;
use crate::node::sharing::{Rule, WithheldReason};

/// The body of `POST /v1/mirror`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MirrorRequest {
    /// The repository, as [`mirror::Repository::parse`] accepts it. A path is absolute.
    pub repository: String,
    /// The same for messages, without secret parts of an address.
    pub shown: String,
    /// Branch, tag or commit; none is the default branch.
    pub branch: Option<String>,
    /// Commits of history to keep; 0 is all.
    pub depth: u32,
    /// Whether to leave LFS files as pointers.
    pub skip_lfs: bool,
    /// The name of the model; none derives it from the address.
    pub name: Option<ModelName>,
    /// Licence identifier, if the repository has none.
    pub license: Option<String>,
    /// Whether to share it.
    pub share: bool,
    /// Whether to announce what is shared.
    pub broadcast: bool,
    /// Whether the user confirms the right to share it.
    pub right: bool,
    /// Whether to sign the manifest.
    pub sign: bool,
    /// Bytes a piece.
    pub piece_length: u32,
    /// How the command reaches the web.
    pub surroundings: Surroundings,
}

impl MirrorRequest {
    /// The rule of sharing of a mirrored model. A restriction by its repository is reported before a missing request to
    /// share.
    pub(super) fn rule(&self, snapshot: &Snapshot, license: Option<&str>) -> Rule {
        let restricted = if snapshot.private == Some(true) {
            Some(WithheldReason::Private)
        } else if snapshot.gated {
            Some(WithheldReason::Gated)
        } else {
            (!license.is_some_and(license::permits_redistribution)).then_some(WithheldReason::Licence)
        };
        let not_asked = (!self.share).then_some(WithheldReason::NotAsked);
        let withheld = restricted.filter(|_| !self.right).or(not_asked);
        Rule { withheld, unannounced: !self.broadcast, ..Rule::default() }
    }
}

/// The progress of a `mirror`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MirrorProgress {
    /// The commit and its files are requested.
    Looking,
    /// Git sends its objects.
    Cloning {
        /// Bytes received.
        received: u64,
        /// Objects received.
        objects: u64,
    },
    /// Files are downloaded.
    Downloading {
        /// Bytes received.
        done: u64,
        /// Bytes of all files.
        total: u64,
        /// The files in progress.
        files: Vec<FileProgress>,
        /// For how many seconds no request is sent, because the server demands it or a request failed.
        waiting: Option<u64>,
    },
}

impl MirrorProgress {
    pub(super) fn of(now: &mirror::DownloadProgress) -> Self {
        match (now.total, now.git) {
            (0, None) => Self::Looking,
            (0, Some(git)) => Self::Cloning { received: git.bytes, objects: git.objects },
            (total, _) => Self::Downloading {
                done: now.done,
                total,
                files: now.files.clone(),
                waiting: now
                    .waiting
                    .map(|w| w.until.duration_since(SystemTime::now()).unwrap_or_default().as_secs()),
            },
        }
    }
}

/// The result of a `mirror`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorReport {
    /// The model.
    pub model: ModelRef,
    /// Its directory.
    pub path: PathBuf,
    /// The repository.
    pub source: String,
    /// Its commit, 40 hexadecimal digits.
    pub commit: String,
    /// Number of files.
    pub files: usize,
    /// Their bytes.
    pub total_size: u64,
    /// Bytes that this job downloaded.
    pub downloaded: u64,
    /// Whether it was complete already.
    pub up_to_date: bool,
    /// Paths of the files that are LFS pointers; with any, there is no torrent.
    pub pointers: Vec<String>,
    /// Its torrent.
    pub info_hash: Option<InfoHash>,
    /// The reason why it is not shared; none if it is shared.
    pub withheld: Option<WithheldReason>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}
