//! Former states of a model whose files are still to be removed from a directory.
//!
//! Once the present state stands there, nothing in the directory tells of the one before. So that is noted first, in
//! `resume/former/`, and is there still for who goes on after a kill.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::staging::resolve;
use super::{Store, StoreError};
use crate::fsutil;
use crate::model::{InfoHash, Manifest, Sha256Digest};

/// The longest note that is read, in bytes.
const MAX_NOTE: u64 = 1 << 30;
/// Former states of one directory that are noted; those before them keep their files.
const MAX_STATES: usize = 8;

/// What is noted of one directory.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    states: Vec<Manifest>,
}

impl Store {
    /// Notes and returns the states of a model that stood in a directory before the present one: that whose files stand
    /// there now, and those that were noted before. To be called before the present state is published there.
    pub fn note_former(&self, present: &Manifest, dir: &Path) -> Result<Vec<Manifest>, StoreError> {
        let model = present.model_ref();
        let (path, mut states) = self.former_states(dir)?;
        let noted = states.len();
        states.extend(self.stands_at(&model, dir));
        states.retain(|state| {
            state.model_ref() == model && state.torrent.info_hash != present.torrent.info_hash
        });
        let mut seen: Vec<InfoHash> = Vec::new();
        states.retain(|state| {
            let new = !seen.contains(&state.torrent.info_hash) && seen.len() < MAX_STATES;
            seen.push(state.torrent.info_hash);
            new
        });
        if noted > 0 || !states.is_empty() {
            write(&path, &Note { states: states.clone() })?;
        }
        Ok(states)
    }

    /// Forgets a former state whose files are gone.
    pub(super) fn forget_former(&self, info_hash: &InfoHash, dir: &Path) -> Result<(), StoreError> {
        let (path, mut states) = self.former_states(dir)?;
        states.retain(|state| state.torrent.info_hash != *info_hash);
        write(&path, &Note { states })
    }

    /// Where the former states of a directory are noted, and which they are. A note that cannot be understood is said
    /// and counts for none.
    fn former_states(&self, dir: &Path) -> Result<(PathBuf, Vec<Manifest>), StoreError> {
        let name = Sha256Digest(Sha256::digest(resolve(dir)?.as_os_str().as_encoded_bytes()).into());
        let path = self.shared.paths.former(&name);
        let note = match fsutil::read_capped(&path, MAX_NOTE) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|e| {
                tracing::warn!("{} is not used: {e}", path.display());
                Note::default()
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Note::default(),
            Err(e) => return Err(StoreError::io(&path, e)),
        };
        Ok((path, note.states))
    }
}

fn write(path: &Path, note: &Note) -> Result<(), StoreError> {
    let written = match note.states.is_empty() {
        true => fsutil::remove_if_there(path).map(|_| ()),
        false => serde_json::to_vec(note)
            .map_err(io::Error::from)
            .and_then(|bytes| fsutil::write_atomic(path, &bytes, fsutil::MODE_PRIVATE)),
    };
    written.map_err(|e| StoreError::io(path, e))
}
