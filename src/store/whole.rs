//! Directories that hold every file of a revision as it was verified.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::placement::{Place, PlacedEntry, Stamp};
use super::{Store, StoredRevision};
use crate::model::Manifest;

impl Store {
    /// Whether `dest` holds every file of a manifest, unchanged since it was verified.
    pub fn stands_whole_at(&self, manifest: &Manifest, dest: &Path) -> bool {
        self.resolve(dest).is_ok_and(|dest| self.stands_whole(manifest, &dest))
    }

    /// [`Store::stands_whole_at`] for a real path.
    pub(super) fn stands_whole(&self, manifest: &Manifest, dest: &Path) -> bool {
        let record = self.shared.placements.record(&manifest.torrent.info_hash);
        record.places.iter().find(|place| place.dir == dest).is_some_and(|place| is_whole(manifest, place))
    }

    /// The directory of a revision: the one that holds every file of it, unchanged since it was verified. Where several
    /// do, the one in the models directory comes first. None where files are missing, or are only in the cache.
    ///
    /// A file that another model has as well counts at the path in this directory: the other model's path for the same
    /// bytes is not looked at.
    pub fn own_place(&self, revision: &StoredRevision) -> Option<PathBuf> {
        let manifest = &revision.manifest;
        let mut places = self.shared.placements.record(&manifest.torrent.info_hash).places;
        places.sort_by_key(|place| !self.is_own(&manifest.model_ref(), &place.dir));
        places.into_iter().find(|place| is_whole(manifest, place)).map(|place| place.dir)
    }
}

fn is_whole(manifest: &Manifest, place: &Place) -> bool {
    let known: HashMap<&str, &PlacedEntry> =
        place.files.iter().map(|file| (file.path.as_str(), &**file)).collect();
    manifest.files.iter().all(|file| {
        known.get(file.path.as_str()).is_some_and(|entry| {
            !entry.damaged && Stamp::at(&entry.real_path(&place.dir)).is_ok_and(|stamp| stamp == entry.stamp)
        })
    })
}
