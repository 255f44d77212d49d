//! What this node knows and holds, without an engine: the registry, the store, and whom it trusts.

use std::sync::Arc;

use crate::catalog::Trust;
use crate::config::Config;
use crate::model::{Manifest, ModelRef};
use crate::mount::Sought;
use crate::node::lock::NodeLock;
use crate::node::sharing::Sharing;
use crate::node::{NodeError, rotation, unshared};
use crate::paths::Paths;
use crate::store::{Beside, Registry, States, Store, StoreError, StoredRevision};

/// The registry and the store of one base directory.
pub struct Library {
    /// The effective configuration.
    pub config: Config,
    /// Where everything lies.
    pub paths: Paths,
    /// The manifests known.
    pub registry: Arc<Registry>,
    /// The manifests that are read by the fingerprint of their publisher.
    pub beside: Arc<Beside>,
    /// The newest states known of publishers.
    pub states: States,
    /// The bytes here.
    pub store: Arc<Store>,
    /// Whom names belong to.
    pub trust: Arc<Trust>,
    /// What is here and not shared.
    pub sharing: Arc<Sharing>,
}

impl Library {
    /// Opens the base directory, creating it where needed. Takes no lock: for reading, and for the registry,
    /// whose files are replaced atomically.
    pub fn open(config: Config) -> Result<Self, NodeError> {
        Self::open_with(config, Store::open_to_read)
    }

    fn open_with(
        config: Config,
        open: impl FnOnce(&Paths) -> Result<Arc<Store>, StoreError>,
    ) -> Result<Self, NodeError> {
        let paths = config.paths();
        paths.create()?;
        let registry = Arc::new(Registry::open(&paths)?);
        let store = open(&paths)?;
        let trust = Arc::new(Trust::open(&paths, config.security.trust));
        let sharing = Arc::new(Sharing::open(&paths, config.network.announce)?);
        let (beside, states) = (Arc::new(Beside::open(&paths)?), States::new(&paths));
        let library = Self { config, paths, registry, beside, states, store, trust, sharing };
        if !library.paths.trust().exists() {
            library.trust.take_over(library.taken())?;
        }
        Ok(library)
    }

    /// Opens the base directory for writing. The lock is taken before the store is looked at. Finishes a replacement of
    /// the publisher's key that was cut short; where that fails, it is logged.
    pub fn open_locked(config: Config) -> Result<(Self, NodeLock), NodeError> {
        let paths = config.paths();
        paths.create()?;
        let lock = NodeLock::take(&paths)?;
        tracing::info!("Configuration: {config}.");
        let library = Self::open_with(config, Store::open)?;
        rotation::finish_or_log(&library);
        Ok((library, lock))
    }

    /// The manifest of a model.
    pub fn manifest(&self, model: &ModelRef) -> Result<Arc<Manifest>, NodeError> {
        self.registry.get(model).ok_or_else(|| NodeError::UnknownModel(model.clone()))
    }

    /// A model with its contents.
    pub fn revision(&self, model: &ModelRef) -> Result<Arc<StoredRevision>, NodeError> {
        Ok(self.store.revision(self.manifest(model)?)?)
    }

    /// The revisions known of a model, with their contents: that of the registry first, then those that are read by the
    /// fingerprint of their publisher.
    pub fn revisions_of(&self, model: &ModelRef) -> Result<Vec<Arc<StoredRevision>>, NodeError> {
        let all = self.registry.get(model).into_iter().chain(self.beside.of_model(model));
        all.map(|manifest| Ok(self.store.revision(manifest)?)).collect()
    }

    /// The manifest known of the model that a path of a mount means.
    pub(super) fn known_as(&self, sought: &Sought) -> Option<Arc<Manifest>> {
        let registry = self.registry.get(&sought.model);
        let Some(fingerprint) = &sought.publisher else { return registry };
        let mut known = registry.into_iter().chain(self.beside.of_model(&sought.model));
        known.find(|known| known.signed_by().is_some_and(|key| key.fingerprint() == *fingerprint))
    }

    /// The error for a model of which no manifest is known.
    pub fn absent(&self, model: ModelRef) -> NodeError {
        match unshared::find(&self.store, &model.name).filter(|_| model.revision.is_default()) {
            Some(unshared) => NodeError::Unshared { model, dir: unshared.path },
            None => NodeError::UnknownModel(model),
        }
    }

    /// Whether the trust still accepts a manifest that is known here.
    pub fn stands(&self, manifest: &Manifest) -> bool {
        let stands = self.trust.stands(&manifest.name, manifest.signed_by());
        if let Err(e) = &stands {
            tracing::debug!("{} is not used: {e}", manifest.model_ref());
        }
        stands.is_ok()
    }

    /// All manifests known, also of publishers that own no name.
    pub fn manifests(&self) -> Vec<Arc<Manifest>> {
        let mut all = self.registry.all();
        all.extend(self.beside.all());
        all
    }

    /// Every known model with its contents, by name; after them the models that are read by the fingerprint of their
    /// publisher.
    pub fn revisions(&self) -> Result<Vec<Arc<StoredRevision>>, NodeError> {
        self.manifests().into_iter().map(|m| Ok(self.store.revision(m)?)).collect()
    }
}
