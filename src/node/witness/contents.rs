//! Complete files of manifests that the user did not choose: a file whose bytes do not have the hash that the hub lists refutes its
//! manifest. The manifest and its bytes are deleted.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;

use super::ask::can_ask;
use super::complete;
use crate::fetch::{FileRef, different_sha256};
use crate::model::{Identity, ModelRef};
use crate::mount::RequestedModel;
use crate::node::{Node, NodeError, blocking, hub, readable, remove};
use crate::store::{Judgement, StoredRevision, Verdict};

/// How long the hub may take to describe a model of which the manifest is refused.
const LOOKUP_WITHIN: Duration = Duration::from_secs(10);

/// How long a `get` waits until a refused manifest is deleted.
const REFUSED_WITHIN: Duration = Duration::from_secs(60);

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

/// Ends the wait of the readers of a refused manifest, however the refusal ends.
struct EndOnDrop<'a> {
    revision: &'a StoredRevision,
    successor: Option<Arc<StoredRevision>>,
}

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(refutation) = &self.revision.refutation {
            refutation.end(self.successor.take());
        }
    }
}

async fn refuse(
    node: &Arc<Node>,
    revision: &Arc<StoredRevision>,
    difference: String,
) -> Result<(), NodeError> {
    let mut end = EndOnDrop { revision, successor: None };
    let _turn = node.witness.refusing.lock().await;
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
    let removed = match known.filter(|known| known.signature == manifest.signature) {
        Some(_) => remove::run(node, &model).await,
        None => Ok(()),
    };
    end.successor = at_hub(node, &model).await;
    removed
}

/// If a manifest was found to contradict the hub, waits until it is deleted, and returns the error.
pub(in crate::node) async fn refused(node: &Arc<Node>, revision: &Arc<StoredRevision>) -> Option<NodeError> {
    let refutation = revision.refutation.as_ref()?;
    let difference = refutation.difference()?;
    if tokio::time::timeout(REFUSED_WITHIN, refutation.ended()).await.is_err() {
        tracing::warn!(model = %revision.manifest.model_ref(), "a refused manifest was not deleted in time");
    }
    let publisher = match revision.manifest.signed_by() {
        Some(key) => node.library.trust.describe(&key),
        None => "no publisher".to_owned(),
    };
    Some(NodeError::refuted(revision.manifest.model_ref(), &publisher, difference))
}

/// The model as it is read from the hub. None if it cannot be.
async fn at_hub(node: &Arc<Node>, model: &ModelRef) -> Option<Arc<StoredRevision>> {
    let access = node.hub.witness_access().filter(|access| can_ask(node, access, model))?;
    let sought = RequestedModel { model: model.clone(), publisher: None };
    if !readable::is_for_the_hub(node, &sought, &access) {
        return None;
    }
    let found = hub::lookup::look_up(node, model, &access, LOOKUP_WITHIN).await;
    let explain =
        |error: &NodeError| tracing::info!(%model, %error, "a refused model is not read from the hub");
    found.inspect_err(explain).ok().filter(|found| found.hub.is_some())
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
        let (content, identity) = (revision.contents[file].clone(), listed.identity(file));
        let comparing = blocking::run(move || Ok(complete::compare(&content, identity, &|| true)));
        if matches!(comparing.await, Ok(complete::Compared::Different)) {
            let difference = different_sha256(&manifest.files[file].path);
            node.fetch.report_contradiction(&FileRef { revision: revision.clone(), file }, difference);
        }
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
