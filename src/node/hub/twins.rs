//! Files of models that are read from the hub whose bytes are on this host already, in a model with a manifest: they are read
//! there, without a request.
//!
//! A manifest only claims that bytes with its pieces root have its SHA-256. So the file is hashed before it is used.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use super::{hub_of, is_restricted_manifest};
use crate::model::hash::{Control, HashError, hash_file};
use crate::model::{FileEntry, Identity};
use crate::node::{Node, NodeError, blocking};
use crate::nofollow;
use crate::store::{Content, ContentKey, HubFile, HubKey, HubProof, Stamp, StoreError, StoredRevision};

/// So many bytes are hashed while a lookup waits; more in the background.
pub(super) const AT_LOOKUP: u64 = 256 << 20;

/// Longest file without a SHA-256 in the hub's list that is compared, in bytes. The hub keeps longer files in LFS.
const MAX_GIT: u64 = 16 << 20;

/// Searches for the files of all models whenever models or manifests change. Runs until the node is gone.
pub(in crate::node) async fn run(node: Weak<Node>) {
    loop {
        let Some(here) = node.upgrade() else { return };
        for revision in here.hub.all() {
            find(&here, &revision, u64::MAX).await;
        }
        let hub = here.hub.clone();
        drop(here);
        hub.searches.notified().await;
    }
}

/// Searches for the files of a model, and hashes at most `most` bytes for that.
pub(in crate::node) async fn find(node: &Arc<Node>, revision: &Arc<StoredRevision>, most: u64) {
    // One search at a time reads the disk. A lookup does not wait for a longer one.
    let _turn = if most == u64::MAX { Some(node.hub.searching.lock().await) } else { None };
    let (this, of) = (node.clone(), revision.clone());
    let found = blocking::cancellable(move |cancel| {
        Search { node: &this, secret: HashSet::new(), cancel, left: most }.of(&of)
    });
    let found = found.await;
    match found {
        Ok(files) => files.into_iter().for_each(|file| node.hub.report_complete(revision, file)),
        Err(error) => {
            let model = revision.manifest.model_ref();
            tracing::warn!(%error, %model, "could not compare a model of the hub with files of this host");
        }
    }
}

struct Search<'a> {
    node: &'a Arc<Node>,
    /// The contents of gated and private models, which are not used for other models.
    secret: HashSet<ContentKey>,
    cancel: &'a AtomicBool,
    /// Bytes that may still be hashed.
    left: u64,
}

impl Search<'_> {
    /// The files that are read on this host from now on.
    fn of(mut self, revision: &StoredRevision) -> Result<Vec<usize>, NodeError> {
        let listing = &hub_of(revision).listing;
        let is_wanted = |file: &usize| !revision.contents[*file].is_complete();
        let wanted: Vec<usize> = (0..listing.files.len()).filter(is_wanted).collect();
        let library = &self.node.library;
        let mut found = Vec::new();
        let manifests = if wanted.is_empty() { Vec::new() } else { library.manifests() };
        let restricted = manifests.iter().filter(|manifest| is_restricted_manifest(library, manifest));
        self.secret =
            restricted.flat_map(|manifest| manifest.files.iter().filter_map(ContentKey::of)).collect();
        for manifest in manifests {
            let fitting = |file: &usize| -> Vec<(usize, usize)> {
                let fits = |entry: &FileEntry| may_be(&listing.files[*file], entry);
                let entries = manifest.files.iter().enumerate().filter(|(_, entry)| fits(entry));
                entries.map(|(at, _)| (*file, at)).collect()
            };
            let pairs: Vec<_> = wanted.iter().flat_map(fitting).collect();
            if pairs.is_empty() {
                continue;
            }
            let Some(real) = library.usable_revision(manifest) else { continue };
            for (file, at) in pairs {
                let content = &revision.contents[file];
                if !content.is_complete() && self.is_same(content, &real.contents[at])? {
                    self.node.fetch.hub.reread(content);
                    found.push(file);
                }
            }
        }
        Ok(found)
    }

    /// Has a content of the hub read in a content of a manifest, if it has all bytes and the hash that the hub lists.
    fn is_same(&mut self, from: &Content, content: &Arc<Content>) -> Result<bool, NodeError> {
        let (Some(hub), Some(key)) = (from.hub_key(), content.key()) else { return Ok(false) };
        let Some(of_hub) = from.of_hub() else { return Ok(false) };
        let is_excluded = self.secret.contains(&key) || self.node.hub.are_different(&hub, &key);
        if !content.is_complete() || is_excluded {
            return Ok(false);
        }
        let path = content.path();
        let recorded = of_hub.recorded_proof().filter(|proof| proof.pieces_root == key.root);
        let proof = match (recorded, Stamp::at(&path)) {
            (Some(proof), Ok(stamp)) => Some(proof.of_other_file(stamp)),
            _ => self.hash(&hub, &key, &path)?,
        };
        let Some(proof) = proof else { return Ok(false) };
        of_hub.set_twin(content, proof).map_err(|source| StoreError::Io { path, source })?;
        Ok(from.twin().is_some())
    }

    /// The hashes of a file, if it has the hash that the hub lists.
    fn hash(&mut self, hub: &HubKey, key: &ContentKey, path: &Path) -> Result<Option<HubProof>, NodeError> {
        if key.len > self.left {
            return Ok(None);
        }
        self.left -= key.len;
        let piece_length = self.node.library.config.torrent.piece_length;
        let hashes = match hash_file(path, piece_length, Control { progress: &|_| {}, cancel: self.cancel }) {
            Ok(hashes) => hashes,
            Err(HashError::Cancelled) => {
                self.left = 0;
                return Ok(None);
            }
            // It was evicted, changed or removed.
            Err(_) => return Ok(None),
        };
        if hashes.pieces_root != Some(key.root) {
            return Ok(None);
        }
        let failed = |source| StoreError::Io { path: path.to_owned(), source };
        let is_same = match hub.identity {
            Identity::Lfs(sha256) => hashes.sha256 == sha256,
            Identity::Git(_) => {
                nofollow::read(path).and_then(|file| hub.identity.is_of(hub.len, file)).map_err(failed)?
            }
        };
        if !is_same {
            self.node.hub.record_different(*hub, *key);
            return Ok(None);
        }
        Ok(HubProof::of(&hashes, piece_length))
    }
}

/// Whether a file of a manifest may have the bytes of a file of the hub, by what is known without reading it.
fn may_be(file: &HubFile, entry: &FileEntry) -> bool {
    let name = |path: &str| path.rsplit('/').next().map(str::to_owned);
    file.size == entry.size
        && match file.identity {
            Identity::Lfs(sha256) => entry.sha256 == Some(sha256),
            Identity::Git(_) => file.size <= MAX_GIT && name(&file.path) == name(&entry.path),
        }
}
