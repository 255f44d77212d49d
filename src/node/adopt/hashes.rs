//! Hashes of the user's files, kept for the next `adopt`: reading a large model again takes minutes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::model::hash::{Control, hash_file};
use crate::node::NodeError;
use crate::store::{HubProof, Stamp};
use crate::{fsutil, nofollow};

/// The longest file of hashes that is read, in bytes.
const MAX_SAVED: u64 = 64 << 20;

/// The hashes of one file.
#[derive(Serialize, Deserialize)]
struct SavedHash {
    path: PathBuf,
    proof: HubProof,
}

/// Hashes files. A hash holds while the stamp of its file is the same.
pub(super) struct StampedHasher<'a> {
    known: HashMap<PathBuf, HubProof>,
    piece_length: u32,
    /// Bytes hashed or looked up so far.
    pub done: u64,
    progress: &'a (dyn Fn(u64) + Sync),
    cancel: &'a AtomicBool,
}

impl<'a> StampedHasher<'a> {
    /// Reads the hashes of the last call. A file that cannot be read means that none are known.
    pub fn open(
        at: &Path,
        piece_length: u32,
        progress: &'a (dyn Fn(u64) + Sync),
        cancel: &'a AtomicBool,
    ) -> Self {
        let read = fsutil::read_capped(at, MAX_SAVED).ok();
        let saved: Vec<SavedHash> =
            read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let known = saved.into_iter().map(|saved| (saved.path, saved.proof));
        Self { known: known.collect(), piece_length, done: 0, progress, cancel }
    }

    /// The hashes of the file at a real path; none if it cannot be read, changes, or is empty.
    pub fn hash(&mut self, path: &Path) -> Result<Option<HubProof>, NodeError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(NodeError::Cancelled);
        }
        let Ok(stamp) = Stamp::at(path) else { return Ok(None) };
        let holds = |known: &&HubProof| known.stamp == stamp && known.piece_length == self.piece_length;
        let known = self.known.get(path).filter(holds).cloned();
        let before = self.done;
        self.done += stamp.size;
        if known.is_some() {
            return Ok(known);
        }
        let progress = |hashed| (self.progress)(before + hashed);
        let hashed = hash_file(path, self.piece_length, Control { progress: &progress, cancel: self.cancel });
        let Ok(hashes) = hashed else { return Ok(None) };
        let proof = HubProof::of(&hashes, self.piece_length);
        if let Some(proof) = &proof {
            self.known.insert(path.to_owned(), proof.clone());
        }
        Ok(proof)
    }

    /// Saves the hashes of files that are still there.
    pub fn save(self, at: &Path) -> std::io::Result<()> {
        let is_current =
            |(path, proof): &(PathBuf, HubProof)| Stamp::at(path).is_ok_and(|now| now == proof.stamp);
        let known = self.known.into_iter().filter(is_current);
        let saved: Vec<SavedHash> = known.map(|(path, proof)| SavedHash { path, proof }).collect();
        let json = serde_json::to_vec(&saved)?;
        nofollow::create_dir_all(fsutil::parent(at))?;
        fsutil::write_atomic(at, &json, fsutil::MODE_PRIVATE)
    }
}
