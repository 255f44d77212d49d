//! The swarms that this node joins to upload its models, each as the rules of sharing permit.
//!
//! A model with a hybrid twin is two torrents with the same files. The twin is seeded whole or not at all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::sharing::Rule;
use super::{Library, NodeError};
use crate::fetch::{EvictionHold, Exposure, Fetch, FetchSettings, places};
use crate::model::{InfoHash, Manifest, ModelRef};
use crate::store::{ContentKey, StoredRevision};
use crate::torrent::{AddTorrent, Mode, Session, Swarms, TorrentId};

/// How long the engine may take to close the files of a model.
const CLOSED_WITHIN: Duration = Duration::from_secs(20);

/// The torrents of this node's models in the engine.
pub(super) struct Seeds {
    library: Arc<Library>,
    fetch: Arc<Fetch>,
    session: Arc<Session>,
    settings: FetchSettings,
    /// The hybrid twins to seed; none for a twin of which files are absent or damaged now.
    hybrids: Mutex<HashMap<InfoHash, Option<TorrentId>>>,
}

impl Seeds {
    /// Joins no swarm yet.
    pub fn new(
        library: Arc<Library>,
        fetch: Arc<Fetch>,
        session: Arc<Session>,
        settings: FetchSettings,
    ) -> Self {
        Self { library, fetch, session, settings, hybrids: Mutex::default() }
    }

    /// Joins the swarm of a revision, and that of its hybrid twin if there is one and all of its bytes are stored.
    pub fn join(&self, revision: &Arc<StoredRevision>) -> Result<(), NodeError> {
        let model = revision.manifest.model_ref();
        self.fetch.join(revision).map_err(|source| NodeError::Fetch { model, source })?;
        self.join_hybrid(revision)
    }

    /// Joins the swarm of a hybrid twin, now if all of its bytes are stored, otherwise when absent files have returned.
    fn join_hybrid(&self, revision: &Arc<StoredRevision>) -> Result<(), NodeError> {
        // The engine does not learn of bytes of a twin that the cache may delete.
        let stays = revision.is_complete() && !revision.contents.iter().any(|content| content.is_sheddable());
        let Some(hybrid) = revision.manifest.torrent.hybrid_info_hash else { return Ok(()) };
        let exposure = self.fetch.exposure(&revision.manifest.torrent.info_hash);
        if exposure == Exposure::Hidden {
            return Ok(());
        }
        let Some(metainfo) = self.library.store.torrents.load_metainfo(&hybrid)? else { return Ok(()) };
        let mut hybrids = self.hybrids.lock();
        let twin = hybrids.entry(hybrid).or_default();
        let (have, _) = revision.offered_pieces();
        if twin.is_some() || !stays || !have.is_full() {
            return Ok(());
        }
        let (file_paths, file_stamps, file_care) = places(revision);
        let id = self.session.add(AddTorrent {
            info_hash: hybrid,
            metainfo,
            file_paths,
            file_stamps,
            file_care,
            have,
            blocks: Vec::new(),
            resume: None,
            mode: Mode::Seed,
            peers: self.settings.peers.list(),
            discovery: exposure.restrict(self.settings.discovery),
            withheld: false,
        })?;
        *twin = Some(id);
        Ok(())
    }

    /// Leaves the swarms of a torrent and of its hybrid twin.
    fn leave(&self, manifest: &Manifest) {
        self.fetch.leave(&manifest.torrent.info_hash);
        self.leave_hybrid(manifest);
        if let Some(hybrid) = manifest.torrent.hybrid_info_hash {
            self.hybrids.lock().remove(&hybrid);
        }
    }

    /// Leaves the swarms of a manifest that is no longer known, unless another model is the same torrent.
    pub fn leave_unless_used(&self, manifest: &Manifest) {
        let info_hash = manifest.torrent.info_hash;
        if !self.library.manifests().iter().any(|m| m.torrent.info_hash == info_hash) {
            self.leave(manifest);
        }
    }

    /// Joins the swarm of a hybrid twin again if [`Self::leave_hybrid`] left it.
    pub fn rejoin_hybrid(&self, manifest: &Arc<Manifest>) -> Result<(), NodeError> {
        let is_left = |hybrid: &InfoHash| {
            let hybrids = self.hybrids.lock();
            hybrids.get(hybrid).is_some_and(Option::is_none)
        };
        if manifest.torrent.hybrid_info_hash.as_ref().is_some_and(is_left) {
            self.join_hybrid(&self.library.store.revision(manifest.clone())?)?;
        }
        Ok(())
    }

