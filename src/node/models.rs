//! The known models, as `list` and `GET /v1/models` report them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::sharing::WithheldReason;
use super::unshared::{self, Memory, Unshared};
use super::{Library, NodeError};
use crate::model::code::{Findings, RunsCode};
use crate::model::{InfoHash, ModelName, ModelRef, PublisherKey, Revision, complete};
use crate::store::{ListedState, StoredRevision};
use crate::trust::TrustDocument;

/// One known model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownModel {
    /// `org/name`, or `org/name@revision`.
    pub model: ModelRef,
    /// Its name.
    pub name: ModelName,
    /// The revision.
    pub revision: Revision,
    /// Bytes of all files.
    pub total_size: u64,
    /// Verified bytes. For an unshared model, all bytes count, although they were not hashed.
    pub cached_bytes: u64,
    /// Whether every byte is stored.
    pub complete: bool,
    /// Whether this node uploads it to peers.
    pub shared: bool,
    /// The reason why it is not shared; none if the user has just not shared it.
    pub reason: Option<String>,
    /// The rule that withholds it, if one does.
    #[serde(default)]
    pub withheld: Option<WithheldReason>,
    /// Licence, where known.
    pub license: Option<String>,
    /// The key that signed it; none if it is not signed.
    pub publisher: Option<PublisherKey>,
    /// The fingerprint of the key, for people to compare.
    pub fingerprint: Option<String>,
    /// The alias that the user has given the publisher.
    pub alias: Option<String>,
    /// Whether the name belongs to the publisher of this model.
    pub pinned: bool,
    /// How files of it can run code when they are loaded. For absent files, the names decide.
    pub runs_code: Vec<RunsCode>,
    /// Its torrent; none for an unshared model.
    pub info_hash: Option<InfoHash>,
    /// The directory that holds its files, where there is one.
    pub path: Option<PathBuf>,
    /// The commit at the hub, if no manifest is known and the files are read from there.
    #[serde(default)]
    pub hub_commit: Option<String>,
    /// Whether the hub has a newer commit of it.
    #[serde(default)]
    pub hub_is_ahead: bool,
    /// What the hub has shown about the bytes, if it lists the files of a manifest of a publisher that the user did not choose.
    #[serde(default)]
    pub hub_state: Option<ListedState>,
}

impl KnownModel {
    fn of(revision: &StoredRevision, library: &Library, trust: &TrustDocument) -> Self {
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
            runs_code: library.findings.of(revision).kinds(),
            info_hash: Some(manifest.torrent.info_hash),
            path: library.store.placed().own_dir(revision),
            hub_commit: None,
            hub_is_ahead: false,
            hub_state: revision.hub_state_of_all(),
        }
    }

    fn of_hub(revision: &StoredRevision, library: &Library) -> Option<Self> {
        let listing = &revision.hub.as_ref()?.listing;
        let manifest = &revision.manifest;
        let withheld = match (listing.private, listing.gated) {
            (true, _) => Some(WithheldReason::Private),
            (false, true) => Some(WithheldReason::Gated),
            (false, false) => None,
        };
        let ahead = listing.newer.is_some();
        let reason = if ahead {
            "read from the hub, which has a newer commit: `get --update` or `warm --update` fetches it"
        } else {
            "read from the hub; shared when it is complete, if that is permitted"
        };
        Some(Self {
            model: listing.model.clone(),
            name: manifest.name.clone(),
            revision: manifest.version.clone(),
            total_size: manifest.total_size,
            cached_bytes: revision.cached_bytes(),
            complete: revision.is_complete(),
            shared: false,
            reason: Some(reason.to_owned()),
            withheld,
            license: listing.license.clone(),
            publisher: None,
            fingerprint: None,
            alias: None,
            pinned: false,
            runs_code: library.findings.of(revision).kinds(),
            info_hash: None,
            path: None,
            hub_commit: Some(listing.commit.to_string()),
            hub_is_ahead: ahead,
            hub_state: None,
        })
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
            hub_commit: None,
            hub_is_ahead: false,
            hub_state: None,
        }
    }

    /// Whether the user put it into the models directory and did not share it.
    pub fn is_unshared(&self) -> bool {
        self.info_hash.is_none() && self.hub_commit.is_none()
    }
}

/// Every known model, and the unshared models in the models directory, by name. Reads the disk.
pub fn all(library: &Library) -> Result<Vec<KnownModel>, NodeError> {
    // If the document cannot be read, no alias is shown.
    let trust = library.trust.document().unwrap_or_default();
    let mut models: Vec<KnownModel> =
        library.revisions().iter().map(|revision| KnownModel::of(revision, library, &trust)).collect();
    models
        .extend(unshared::find_all(&library.store, &mut Memory::default()).iter().map(KnownModel::unshared));
    let of_hub = library.store.hub().listings().into_iter();
    let of_hub = of_hub.filter(|listing| library.registry.get(&listing.model).is_none());
    let of_hub = of_hub.filter_map(|listing| StoredRevision::of_hub(&library.store, listing).ok());
    models.extend(of_hub.filter_map(|revision| KnownModel::of_hub(&revision, library)));
    // Stable: the model of the registry is the first of its name.
    models.sort_by(|a, b| a.model.cmp(&b.model));
    Ok(models)
}
