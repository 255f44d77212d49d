//! Files of a repository that are stored already: in the former state of the model, or in another model.

use std::collections::HashMap;
use std::sync::Arc;

use crate::mirror::{Identity, LocalCopy, RemoteFile, Snapshot};
use crate::model::Sha256Digest;
use crate::model::hash::FileHashes;
use crate::node::{Library, NodeError, blocking};
use crate::store::Stamp;

/// Verified copies, by the sha256 and length that the repository lists for its large files.
pub(super) struct LocalCopies(HashMap<(Sha256Digest, u64), LocalCopy>);

impl LocalCopies {
    /// The copy of a file.
    pub fn find(&self, file: &RemoteFile) -> Option<LocalCopy> {
        match &file.identity {
            Identity::Lfs(sha256) => self.0.get(&(*sha256, file.size)).cloned(),
            Identity::Git(_) => None,
        }
    }
}

/// Finds files of a snapshot in stored models with the same piece length.
pub(super) async fn local_copies(
    library: &Arc<Library>,
    snapshot: &Snapshot,
    piece_length: u32,
) -> Result<LocalCopies, NodeError> {
    let wanted = snapshot.files.iter().filter_map(|file| match &file.identity {
        Identity::Lfs(sha256) => Some((*sha256, file.size)),
        Identity::Git(_) => None,
    });
    let wanted: std::collections::HashSet<_> = wanted.collect();
    let library = library.clone();
    blocking::cancellable(move |_| {
        let mut found = HashMap::new();
        for manifest in library.registry.all() {
            if manifest.torrent.piece_length != piece_length {
                continue;
            }
            let files = manifest.files.iter().filter_map(|file| {
                let key = (file.sha256?, file.size);
                (wanted.contains(&key) && !found.contains_key(&key)).then_some((key, file))
            });
            let files: Vec<_> = files.collect();
            if files.is_empty() {
                continue;
            }
            let layers = library.store.torrents.layers(&manifest)?;
            for ((sha256, size), file) in files {
                let Some(root) = file.pieces_root else { continue };
                let Some((path, stamp, ours)) = library.store.placed().find(&root, size) else {
                    continue;
                };
                // The hashes belong to the verified file, not to a file that has replaced it since.
                let Ok(metadata) = crate::nofollow::metadata(&path) else { continue };
                if Stamp::of(&metadata) != stamp {
                    continue;
                }
                let layer = match layers.get(&root) {
                    Some(layer) => layer.to_vec(),
                    None if size <= u64::from(piece_length) => Vec::new(),
                    None => continue,
                };
                let hashes =
                    FileHashes { sha256, pieces_root: Some(root), layer, granules: Vec::new(), metadata };
                found.insert((sha256, size), LocalCopy { path, hashes, ours });
            }
        }
        Ok(LocalCopies(found))
    })
    .await
}
