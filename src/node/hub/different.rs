//! Files of the hub that were compared with files of manifests.

use std::collections::HashSet;

use crate::store::{ContentKey, HubKey};

/// Pairs of files that are remembered as different.
const MAX_DIFFERENT: usize = 4096;

/// Pairs of files of the hub and of manifests that are known to be different.
#[derive(Default)]
pub(super) struct Different(HashSet<(HubKey, ContentKey)>);

impl Different {
    pub fn contains(&self, hub: &HubKey, key: &ContentKey) -> bool {
        self.0.contains(&(*hub, *key))
    }

    pub fn insert(&mut self, hub: HubKey, key: ContentKey) {
        if self.0.len() >= MAX_DIFFERENT {
            self.0.clear();
        }
        self.0.insert((hub, key));
    }
}
