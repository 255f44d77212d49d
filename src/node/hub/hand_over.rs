//! Moves the cached bytes of a model that was read from the hub to the files of its manifest.

use std::sync::{Arc, Weak};

use super::hub_of;
use crate::model::{FileEntry, Identity, Manifest};
use crate::node::{Node, NodeError, blocking};
use crate::store::{HubListing, StoreError, StoredRevision};

/// Compares the models with the known manifests whenever these change. Runs until the node is gone.
pub(in crate::node) async fn run(node: Weak<Node>) {
    loop {
        let Some(here) = node.upgrade() else { return };
        for revision in here.hub.all() {
            let model = revision.manifest.model_ref();
            let known = here.library.registry.get(&model).filter(|known| here.library.is_accepted(known));
            let Some(known) = known else { continue };
            let handed = async {
                let real = here.library.store.revision(known)?;
                hand_over(&here, &revision, &real, false).await
            };
            if let Err(error) = handed.await {
                tracing::error!(%error, %model, "could not move bytes of the hub to the manifest of their model");
            }
        }
        let hub = here.hub.clone();
        drop(here);
        hub.changed.notified().await;
    }
}

/// Moves the bytes of a model to the contents of its manifest; reads continue there. With `enter`, the manifest enters the
/// registry first. Bytes that were not hashed are proved before a reader gets them. Does nothing if another call has done it.
pub(super) async fn hand_over(
    node: &Arc<Node>,
    revision: &Arc<StoredRevision>,
    real: &Arc<StoredRevision>,
    enter: bool,
) -> Result<(), NodeError> {
    let info_hash = real.manifest.torrent.info_hash;
    let turn = node.jobs.turn(&info_hash).await;
    if hub_of(revision).successor().is_some() {
        return Ok(());
    }
    // The engine must not write to a file that is replaced.
    let held = node.seeds.close(real).await?;
    let (this, from, to) = (node.clone(), revision.clone(), real.clone());
    blocking::cancellable(move |_| {
        // The thread continues when the future is dropped.
        let _until_done = (turn, held, this.lock.clone());
        if enter {
            this.library.registry.insert(Manifest::clone(&to.manifest))?;
        }
        let model = from.manifest.model_ref();
        // No request writes to the files any more.
        this.fetch.hub.retire(&from);
        for (file, content) in from.contents.iter().enumerate() {
            let Some(at) = place_in(&hub_of(&from).listing, file, &to.manifest) else { continue };
            let proof = content.of_hub().and_then(|of_hub| of_hub.proof());
            let store = &this.library.store;
            let taken = store.hub().hand_over(content, &to.contents[at], proof);
            taken.map_err(|e| StoreError::io(&content.path(), e))?;
        }
        hub_of(&from).succeed(to.clone());
        this.hub.remove(&model)?;
        this.seeds.apply_rules(&to.manifest.torrent.info_hash);
        this.fetch.relocate(&to);
        // Reads that waited for the hub continue with the manifest.
        this.fetch.hub.retire(&from);
        this.changed();
        Ok(())
    })
    .await
}

/// Waits until the bytes of a model have moved to its manifest, if that has begun. Returns whether it had.
pub(in crate::node) async fn has_ended(node: &Arc<Node>, revision: &StoredRevision) -> bool {
    let Some(successor) = hub_of(revision).successor() else { return false };
    drop(node.jobs.turn(&successor.manifest.torrent.info_hash).await);
    true
}

/// The file of a manifest that has the bytes of a file of a commit, according to the listed hashes. The bytes are proved in any
/// case.
fn place_in(listing: &HubListing, file: usize, manifest: &Manifest) -> Option<usize> {
    let sought = &listing.files[file];
    let commit = manifest.source.as_ref().and_then(|source| source.commit.as_deref());
    let is_same_commit = commit == Some(listing.commit.to_string().as_str());
    let fits = |entry: &FileEntry| match sought.identity {
        _ if entry.size != sought.size => false,
        Identity::Lfs(sha256) if entry.sha256.is_some() => entry.sha256 == Some(sha256),
        Identity::Lfs(_) | Identity::Git(_) => is_same_commit && entry.path == sought.path,
    };
    manifest.files.iter().position(fits)
}
