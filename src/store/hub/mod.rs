//! Models of which no manifest is known, read from a hub: their commits, and the contents of their files.
//!
//! A content that comes from a hub is named by the hub's hash of it, not by a pieces root, and has a map of another kind. So
//! its bytes are never offered to a swarm. While it is partial, its bytes rest on the hub's TLS and on the fixed commit. When
//! it is complete, all of it is hashed ([`HubProof`]). When a manifest of the model is known, the bytes move to the contents
//! of the manifest: as verified bytes if they were hashed, otherwise as bytes that are proved before a reader gets them.

mod commit;
mod content;
mod listings;
mod moving;
mod proof;

use std::sync::Arc;

use super::content::Content;
use super::{HubModel, Store, StoreError, StoredRevision};
use crate::model::manifest::SourceEntry;
use crate::model::{FileEntry, Identity, Manifest, ManifestError};
pub(crate) use commit::{HubFile, HubKey, HubListing};
pub(crate) use content::{HubContent, OpenHubFile};
pub(crate) use proof::HubProof;

/// The piece length in manifests of models that are read from a hub. No torrent is made of them. It is the longest one, so that
/// no model has too many pieces.
const HUB_PIECE_LENGTH: u32 = 128 << 20;

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
            None => Ok(Arc::new(Content::empty(store.parts.clone()))),
            Some(key) => store.hub().content(key),
        });
        let contents = contents.collect::<Result<Vec<_>, StoreError>>()?;
        let layout = manifest.layout();
        let hub = Some(Arc::new(HubModel::new(listing)));
        Ok(Arc::new(Self {
            manifest: Arc::new(manifest),
            layout,
            contents,
            is_local: false,
            hub,
            listed: None,
            refutation: None,
        }))
    }
}

/// The reason why a commit at a hub cannot be read.
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
        self.store.live.get_or_open(key.content_key(), || Content::from_hub(key, self.store.parts.clone()))
    }
}
