//! `seed`: uploads models that are stored here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::{Seed, Seeded};
use super::sharing::Rule;
use super::unshared::{self, Unshared};
use super::{Node, NodeError, blocking, get};
use crate::model::{Manifest, ModelRef};
use crate::store::StoredRevision;

/// How often the catalog is polled for a peer or a DHT node.
const POLL_EVERY: Duration = Duration::from_millis(100);

/// Joins the swarm of a model with stored bytes and connects to the peers of the request. Without a model, joins the
/// swarms of all models that are not withheld. Waits for the first announcement for at most `announce_within`.
pub(super) async fn run(node: &Arc<Node>, request: &Seed) -> Result<Seeded, NodeError> {
    // They may know hosts that look for the model.
    node.call_in_catalog(&request.peers);
    if let Some(model) = &request.model {
        adopt_placed(node, model).await?;
    }
    let seeded = seed_known(node, request)?;
    let models = seeded.iter().map(|revision| revision.manifest.model_ref()).collect();
    let announced = are_announced(node, &seeded, Duration::from_millis(request.announce_within)).await;
    Ok(Seeded { models, announced })
}

/// Waits until other hosts can find the models, for at most `within`. Returns whether they can.
async fn are_announced(node: &Node, seeded: &[Arc<StoredRevision>], within: Duration) -> bool {
    let Some(part) = &node.catalog else { return false };
    let announces =
        |revision: &&Arc<StoredRevision>| node.library.sharing.is_in_dht(&revision.manifest.model_ref());
    if !node.settings.discovery.dht || !seeded.iter().any(|revision| announces(&revision)) {
        return true;
    }
    let until = Instant::now() + within;
    loop {
        let status = part.catalog.status();
        if status.peers > 0 || status.dht_nodes > 0 {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

fn seed_known(node: &Node, request: &Seed) -> Result<Vec<Arc<StoredRevision>>, NodeError> {
    let seeded = match &request.model {
        None => node.seed_local()?,
        Some(model) => {
            let revision = node.library.revision(model)?;
            if revision.held_bytes() == 0 {
                return Err(NodeError::NothingHere(model.clone()));
            }
            permit(node, &revision.manifest, request.right)?;
            let rule = node.library.sharing.of(model);
            if request.skip_dht && !rule.without_dht {
                node.set_rule(&revision.manifest, Rule { without_dht: true, ..rule })?;
            }
            node.seeds.join(&revision)?;
            vec![revision]
        }
    };
    for revision in &seeded {
        node.session.trust_hosts(&request.peers);
        node.fetch.introduce(&revision.manifest.torrent.info_hash, &request.peers);
    }
    Ok(seeded)
}

/// Checks whether a model may be shared now that a user asks for it by name, and removes the rule that withholds it.
/// With `right` the user confirms that they may share it.
fn permit(node: &Node, manifest: &Manifest, right: bool) -> Result<(), NodeError> {
    let model = manifest.model_ref();
    let rule = node.library.sharing.of(&model);
    let Some(why) = rule.withheld else { return Ok(()) };
    if why.needs_right() && !right {
        return Err(NodeError::Withheld { model, why });
    }
    node.set_rule(manifest, Rule { withheld: None, ..rule })
}

/// Records the files of a known model that the user put into its place in the models directory, after comparing them
/// with their hashes. Dropping the future stops it. Does nothing if the files are other ones.
async fn adopt_placed(node: &Arc<Node>, model: &ModelRef) -> Result<(), NodeError> {
    let Some(manifest) = node.library.registry.get(model).filter(|_| model.revision.is_default()) else {
        return Ok(());
    };
    let (library, name) = (node.library.clone(), model.name.clone());
    let unshared = blocking::cancellable(move |_| Ok(unshared::find(&library.store, &name))).await?;
    let Some(unshared) = unshared.filter(Unshared::is_whole) else { return Ok(()) };
    let revision = node.library.store.revision(manifest)?;
    let turn = Arc::new(node.jobs.turn(&revision.manifest.torrent.info_hash).await);
    get::adopt(node, &revision, &turn, &unshared.path, &|_| ()).await?;
    node.fetch.relocate(&revision);
    node.changed();
    Ok(())
}
