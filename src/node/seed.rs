//! Uploading what is here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::{Seed, Seeded};
use super::sharing::Rule;
use super::{Node, NodeError};
use crate::fetch::{Exposure, places};
use crate::model::{InfoHash, Manifest};
use crate::store::StoredRevision;
use crate::torrent::{AddTorrent, Mode, Swarms};

/// How often it is looked whether a peer or a DHT node is known.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Node {
    /// Joins the swarm of a revision, and that of its hybrid twin where there is one and all of it is here.
    pub fn seed(&self, revision: &Arc<StoredRevision>) -> Result<(), NodeError> {
        let model = revision.manifest.model_ref();
        self.fetch.join(revision).map_err(|source| NodeError::Fetch { model, source })?;
        self.seed_hybrid(revision)
    }

    /// Joins the swarm of a hybrid twin, now if all of it is here, otherwise when absent files have returned.
    fn seed_hybrid(&self, revision: &Arc<StoredRevision>) -> Result<(), NodeError> {
        // The engine is not told of bytes of a twin that give way to others in the cache.
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
            resume: None,
            mode: Mode::Seed,
            peers: self.settings.peers.list(),
            discovery: exposure.restrict(self.settings.discovery),
            withheld: false,
        })?;
        *twin = Some(id);
        Ok(())
    }

    /// Joins the swarm of a model of which something is here, and tries these peers for it; without a model those
    /// of all models that are not withheld. Waits for the first announcement as long as the request says.
    pub(super) async fn seed_by_request(self: &Arc<Self>, what: &Seed) -> Result<Seeded, NodeError> {
        let seeded = self.seed_known(what)?;
        let models = seeded.iter().map(|revision| revision.manifest.model_ref()).collect();
        let announced = self.are_announced(&seeded, Duration::from_millis(what.announce_within)).await;
        Ok(Seeded { models, announced })
    }

    /// Waits until others can find the models, for at most so long. Returns whether they can.
    async fn are_announced(&self, seeded: &[Arc<StoredRevision>], within: Duration) -> bool {
        let Some(part) = &self.catalog else { return false };
        let announces =
            |revision: &&Arc<StoredRevision>| self.library.sharing.is_in_dht(&revision.manifest.model_ref());
        if !self.settings.discovery.dht || !seeded.iter().any(|revision| announces(&revision)) {
            return true;
        }
        let until = Instant::now() + within;
        loop {
            let status = part.catalog.status();
            if status.peers > 0 || status.dht_nodes > 0 {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn seed_known(&self, what: &Seed) -> Result<Vec<Arc<StoredRevision>>, NodeError> {
        let seeded = match &what.model {
            None => self.seed_local()?,
            Some(model) => {
                let revision = self.library.revision(model)?;
                if revision.held_bytes() == 0 {
                    return Err(NodeError::NothingHere(model.clone()));
                }
                self.permit(&revision.manifest, what.right)?;
                let rule = self.library.sharing.of(model);
                if what.skip_dht && !rule.without_dht {
                    self.set_rule(&revision.manifest, Rule { without_dht: true, ..rule })?;
                }
                self.seed(&revision)?;
                vec![revision]
            }
        };
        for revision in &seeded {
            self.session.trust_hosts(&what.peers);
            self.fetch.introduce(&revision.manifest.torrent.info_hash, &what.peers);
        }
        Ok(seeded)
    }

    /// Leaves the swarms of a torrent, and of its hybrid twin.
    pub(super) fn unseed(&self, manifest: &Manifest) {
        self.fetch.leave(&manifest.torrent.info_hash);
        self.unseed_hybrid(manifest);
        if let Some(hybrid) = manifest.torrent.hybrid_info_hash {
            self.hybrids.lock().remove(&hybrid);
        }
    }

    /// Joins the swarm of a hybrid twin again that was left because files were not as they should be.
    pub(super) fn reseed_hybrid(&self, manifest: &Arc<Manifest>) -> Result<(), NodeError> {
        let is_left = |hybrid: &InfoHash| {
            let hybrids = self.hybrids.lock();
            hybrids.get(hybrid).is_some_and(Option::is_none)
        };
        if manifest.torrent.hybrid_info_hash.as_ref().is_some_and(is_left) {
            self.seed_hybrid(&self.library.store.revision(manifest.clone())?)?;
        }
        Ok(())
    }

    /// Leaves the swarm of a hybrid twin until [`Self::reseed_hybrid`]. Returns whether it was joined.
    pub(super) fn unseed_hybrid(&self, manifest: &Manifest) -> bool {
        let hybrid = manifest.torrent.hybrid_info_hash;
        let mut hybrids = self.hybrids.lock();
        let Some(id) = hybrid.and_then(|hybrid| hybrids.get_mut(&hybrid)?.take()) else { return false };
        // The engine takes a moment to remove it, and may have given it up already.
        let _ = self.session.set_withheld(id, true);
        let _ = self.session.remove(id);
        true
    }
}
