//! Finds the files of a model among those of the user, by length and hash.

use std::collections::HashMap;

use super::directories::{FoundDirectory, LocalFile};
use super::hashes::StampedHasher;
use crate::model::{Identity, PiecesRoot, Sha256Digest};
use crate::node::NodeError;
use crate::node::hub::link_tree::{FileInPlace, FilesInPlace};
use crate::nofollow;
use crate::store::StoredRevision;

/// Longest file without a SHA-256 in the list of the hub that is compared, in bytes. The hub keeps longer files in LFS.
const MAX_GIT: u64 = 16 << 20;

/// What the bytes of a file must be.
enum Expected {
    /// The file of a manifest.
    Pieces(PiecesRoot),
    /// The file of a commit of the hub.
    Listed(Identity),
}

/// The files of a model that are not stored yet, and are among those of a place.
pub(super) fn matching(
    revision: &StoredRevision,
    place: &FoundDirectory,
    hasher: &mut StampedHasher<'_>,
) -> Result<FilesInPlace, NodeError> {
    let mut by_size: HashMap<u64, Vec<(&String, &LocalFile)>> = HashMap::new();
    for (path, file) in &place.files {
        by_size.entry(file.size).or_default().push((path, file));
    }
    let mut found = FilesInPlace::new();
    for (index, (entry, content)) in revision.manifest.files.iter().zip(&revision.contents).enumerate() {
        let Some(candidates) = by_size.get(&entry.size).filter(|_| !content.is_complete()) else { continue };
        let expected = match &revision.hub {
            Some(hub) => Expected::Listed(hub.listing.files[index].identity),
            None => match entry.pieces_root {
                Some(root) => Expected::Pieces(root),
                None => continue,
            },
        };
        let sha256: Option<Sha256Digest> = match &expected {
            Expected::Listed(Identity::Lfs(sha256)) => Some(*sha256),
            _ => entry.sha256,
        };
        let mut candidates = candidates.clone();
        // The name of a blob, then the path, are only hints which file to read first.
        candidates
            .sort_by_key(|(path, file)| (file.claimed != sha256 || sha256.is_none(), **path != entry.path));
        for (_, file) in candidates {
            if let Some(proof) = hasher.hash(&file.path)?
                && expected.is_met(&proof, file)
            {
                found.insert(index, FileInPlace { path: file.path.clone(), proof });
                break;
            }
        }
    }
    Ok(found)
}

impl Expected {
    fn is_met(&self, proof: &crate::store::HubProof, file: &LocalFile) -> bool {
        match self {
            Self::Pieces(root) => proof.pieces_root == *root,
            Self::Listed(Identity::Lfs(sha256)) => proof.sha256 == *sha256,
            Self::Listed(identity) => {
                file.size <= MAX_GIT
                    && nofollow::read(&file.path)
                        .and_then(|read| identity.is_of(file.size, read))
                        .unwrap_or(false)
                    && crate::store::Stamp::at(&file.path).is_ok_and(|now| now == proof.stamp)
            }
        }
    }
}
