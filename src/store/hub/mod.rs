//! Models of which no manifest is known, read from a hub: their commits, and the contents of their files.
//!
//! A content that comes from a hub is named by the hub's hash of it, not by a pieces root, and has a map of another kind. So
//! its bytes are never offered to a swarm. While it is partial, its bytes rest on the hub's TLS and on the fixed commit. When
//! it is complete, all of it is hashed ([`HubProof`]). When a manifest of the model is known, the bytes move to the contents
//! of the manifest: as verified bytes if they were hashed, otherwise as bytes that are proved before a reader gets them.

mod content;
mod listings;
mod moving;
mod proof;

use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::content::Content;
use super::{ContentKey, Store, StoreError, StoredRevision};
use crate::model::manifest::SourceEntry;
use crate::model::{FileEntry, GitOid, Identity, Manifest, ManifestError, ModelRef, PiecesRoot};
pub use content::{HubContent, OpenHubFile};
pub use proof::HubProof;

/// The piece length in manifests of models that are read from a hub. No torrent is made of them. It is the longest one, so that
/// no model has too many pieces.
const HUB_PIECE_LENGTH: u32 = 128 << 20;

/// The name of a content that comes from a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HubKey {
    /// The hash that the hub lists.
    pub identity: Identity,
    /// Length in bytes.
    pub len: u64,
    /// The restricted repository that has it; none for a repository that all users may read. A listing is only a claim: with
    /// the hash of a file of a restricted repository in another one, a user could otherwise read the cached bytes.
    pub scope: Option<HubScope>,
}

/// Names a restricted repository of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HubScope(u64);

impl HubKey {
    /// Name of its file in the cache.
    pub(super) fn file_name(&self) -> String {
        let name = match self.identity {
            Identity::Lfs(sha256) => format!("{sha256}.{}", self.len),
            Identity::Git(oid) => format!("{oid}.{}", self.len),
        };
        match self.scope {
            None => name,
            Some(HubScope(scope)) => format!("{name}.{scope:016x}"),
        }
    }

    /// The content of a file with this name, if any.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        let hash = parts.next()?;
        let identity = match hash.len() {
            40 => Identity::Git(hash.parse().ok()?),
            _ => Identity::Lfs(hash.parse().ok()?),
        };
        let len = parts.next()?.parse().ok()?;
        let scope = match parts.next() {
            Some(scope) if scope.len() == 16 => Some(HubScope(u64::from_str_radix(scope, 16).ok()?)),
            Some(_) => return None,
            None => None,
        };
        parts.next().is_none().then_some(Self { identity, len, scope })
    }

    /// The key among all contents: no bytes have this pieces root.
    pub(super) fn content_key(&self) -> ContentKey {
        let mut hasher = Sha256::new();
        hasher.update(b"silmaril hub content\0");
        hasher.update(self.file_name());
        ContentKey { root: PiecesRoot(hasher.finalize().into()), len: self.len }
    }
}

/// One file of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubFile {
    /// The relative path.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// The hash that the hub lists.
    pub identity: Identity,
}

/// One commit of a repository at a hub. The name of the model stays at this commit until the user updates it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubListing {
    /// The model.
    pub model: ModelRef,
    /// The name that the hub uses for the repository; it differs from the model's after a renaming.
    pub repository: crate::model::ModelName,
    /// The address of the hub.
    pub endpoint: String,
    /// The commit.
    pub commit: GitOid,
    /// The files, in canonical order.
    pub files: Vec<HubFile>,
    /// Whether users must accept conditions to read the repository.
    #[serde(default)]
    pub gated: bool,
    /// Whether only certain users can read it.
    #[serde(default)]
    pub private: bool,
    /// The licence that the hub reports.
    #[serde(default)]
    pub license: Option<String>,
    /// A newer commit of the same name that the hub had when it was asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer: Option<GitOid>,
}

