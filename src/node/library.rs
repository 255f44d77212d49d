//! The data of a base directory, without the engine: registry, store, trust and rules of sharing.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::config::Config;
use crate::model::keys::PublisherKeypair;
use crate::model::{Manifest, ModelRef};
use crate::mount::RequestedModel;
use crate::node::known_findings::KnownFindings;
use crate::node::sharing::SharingRules;
use crate::node::{NodeError, unshared};
use crate::paths::Paths;
use crate::store::{ByPublisher, Registry, SignedStates, Store, StoreError, StoredRevision};
use crate::trust::{Standing, Trust};

/// The registry and the store of one base directory.
pub struct Library {
    /// The effective configuration.
    pub config: Config,
    /// The paths of its files.
    pub paths: Paths,
    /// The known manifests.
    pub registry: Arc<Registry>,
    /// The manifests that are read by the fingerprint of their publisher.
    pub by_publisher: Arc<ByPublisher>,
    /// The newest known states of publishers.
    pub states: SignedStates,
    /// The stored bytes.
    pub store: Arc<Store>,
    /// Which publisher each name belongs to.
    pub trust: Arc<Trust>,
    /// Which models are not shared or not announced.
    pub sharing: Arc<SharingRules>,
    /// The files of complete models that can run code.
    pub findings: KnownFindings,
    /// How many manifests lookups have accepted since the last count of them.
    pub(super) looked_up: AtomicUsize,
}

impl Library {
    /// Opens the base directory, and creates it if it is absent. Takes no lock: for reading, and for the registry,
    /// whose files are replaced atomically.
    pub fn open(config: Config) -> Result<Self, NodeError> {
        Self::open_with(config, Store::open_to_read)
    }

    pub(super) fn open_with(
        config: Config,
        open: impl FnOnce(&Paths) -> Result<Arc<Store>, StoreError>,
    ) -> Result<Self, NodeError> {
        let paths = config.paths();
        paths.create()?;
        let registry = Arc::new(Registry::open(&paths)?);
        let store = open(&paths)?;
        let trust = Arc::new(Trust::open(&paths, config.security.trust));
        let sharing = Arc::new(SharingRules::open(&paths, config.network.announce)?);
        let (by_publisher, states) = (Arc::new(ByPublisher::open(&paths)?), SignedStates::new(&paths));
        let library = Self {
            config,
            paths,
            registry,
            by_publisher,
            states,
            store,
            trust,
            sharing,
            findings: KnownFindings::default(),
            looked_up: AtomicUsize::new(0),
        };
        if !library.paths.trust().exists() {
            library.trust.import_pins(library.pinned_by_command())?;
        }
        Ok(library)
    }

    /// The manifest of a model.
    pub fn manifest(&self, model: &ModelRef) -> Result<Arc<Manifest>, NodeError> {
        self.registry.get(model).ok_or_else(|| NodeError::UnknownModel(model.clone()))
    }

    /// A model with its contents.
    pub fn revision(&self, model: &ModelRef) -> Result<Arc<StoredRevision>, NodeError> {
        Ok(self.store.revision(self.manifest(model)?)?)
    }

    /// The known revisions of a model with their contents: first that of the registry, then those that are read by the
    /// fingerprint of their publisher.
    pub fn revisions_of(&self, model: &ModelRef) -> Result<Vec<Arc<StoredRevision>>, NodeError> {
        let all = self.registry.get(model).into_iter().chain(self.by_publisher.of_model(model));
        all.map(|manifest| Ok(self.store.revision(manifest)?)).collect()
    }

    /// The known manifest of the model at a path of a mount.
    pub(super) fn known_as(&self, sought: &RequestedModel) -> Option<Arc<Manifest>> {
        let registry = self.registry.get(&sought.model);
        let Some(fingerprint) = &sought.publisher else {
            return registry.filter(|known| !self.is_refuted(known));
        };
        let mut known = registry.into_iter().chain(self.by_publisher.of_model(&sought.model));
        known.find(|known| known.signed_by().is_some_and(|key| key.fingerprint() == *fingerprint))
    }

    /// The error for a model of which no manifest is known.
    pub fn absent(&self, model: ModelRef) -> NodeError {
        match unshared::find(&self.store, &model.name).filter(|_| model.revision.is_default()) {
            Some(unshared) => NodeError::Unshared { model, dir: unshared.path },
            None => NodeError::UnknownModel(model),
        }
    }

    /// Whether the trust still accepts a known manifest.
    pub fn is_accepted(&self, manifest: &Manifest) -> bool {
        let accepted = self.trust.still_accepts(&manifest.name, manifest.signed_by());
        if let Err(e) = &accepted {
            tracing::debug!(error = %e, model = %manifest.model_ref(), "the trust refuses the publisher of a known manifest");
        }
        accepted.is_ok() && !self.is_refuted(manifest)
    }

    /// Whether a manifest of a publisher that the user did not choose contradicts the hub.
    pub fn is_refuted(&self, manifest: &Manifest) -> bool {
        self.store.witnessed.refusal(manifest).is_some()
            && self.trust.standing(&manifest.name, manifest.signed_by().as_ref()) == Standing::Unknown
    }

    /// Whether a manifest may have been made on this host: it is not signed, or signed with this host's key or a former one.
    /// Reads the key.
    pub(super) fn may_have_made(&self, manifest: &Manifest) -> bool {
        let Some(publisher) = manifest.signed_by() else { return true };
        let path = self.paths.publisher_key();
        // A key that cannot be read may be the publisher's.
        let is_own = |own: PublisherKeypair| own.public() == self.trust.present_key(&publisher);
        path.exists() && PublisherKeypair::load(&path).map_or(true, is_own)
    }

    /// All known manifests, also of publishers that own no name.
    pub fn manifests(&self) -> Vec<Arc<Manifest>> {
        let mut all = self.registry.all();
        all.extend(self.by_publisher.all());
        all
    }

    /// All models with their contents, by name. Reads the disk.
    pub fn revisions(&self) -> Vec<Arc<StoredRevision>> {
        self.manifests().into_iter().filter_map(|manifest| self.usable_revision(manifest)).collect()
    }

    /// A model with its contents; none if they cannot be used, which is logged: one such model does not make
    /// other models unusable.
    pub(super) fn usable_revision(&self, manifest: Arc<Manifest>) -> Option<Arc<StoredRevision>> {
        let model = manifest.model_ref();
        let found = self.store.revision(manifest);
        found
            .inspect_err(|error| tracing::error!(%model, %error, "leaving out a model that cannot be used"))
            .ok()
    }
}
