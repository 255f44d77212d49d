//! Adopting files of a model that have no record: the records were deleted, or the user downloaded or edited the files with
//! another program.

use std::io;
use std::path::{Path, PathBuf};

use super::placement::{PlacedEntry, Stamp};
use super::verify::{Watch, cancelled, differing};
use super::{PlacedFiles, StoreError, StoredRevision};
use crate::model::Manifest;
use crate::model::hash::{HashError, hash_file};
use crate::model::merkle::PieceLayers;
use crate::nofollow;

/// The result of [`PlacedFiles::adopt`], as indices into the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Files with the right bytes.
    pub right: Vec<usize>,
    /// Files with other bytes.
    pub wrong: Vec<usize>,
}

impl PlacedFiles<'_> {
    /// The files of a revision (indices into its manifest) that are below `dest` with the right length, but are not
    /// verified. Reads no bytes; [`PlacedFiles::adopt`] verifies the files.
    pub fn unverified(&self, revision: &StoredRevision, dest: &Path) -> Vec<usize> {
        let Ok(dest) = self.store.dirs.resolve(dest) else { return Vec::new() };
        let wrong = |&file: &usize| {
            let content = &revision.contents[file];
            let size = nofollow::metadata(&dest.join(&revision.manifest.files[file].path))
                .map(|m| (m.is_file(), m.len()));
            !content.is_complete() && size.is_ok_and(|(is_file, len)| is_file && len == content.len())
        };
        (0..revision.contents.len()).filter(wrong).collect()
    }

    /// The directories in which files of a revision may be: the recorded ones, and its own below the models directory.
    pub fn dirs_of(&self, manifest: &Manifest) -> Vec<PathBuf> {
        let mut dirs = vec![self.store.dirs.models.join(manifest.model_ref().to_string())];
        dirs.extend(
            self.store.parts.placements.record(&manifest.torrent.info_hash).places.into_iter().map(|p| p.dir),
        );
        let mut dirs: Vec<PathBuf> = dirs
            .into_iter()
            .filter_map(|d| self.store.dirs.resolve(&d).ok().filter(|d| d.is_dir()))
            .collect();
        dirs.sort();
        dirs.dedup();
        dirs
    }

    /// Reads files of a revision below `dest` (indices into its manifest, as [`PlacedFiles::unverified`] returns them), and
    /// records the files with the right pieces root: their contents are complete then. Of other files, the good pieces are
    /// saved if `layers` has their hashes. Uses all cores; call it from a thread of its own, while the engine does not write
    /// to the revision's files.
    pub fn adopt(
        &self,
        revision: &StoredRevision,
        files: &[usize],
        dest: &Path,
        layers: &PieceLayers,
        watch: Watch<'_>,
    ) -> Result<Adopted, StoreError> {
        let dest = self.store.dirs.resolve(dest)?;
        let manifest = &revision.manifest;
        let (mut adopted, mut entries) = (Adopted::default(), Vec::new());
        let piece_length = revision.layout.piece_length();
        for &file in files {
            let (content, entry) = (&revision.contents[file], &manifest.files[file]);
            let path = dest.join(&entry.path);
            let hashes = match hash_file(&path, piece_length, watch) {
                Ok(hashes) => hashes,
                Err(HashError::Changed(_)) => {
                    adopted.wrong.push(file);
                    continue;
                }
                // The file was renamed or removed since it was listed.
                Err(HashError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
                Err(HashError::Io { path, source }) => return Err(StoreError::Io { path, source }),
                Err(HashError::Cancelled) => return Err(cancelled(&path)),
            };
            let stamp = Stamp::of(&hashes.metadata);
            if hashes.pieces_root == entry.pieces_root && stamp.size == entry.size {
                if let Some(key) = content.key() {
                    self.store.parts.granules.save(&key, &hashes.granules);
                }
                entries.push((file, path, stamp));
            } else {
                tracing::warn!(file = %path.display(), model = %manifest.model_ref(), "the file is not the model's");
                adopted.wrong.push(file);
                if stamp.size == entry.size && !content.is_complete() {
                    let layer = content.root().and_then(|root| layers.get(&root));
                    let damaged = differing(&hashes, layer, entry.size, piece_length);
                    let _moving = self.store.moving.lock();
                    self.store.salvage(content, &path, stamp, &damaged);
                }
            }
        }
        let recorded = self.record_found(revision, &dest, entries)?;
        adopted.right.extend(recorded);
        Ok(adopted)
    }

    /// Records files of a revision that were hashed and have the right bytes: their index in the manifest, their real path,
    /// which may be anywhere, and their stamp before they were hashed. `dir` is the directory of the model. Returns the
    /// files that have not changed since then; their contents are complete now.
    pub fn record_found(
        &self,
        revision: &StoredRevision,
        dir: &Path,
        mut found: Vec<(usize, PathBuf, Stamp)>,
    ) -> Result<Vec<usize>, StoreError> {
        let manifest = &revision.manifest;
        // No file is renamed while this lock is held: the path has the file that was hashed, or another file that has been
        // published since and has a record.
        let _moving = self.store.moving.lock();
        found.retain(|(_, path, stamp)| Stamp::at(path).is_ok_and(|now| now == *stamp));
        if found.is_empty() {
            return Ok(Vec::new());
        }
        // A copy of the manifest next to the files is no proof: a user may have copied the whole directory.
        let ours = self.store.parts.placements.ours_below(dir);
        let records = found.iter().map(|(file, path, stamp)| {
            let entry = &manifest.files[*file];
            let ours = ours.contains_key(path);
            let target = (dir.join(&entry.path) != *path).then(|| path.clone());
            let verified =
                PlacedEntry::verified(entry.path.clone(), entry.pieces_root, entry.size, *stamp, ours);
            PlacedEntry { target, ..verified }
        });
        self.store.parts.placements.put(manifest, dir, records.collect())?;
        let files: Vec<usize> = found.into_iter().map(|(file, ..)| file).collect();
        for (key, _) in revision.unique(&files) {
            self.store.move_if_placed(&key);
        }
        Ok(files)
    }
}
