//! Deletes the files of former states of a model when another state has replaced them.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::{Node, NodeError, blocking};
use crate::fetch::EvictionHold;
use crate::model::{Manifest, ModelRef};
use crate::store::FormerState;

/// Deletes the files of former states of a model in a directory that contains all files of `present`. A state that
/// another job uses is left for the next call. Deletes nothing if another state is known by now.
pub(super) async fn clear(node: &Arc<Node>, present: &Arc<Manifest>, dir: &Path) -> Result<(), NodeError> {
    let model = present.model_ref();
    for former in node.library.store.former_states().list(&model, &present.torrent.info_hash, Some(dir))? {
        let until_done = match hold(node, &model, &former).await {
            Err(NodeError::InUse(_)) => continue,
            held => (held?, node.lock.clone()),
        };
        let (node, present, dir) = (node.clone(), present.clone(), dir.to_owned());
        blocking::cancellable(move |_| {
            let _until_done = until_done;
            let library = &node.library;
            let known = library.registry.get(&present.model_ref());
            if known.is_none_or(|known| known.torrent.info_hash != present.torrent.info_hash) {
                return Ok(());
            }
            let cleared = library.store.former_states().clear(&former, &present, &dir, &library.manifests())?;
            tracing::info!(files = cleared, model = %present.model_ref(), "deleted the files of a former state");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Keeps jobs and the engine away from a former state of a model until the returned guards are dropped. `InUse` while
/// another job has it.
pub(super) async fn hold(
    node: &Node,
    model: &ModelRef,
    former: &FormerState,
) -> Result<(OwnedMutexGuard<()>, EvictionHold), NodeError> {
    let turn = node.jobs.try_turn(&former.info_hash).ok_or_else(|| NodeError::InUse(model.clone()))?;
    let keys: Vec<_> = former.keys.iter().copied().collect();
    Ok((turn, node.seeds.close_contents(model, &keys).await?))
}
