//! The hashes of complete contents that come from a hub.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::model::hash::FileHashes;
use crate::model::merkle::Hash;
use crate::model::{PiecesRoot, Sha256Digest};
use crate::store::content::{Content, Location};
use crate::store::{Stamp, mapfile};
use crate::{fsutil, nofollow};

/// Longest proof that is read, in bytes: the hashes of the pieces of the longest file.
const MAX_PROOF: u64 = 256 << 20;

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

/// The file of a content that comes from a hub, open for writing.
#[derive(Debug)]
pub struct OpenHubFile {
    file: File,
    /// The moves of the content before it was opened.
    moves: u64,
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

impl Content {
    /// Writes bytes that came from a hub, and records them. `opened` is the result of the last call for this content, if any.
    /// They do not count if the content has just moved: then they are missing.
    pub fn write_from_hub(
        &self,
        opened: Option<OpenHubFile>,
        start: u64,
        bytes: &[u8],
    ) -> io::Result<OpenHubFile> {
        let opened = {
            // The file does not move while it is written to: after that, it may have bytes that another source verified.
            let _writer = self.writer();
            let opened = match opened.filter(|opened| opened.moves == self.moves()) {
                Some(opened) => opened,
                None => self.open_from_hub()?,
            };
            opened.file.write_all_at(bytes, start)?;
            opened
        };
        self.mark_verified_at(start..start + bytes.len() as u64, opened.moves)?;
        Ok(opened)
    }

    /// Opens the file of a content that comes from a hub for writing, and creates it where it is missing.
    fn open_from_hub(&self) -> io::Result<OpenHubFile> {
        let path = match self.location() {
            Location::Own(path) => path,
            Location::Memory(file) => return Ok(OpenHubFile { file: file.open()?, moves: self.moves() }),
            Location::Empty | Location::Placed(_) => {
                return Err(io::Error::other("the content is not in the cache"));
            }
        };
        nofollow::create_dir_all(fsutil::parent(&path))?;
        let file = nofollow::open(&path, OFlags::WRONLY | OFlags::CREATE, fsutil::MODE_PRIVATE)?;
        Ok(OpenHubFile { file, moves: self.moves() })
    }

    /// The hashes of a complete content that comes from a hub, if it was hashed and is unchanged since.
    pub fn hub_proof(&self) -> Option<HubProof> {
        self.hub_key().filter(|_| self.is_complete())?;
        if let Some((proof, _)) = self.proof_of_twin() {
            return Some(proof);
        }
        let path = self.own_path()?;
        let proof = self.recorded_proof()?;
        Stamp::at(&path).is_ok_and(|now| now == proof.stamp).then_some(proof)
    }

    /// The hashes that were recorded last for a content that comes from a hub: those of its own file, or those of its twin.
    pub fn recorded_proof(&self) -> Option<HubProof> {
        let path = self.store.files.cached_from_hub(&self.hub_key()?);
        let bytes = nofollow::read_capped(&mapfile::proof_path(&path), MAX_PROOF).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Records the hashes of a complete content that comes from a hub, which match the hash that the hub lists. Does nothing if
    /// its file has changed since it was hashed.
    pub fn set_hub_proof(&self, proof: &HubProof) -> io::Result<()> {
        let _writer = self.writer();
        let Some(path) = self.own_path() else { return Ok(()) };
        if !self.is_complete() || Stamp::at(&path)? != proof.stamp {
            return Ok(());
        }
        let json = serde_json::to_vec(proof).map_err(io::Error::from)?;
        nofollow::write_atomic(&mapfile::proof_path(&path), &json, fsutil::MODE_PRIVATE)
    }

    /// The path of the file that holds the bytes that came from a hub.
    pub fn hub_path(&self) -> Option<PathBuf> {
        self.hub_key()?;
        self.proof_of_twin().map(|(_, path)| path).or_else(|| self.own_path())
    }
}
