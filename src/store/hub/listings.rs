//! The commits of models that are read from a hub, on the disk.

use std::collections::HashSet;
use std::path::Path;

use super::{HubKey, HubListing, HubStore};
use crate::model::ModelRef;
use crate::store::StoreError;
use crate::{fsutil, nofollow};

/// Longest listing of a commit that is read from the disk, in bytes.
const MAX_LISTING: u64 = 256 << 20;

impl HubStore<'_> {
    /// The commits of models that are read from a hub. A damaged file is logged and skipped.
    pub fn listings(&self) -> Vec<HubListing> {
        let root = self.store.parts.files.paths.hub_models();
        let (mut found, mut dirs) = (Vec::new(), vec![root]);
        while let Some(dir) = dirs.pop() {
            for (name, kind) in nofollow::read_dir(&dir).unwrap_or_default() {
                let path = dir.join(name);
                if kind.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|extension| extension == "json") {
                    match self.read_listing(&path) {
                        Ok(listing) => found.push(listing),
                        Err(error) => tracing::warn!(%error, "skipping the damaged listing of a commit"),
                    }
                }
            }
        }
        found.sort_by(|a, b| a.model.cmp(&b.model));
        found
    }

    fn read_listing(&self, path: &Path) -> Result<HubListing, StoreError> {
        let bytes = nofollow::read_capped(path, MAX_LISTING).map_err(|e| StoreError::io(path, e))?;
        let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
        let listing: HubListing = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if self.store.parts.files.paths.hub_model(&listing.model) != path {
            return Err(damaged("it describes another model".to_owned()));
        }
        Ok(listing)
    }

    /// Stores the commit of a model durably, in place of an earlier one.
    pub fn save_listing(&self, listing: &HubListing) -> Result<(), StoreError> {
        let path = self.store.parts.files.paths.hub_model(&listing.model);
        let failed = |e| StoreError::io(&path, e);
        let json = serde_json::to_vec(listing).map_err(|e| failed(e.into()))?;
        nofollow::create_dir_all(fsutil::parent(&path)).map_err(failed)?;
        nofollow::write_atomic(&path, &json, fsutil::MODE_PRIVATE).map_err(failed)
    }

    /// The cached bytes of a model that is read from a hub; none for another model.
    pub fn cached_bytes(&self, model: &ModelRef) -> Result<Option<u64>, StoreError> {
        let Some(listing) = self.listings().into_iter().find(|listing| listing.model == *model) else {
            return Ok(None);
        };
        let keys: HashSet<HubKey> = listing.keys().collect();
        let bytes = keys.into_iter().map(|key| Ok(self.content(key)?.cached_bytes()));
        bytes.sum::<Result<u64, StoreError>>().map(Some)
    }

    /// Deletes the commit of a model, and the cached bytes of files that no other commit has. Returns whether there was one.
    pub fn forget(&self, model: &ModelRef) -> Result<bool, StoreError> {
        let (gone, remaining): (Vec<_>, Vec<_>) =
            self.listings().into_iter().partition(|listing| listing.model == *model);
        let keys = |listings: &[HubListing]| -> HashSet<HubKey> {
            listings.iter().flat_map(HubListing::keys).collect()
        };
        let used = keys(&remaining);
        for key in keys(&gone).difference(&used) {
            let content = self.content(*key)?;
            if let Some(of_hub) = content.of_hub() {
                of_hub.forget_twin();
            }
            content.start_over().map_err(|e| StoreError::io(&content.path(), e))?;
        }
        self.remove_listing(model)
    }

    /// Deletes the commit of a model. Returns whether there was one.
    pub fn remove_listing(&self, model: &ModelRef) -> Result<bool, StoreError> {
        let path = self.store.parts.files.paths.hub_model(model);
        let removed = nofollow::remove_if_there(&path).map_err(|e| StoreError::io(&path, e))?;
        if removed {
            nofollow::remove_empty_parents(&path, &self.store.parts.files.paths.hub_models());
        }
        Ok(removed)
    }
}
