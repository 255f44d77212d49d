//! Complete files of manifests that the user did not choose: each is compared with the hash that the hub lists, one file at a time, by a
//! thread of the lowest priority. The bytes that are equal are recorded, also for later starts. Other bytes refute their manifest.

use std::sync::{Arc, Weak};

use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use crate::fetch::{FileRef, different_sha256};
use crate::ffi::process::lowest_priority;
use crate::model::identity::BlobHasher;
use crate::model::merkle::{self, Hash};
use crate::model::{BLOCK_LEN, Identity, Sha256Digest};
use crate::node::{Node, blocking};
use crate::store::{Content, StoredRevision};

/// Bytes read at a time: a multiple of the length of a block.
const CHUNK: u64 = 1 << 20;

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    Equal,
    /// The bytes have the pieces root of the manifest, and not the hash that the hub lists.
    Different,
    /// Bytes were deleted during the check, or are damaged on the disk.
    Unknown,
}

/// Compares files as they become complete. Runs until the node is gone.
pub(in crate::node) async fn run(node: Weak<Node>) {
    loop {
        let Some(here) = node.upgrade() else { return };
        let completed = here.witness.completed.clone();
        for revision in listed(&here).await {
            // A job that has the files compares them itself.
            if here.jobs.try_turn(&revision.manifest.torrent.info_hash).is_some() {
                compare_all(&here, &revision).await;
            }
        }
        drop(here);
        completed.notified().await;
    }
}

/// The known revisions of which the hub lists the files.
async fn listed(node: &Arc<Node>) -> Vec<Arc<StoredRevision>> {
    let library = node.library.clone();
    let finding = blocking::run(move || {
        let models = library.store.witnessed.listed_models();
        let revisions = models.iter().flat_map(|model| library.revisions_of(model).unwrap_or_default());
        Ok(revisions.filter(|revision| revision.listed.is_some()).collect())
    });
    finding.await.unwrap_or_else(|error| {
        tracing::error!(%error, "could not search for files to compare with the hub");
        Vec::new()
    })
}

async fn compare_all(node: &Arc<Node>, revision: &Arc<StoredRevision>) {
    for file in 0..revision.contents.len() {
        let file = FileRef { revision: revision.clone(), file };
        let Some(listed) = revision.listed.as_ref().filter(|_| !file.is_refuted()) else { return };
        if node.is_stopping() {
            return;
        }
        let content = &revision.contents[file.file];
        if listed.is_checked(file.file) || !content.is_complete() {
            continue;
        }
        let identity = listed.identity(file.file);
        match compare_slowly(node, content, identity).await {
            Compared::Equal => {
                let (library, manifest) = (node.library.clone(), revision.manifest.clone());
                let recording = blocking::run(move || {
                    library.store.witnessed.set_checked(&manifest, file.file);
                    Ok(())
                });
                if let Err(error) = recording.await {
                    tracing::error!(%error, "could not record that a file was compared with the hub");
                }
            }
            Compared::Different => {
                let path = &revision.manifest.files[file.file].path;
                let difference = match identity {
                    Identity::Lfs(_) => different_sha256(path),
                    Identity::Git(oid) => format!("{path} does not have the git object id {oid} of the hub"),
                };
                node.fetch.report_contradiction(&file, difference);
            }
            Compared::Unknown => {}
        }
    }
}

/// [`compare`] in a thread of the lowest priority, until the node stops.
async fn compare_slowly(node: &Arc<Node>, content: &Arc<Content>, identity: Identity) -> Compared {
    let (answer, answered) = oneshot::channel();
    let (content, node) = (content.clone(), Arc::downgrade(node));
    let started = std::thread::Builder::new().name("hub check".to_owned()).spawn(move || {
        lowest_priority();
        let goes_on = || node.upgrade().is_some_and(|node| !node.is_stopping());
        // The receiver may have ended with the node.
        let _ = answer.send(compare(&content, identity, &goes_on));
    });
    match started {
        Ok(_) => answered.await.unwrap_or(Compared::Unknown),
        Err(error) => {
            tracing::warn!(%error, "could not start a thread that compares files with the hub");
            Compared::Unknown
        }
    }
}

/// Compares the bytes of a complete content with a hash that the hub lists. Blocks.
pub(super) fn compare(content: &Content, identity: Identity, goes_on: &dyn Fn() -> bool) -> Compared {
    let Some(key) = content.key() else { return Compared::Equal };
    let version = content.version();
    let (mut sha256, mut blob) = (Sha256::new(), BlobHasher::new(key.len));
    let mut add = |bytes: &[u8]| match identity {
        Identity::Lfs(_) => sha256.update(bytes),
        Identity::Git(_) => blob.update(bytes),
    };
    if !each_chunk(content, key.len, goes_on, &mut add) || content.version() != version {
        return Compared::Unknown;
    }
    let found = match identity {
        Identity::Lfs(_) => Identity::Lfs(Sha256Digest(sha256.finalize().into())),
        Identity::Git(_) => Identity::Git(blob.finish()),
    };
    if found == identity {
        return Compared::Equal;
    }
    // A damaged disk is no fault of the manifest.
    let mut leaves: Vec<Hash> = Vec::new();
    let mut add = |bytes: &[u8]| {
        leaves.extend(bytes.chunks(BLOCK_LEN as usize).map(|block| Hash::from(Sha256::digest(block))));
    };
    let is_read = each_chunk(content, key.len, goes_on, &mut add);
    if is_read && content.version() == version && merkle::root(leaves, 0, 0) == key.root.0 {
        return Compared::Different;
    }
    tracing::warn!(path = %content.path().display(), "a complete file has other bytes than were verified");
    Compared::Unknown
}

/// Passes the bytes of a content on in order. Returns whether all of them were read.
fn each_chunk(content: &Content, len: u64, goes_on: &dyn Fn() -> bool, add: &mut dyn FnMut(&[u8])) -> bool {
    let mut at = 0;
    while at < len {
        let end = len.min(at + CHUNK);
        match content.read(at..end) {
            Ok(Some(bytes)) if goes_on() => add(&bytes),
            _ => return false,
        }
        at = end;
    }
    true
}
