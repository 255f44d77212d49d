//! What this node knows and holds, without an engine: the registry and the store.

use std::sync::Arc;

use crate::config::Config;
use crate::model::{Manifest, ModelRef};
use crate::node::NodeError;
use crate::paths::Paths;
use crate::store::{Registry, Store, StoredRevision};

/// The registry and the store of one base directory.
pub struct Library {
    /// The effective configuration.
    pub config: Config,
    /// Where everything lies.
    pub paths: Paths,
    /// The manifests known.
    pub registry: Arc<Registry>,
    /// The bytes here.
    pub store: Arc<Store>,
}

impl Library {
    /// Opens the base directory, creating it where needed. Takes no lock: for reading only, unless the caller
    /// holds [`super::lock::NodeLock`].
    pub fn open(config: Config) -> Result<Self, NodeError> {
        let _ = config;
        todo!()
    }

    /// The manifest of a model.
    pub fn manifest(&self, model: &ModelRef) -> Result<Arc<Manifest>, NodeError> {
        self.registry.get(model).ok_or_else(|| NodeError::UnknownModel(model.clone()))
    }

    /// A model with its contents.
    pub fn revision(&self, model: &ModelRef) -> Result<Arc<StoredRevision>, NodeError> {
        Ok(self.store.revision(self.manifest(model)?)?)
    }

    /// Every known model with its contents, by name.
    pub fn revisions(&self) -> Result<Vec<Arc<StoredRevision>>, NodeError> {
        self.registry.all().into_iter().map(|m| Ok(self.store.revision(m)?)).collect()
    }
}
