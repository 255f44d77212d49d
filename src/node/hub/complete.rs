//! Complete files: they are hashed, and when all files of a model are complete, its manifest is made.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

use super::link_tree::{FilesInPlace, LinkTree};
use super::{hand_over, hub_of};
use crate::fetch::{FileRef, ReadError};
use crate::mirror::Identity;
use crate::model::hash::{Control, HashError, hash_file};
use crate::model::license;
use crate::node::sharing::{Rule, WithheldReason};
use crate::node::{Node, NodeError, blocking};
use crate::nofollow;
use crate::store::{Content, HubListing, HubProof, StoreError, StoredRevision};

/// How often a content that has moved is looked for again.
const MOVES: usize = 3;

/// Hashes files as they become complete. Runs until the node is gone.
pub(in crate::node) async fn run(node: Weak<Node>, mut completed: mpsc::UnboundedReceiver<FileRef>) {
    while let Some(file) = completed.recv().await {
        let Some(node) = node.upgrade() else { return };
        let model = file.revision.manifest.model_ref();
        if let Err(error) = on_complete(&node, &file).await {
            tracing::error!(%error, %model, "could not complete a model of the hub");
        }
    }
}

async fn on_complete(node: &Arc<Node>, file: &FileRef) -> Result<(), NodeError> {
    if !check(node, file).await? {
        return Ok(());
    }
    // Other models may have the same file, and the file may have been opened before an update of the model.
    let content = &file.revision.contents[file.file];
    for current in node.hub.all() {
        let has_it = current.contents.iter().any(|other| Arc::ptr_eq(other, content));
        if has_it && current.contents.iter().all(|content| content.is_complete()) {
            finish(node, &current).await?;
        }
    }
    Ok(())
}

/// Compares a complete file with the hash that the hub lists. A file that differs is discarded and reported. Returns whether
/// it has the right bytes.
pub(in crate::node) async fn check(node: &Arc<Node>, file: &FileRef) -> Result<bool, NodeError> {
    let content = file.revision.contents[file.file].clone();
    if content.is_empty() {
        return Ok(true);
    }
    if !content.is_complete() {
        return Ok(false);
    }
    let piece_length = node.library.config.torrent.piece_length;
    let (hashed, path) = (content.clone(), file.revision.manifest.files[file.file].path.clone());
    let hashing = blocking::cancellable(move |cancel| {
        for _ in 0..MOVES {
            let at = path_of(&hashed);
            let checked = check_at(&hashed, at.as_deref(), piece_length, cancel);
            // Another call may have moved the bytes to a manifest: then they are looked for at their new place.
            let has_moved = path_of(&hashed) != at;
            match checked {
                Ok(None) | Err(_) if has_moved => {}
                checked => return checked,
            }
        }
        Ok(None)
    });
    let result = hashing.await?;
    if result == Some(false) {
        let why = format!(
            "the bytes of {path} from the hub do not have the hash that it lists; they were discarded"
        );
        tracing::error!(model = %file.revision.manifest.model_ref(), path, "{why}");
        node.fetch.hub.damaged(file, &why);
    }
    Ok(result == Some(true))
}

/// The path of the file that has the bytes.
fn path_of(content: &Content) -> Option<PathBuf> {
    content.of_hub()?.path()
}

/// [`check`] at the path that the content has now, none if it has none. None if it lost bytes, or moved.
fn check_at(
    content: &Content,
    at: Option<&Path>,
    piece_length: u32,
    cancel: &AtomicBool,
) -> Result<Option<bool>, NodeError> {
    if content
        .of_hub()
        .and_then(|of_hub| of_hub.proof())
        .is_some_and(|proof| proof.piece_length == piece_length)
    {
        return Ok(Some(true));
    }
    let (Some(at), Some(key), Some(of_hub)) = (at, content.hub_key(), content.of_hub()) else {
        return Ok(None);
    };
    let hashes = match hash_file(at, piece_length, Control { progress: &|_| {}, cancel }) {
        Ok(hashes) => hashes,
        // It was evicted after it became complete.
        Err(HashError::Changed(_)) => return Ok(None),
        Err(HashError::Io { path, source }) if content.is_complete() => {
            return Err(StoreError::Io { path, source }.into());
        }
        Err(_) => return Ok(None),
    };
    let is_right = hashes.metadata.len() == key.len
        && match key.identity {
            Identity::Lfs(sha256) => hashes.sha256 == sha256,
            Identity::Git(_) => {
                let read = nofollow::read(at).and_then(|file: File| key.identity.is_of(key.len, file));
                read.map_err(|e| StoreError::io(at, e))?
            }
        };
    if !content.is_complete() {
        return Ok(None);
    }
    let proof = HubProof::of(&hashes, piece_length).filter(|_| is_right);
    let recorded = match (content.twin(), proof) {
        (Some(twin), Some(proof)) if twin.path() == at => of_hub.set_twin(&twin, proof),
        // It has moved.
        (Some(_), Some(_)) => return Ok(None),
        (Some(_), None) => {
            of_hub.forget_twin();
            return Ok(None);
        }
        (None, Some(proof)) => of_hub.set_proof(&proof),
        (None, None) => content.start_over(),
    };
    recorded.map_err(|e| StoreError::io(at, e))?;
    Ok(Some(is_right))
}

