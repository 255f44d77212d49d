//! Contents of withheld models.
//!
//! A content is *reserved* if a withheld model has it and no model that may be shared is stored with it. This node reads the
//! bytes of a reserved content and offers them in no swarm, also not in the swarm of another model that lists the same file:
//! the publisher of such a model may be a stranger. A model is stored with a content if its files are recorded outside the
//! cache: it was fetched by `get`, shared in place or mirrored. The contents of the cache belong to no model in particular.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::ContentKey;
use super::placement::Placements;
use crate::model::{Manifest, ModelRef};

#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    models: BTreeSet<ModelRef>,
    keys: HashSet<ContentKey>,
}

/// The withheld models, and the contents of their files.
#[derive(Default)]
pub(crate) struct WithheldModels(Mutex<Arc<Contents>>);

impl WithheldModels {
    /// Replaces the list of withheld models by their manifests. Returns whether other contents than before may be reserved.
    pub fn set<'a>(&self, manifests: impl IntoIterator<Item = &'a Manifest>) -> bool {
        let mut withheld = Contents::default();
        for manifest in manifests {
            withheld.models.insert(manifest.model_ref());
            withheld.keys.extend(manifest.files.iter().filter_map(ContentKey::of));
        }
        let mut current = self.0.lock();
        let changes = **current != withheld;
        *current = Arc::new(withheld);
        changes
    }

    /// The reserved contents among `keys`.
    pub(super) fn reserved(
        &self,
        keys: impl Iterator<Item = ContentKey>,
        placements: &Placements,
    ) -> HashSet<ContentKey> {
        let withheld = self.0.lock().clone();
        let mut reserved: HashSet<_> = keys.filter(|key| withheld.keys.contains(key)).collect();
        if !reserved.is_empty() {
            let stored = placements.stored_for(&reserved, |model| !withheld.models.contains(model));
            reserved.retain(|key| !stored.contains(key));
        }
        reserved
    }
}