    /// Leaves the swarm of a hybrid twin until [`Self::rejoin_hybrid`]. Returns whether it was joined.
    pub fn leave_hybrid(&self, manifest: &Manifest) -> bool {
        let hybrid = manifest.torrent.hybrid_info_hash;
        let mut hybrids = self.hybrids.lock();
        let Some(id) = hybrid.and_then(|hybrid| hybrids.get_mut(&hybrid)?.take()) else { return false };
        // The engine removes it a moment later, and may have removed it already.
        let _ = self.session.set_withheld(id, true);
        let _ = self.session.remove(id);
        true
    }

    /// Has the engine close the files of a model until the returned guard is dropped.
    pub async fn close(&self, revision: &StoredRevision) -> Result<EvictionHold, NodeError> {
        let keys: Vec<_> = revision.contents.iter().filter_map(|content| content.key()).collect();
        self.close_contents(&revision.manifest.model_ref(), &keys).await
    }

    /// Like [`Self::close`], for contents that belong or belonged to a model.
    pub async fn close_contents(
        &self,
        model: &ModelRef,
        keys: &[ContentKey],
    ) -> Result<EvictionHold, NodeError> {
        let held = self.fetch.release_for_eviction(keys, CLOSED_WITHIN).await;
        held.map_err(|e| NodeError::Internal(format!("{model}: {e}")))
    }

    /// Has the engine treat a torrent as the rules of its models require. Of several models that are the same torrent,
    /// the most permissive rule counts. If one of them is withheld, of the other models only those count that are stored
    /// here: a stranger may have given the files another name.
    pub fn apply_rules(&self, info_hash: &InfoHash) {
        let mut models = self.library.registry.all();
        self.reserve(&models);
        models.retain(|manifest| manifest.torrent.info_hash == *info_hash);
        self.expose(info_hash, self.exposure_of(info_hash, &models));
    }

    /// [`Self::apply_rules`] for all known models.
    pub fn apply_all_rules(&self) {
        let all = self.library.registry.all();
        self.reserve(&all);
        let mut torrents: HashMap<InfoHash, Vec<Arc<Manifest>>> = HashMap::new();
        for manifest in all {
            torrents.entry(manifest.torrent.info_hash).or_default().push(manifest);
        }
        for (info_hash, models) in torrents {
            self.expose(&info_hash, self.exposure_of(&info_hash, &models));
        }
    }

    fn exposure_of(&self, info_hash: &InfoHash, models: &[Arc<Manifest>]) -> Exposure {
        let rules: Vec<(ModelRef, Rule)> = (models.iter().map(|manifest| manifest.model_ref()))
            .map(|model| (model.clone(), self.library.sharing.of(&model)))
            .collect();
        let is_withheld = rules.iter().any(|(_, rule)| rule.withheld.is_some());
        let counts = |(model, rule): &&(ModelRef, Rule)| {
            !is_withheld
                || rule.withheld.is_some()
                || self.library.store.placed().is_stored_for(info_hash, model)
        };
        rules.iter().filter(counts).map(|(_, rule)| rule.exposure()).max().unwrap_or_default()
    }

    /// Keeps bytes that only withheld models have stored out of the swarms of other models that list the same files.
    fn reserve(&self, models: &[Arc<Manifest>]) {
        let withheld = models.iter().filter(|m| self.library.sharing.of(&m.model_ref()).withheld.is_some());
        if !self.library.store.parts.withheld.set(withheld.map(|manifest| &**manifest)) {
            return;
        }
        self.fetch.withdraw_reserved();
        for manifest in models.iter().filter(|manifest| manifest.torrent.hybrid_info_hash.is_some()) {
            let offered =
                self.library.store.revision(manifest.clone()).map(|r| r.offered_pieces().0.is_full());
            if !offered.unwrap_or(false) {
                self.leave_hybrid(manifest);
            }
        }
    }

    fn expose(&self, info_hash: &InfoHash, exposure: Exposure) {
        if !self.fetch.expose(info_hash, exposure) {
            return;
        }
        let models = self.library.registry.all().into_iter().filter(|m| m.torrent.info_hash == *info_hash);
        let twins: Vec<_> = models.filter(|manifest| self.leave_hybrid(manifest)).collect();
        if exposure == Exposure::Hidden {
            // A reader of a byte that is not stored joins again, and accepts no peer.
            self.fetch.leave(info_hash);
            return;
        }
        for manifest in twins {
            let model = manifest.model_ref();
            let seeded = self.library.store.revision(manifest).map_err(NodeError::from);
            if let Err(error) = seeded.and_then(|revision| self.join(&revision)) {
                tracing::warn!(%error, %model, "could not seed the hybrid torrent");
            }
        }
    }
}
