//! A content that comes from a hub: its file, the hashes that were recorded for it, and its twin.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::HubProof;
use crate::store::content::{Content, HubSide, Location};
use crate::store::{Stamp, mapfile};
use crate::{fsutil, nofollow};

/// Longest proof that is read, in bytes: the hashes of the pieces of the longest file.
const MAX_PROOF: u64 = 256 << 20;

/// A content that comes from a hub.
pub struct HubContent<'a> {
    content: &'a Content,
    side: &'a HubSide,
}

/// The file of a content that comes from a hub, open for writing.
#[derive(Debug)]
pub struct OpenHubFile {
    file: File,
    /// The moves of the content before it was opened.
    moves: u64,
}

impl<'a> HubContent<'a> {
    pub(in crate::store) fn new(content: &'a Content, side: &'a HubSide) -> Self {
        Self { content, side }
    }

    /// Writes bytes that came from a hub, and records them. `opened` is the result of the last call for this content, if any.
    /// They do not count if the content has just moved: then they are missing.
    pub fn write(&self, opened: Option<OpenHubFile>, start: u64, bytes: &[u8]) -> io::Result<OpenHubFile> {
        let opened = {
            // The file does not move while it is written to: after that, it may have bytes that another source verified.
            let _writer = self.content.writer();
            let opened = match opened.filter(|opened| opened.moves == self.content.moves()) {
                Some(opened) => opened,
                None => self.open()?,
            };
            opened.file.write_all_at(bytes, start)?;
            opened
        };
        self.content.mark_verified_at(start..start + bytes.len() as u64, opened.moves)?;
        Ok(opened)
    }

    /// Opens the file for writing, and creates it where it is missing.
    fn open(&self) -> io::Result<OpenHubFile> {
        let path = match self.content.location() {
            Location::Own(path) => path,
            Location::Memory(file) => {
                return Ok(OpenHubFile { file: file.open()?, moves: self.content.moves() });
            }
            Location::Empty | Location::Placed(_) => {
                return Err(io::Error::other("the content is not in the cache"));
            }
        };
        nofollow::create_dir_all(fsutil::parent(&path))?;
        let file = nofollow::open(&path, OFlags::WRONLY | OFlags::CREATE, fsutil::MODE_PRIVATE)?;
        Ok(OpenHubFile { file, moves: self.content.moves() })
    }

    /// The hashes of the complete content, if it was hashed and is unchanged since.
    pub fn proof(&self) -> Option<HubProof> {
        if !self.content.is_complete() {
            return None;
        }
        if let Some((proof, _)) = self.side.proof_of_twin() {
            return Some(proof);
        }
        let path = self.content.own_path()?;
        let proof = self.recorded_proof()?;
        Stamp::at(&path).is_ok_and(|now| now == proof.stamp).then_some(proof)
    }

    /// The hashes that were recorded last: those of its own file, or those of its twin.
    pub fn recorded_proof(&self) -> Option<HubProof> {
        let path = self.content.parts.files.cached_from_hub(&self.side.key);
        let bytes = nofollow::read_capped(&mapfile::proof_path(&path), MAX_PROOF).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Records the hashes of the complete content, which match the hash that the hub lists. Does nothing if
    /// its file has changed since it was hashed.
    pub fn set_proof(&self, proof: &HubProof) -> io::Result<()> {
        let _writer = self.content.writer();
        let Some(path) = self.content.own_path() else { return Ok(()) };
        if !self.content.is_complete() || Stamp::at(&path)? != proof.stamp {
            return Ok(());
        }
        let json = serde_json::to_vec(proof).map_err(io::Error::from)?;
        nofollow::write_atomic(&mapfile::proof_path(&path), &json, fsutil::MODE_PRIVATE)
    }

    /// The path of the file that holds the bytes that came from a hub.
    pub fn path(&self) -> Option<PathBuf> {
        self.side.proof_of_twin().map(|(_, path)| path).or_else(|| self.content.own_path())
    }

    /// Reads the bytes of this content in a content of a manifest that has all of them. `proof` has the hashes of that content's
    /// file, which are those that the hub lists. Bytes that came from the hub are deleted. Does nothing if the other content
    /// lacks bytes.
    pub fn set_twin(&self, content: &Arc<Content>, proof: HubProof) -> io::Result<()> {
        if !content.is_complete() {
            return Ok(());
        }
        let mut writer = self.content.writer();
        let saved = serde_json::to_vec(&proof).map_err(io::Error::from)?;
        self.side.set_twin(content.clone(), proof);
        writer.start_over()?;
        let path = mapfile::proof_path(&self.content.parts.files.cached_from_hub(&self.side.key));
        nofollow::create_dir_all(fsutil::parent(&path))?;
        nofollow::write_atomic(&path, &saved, fsutil::MODE_PRIVATE)
    }

    /// Forgets the twin: reads continue at the hub.
    pub fn forget_twin(&self) {
        self.side.forget_twin();
    }
}
