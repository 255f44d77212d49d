//! The findings in complete models: files that can run code when they are loaded.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

use crate::model::InfoHash;
use crate::model::code::Findings;
use crate::store::StoredRevision;

/// The most models whose findings are remembered.
const MAX_FINDINGS: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();

/// The findings in complete models: their bytes do not change, so that a list of models need not open their files each time.
pub struct KnownFindings(Mutex<LruCache<InfoHash, Findings>>);

impl Default for KnownFindings {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_FINDINGS)))
    }
}

impl KnownFindings {
    /// The files of a revision that can run code when they are loaded. Reads the first bytes of stored files, unless it did so
    /// when the revision was complete.
    pub(super) fn of(&self, revision: &StoredRevision) -> Findings {
        let key = revision.manifest.torrent.info_hash;
        let is_final = revision.hub.is_none() && revision.is_complete();
        if is_final && let Some(known) = self.0.lock().get(&key) {
            return known.clone();
        }
        let files = revision.manifest.files.iter().map(|file| (file.path.as_str(), file.size));
        let found =
            Findings::of(files, |number, limit| revision.contents[number].read(0..limit).ok().flatten());
        if is_final {
            self.0.lock().push(key, found.clone());
        }
        found
    }
}
