//! Taking in files that stand somewhere without a record that vouches for them: the records were deleted, the user
//! downloaded or edited them by other means.

use std::io;
use std::path::{Path, PathBuf};

use super::placement::{PlacedEntry, Stamp};
use super::verify::{Watch, cancelled, differing};
use super::{Store, StoreError, StoredRevision};
use crate::model::Manifest;
use crate::model::hash::{HashError, hash_file};
use crate::model::merkle::PieceLayers;
use crate::nofollow;

/// What [`Store::adopt`] found, as indices into the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Files that are what they should be.
    pub right: Vec<usize>,
    /// Files that are something else.
    pub wrong: Vec<usize>,
}

impl Store {
    /// The files of a revision (indices into its manifest) that stand below `dest` with the right length but are
    /// not known to be right: nothing is read. [`Store::adopt`] finds out.
    pub fn unverified(&self, revision: &StoredRevision, dest: &Path) -> Vec<usize> {
        let Ok(dest) = self.resolve(dest) else { return Vec::new() };
        let wrong = |&file: &usize| {
            let content = &revision.contents[file];
            let size = nofollow::metadata(&dest.join(&revision.manifest.files[file].path))
                .map(|m| (m.is_file(), m.len()));
            !content.is_complete() && size.is_ok_and(|(is_file, len)| is_file && len == content.len())
        };
        (0..revision.contents.len()).filter(wrong).collect()
    }

    /// The directories in which files of a revision are or were said to stand: those recorded, and its own below
    /// the models directory.
    pub fn places(&self, manifest: &Manifest) -> Vec<PathBuf> {
        let mut dirs = vec![self.shared.paths.models.join(manifest.model_ref().to_string())];
        dirs.extend(
            self.shared.placements.record(&manifest.torrent.info_hash).places.into_iter().map(|p| p.dir),
        );
        let mut dirs: Vec<PathBuf> =
            dirs.into_iter().filter_map(|d| self.resolve(&d).ok().filter(|d| d.is_dir())).collect();
        dirs.sort();
        dirs.dedup();
        dirs
    }

    /// Reads files of a revision (indices into its manifest, as [`Store::unverified`] gives them) that stand below
    /// `dest`, and records those with the right pieces root: their contents are complete then. Of others, the good
    /// pieces are saved where `layers` tells them. Uses all cores; call it from a thread of its own, while the
    /// engine does not write to the revision's files.
    pub fn adopt(
        &self,
        revision: &StoredRevision,
        files: &[usize],
        dest: &Path,
        layers: &PieceLayers,
        watch: Watch<'_>,
    ) -> Result<Adopted, StoreError> {
        let dest = self.resolve(dest)?;
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
                // It was renamed or removed since it was listed.
                Err(HashError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
                Err(HashError::Io { path, source }) => return Err(StoreError::Io { path, source }),
                Err(HashError::Cancelled) => return Err(cancelled(&path)),
            };
            let stamp = Stamp::of(&hashes.metadata);
            if hashes.pieces_root == entry.pieces_root && stamp.size == entry.size {
                if let Some(key) = content.key() {
                    self.save_granules(&key, &hashes.granules);
                }
                entries.push((file, path, stamp));
            } else {
                tracing::warn!("{} is not the file of {}.", path.display(), manifest.model_ref());
                adopted.wrong.push(file);
                if stamp.size == entry.size && !content.is_complete() {
                    let layer = content.root().and_then(|root| layers.get(&root));
                    let damaged = differing(&hashes, layer, entry.size, piece_length);
                    let _moving = self.moving();
                    self.salvage(content, &path, stamp, &damaged);
                }
            }
        }
        // Nothing is renamed while this is held: what stands there now is what was hashed, or another file that has been
        // published there since and is on record.
        let _moving = self.moving();
        entries.retain(|(_, path, stamp)| Stamp::at(path).is_ok_and(|now| now == *stamp));
        // A copy of the manifest next to the files proves nothing: a user may have copied the directory as a whole.
        let ours = self.shared.placements.ours_below(&dest);
        let records = entries.iter().map(|(file, path, stamp)| {
            let entry = &manifest.files[*file];
            let ours = ours.contains_key(path);
            PlacedEntry::verified(entry.path.clone(), entry.pieces_root, entry.size, *stamp, ours)
        });
        self.shared.placements.put(manifest, &dest, records.collect())?;
        adopted.right.extend(entries.iter().map(|(file, ..)| *file));
        for (key, _) in self.unique(revision, &adopted.right) {
            self.settle_if_placed(&key);
        }
        Ok(adopted)
    }
}
