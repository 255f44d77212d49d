//! Files below the models directory that no record of this program has: the user put them there. They are read in
//! place, as they are, and never written, moved or removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::placement::PlacedFile;
use super::{Content, ContentKey, Stamp, Store, StoredRevision};
use crate::fsutil;
use crate::model::scan::ScannedFile;
use crate::model::{FileEntry, Manifest, ManifestError, ModelName, PiecesRoot, Revision};

/// The piece length of the torrent that is never made: the longest, so that no model has too many pieces.
const PIECE_LENGTH: u32 = 128 << 20;

impl Store {
    /// The models directory, as a real path.
    pub fn models_dir(&self) -> &Path {
        &self.shared.paths.models
    }

    /// The directories below the models directory that hold files of this program, or files that were shared in place.
    pub fn recorded_dirs(&self) -> BTreeSet<PathBuf> {
        let mut dirs = self.shared.placements.dirs_below(self.models_dir());
        dirs.extend(self.all_laid_out().iter().map(|file| fsutil::parent(file).to_owned()));
        dirs
    }

    /// A revision of files that are not shared, for a mount. Reads no byte of them. It stands for the files as they look
    /// now: a file that changes later cannot be read through it any more.
    pub fn local_revision(
        &self,
        name: &ModelName,
        files: &[ScannedFile],
    ) -> Result<Arc<StoredRevision>, ManifestError> {
        use std::os::unix::fs::MetadataExt as _;
        let entry = |file: &ScannedFile| {
            let size = file.metadata.len();
            let root = (size > 0).then(|| stand_in(file));
            FileEntry {
                executable: file.metadata.mode() & 0o100 != 0,
                ..FileEntry::new(file.path.as_str(), size, None, root)
            }
        };
        let entries = files.iter().map(entry).collect();
        let manifest = Manifest::new(name.clone(), Revision::default(), PIECE_LENGTH, entries)?;
        let content = |(entry, file): (&FileEntry, &ScannedFile)| {
            let Some(root) = entry.pieces_root else { return Content::empty(self.shared.clone()) };
            let key = ContentKey { root, len: entry.size };
            let stamp = Stamp::of(&file.metadata);
            let placed = PlacedFile::whole(file.source.clone(), stamp, false);
            Content::local(key, self.shared.clone(), placed)
        };
        // Both are in canonical order.
        let contents = manifest.files.iter().zip(files).map(|pair| Arc::new(content(pair))).collect();
        let layout = manifest.layout();
        Ok(Arc::new(StoredRevision { manifest: Arc::new(manifest), layout, contents, is_local: true }))
    }
}

/// A name for the bytes of a file in place of their hash: it changes when the file does.
fn stand_in(file: &ScannedFile) -> PiecesRoot {
    let mut hasher = Sha256::new();
    hasher.update(b"silmaril local file\0");
    hasher.update(file.source.as_os_str().as_encoded_bytes());
    hasher.update(format!("\0{:?}", Stamp::of(&file.metadata)));
    PiecesRoot(hasher.finalize().into())
}
