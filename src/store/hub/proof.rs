//! The hashes of complete contents that come from a hub.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::model::hash::FileHashes;
use crate::model::merkle::Hash;
use crate::model::{PiecesRoot, Sha256Digest};
use crate::store::Stamp;

/// The hashes of a complete content whose bytes have the hash that the hub lists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HubProof {
    /// The file when it was hashed.
    pub stamp: Stamp,
    /// SHA-256 of all bytes.
    pub sha256: Sha256Digest,
    /// Merkle root.
    pub pieces_root: PiecesRoot,
    /// The hashes of the pieces, in base64.
    layer: String,
    /// Bytes per piece.
    pub piece_length: u32,
}

impl HubProof {
    /// The hashes of a file; none for an empty file.
    pub fn of(hashes: &FileHashes, piece_length: u32) -> Option<Self> {
        Some(Self {
            stamp: Stamp::of(&hashes.metadata),
            sha256: hashes.sha256,
            pieces_root: hashes.pieces_root?,
            layer: STANDARD.encode(hashes.layer.concat()),
            piece_length,
        })
    }

    /// The hashes for another file that has the same bytes.
    #[must_use]
    pub fn of_other_file(self, stamp: Stamp) -> Self {
        Self { stamp, ..self }
    }

    /// The hashes, together with the metadata of the file, of a copy of it, or of its beginning in a file of its length.
    pub fn hashes(&self, metadata: std::fs::Metadata) -> Option<FileHashes> {
        let bytes = STANDARD.decode(&self.layer).ok()?;
        let (layer, rest) = bytes.as_chunks::<{ size_of::<Hash>() }>();
        rest.is_empty().then(|| FileHashes {
            sha256: self.sha256,
            pieces_root: Some(self.pieces_root),
            layer: layer.to_vec(),
            granules: Vec::new(),
            metadata,
        })
    }
}
