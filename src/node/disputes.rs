//! Names that several publishers use, and the path under which the model of each publisher is read.
//!
//! A name that is not pinned is disputed when the rules of `trust` do not choose among its publishers. A publisher is
//! known by a valid record, or by a manifest in the registry. Uses the memory and the store of the catalog, not the
//! network.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::local_models::LocalModels;
use super::node_catalog::NodeCatalog;
use super::{Library, NodeError};
use crate::catalog::now;
use crate::fetch::Fetch;
use crate::model::{InfoHash, Manifest, ModelRef, PublisherKey};
use crate::mount::{RequestedModel, ShownModels};
use crate::store::{ListedState, StoredRevision, Verdict};
use crate::trust::{Choice, NamedPublisher, Pinning, Standing, TrustDocument, TrustError};

/// A name that several publishers dispute, as `status` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisputedName {
    /// The model.
    pub model: String,
    /// The publisher that the mount still shows under the name, because it was read before the dispute; none where the
    /// name cannot be read.
    pub kept: Option<NamedPublisher>,
    /// The publishers.
    pub publishers: Vec<NamedPublisher>,
    /// The paths of the model of each publisher.
    pub paths: Vec<PathBuf>,
}

/// Which publishers dispute which names, and how the mounts show them now.
pub(super) struct Disputes {
    library: Arc<Library>,
    /// Whose records name publishers.
    catalog: Option<Arc<NodeCatalog>>,
    local: Arc<LocalModels>,
    shown_names: Mutex<ShownNames>,
}

#[derive(Debug, Default)]
struct ShownNames {
    /// Names that were disputed when the mounts were updated last.
    disputed: BTreeSet<ModelRef>,
    /// Disputed names that the mounts still show.
    kept: BTreeSet<ModelRef>,
}

/// The result of [`Disputes::claim_known`].
pub(super) enum Claim {
    /// The name belongs to its publisher, or stays unpinned because several publishers have the same bytes.
    Accepted,
    /// The rules prefer another publisher.
    Another,
}

impl Disputes {
    /// No name is disputed until [`Self::shown`] is called.
    pub fn new(library: Arc<Library>, catalog: Option<Arc<NodeCatalog>>, local: Arc<LocalModels>) -> Self {
        Self { library, catalog, local, shown_names: Mutex::default() }
    }

    /// The models that a mount shows: those of the registry that the trust accepts, which of their names are disputed,
    /// the models that are read by the fingerprint of their publisher, and the user's own files that are not shared.
    pub fn shown(&self) -> Result<ShownModels, NodeError> {
        let library = &self.library;
        let usable = |manifest| library.usable_revision(manifest);
        let accepted = library.registry.all().into_iter().filter(|manifest| library.is_accepted(manifest));
        let mut revisions: Vec<_> = accepted.filter_map(usable).collect();
        let may_read = |manifest: &Arc<Manifest>| {
            let judge = |key| library.trust.may_read_by_key(&manifest.name, &key);
            manifest.signed_by().is_some_and(|key| judge(key).is_ok())
        };
        let of_publishers = library.by_publisher.all().into_iter().filter(may_read);
        let disputed = self.disputed_in_mount();
        self.shown_names.lock().disputed.clone_from(&disputed);
        // After those of the registry, so that the user's own files are shown under their name.
        revisions.extend(self.local.revisions());
        Ok(ShownModels {
            revisions,
            disputed,
            by_publisher: of_publishers.filter_map(usable).collect(),
            ..ShownModels::default()
        })
    }

    /// The disputed names that the mount cannot show. The mount shows the user's own files also under a disputed name.
    fn disputed_in_mount(&self) -> BTreeSet<ModelRef> {
        let mut disputed: BTreeSet<ModelRef> = self.find().into_iter().map(|(model, _)| model).collect();
        if !disputed.is_empty() {
            for local in self.local.revisions() {
                disputed.remove(&local.manifest.model_ref());
            }
        }
        disputed
    }

    /// Fails for a name that the mount refuses because several publishers dispute it.
    pub fn check(&self, model: &ModelRef) -> Result<(), NodeError> {
        let refused = {
            let seen = self.shown_names.lock();
            seen.disputed.contains(model) && !seen.kept.contains(model)
        };
        let disputes = if refused { self.find() } else { Vec::new() };
        let Some((_, keys)) = disputes.into_iter().find(|(disputed, _)| disputed == model) else {
            return Ok(());
        };
        let candidates = keys.iter().map(|key| self.library.trust.describe(key)).collect();
        Err(TrustError::Ambiguous { name: model.name.clone(), candidates, keys }.into())
    }

    /// Sets the disputed names that the mount still shows.
    pub fn set_kept(&self, kept: BTreeSet<ModelRef>) {
        self.shown_names.lock().kept = kept;
    }

    /// Whether the set of disputed names differs from the set that the mount shows.
    pub fn have_changed(&self) -> bool {
        let now = self.disputed_in_mount();
        self.shown_names.lock().disputed != now
    }

    /// The disputed names, for `status`. `mounts` are the mount points.
    pub fn status(&self, mounts: &[PathBuf]) -> Vec<DisputedName> {
        let trust = &self.library.trust;
        let kept = self.shown_names.lock().kept.clone();
        let report = |(model, keys): (ModelRef, Vec<PublisherKey>)| {
            let held = self.library.registry.get(&model).filter(|_| kept.contains(&model));
            DisputedName {
                kept: held.and_then(|held| held.signed_by()).map(|key| trust.named(&key)),
                publishers: keys.iter().map(|key| trust.named(key)).collect(),
                paths: paths_by(&model, &keys, mounts),
                model: model.to_string(),
            }
        };
        self.find().into_iter().map(report).collect()
    }