/// Checks files that were just fetched. If all files of the model are complete then, it gets its manifest. Fails if a file has
/// other bytes than the hub lists.
pub(in crate::node) async fn complete(
    node: &Arc<Node>,
    revision: &Arc<StoredRevision>,
    files: &[usize],
) -> Result<(), NodeError> {
    for &file in files {
        let file = FileRef { revision: revision.clone(), file };
        let path = &revision.manifest.files[file.file].path;
        if !check(node, &file).await? && !hand_over::has_ended(node, revision).await {
            let why =
                format!("{path}: the bytes from the hub do not have the hash that it lists, or were deleted");
            let source = ReadError::Broken(why);
            return Err(NodeError::Fetch { model: revision.manifest.model_ref(), source });
        }
    }
    if revision.contents.iter().all(|content| content.is_complete()) {
        finish(node, revision).await?;
    }
    Ok(())
}

/// Makes the manifest of a model of which all files are complete and right, as `mirror` does, and moves its files to it.
/// Returns the model with its manifest; none if a file lost bytes during the work.
pub(in crate::node) async fn finish(
    node: &Arc<Node>,
    revision: &Arc<StoredRevision>,
) -> Result<Option<Arc<StoredRevision>>, NodeError> {
    finish_with(node, revision, Path::new(""), FilesInPlace::new()).await
}

/// [`finish`] of a model of which some files are `in_place`, below the directory `dir`: they stay there. None also if one of them
/// has changed.
pub(in crate::node) async fn finish_with(
    node: &Arc<Node>,
    revision: &Arc<StoredRevision>,
    dir: &Path,
    in_place: FilesInPlace,
) -> Result<Option<Arc<StoredRevision>>, NodeError> {
    let listing = &hub_of(revision).listing;
    let _mirror = node.mirrors.turn(&listing.model).await;
    if let Some(done) = hub_of(revision).successor() {
        return Ok(Some(done));
    }
    let in_place = Arc::new(in_place);
    let mut made = None;
    for _ in 0..MOVES {
        for file in (0..revision.contents.len()).filter(|file| !in_place.contains_key(file)) {
            if !check(node, &FileRef { revision: revision.clone(), file }).await? {
                return Ok(None);
            }
        }
        let (library, making, placed) = (node.library.clone(), revision.clone(), in_place.clone());
        let manifest = blocking::cancellable(move |cancel| {
            let tree = LinkTree::make(&library, &making, &placed)?;
            tree.map(|tree| tree.manifest(&library, &hub_of(&making).listing, cancel)).transpose()
        });
        made = manifest.await?;
        // Otherwise a file has moved to the manifest of another model.
        if made.is_some() {
            break;
        }
    }
    let Some(manifest) = made else { return Ok(None) };
    let rule = rule(listing, manifest.license.as_deref());
    let (library, model, dir) = (node.library.clone(), listing.model.clone(), dir.to_owned());
    let entered = blocking::cancellable(move |_| {
        // Before any peer learns of the model.
        library.sharing.set(&model, rule)?;
        library.enter_own_state(&manifest)?;
        let real = library.store.revision(Arc::new(manifest))?;
        let found = in_place.iter().map(|(&file, found)| (file, found.path.clone(), found.proof.stamp));
        library.store.placed().record_found(&real, &dir, found.collect())?;
        Ok(real)
    });
    let real = entered.await?;
    hand_over::hand_over(node, revision, &real, true).await?;
    tracing::info!(model = %listing.model, info_hash = %real.manifest.torrent.info_hash, "a model of the hub is complete");
    if rule.withheld.is_none() {
        node.seeds.join(&real)?;
    }
    Ok(Some(real))
}

/// The rule of sharing of a model of the hub: that of `mirror`.
fn rule(listing: &HubListing, license: Option<&str>) -> Rule {
    let withheld = if listing.private {
        Some(WithheldReason::Private)
    } else if listing.gated {
        Some(WithheldReason::Gated)
    } else {
        (!license.is_some_and(license::permits_redistribution)).then_some(WithheldReason::Licence)
    };
    Rule { withheld, ..Rule::default() }
}
