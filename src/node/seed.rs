//! Uploading what is here.

use std::sync::{Arc, PoisonError};

use super::control::Seed;
use super::{Node, NodeError};
use crate::fetch::{Exposure, places};
use crate::model::{InfoHash, Manifest, ModelRef};
use crate::store::StoredRevision;
use crate::torrent::{AddTorrent, Mode, Swarms};

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
        let (have, _) = revision.offered_pieces();
        if !have.is_full() {
            return Ok(());
        }
        let Some(metainfo) = self.library.store.load_metainfo(&hybrid)? else { return Ok(()) };
        let mut hybrids = self.hybrids.lock().unwrap_or_else(PoisonError::into_inner);
        let twin = hybrids.entry(hybrid).or_default();
        if twin.is_some() || !stays {
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
            peers: self.settings.peers.clone(),
            discovery: exposure.restrict(self.settings.discovery),
            withheld: false,
        })?;
        *twin = Some(id);
        Ok(())
    }

    /// Joins the swarm of a model of which something is here, and tries these peers for it; without a model those
    /// of all models that are not withheld. Tells which.
    pub fn seed_known(&self, what: &Seed) -> Result<Vec<ModelRef>, NodeError> {
        let seeded = match &what.model {
            None => self.seed_local()?,
            Some(model) => {
                let revision = self.library.revision(model)?;
                if revision.held_bytes() == 0 {
                    return Err(NodeError::NothingHere(model.clone()));
                }
                self.permit(&revision.manifest, what.right)?;
                self.seed(&revision)?;
                vec![revision]
            }
        };
        for revision in &seeded {
            self.session.trust_hosts(&what.peers);
            self.fetch.introduce(&revision.manifest.torrent.info_hash, &what.peers);
        }
        Ok(seeded.iter().map(|revision| revision.manifest.model_ref()).collect())
    }

    /// Leaves the swarms of a torrent, and of its hybrid twin.
    pub(super) fn unseed(&self, manifest: &Manifest) {
        self.fetch.leave(&manifest.torrent.info_hash);
        self.unseed_hybrid(manifest);
        if let Some(hybrid) = manifest.torrent.hybrid_info_hash {
            self.hybrids.lock().unwrap_or_else(PoisonError::into_inner).remove(&hybrid);
        }
    }

    /// Joins the swarm of a hybrid twin again that was left because files were not as they should be.
    pub(super) fn reseed_hybrid(&self, manifest: &Arc<Manifest>) -> Result<(), NodeError> {
        let is_left = |hybrid: &InfoHash| {
            let hybrids = self.hybrids.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut hybrids = self.hybrids.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(id) = hybrid.and_then(|hybrid| hybrids.get_mut(&hybrid)?.take()) else { return false };
        // The engine takes a moment to remove it, and may have given it up already.
        let _ = self.session.set_withheld(id, true);
        let _ = self.session.remove(id);
        true
    }
}
