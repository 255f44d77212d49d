//! Uploading what is here.

use std::sync::Arc;

use fixedbitset::FixedBitSet;

use super::{Node, NodeError};
use crate::store::StoredRevision;
use crate::torrent::{AddTorrent, Mode, Swarms};

impl Node {
    /// Joins the swarm of a revision, and that of its hybrid twin where there is one and all of it is here.
    pub fn seed(&self, revision: &Arc<StoredRevision>) -> Result<(), NodeError> {
        let model = revision.manifest.model_ref();
        self.fetch.join(revision).map_err(|source| NodeError::Fetch { model, source })?;
        let Some(hybrid) = revision.manifest.torrent.hybrid_info_hash.filter(|_| revision.is_complete())
        else {
            return Ok(());
        };
        let Some(metainfo) = self.library.store.load_metainfo(&hybrid)? else { return Ok(()) };
        if !self.hybrids.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(hybrid) {
            return Ok(());
        }
        let mut have = FixedBitSet::with_capacity(revision.layout.piece_count() as usize);
        have.insert_range(..);
        self.session.add(AddTorrent {
            info_hash: hybrid,
            metainfo,
            file_paths: revision.contents.iter().map(|c| c.path()).collect(),
            have,
            resume: None,
            mode: Mode::Seed,
            peers: self.settings.peers.clone(),
            trackers: self.settings.trackers.clone(),
            discovery: self.settings.discovery,
        })?;
        Ok(())
    }
}
