//! What former states of a model have left goes once another has taken their place.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::{Node, NodeError, blocking};
use crate::fetch::EvictionHold;
use crate::model::{Manifest, ModelRef};
use crate::store::Former;

/// Removes what former states of a model have left in a directory where all of `present` stands. What another job
/// has in hand is left for the next time, and all where another state is known by now.
pub(super) async fn clear(node: &Arc<Node>, present: &Arc<Manifest>, dir: &Path) -> Result<(), NodeError> {
    let model = present.model_ref();
    for former in node.library.store.former(&model, &present.torrent.info_hash, Some(dir))? {
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
            let cleared = library.store.clear_former(&former, &present, &dir, &library.manifests())?;
            tracing::info!("{cleared} files of a former state of {} are removed", present.model_ref());
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Keeps jobs and the engine from a former state of a model until what is returned is dropped. `InUse` while
/// another job has it.
pub(super) async fn hold(
    node: &Node,
    model: &ModelRef,
    former: &Former,
) -> Result<(OwnedMutexGuard<()>, EvictionHold), NodeError> {
    let turn = node.jobs.try_turn(&former.info_hash).ok_or_else(|| NodeError::InUse(model.clone()))?;
    let keys: Vec<_> = former.keys.iter().copied().collect();
    Ok((turn, node.seeds.close_contents(model, &keys).await?))
}