impl HubListing {
    /// The file with a path.
    pub fn file(&self, path: &str) -> Option<&HubFile> {
        let at = self.files.binary_search_by(|file| crate::model::path::compare(&file.path, path));
        at.ok().map(|at| &self.files[at])
    }

    /// Whether only users that the hub accepts may read the files.
    pub fn is_restricted(&self) -> bool {
        self.gated || self.private
    }

    /// The name of the content of a file of this commit; none for an empty file.
    pub fn key(&self, file: &HubFile) -> Option<HubKey> {
        (file.size > 0).then(|| HubKey { identity: file.identity, len: file.size, scope: self.scope() })
    }

    /// The names of the contents of all files that are not empty.
    pub fn keys(&self) -> impl Iterator<Item = HubKey> {
        self.files.iter().filter_map(|file| self.key(file))
    }

    fn scope(&self) -> Option<HubScope> {
        self.is_restricted().then(|| {
            let mut hasher = Sha256::new();
            hasher.update(format!("silmaril restricted\0{}\0{}", self.endpoint, self.repository));
            let hash: [u8; 32] = hasher.finalize().into();
            HubScope(hash.iter().take(8).fold(0, |scope, byte| scope << 8 | u64::from(*byte)))
        })
    }
}

/// A model that is read from a hub.
#[derive(Debug)]
pub struct HubModel {
    /// The commit.
    pub listing: HubListing,
    /// The same model with its manifest, once that is known.
    successor: RwLock<Option<Arc<StoredRevision>>>,
}

impl HubModel {
    /// The same model with its manifest, once that is known: reads continue there.
    pub fn successor(&self) -> Option<Arc<StoredRevision>> {
        self.successor.read().clone()
    }

    /// Has all reads continue with another revision.
    pub fn succeed(&self, revision: Arc<StoredRevision>) {
        *self.successor.write() = Some(revision);
    }
}

impl StoredRevision {
    /// The revision of a commit at a hub. Its manifest is made up: no hash in it is a hash of bytes.
    pub fn of_hub(store: &Arc<Store>, listing: HubListing) -> Result<Arc<Self>, HubRevisionError> {
        let entry = |file: &HubFile| {
            let root = listing.key(file).map(|key| key.content_key().root);
            let sha256 = match file.identity {
                Identity::Lfs(sha256) => Some(sha256),
                Identity::Git(_) => None,
            };
            FileEntry::new(file.path.as_str(), file.size, sha256, root)
        };
        let entries = listing.files.iter().map(entry).collect();
        let model = listing.model.clone();
        let mut manifest = Manifest::new(model.name, model.revision, HUB_PIECE_LENGTH, entries)?;
        manifest.license.clone_from(&listing.license);
        manifest.source = Some(SourceEntry {
            kind: "huggingface".to_owned(),
            url: None,
            commit: Some(listing.commit.to_string()),
            other: Default::default(),
        });
        // Both are in canonical order.
        let contents = listing.files.iter().map(|file| match listing.key(file) {
            None => Ok(Arc::new(Content::empty(store.clone()))),
            Some(key) => store.hub().content(key),
        });
        let contents = contents.collect::<Result<Vec<_>, StoreError>>()?;
        let layout = manifest.layout();
        let hub = Some(Arc::new(HubModel { listing, successor: RwLock::default() }));
        Ok(Arc::new(Self { manifest: Arc::new(manifest), layout, contents, is_local: false, hub }))
    }
}

/// Why a commit at a hub cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HubRevisionError {
    /// Its files cannot be the files of a model.
    #[error(transparent)]
    Files(#[from] ManifestError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The models of a store that are read from a hub.
pub struct HubStore<'a> {
    pub(super) store: &'a Arc<Store>,
}

impl HubStore<'_> {
    /// The content of a file at a hub.
    pub(super) fn content(&self, key: HubKey) -> Result<Arc<Content>, StoreError> {
        self.store.live.get_or_open(key.content_key(), || Content::from_hub(key, self.store.clone()))
    }
}
