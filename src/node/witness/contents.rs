//! Complete files of manifests that the user did not choose: a file whose bytes do not have the hash that the hub lists refutes its
//! manifest. The manifest and its bytes are deleted.

use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

use crate::fetch::FileRef;
use crate::model::Identity;
use crate::node::{Node, NodeError, blocking, remove};
use crate::store::{Judgement, StoredRevision, Verdict};

/// A file whose bytes do not have the hash that the hub lists, and the difference.
pub(in crate::node) type Contradiction = (FileRef, String);

/// Refuses the manifests of files that contradict the hub. Runs until the node is gone.
pub(in crate::node) async fn run(node: Weak<Node>, mut found: mpsc::UnboundedReceiver<Contradiction>) {
    while let Some((file, difference)) = found.recv().await {
        let Some(node) = node.upgrade() else { return };
        let model = file.revision.manifest.model_ref();
        tracing::error!(%model, difference, "refused a manifest: its bytes contradict the hub");
        if let Err(error) = refuse(&node, &file.revision, difference).await {
            tracing::warn!(%error, %model, "could not delete a model whose manifest is refused");
        }
    }
}

async fn refuse(
    node: &Arc<Node>,
    revision: &Arc<StoredRevision>,
    difference: String,
) -> Result<(), NodeError> {
    let manifest = revision.manifest.clone();
    let model = manifest.model_ref();
    let (this, judged, of) = (node.clone(), manifest.clone(), model.clone());
    blocking::run(move || {
        let judgement = Judgement {
            manifest: judged.digest().0,
            signature: judged.signature.clone(),
            publisher: judged.publisher,
            verdict: Verdict::Refuted(difference),
        };
        this.library.store.witnessed.record(&of, vec![judgement], []);
        // The `get` that fetched it may have pinned the name.
        let trust = &this.library.trust;
        if judged.publisher.is_some() && trust.pinned(&judged.name)? == judged.publisher {
            trust.unpin(&judged.name)?;
        }
        Ok(())
    })
    .await?;
    node.changed();
    node.fetch.leave(&manifest.torrent.info_hash);
    // The job that found it has the files until it fails.
    drop(node.jobs.turn(&manifest.torrent.info_hash).await);
    let known = node.library.registry.get(&model);
    if known.is_some_and(|known| known.signature == manifest.signature) {
        remove::run(node, &model).await?;
    }
    Ok(())
}

/// Compares the small files among complete files of a revision with the identifiers that the hub lists. Fails at the first file with
/// other bytes.
pub(in crate::node) async fn check_small(
    node: &Arc<Node>,
    revision: &Arc<StoredRevision>,
    files: &[usize],
) -> Result<(), NodeError> {
    if revision.listed.is_none() {
        return Ok(());
    }
    for &file in files {
        let file = FileRef { revision: revision.clone(), file };
        let checked = node.fetch.check_listed(&file, &|| true).await;
        checked.map_err(|source| NodeError::Fetch { model: revision.manifest.model_ref(), source })?;
    }
    Ok(())
}

/// Records the result of the comparison of complete files of a revision with their SHA-256: all are right but `damaged`.
pub(in crate::node) async fn record_hashed(
    node: &Arc<Node>,
    revision: &Arc<StoredRevision>,
    files: &[usize],
    damaged: &[String],
) {
    let Some(listed) = &revision.listed else { return };
    let manifest = &revision.manifest;
    let is_lfs = |file: &&usize| matches!(listed.identity(**file), Identity::Lfs(_));
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    for &file in files.iter().filter(is_lfs) {
        let is_complete = revision.contents[file].is_complete();
        match damaged.contains(&manifest.files[file].path) {
            false => right.push(file),
            true if is_complete => wrong.push(file),
            true => {}
        }
    }
    if let Some(&file) = wrong.first() {
        let path = &manifest.files[file].path;
        let difference =
            format!("the bytes of {path} do not have the SHA-256 that the manifest and the hub state");
        node.fetch.report_contradiction(&FileRef { revision: revision.clone(), file }, &difference);
    }
    let (store, manifest) = (node.library.store.clone(), manifest.clone());
    let recording = blocking::run(move || {
        right.into_iter().for_each(|file| store.witnessed.set_checked(&manifest, file));
        Ok(())
    });
    if let Err(error) = recording.await {
        tracing::error!(%error, "could not record which files were compared with the hub");
    }
}
