//! Former states of a model whose files are still to be removed from a directory.
//!
//! Once the present state stands there, nothing in the directory tells of the one before. So that is noted first, in
//! `resume/former/`, and is there still for who goes on after a kill.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::registry::MAX_FILE;
use super::staging::resolve;
use super::{Store, StoreError};
use crate::fsutil;
use crate::model::{Manifest, Sha256Digest};

/// Former states of one directory that are noted; those before them keep their files.
const MAX_STATES: usize = 8;
/// The longest note that is read, in bytes.
const MAX_NOTE: u64 = MAX_STATES as u64 * MAX_FILE;

/// What is noted of one directory: states of whatever models stand there, the oldest first.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    states: Vec<Manifest>,
}

impl Store {
    /// Notes and returns the states of a model that stood in a directory before the present one: that whose files stand
    /// there now, those that were noted before, and the one that was `known`. To be called before the present state is
    /// published there.
    pub fn note_former(
        &self,
        present: &Manifest,
        dir: &Path,
        known: Option<&Manifest>,
    ) -> Result<Vec<Manifest>, StoreError> {
        let model = present.model_ref();
        let (path, mut states) = self.former_states(dir)?;
        let noted = states.len();
        states.extend(known.cloned());
        states.extend(self.stands_at(&model, dir));
        let is_present = |state: &Manifest| {
            state.torrent.info_hash == present.torrent.info_hash && state.model_ref() == model
        };
        states.retain(|state| !is_present(state));
        // Of each the last, and the last of all.
        let mut seen = HashSet::new();
        states.reverse();
        states.retain(|state| seen.insert((state.model_ref(), state.torrent.info_hash)));
        states.truncate(MAX_STATES);
        states.reverse();
        let note = Note { states };
        if noted > 0 || !note.states.is_empty() {
            write(&path, &note)?;
        }
        Ok(note.states.into_iter().filter(|state| state.model_ref() == model).collect())
    }

    /// Forgets a former state whose files are gone.
    pub(super) fn forget_former(&self, state: &Manifest, dir: &Path) -> Result<(), StoreError> {
        let (path, mut states) = self.former_states(dir)?;
        let same = |other: &Manifest| {
            other.torrent.info_hash == state.torrent.info_hash && other.model_ref() == state.model_ref()
        };
        states.retain(|other| !same(other));
        write(&path, &Note { states })
    }

    /// Where the former states of a directory are noted, and which they are. A note that cannot be understood is said
    /// and counts for none.
    fn former_states(&self, dir: &Path) -> Result<(PathBuf, Vec<Manifest>), StoreError> {
        let name = Sha256Digest(Sha256::digest(resolve(dir)?.as_os_str().as_encoded_bytes()).into());
        let path = self.shared.paths.former(&name);
        let read = fsutil::read_capped(&path, MAX_NOTE)
            .and_then(|bytes| serde_json::from_slice::<Note>(&bytes).map_err(io::Error::from));
        let note = read.unwrap_or_else(|e| {
            if e.kind() != io::ErrorKind::NotFound {
                tracing::warn!("{} is not used: {e}", path.display());
            }
            Note::default()
        });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::InfoHash;
    use crate::store::registry::write_manifest;
    use crate::store::tests::{home, manifest};

    #[test]
    fn the_newest_states_are_kept_and_those_of_other_models_in_the_directory_too() {
        let home = home();
        let (store, dir) = (home.store(), home.dir.path().join("out"));
        let states: Vec<_> = (0..=MAX_STATES as u8).map(|i| manifest("o/m", &[("a", &[i])])).collect();
        let other = manifest("o/n", &[("b", b"x")]);
        let hashes = |states: &[Manifest]| -> Vec<InfoHash> {
            states.iter().map(|state| state.torrent.info_hash).collect()
        };
        let next = manifest("o/n", &[("b", b"y")]);
        assert_eq!(hashes(&store.note_former(&next, &dir, Some(&other)).unwrap()), [other.torrent.info_hash]);
        let mut noted = Vec::new();
        for (i, state) in states.iter().enumerate() {
            // It stands there, whole.
            write_manifest(state, &dir.join(crate::paths::Paths::MODEL_MANIFEST)).unwrap();
            noted = store.note_former(&manifest("o/m", &[("a", b"present")]), &dir, None).unwrap();
            if i == 0 {
                assert_eq!(store.note_former(&next, &dir, None).unwrap(), [Manifest::clone(&other)]);
            }
        }
        let newest: Vec<_> = states[1..].iter().map(|state| state.torrent.info_hash).collect();
        assert_eq!(hashes(&noted), newest);
        // A state that is the present one again is no former one.
        assert_eq!(hashes(&store.note_former(&states[3], &dir, None).unwrap()).len(), MAX_STATES - 1);
    }
}
