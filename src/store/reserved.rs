//! Contents of withheld models.
//!
//! A content is *reserved* where a withheld model has it and no model that may be shared is stored with it. The bytes of a
//! reserved content are read by this node and offered in no swarm, also not in that of another model that lists the same
//! file: the publisher of such a model may be a stranger. A model is stored with a content where its files are recorded
//! outside the cache: it was got, shared in place or mirrored. What the cache holds belongs to no model in particular.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use fixedbitset::FixedBitSet;

use super::{ContentKey, Shared, Store, StoredRevision};
use crate::model::{InfoHash, Manifest, ModelRef};

/// The withheld models, and what they have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Withheld {
    models: BTreeSet<ModelRef>,
    keys: HashSet<ContentKey>,
}

impl Store {
    /// Names the manifests of all models that are withheld now. Returns whether other contents than before may be
    /// reserved.
    pub fn withhold<'a>(&self, manifests: impl IntoIterator<Item = &'a Manifest>) -> bool {
        let mut withheld = Withheld::default();
        for manifest in manifests {
            withheld.models.insert(manifest.model_ref());
            let files = manifest.files.iter();
            let keys = files.filter_map(|file| Some(ContentKey { root: file.pieces_root?, len: file.size }));
            withheld.keys.extend(keys);
        }
        let mut current = self.shared.withheld.lock();
        let changes = **current != withheld;
        *current = Arc::new(withheld);
        changes
    }

    /// Whether the files of a torrent are recorded as those of a model, outside the cache.
    pub fn is_stored_for(&self, info_hash: &InfoHash, model: &ModelRef) -> bool {
        let record = self.shared.placements.record(info_hash);
        !record.places.is_empty() && record.models.contains(model)
    }
}

impl Shared {
    /// Those of some contents that are reserved.
    fn reserved(&self, keys: impl Iterator<Item = ContentKey>) -> HashSet<ContentKey> {
        let withheld = self.withheld.lock().clone();
        let mut reserved: HashSet<_> = keys.filter(|key| withheld.keys.contains(key)).collect();
        if !reserved.is_empty() {
            let stored = self.placements.stored_for(&reserved, |model| !withheld.models.contains(model));
            reserved.retain(|key| !stored.contains(key));
        }
        reserved
    }
}

impl StoredRevision {
    /// The pieces that are here and may be offered in the swarm of a model that is not withheld, and those that may be so
    /// once they are proved.
    pub fn offered_pieces(&self) -> (FixedBitSet, FixedBitSet) {
        let (mut have, mut unproved) = (self.have_pieces(), self.unproved_pieces());
        let Some(shared) = self.contents.first().map(|content| content.shared()) else {
            return (have, unproved);
        };
        let reserved = shared.reserved(self.contents.iter().filter_map(|content| content.key()));
        for (span, content) in self.layout.spans().iter().zip(&self.contents) {
            if content.key().is_some_and(|key| reserved.contains(&key)) {
                let pieces = span.first_piece as usize..(span.first_piece + span.pieces) as usize;
                have.set_range(pieces.clone(), false);
                unproved.set_range(pieces, false);
            }
        }
        (have, unproved)
    }
}