    /// Pins the name of a known model to its publisher, because a command uses it. Fails if the name is disputed.
    pub fn claim_known(&self, known: &Manifest) -> Result<Claim, NodeError> {
        let trust = &self.library.trust;
        let Some(publisher) = known.signed_by() else { return Ok(Claim::Accepted) };
        if trust.pinned(&known.name)?.is_some() {
            return Ok(Claim::Accepted);
        }
        let Choice { publisher: chosen, pinning } =
            trust.choose(&known.name, &self.claimants(known, publisher), None)?;
        let same = pinning == Pinning::Leave || trust.present_key(&chosen) == trust.present_key(&publisher);
        if !same {
            return Ok(Claim::Another);
        }
        trust.accept(&known.name, Some(publisher), pinning)?;
        Ok(Claim::Accepted)
    }

    /// The names that are disputed, with the publishers.
    fn find(&self) -> Vec<(ModelRef, Vec<PublisherKey>)> {
        let Ok(document) = self.library.trust.document() else { return Vec::new() };
        let of = |known: Arc<Manifest>| {
            let publisher = known.signed_by()?;
            let claimants = self.claimants(&known, publisher);
            if claimants.iter().all(|(key, _)| *key == publisher) || !self.library.is_accepted(&known) {
                return None;
            }
            match self.library.trust.choose(&known.name, &claimants, None) {
                Err(TrustError::Ambiguous { keys, .. }) => Some((known.model_ref(), keys)),
                _ => None,
            }
        };
        self.unpinned(&document).filter_map(of).collect()
    }

    /// The manifests of the registry with a name that is not pinned.
    fn unpinned(&self, document: &TrustDocument) -> impl Iterator<Item = Arc<Manifest>> {
        let all = self.library.registry.all().into_iter();
        all.filter(|manifest| document.pinned(&manifest.name).is_none())
    }

    /// The known publishers of a model with their torrents: from the manifest in the registry, from manifests that are
    /// read by fingerprint, and from valid records. Without manifests that the hub has refuted, and without those that it has
    /// not confirmed if it has confirmed the one of the registry.
    fn claimants(&self, known: &Manifest, publisher: PublisherKey) -> Vec<(PublisherKey, InfoHash)> {
        let model = known.model_ref();
        let mut all = vec![(publisher, known.torrent.info_hash)];
        let owner = self.library.trust.present_key(&publisher);
        let witnessed = &self.library.store.witnessed;
        let is_listed = matches!(witnessed.verdict_of(known), Some(Verdict::Listed(_)));
        let mut claim = |key: PublisherKey, info_hash, verdict: Option<Verdict>| {
            let has_lost = match verdict {
                Some(Verdict::Refuted(_)) => true,
                Some(Verdict::Outranked) => is_listed,
                Some(Verdict::Listed(_)) | None => false,
            };
            let is_stranger = || self.library.trust.standing(&model.name, Some(&key)) == Standing::Unknown;
            if has_lost && is_stranger() {
                return;
            }
            // Another state of the same publisher is no dispute.
            if self.library.trust.present_key(&key) != owner && all.iter().all(|(other, _)| *other != key) {
                all.push((key, info_hash));
            }
        };
        if let Some(part) = &self.catalog {
            let now = now();
            for record in part.store.of_model(&model, &self.library.trust.known_keys()) {
                if let Some(announced) = record.model().filter(|_| record.check_time(now).is_ok()) {
                    let verdict = witnessed.verdict(&model, &announced.manifest);
                    claim(record.record().publisher, announced.info_hash, verdict);
                }
            }
        }
        for other in self.library.by_publisher.of_model(&model) {
            if let Some(key) = other.signed_by() {
                claim(key, other.torrent.info_hash, witnessed.verdict_of(&other));
            }
        }
        all
    }
}

/// The paths under which the models of several publishers are read; none without a mount.
pub(super) fn paths_by(model: &ModelRef, keys: &[PublisherKey], mounts: &[PathBuf]) -> Vec<PathBuf> {
    let sought =
        |key: &PublisherKey| RequestedModel { model: model.clone(), publisher: Some(key.fingerprint()) };
    mounts.iter().flat_map(|mount| keys.iter().map(|key| mount.join(sought(key).path()))).collect()
}

/// Facts that a reader of a model should know, as `status` reports them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelNote {
    /// The model.
    pub model: String,
    /// Its publisher; none where it is unsigned.
    pub publisher: Option<PublisherKey>,
    /// The fingerprint of the key, for people to compare.
    pub fingerprint: Option<String>,
    /// The alias that the user has given the publisher.
    pub alias: Option<String>,
    /// Whether the name is pinned to this publisher.
    pub pinned: bool,
    /// How files of it can run code when they are loaded.
    pub runs_code: Vec<crate::model::code::RunsCode>,
    /// What the hub has shown about the bytes, if it lists the files of a manifest of a publisher that the user did not choose.
    #[serde(default)]
    pub hub_state: Option<ListedState>,
}

/// Facts that readers of the models in swarms should know.
pub(super) fn notes(library: &Library, fetch: &Fetch) -> Vec<ModelNote> {
    let document = library.trust.document().unwrap_or_default();
    let note = |revision: Arc<StoredRevision>| {
        let manifest = &revision.manifest;
        let publisher = manifest.signed_by();
        ModelNote {
            model: manifest.model_ref().to_string(),
            publisher,
            fingerprint: publisher.map(|key| key.fingerprint()),
            alias: publisher.and_then(|key| document.alias(&key)).map(ToString::to_string),
            pinned: publisher.is_some() && document.pinned(&manifest.name) == publisher,
            runs_code: library.findings.of(&revision).kinds(),
            hub_state: revision.hub_state_of_all(),
        }
    };
    fetch.joined().into_iter().map(note).collect()
}
