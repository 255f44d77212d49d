//! The hashes that the hub lists for the files of a revision, and which files were compared with them.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{ContentKey, HubFile};
use crate::model::{FileEntry, GitOid, Identity, Manifest};

/// The most contents that are remembered as checked. Further ones are hashed again.
const MAX_CHECKED: usize = 200_000;

/// Contents that were hashed and have the hash that a hub lists.
#[derive(Debug, Clone, Default)]
pub(super) struct CheckedContents(Arc<Mutex<HashSet<(Identity, ContentKey)>>>);

impl CheckedContents {
    pub(super) fn insert(&self, identity: Identity, key: ContentKey) {
        let mut checked = self.0.lock();
        if checked.len() >= MAX_CHECKED {
            checked.clear();
        }
        checked.insert((identity, key));
    }

    fn contains(&self, identity: Identity, key: ContentKey) -> bool {
        self.0.lock().contains(&(identity, key))
    }
}

/// The hashes that the hub lists for the files of a manifest of a publisher that the user did not choose.
#[derive(Debug)]
pub struct ListedFiles {
    /// One per file of the manifest, in its order.
    files: Vec<(Identity, Option<ContentKey>)>,
    checked: CheckedContents,
}

impl ListedFiles {
    /// None if the list has other paths than the manifest.
    pub(super) fn of(manifest: &Manifest, listing: &[HubFile], checked: &CheckedContents) -> Option<Self> {
        let fits = |(entry, file): (&FileEntry, &HubFile)| entry.path == file.path && entry.size == file.size;
        if manifest.files.len() != listing.len() || !manifest.files.iter().zip(listing).all(fits) {
            return None;
        }
        let file = |(entry, file): (&FileEntry, &HubFile)| (file.identity, ContentKey::of(entry));
        let files = manifest.files.iter().zip(listing).map(file).collect();
        Some(Self { files, checked: checked.clone() })
    }

    /// The hash that the hub lists for a file.
    pub fn identity(&self, file: usize) -> Identity {
        self.files[file].0
    }

    /// Whether the complete bytes of a file were compared with the hash. An empty file needs no comparison.
    pub fn is_checked(&self, file: usize) -> bool {
        let (identity, key) = self.files[file];
        key.is_none_or(|key| self.checked.contains(identity, key))
    }

    /// Records that the complete bytes of a file have the hash.
    pub fn set_checked(&self, file: usize) {
        if let (identity, Some(key)) = self.files[file] {
            self.checked.insert(identity, key);
        }
    }

    /// The identifier that the bytes of a file must have before a reader gets any of them. None if they were compared, and for a
    /// file in LFS: the manifest states the SHA-256 that the hub lists.
    pub fn unchecked_blob(&self, file: usize) -> Option<GitOid> {
        match self.files[file].0 {
            Identity::Git(oid) if !self.is_checked(file) => Some(oid),
            Identity::Git(_) | Identity::Lfs(_) => None,
        }
    }
}
