//! The unshared models that a mount shows.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::Library;
use super::unshared::{self, Unshared, Wholeness};
use crate::model::{ModelName, ModelRef};
use crate::store::StoredRevision;

/// The unshared models that the mounts show.
pub(super) struct LocalModels {
    library: Arc<Library>,
    shown: Mutex<Vec<LocalModel>>,
    /// Notified when records of the store have changed: a directory may be shared now, or no longer.
    pub records_changed: Notify,
    pub scanned: watch::Sender<bool>,
}

/// An unshared model that the mounts show.
#[derive(Debug, Clone)]
struct LocalModel {
    name: ModelName,
    path: PathBuf,
    revision: Arc<StoredRevision>,
}

impl LocalModels {
    /// Shows none until the first scan.
    pub fn new(library: Arc<Library>) -> Self {
        let (records_changed, scanned) = (Notify::new(), watch::Sender::new(false));
        Self { library, shown: Mutex::default(), records_changed, scanned }
    }

    /// Waits until the models directory was scanned for the first time.
    pub async fn first_scan(&self) {
        // The sender lives as long as the node.
        let _ = self.scanned.subscribe().wait_for(|scanned| *scanned).await;
    }

    /// The unshared models that the mount shows now. A directory that was shared since the latest scan is not among
    /// them.
    pub fn revisions(&self) -> Vec<Arc<StoredRevision>> {
        let local = self.shown.lock().clone();
        if local.is_empty() {
            return Vec::new();
        }
        let recorded = self.library.store.placed().recorded_dirs();
        let unshared = local.into_iter().filter(|local| !unshared::is_recorded(&recorded, &local.path));
        unshared.map(|local| local.revision).collect()
    }

    /// The unshared model that the mount shows for a name.
    pub fn revision(&self, model: &ModelRef) -> Option<Arc<StoredRevision>> {
        if !model.revision.is_default() || !self.shown.lock().iter().any(|local| local.name == model.name) {
            return None;
        }
        self.revisions().into_iter().find(|revision| revision.manifest.name == model.name)
    }

    /// Applies the result of a scan. Returns whether the mounts must change what they show.
    pub fn update(&self, found: &[Unshared]) -> bool {
        let before = self.shown.lock().clone();
        let was_shown = |model: &&Unshared| before.iter().any(|local| local.path == model.path);
        // A model that changes while it is in use stays visible.
        let ready = found.iter().filter(|model| match model.state {
            Wholeness::Whole => true,
            Wholeness::Changing(_) => was_shown(model),
            Wholeness::Incomplete(_) => false,
        });
        let next: Vec<LocalModel> = ready
            .filter_map(|model| {
                let revision = StoredRevision::local(&self.library.store.parts, &model.name, &model.files);
                let revision = revision
                    .inspect_err(|error| tracing::warn!(%error, path = %model.path.display(), "could not read an unshared model"))
                    .ok()?;
                Some(LocalModel { name: model.name.clone(), path: model.path.clone(), revision })
            })
            .collect();
        let id = |local: &LocalModel| (local.path.clone(), local.revision.manifest.torrent.info_hash);
        let changed = before.iter().map(id).ne(next.iter().map(id));
        if changed {
            *self.shown.lock() = next;
        }
        changed
    }
}
