//! Contents that come from a hub and whose bytes are in a content of a manifest: a *twin*.
//!
//! Several models may have the same file. When one of them has its manifest, the file belongs to that model; the other models
//! read it there. A twin counts while it has all bytes. When it loses some, reads continue at the hub.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Content;
use crate::store::hub::HubProof;
use crate::store::{HubKey, Stamp, mapfile};
use crate::{fsutil, nofollow};

/// The hub's side of a content that comes from a hub.
#[derive(Debug)]
pub(super) struct HubSide {
    pub key: HubKey,
    twin: Mutex<Option<Twin>>,
}

/// A content of a manifest, and the hashes of its file, which are those that the hub lists.
#[derive(Debug, Clone)]
struct Twin {
    content: Arc<Content>,
    proof: Arc<HubProof>,
}

impl HubSide {
    pub fn new(key: HubKey) -> Self {
        Self { key, twin: Mutex::default() }
    }
}

impl Content {
    /// The content of a manifest that has all bytes of this content, which comes from a hub.
    pub fn twin(&self) -> Option<Arc<Self>> {
        self.complete_twin().map(|twin| twin.content)
    }

    fn complete_twin(&self) -> Option<Twin> {
        let mut twin = self.hub.as_ref()?.twin.lock();
        if twin.as_ref().is_some_and(|twin| !twin.content.is_complete()) {
            *twin = None;
        }
        twin.clone()
    }

    /// The hashes of the file of the twin, if it is unchanged, and its path.
    pub(in crate::store) fn proof_of_twin(&self) -> Option<(HubProof, PathBuf)> {
        let Twin { content, proof } = self.complete_twin()?;
        let path = content.path();
        Stamp::at(&path).is_ok_and(|now| now == proof.stamp).then(|| (HubProof::clone(&proof), path))
    }

    /// Reads the bytes of this content, which comes from a hub, in a content of a manifest that has all of them. `proof` has
    /// the hashes of that content's file, which are those that the hub lists. Bytes that came from the hub are deleted. Does
    /// nothing if the other content lacks bytes.
    pub fn set_twin(&self, content: &Arc<Self>, proof: HubProof) -> io::Result<()> {
        let Some(hub) = self.hub.as_ref().filter(|_| content.is_complete()) else { return Ok(()) };
        let mut writer = self.writer();
        let saved = serde_json::to_vec(&proof).map_err(io::Error::from)?;
        *hub.twin.lock() = Some(Twin { content: content.clone(), proof: Arc::new(proof) });
        writer.start_over()?;
        let path = mapfile::proof_path(&self.store.files.cached_from_hub(&hub.key));
        nofollow::create_dir_all(fsutil::parent(&path))?;
        nofollow::write_atomic(&path, &saved, fsutil::MODE_PRIVATE)
    }

    /// Forgets the twin: reads continue at the hub.
    pub fn forget_twin(&self) {
        if let Some(hub) = &self.hub {
            hub.twin.lock().take();
        }
    }
}
