//! `verify`: reads the stored bytes of a model and compares them with their hashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Library, Node, NodeError, blocking};
use crate::model::ModelRef;
use crate::model::hash::Control;

/// The result of a `verify`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Verified {
    /// The model.
    pub model: String,
    /// Bytes compared with their hashes and found right.
    pub right: u64,
    /// Stored bytes that were not checked: parts of pieces, and pieces with unknown hashes.
    pub unchecked: u64,
    /// Bytes that are not stored.
    pub missing: u64,
    /// Files of which bytes were wrong. These bytes count as missing now and are fetched again when needed.
    pub damaged: Vec<String>,
    /// Files whose bytes fit the pieces root but not the sha256: the manifest contradicts itself.
    pub contradictory: Vec<String>,
}

/// Reads every stored byte of a model and compares it with its hashes. `progress` receives the bytes read and the bytes
/// to read. When `cancel` is set, it stops. The caller holds the node lock. Blocks as long as the disk needs.
pub fn verify(
    library: &Library,
    model: &ModelRef,
    progress: &(dyn Fn(u64, u64) + Sync),
    cancel: &AtomicBool,
) -> Result<Verified, NodeError> {
    let revision = library.revision(model)?;
    let manifest = &revision.manifest;
    let layers = library.store.torrents.layers(manifest)?;
    let known = library.store.torrents.piece_hashes(manifest, layers.clone())?;
    let done = AtomicU64::new(0);
    let total = manifest.total_size;
    let report = |bytes: u64| progress((done.fetch_add(bytes, Ordering::Relaxed) + bytes).min(total), total);
    let watch = Control { progress: &report, cancel };
    let mut found = Verified { model: model.to_string(), ..Verified::default() };
    let mut adopted = vec![false; revision.contents.len()];
    let mut wrong = vec![false; revision.contents.len()];
    for dir in library.store.placed().dirs_of(manifest) {
        let files = library.store.placed().unverified(&revision, &dir);
        let seen = library.store.placed().adopt(&revision, &files, &dir, &layers, watch)?;
        seen.right.iter().for_each(|&file| adopted[file] = true);
        seen.wrong.iter().for_each(|&file| wrong[file] = true);
    }
    for (file, entry) in manifest.files.iter().enumerate() {
        let content = &revision.contents[file];
        if adopted[file] {
            found.right += entry.size;
            continue;
        }
        let report = library.store.verify(&revision, file, &known, watch)?;
        let damaged: u64 = report.damaged.iter().map(|range| range.end - range.start).sum();
        found.right += report.checked.saturating_sub(damaged);
        found.unchecked += report.unchecked;
        let here = content.cached_bytes() + content.unproved_bytes();
        found.missing += entry.size.saturating_sub(here);
        if damaged > 0 || wrong[file] {
            found.damaged.push(entry.path.clone());
        } else if report.sha256_fits == Some(false) {
            found.contradictory.push(entry.path.clone());
        }
    }
    Ok(found)
}

/// [`verify`] while the engine has closed the files of the model: meanwhile only stored bytes can be read. Dropping the
/// future stops it soon.
pub(super) async fn run(
    node: &Arc<Node>,
    model: &ModelRef,
    progress: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<Verified, NodeError> {
    let revision = node.library.revision(model)?;
    let turn = node.jobs.turn(&revision.manifest.torrent.info_hash).await;
    let held = node.seeds.close(&revision).await?;
    let (holder, model) = (node.clone(), model.clone());
    let found = blocking::cancellable(move |cancel| {
        // The thread continues when the future is dropped, and needs both until it ends.
        let _until_done = (turn, held);
        verify(&holder.library, &model, &progress, cancel)
    })
    .await?;
    node.fetch.relocate(&revision);
    Ok(found)
}
