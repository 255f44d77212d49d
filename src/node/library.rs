//! What this node knows and holds, without an engine: the registry and the store.

use std::sync::Arc;

use crate::config::{Config, TrustPolicy};
use crate::keys::PublisherKeypair;
use crate::model::{Manifest, ModelName, ModelRef, PublisherKey};
use crate::node::NodeError;
use crate::node::lock::NodeLock;
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
    /// Opens the base directory, creating it where needed. Takes no lock: for reading, and for the registry,
    /// whose files are replaced atomically.
    pub fn open(config: Config) -> Result<Self, NodeError> {
        let paths = config.paths();
        paths.create()?;
        let registry = Arc::new(Registry::open(&paths)?);
        let store = Store::open(&paths)?;
        Ok(Self { config, paths, registry, store })
    }

    /// Opens the base directory for writing. The lock is taken before the store is looked at.
    pub fn open_locked(config: Config) -> Result<(Self, NodeLock), NodeError> {
        let paths = config.paths();
        paths.create()?;
        let lock = NodeLock::take(&paths)?;
        Ok((Self::open(config)?, lock))
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

    /// Refuses a manifest of `name` signed by `given` where the name is another publisher's here. An unsigned
    /// manifest pins nobody.
    pub(super) fn check_publisher(
        &self,
        name: &ModelName,
        given: Option<PublisherKey>,
    ) -> Result<(), NodeError> {
        let known = self.registry.all().into_iter().filter(|m| m.name == *name).find_map(|m| m.publisher);
        match known {
            Some(known) if given != Some(known) => Err(NodeError::OtherPublisher {
                name: name.clone(),
                known: known.fingerprint(),
                given: given.map_or_else(|| "nobody".to_owned(), |key| key.fingerprint()),
            }),
            _ => Ok(()),
        }
    }

    /// With `security.trust: strict`, refuses what is not signed by this base directory's own key: no other
    /// publisher can be listed yet.
    pub(super) fn check_trust(&self, manifest: &Manifest) -> Result<(), NodeError> {
        if self.config.security.trust == TrustPolicy::Tofu {
            return Ok(());
        }
        let own = PublisherKeypair::load(&self.paths.publisher_key()).ok().map(|key| key.public());
        match manifest.publisher {
            Some(key) if Some(key) == own => Ok(()),
            given => Err(NodeError::Untrusted {
                name: manifest.name.clone(),
                given: given.map_or_else(|| "nobody".to_owned(), |key| key.fingerprint()),
            }),
        }
    }
}
