//! What is known of every model here, as `list` and `GET /v1/models` tell it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::sharing::Withheld;
use super::unshared::{self, Memory, Unshared};
use super::{Library, NodeError};
use crate::catalog::trust::Document;
use crate::model::code::{Findings, RunsCode};
use crate::model::{InfoHash, ModelName, ModelRef, PublisherKey, Revision, complete};
use crate::store::StoredRevision;

/// One model known here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownModel {
    /// `org/name`, or `org/name@revision`.
    pub model: ModelRef,
    /// Its name.
    pub name: ModelName,
    /// Which revision.
    pub revision: Revision,
    /// Bytes of all files.
    pub total_size: u64,
    /// Verified bytes here. All bytes of a model that is not shared count, although they were not hashed.
    pub cached_bytes: u64,
    /// Whether every byte is here.
    pub complete: bool,
    /// Whether peers may get it from this node.
    pub shared: bool,
    /// Why it is not shared; none where the user has only not done it yet.
    pub reason: Option<String>,
    /// Which rule withholds it, where one does.
    #[serde(default)]
    pub withheld: Option<Withheld>,
    /// Licence, where known.
    pub license: Option<String>,
    /// Who signed it.
    pub publisher: Option<PublisherKey>,
    /// The key for people to compare.
    pub fingerprint: Option<String>,
    /// What this node's user calls them.
    pub alias: Option<String>,
    /// Whether the name belongs to the publisher of this model.
    pub pinned: bool,
    /// How files of it can run code when they are loaded. The names decide for files that are not here.
    pub runs_code: Vec<RunsCode>,
    /// Its torrent; none where it has not been made.
    pub info_hash: Option<InfoHash>,
    /// The directory that holds its files, where there is one.
    pub path: Option<PathBuf>,
}

impl KnownModel {
    fn of(revision: &StoredRevision, library: &Library, trust: &Document) -> Self {
        let manifest = &revision.manifest;
        let withheld = library.sharing.of(&manifest.model_ref()).withheld;
        Self {
            model: manifest.model_ref(),
            name: manifest.name.clone(),
            revision: manifest.version.clone(),
            total_size: manifest.total_size,
            cached_bytes: revision.cached_bytes(),
            complete: revision.is_complete(),
            shared: withheld.is_none(),
            reason: withheld.map(|why| why.reason().to_owned()),
            withheld,
            license: manifest.license.clone(),
            publisher: manifest.publisher,
            fingerprint: manifest.publisher.map(|key| key.fingerprint()),
            alias: manifest.publisher.and_then(|key| trust.alias(&key)).map(ToString::to_string),
            pinned: manifest.publisher.is_some() && trust.pinned(&manifest.name) == manifest.publisher,
            runs_code: runs_code(revision).kinds(),
            info_hash: Some(manifest.torrent.info_hash),
            path: library.store.own_place(revision),
        }
    }

    fn unshared(model: &Unshared) -> Self {
        let size = model.size();
        let sizes = model.files.iter().map(|file| (file.path.as_str(), file.metadata.len()));
        let read = |number: usize, limit| complete::read_start(&model.files[number], limit).ok();
        Self {
            model: ModelRef { name: model.name.clone(), revision: Revision::default() },
            name: model.name.clone(),
            revision: Revision::default(),
            total_size: size,
            cached_bytes: size,
            complete: model.is_whole(),
            shared: false,
            reason: (!model.is_whole()).then(|| model.state.to_string()),
            withheld: None,
            license: model.license.clone(),
            publisher: None,
            fingerprint: None,
            alias: None,
            pinned: false,
            runs_code: Findings::of(sizes, read).kinds(),
            info_hash: None,
            path: Some(model.path.clone()),
        }
    }

    /// Whether the user put it into the models directory and did not share it.
    pub fn is_unshared(&self) -> bool {
        self.info_hash.is_none()
    }
}

/// Every model known here, and those in the models directory that are not shared, by name. Blocks for the disk where
/// contents are looked at for the first time.
pub fn all(library: &Library) -> Result<Vec<KnownModel>, NodeError> {
    // Who cannot be looked up goes without an alias.
    let trust = library.trust.document().unwrap_or_default();
    let mut models: Vec<KnownModel> =
        library.revisions()?.iter().map(|revision| KnownModel::of(revision, library, &trust)).collect();
    models
        .extend(unshared::find_all(&library.store, &mut Memory::default()).iter().map(KnownModel::unshared));
    // Stable: of one name, the model of the registry is first.
    models.sort_by(|a, b| a.model.cmp(&b.model));
    Ok(models)
}

/// The files of a revision that can run code when they are loaded. Reads the first bytes of files that are here.
pub(super) fn runs_code(revision: &StoredRevision) -> Findings {
    let files = revision.manifest.files.iter().map(|file| (file.path.as_str(), file.size));
    Findings::of(files, |number, limit| revision.contents[number].read(0..limit).ok().flatten())
}
