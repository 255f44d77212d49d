//! What is known of every model here, as `list` and `GET /v1/models` tell it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Library, NodeError};
use crate::catalog::trust::Document;
use crate::model::code::{Findings, RunsCode};
use crate::model::{InfoHash, ModelName, PublisherKey, Revision};
use crate::store::StoredRevision;

/// One model known here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownModel {
    /// Its name.
    pub name: ModelName,
    /// Which revision.
    pub revision: Revision,
    /// Bytes of all files.
    pub size: u64,
    /// Verified bytes here.
    pub here: u64,
    /// Whether every byte is here.
    pub complete: bool,
    /// Licence, where known.
    pub license: Option<String>,
    /// Who signed it.
    pub publisher: Option<PublisherKey>,
    /// The key for people to compare.
    pub fingerprint: Option<String>,
    /// What this node's user calls them.
    #[serde(default)]
    pub alias: Option<String>,
    /// Whether the name belongs to the publisher of this model.
    #[serde(default)]
    pub pinned: bool,
    /// How files of it can run code when they are loaded. The names decide for files that are not here.
    #[serde(default)]
    pub runs_code: Vec<RunsCode>,
    /// Its torrent.
    pub info_hash: InfoHash,
    /// The directory that holds its files, where there is one.
    pub path: Option<PathBuf>,
}

impl KnownModel {
    fn of(revision: &StoredRevision, trust: &Document) -> Self {
        let manifest = &revision.manifest;
        Self {
            name: manifest.name.clone(),
            revision: manifest.version.clone(),
            size: manifest.total_size,
            here: revision.cached_bytes(),
            complete: revision.is_complete(),
            license: manifest.license.clone(),
            publisher: manifest.publisher,
            fingerprint: manifest.publisher.map(|key| key.fingerprint()),
            alias: manifest.publisher.and_then(|key| trust.alias(&key)).map(ToString::to_string),
            pinned: manifest.publisher.is_some() && trust.pinned(&manifest.name) == manifest.publisher,
            runs_code: runs_code(revision).kinds(),
            info_hash: manifest.torrent.info_hash,
            path: place(revision),
        }
    }
}

impl Library {
    /// Every model known here, by name. Blocks for the disk where contents are looked at for the first time.
    pub fn models(&self) -> Result<Vec<KnownModel>, NodeError> {
        // Who cannot be looked up goes without an alias.
        let trust = self.trust.document().unwrap_or_default();
        Ok(self.revisions()?.iter().map(|revision| KnownModel::of(revision, &trust)).collect())
    }
}

/// The files of a revision that can run code when they are loaded. Reads the first bytes of files that are here.
pub(super) fn runs_code(revision: &StoredRevision) -> Findings {
    let files = revision.manifest.files.iter().map(|file| (file.path.as_str(), file.size));
    Findings::of(files, |number, limit| revision.contents[number].read(0..limit).ok().flatten())
}

/// The directory that holds all files of a revision under their own names; none while some are in the cache.
pub fn place(revision: &StoredRevision) -> Option<PathBuf> {
    let mut dirs =
        revision.manifest.files.iter().zip(&revision.contents).filter(|(file, _)| file.size > 0).map(
            |(file, content)| {
                let path = content.path();
                let depth = file.path.split('/').count();
                path.ends_with(&file.path).then(|| path.ancestors().nth(depth).map(PathBuf::from)).flatten()
            },
        );
    let first = dirs.next()??;
    dirs.all(|dir| dir.as_ref() == Some(&first)).then_some(first)
}
