//! A directory with links to the complete files of a model of the hub, from which its manifest is made.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::mirror::HubRepository;
use crate::model::Manifest;
use crate::model::hash::FileHashes;
use crate::model::safetensors::{self, LENGTH_LEN};
use crate::node::mirror::publish::{ManifestSource, signed_manifest};
use crate::node::{Library, NodeError};
use crate::store::{HubListing, HubProof, Stamp, StoreError, StoredRevision};
use crate::{fsutil, nofollow};

/// Files of the user that have the bytes of files of a model, by their index.
pub(in crate::node) type FilesInPlace = HashMap<usize, FileInPlace>;

/// A file of the user that was hashed and has the bytes that the hub lists.
#[derive(Debug, Clone)]
pub(in crate::node) struct FileInPlace {
    /// The real path.
    pub path: PathBuf,
    /// Its hashes.
    pub proof: HubProof,
}

/// The longest start of a file that is copied to describe it, in bytes; of safetensors, the header is copied.
const MAX_START: u64 = 32 << 20;

/// Makes a sparse file of `len` bytes that has the start of another one: all that is needed to describe it.
fn copy_start(from: &File, to: &Path, len: u64) -> io::Result<()> {
    let mut first = [0; LENGTH_LEN as usize];
    let header = match from.read_at(&mut first, 0) {
        Ok(read) if read == first.len() => safetensors::header_len(first, len).ok(),
        _ => None,
    };
    let wanted = header.map_or(0, |header| header.saturating_add(LENGTH_LEN)).max(MAX_START).min(len);
    let mut file = nofollow::create_new(to)?;
    io::copy(&mut from.take(wanted), &mut file)?;
    file.set_len(len)
}

/// A directory with links to the cached files of a model, under their paths. Removed when it is dropped.
pub(super) struct LinkTree {
    dir: PathBuf,
    hashes: HashMap<String, FileHashes>,
}

impl Drop for LinkTree {
    fn drop(&mut self) {
        if let Err(error) = nofollow::remove_dir_all(&self.dir) {
            tracing::warn!(%error, path = %self.dir.display(), "could not remove a directory of links");
        }
    }
}

impl LinkTree {
    /// Links to the files of a model, those in `in_place` and the cached ones. None if a file has changed, has moved or lost
    /// bytes since it was complete.
    pub fn make(
        library: &Library,
        revision: &StoredRevision,
        in_place: &FilesInPlace,
    ) -> Result<Option<Self>, NodeError> {
        let model = revision.manifest.model_ref();
        let dir = library.paths.hub_cache().join(".trees").join(model.to_string().replace('/', "--"));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| NodeError::from(StoreError::Io { path, source })
        };
        nofollow::remove_dir_all(&dir).map_err(failed(&dir))?;
        let mut tree = Self { dir, hashes: Default::default() };
        for (file, (entry, content)) in revision.manifest.files.iter().zip(&revision.contents).enumerate() {
            let to = tree.dir.join(&entry.path);
            nofollow::create_dir_all(fsutil::parent(&to)).map_err(failed(&to))?;
            if content.is_empty() {
                nofollow::create_new(&to).map_err(failed(&to))?;
                continue;
            }
            let found = match in_place.get(&file) {
                Some(found) => Some((found.proof.clone(), found.path.clone())),
                None => content.of_hub().and_then(|of_hub| of_hub.proof().zip(of_hub.path())),
            };
            let Some((proof, from)) = found else { return Ok(None) };
            let Some(opened) = fsutil::existing(nofollow::read(&from)).map_err(failed(&from))? else {
                return Ok(None);
            };
            if content.twin().is_some() || in_place.contains_key(&file) {
                // A link would change the file of another model, or of the user.
                copy_start(&opened, &to, content.len()).map_err(failed(&to))?;
            } else {
                let linked = fsutil::existing(nofollow::hard_link(&opened, &from, &to));
                if linked.map_err(failed(&to))?.is_none() {
                    return Ok(None);
                }
            }
            if Stamp::at(&from).is_ok_and(|now| now != proof.stamp) {
                return Ok(None);
            }
            let metadata = nofollow::metadata(&to).map_err(failed(&to))?;
            let Some(hashes) = proof.hashes(metadata) else { return Ok(None) };
            tree.hashes.insert(entry.path.clone(), hashes);
        }
        Ok(Some(tree))
    }

    /// Describes the files, and signs the manifest. Blocks.
    pub fn manifest(
        &self,
        library: &Library,
        listing: &HubListing,
        cancel: &AtomicBool,
    ) -> Result<Manifest, NodeError> {
        let hub =
            HubRepository { endpoint: library.config.hub.endpoint.clone(), id: listing.repository.clone() };
        let (manifest, _) = signed_manifest(ManifestSource {
            library,
            tree: &self.dir,
            model: &listing.model,
            piece_length: library.config.torrent.piece_length,
            source: hub.source(listing.commit),
            web_seeds: vec![hub.web_seed(&listing.commit.to_string()).into()],
            licenses: [listing.license.clone(), None],
            known: self.hashes.clone(),
            sign: library.config.security.sign_manifests,
            cancel,
        })?;
        Ok(manifest.manifest)
    }
}
