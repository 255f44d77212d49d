//! Files of manifests that the user did not choose, and that the hub lists: their bytes are compared with the hub before a reader
//! gets them.
//!
//! All bytes of a small file are compared with the hash that the hub lists. Of a large file, some parts are compared first
//! (`comparing`), and the whole file when it is complete.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::witness::HubWitness;
use super::{Fetch, FileRef, ReadError};
use crate::model::Identity;
use crate::model::identity::BlobHasher;

/// Bytes that are hashed at a time.
const CHUNK: u64 = 1 << 20;

/// A file of this length or shorter is compared as a whole although the hub lists its SHA-256: it is not longer than a few
/// requests of a reader.
const MAX_WHOLE: u64 = 1 << 20;

impl FileRef {
    /// Whether the hub lists a hash for the file with which its complete bytes were not compared. The kernel may not read such a
    /// file directly.
    pub fn is_unchecked(&self) -> bool {
        self.is_refuted() || self.revision.listed.as_ref().is_some_and(|listed| !listed.is_checked(self.file))
    }

    /// Whether bytes of the manifest were found to contradict the hub: no byte of it is read any more.
    pub fn is_refuted(&self) -> bool {
        self.revision.refutation.as_ref().is_some_and(|found| found.difference().is_some())
    }

    /// The hash with which all bytes must be compared before a reader gets any of them. None if they were compared, and for a
    /// large file with a SHA-256.
    pub(super) fn unchecked_whole(&self) -> Option<Identity> {
        let listed = self.revision.listed.as_ref().filter(|listed| !listed.is_checked(self.file))?;
        match listed.identity(self.file) {
            Identity::Lfs(_) if self.content().len() > MAX_WHOLE => None,
            identity => Some(identity),
        }
    }

    /// The hash with which the bytes are compared when they are complete, for a large file that was not compared yet.
    pub(super) fn unchecked_large(&self) -> Option<Identity> {
        let listed = self.revision.listed.as_ref().filter(|listed| !listed.is_checked(self.file))?;
        let identity = listed.identity(self.file);
        (matches!(identity, Identity::Lfs(_)) && self.content().len() > MAX_WHOLE).then_some(identity)
    }

    /// The error of a read if the manifest contradicts the hub.
    pub(super) fn refusal(&self) -> Option<ReadError> {
        let difference = self.revision.refutation.as_ref()?.difference()?;
        Some(ReadError::Broken(format!("the manifest contradicts the hub: {difference}")))
    }
}

enum ListedHasher {
    Git(BlobHasher),
    Lfs(Sha256),
}

impl Fetch {
    /// Sets the witness that compares manifests with the hub. Further calls have no effect.
    pub fn set_witness(&self, witness: Arc<dyn HubWitness>) {
        self.witness.set(witness);
    }

    /// Refuses the manifest of a file, because the file has other bytes than the hub.
    pub fn report_contradiction(&self, file: &FileRef, difference: String) {
        let Some(refutation) = &file.revision.refutation else { return };
        if refutation.refute(difference.clone()) {
            match self.witness.get() {
                Some(witness) => witness.contradicted(file, &difference),
                None => refutation.end(None),
            }
        }
    }

    /// Fetches all bytes of a small file, and compares them with the hash that the hub lists, unless that was done. Each read has
    /// the deadline of a read. `Broken` if the bytes have another hash, or if the manifest contradicts the hub.
    pub async fn check_listed(
        self: &Arc<Self>,
        file: &FileRef,
        is_shown: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<(), ReadError> {
        if let Some(refusal) = file.refusal() {
            return Err(refusal);
        }
        let Some(expected) = file.unchecked_whole() else { return Ok(()) };
        let len = file.content().len();
        let mut hasher = match expected {
            Identity::Git(_) => ListedHasher::Git(BlobHasher::new(len)),
            Identity::Lfs(_) => ListedHasher::Lfs(Sha256::new()),
        };
        let mut at = 0;
        while at < len {
            let bytes = self.read_awaiting(file, at..len.min(at + CHUNK), is_shown).await?;
            at += bytes.len() as u64;
            match &mut hasher {
                ListedHasher::Git(hasher) => hasher.update(&bytes),
                ListedHasher::Lfs(hasher) => hasher.update(&bytes),
            }
        }
        let found = match hasher {
            ListedHasher::Git(hasher) => Identity::Git(hasher.finish()),
            ListedHasher::Lfs(hasher) => Identity::Lfs(crate::model::Sha256Digest(hasher.finalize().into())),
        };
        if found == expected {
            if let Some(witness) = self.witness.get() {
                witness.confirmed(file);
            }
            if let Some(listed) = &file.revision.listed {
                listed.set_checked(file.file);
            }
            return Ok(());
        }
        let path = &file.revision.manifest.files[file.file].path;
        let difference = match (found, expected) {
            (Identity::Git(found), Identity::Git(expected)) => {
                format!("{path} has the git object id {found}, and {expected} at the hub")
            }
            _ => different_sha256(path),
        };
        self.report_contradiction(file, difference);
        Err(file.refusal().unwrap_or(ReadError::Left))
    }
}

/// The difference of a manifest with a file that does not have the SHA-256 that the manifest and the hub state.
pub fn different_sha256(path: &str) -> String {
    format!("the bytes of {path} do not have the SHA-256 that the manifest and the hub state")
}
