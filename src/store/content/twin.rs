//! Contents that come from a hub and whose bytes are in a content of a manifest: a *twin*.
//!
//! Several models may have the same file. When one of them has its manifest, the file belongs to that model; the other models
//! read it there. A twin counts while it has all bytes. When it loses some, reads continue at the hub.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Content;
use crate::store::hub::HubProof;
use crate::store::{HubKey, Stamp};

/// The hub's side of a content that comes from a hub.
#[derive(Debug)]
pub(in crate::store) struct HubSide {
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

    /// The twin, while it has all bytes.
    pub fn twin(&self) -> Option<Arc<Content>> {
        self.complete_twin().map(|twin| twin.content)
    }

    fn complete_twin(&self) -> Option<Twin> {
        let mut twin = self.twin.lock();
        if twin.as_ref().is_some_and(|twin| !twin.content.is_complete()) {
            *twin = None;
        }
        twin.clone()
    }

    /// The hashes of the file of the twin, if it is unchanged, and its path.
    pub fn proof_of_twin(&self) -> Option<(HubProof, PathBuf)> {
        let Twin { content, proof } = self.complete_twin()?;
        let path = content.path();
        Stamp::at(&path).is_ok_and(|now| now == proof.stamp).then(|| (HubProof::clone(&proof), path))
    }

    /// Sets the twin. `proof` has the hashes of its file.
    pub fn set_twin(&self, content: Arc<Content>, proof: HubProof) {
        *self.twin.lock() = Some(Twin { content, proof: Arc::new(proof) });
    }

    /// Forgets the twin: reads continue at the hub.
    pub fn forget_twin(&self) {
        self.twin.lock().take();
    }
}
