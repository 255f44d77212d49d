//! The one way from a name to something that can be read: a known model or, within a time, what the swarm or the hub has.
//!
//! The swarm and the hub are asked at the same time. The swarm comes first: if the hub answers earlier, the swarm gets a
//! moment more. A manifest that arrives later takes over the bytes that were read from the hub ([`super::hub`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::hub::access::HubAccess;
use super::hub::{self, is_restricted, may_read};
use super::{ErrorKind, Node, NodeError, lookup};
use crate::catalog::SearchPatience;
use crate::mirror::MirrorError;
use crate::model::ModelRef;
use crate::mount::RequestedModel;
use crate::store::StoredRevision;

/// How much longer the swarm may search after the hub has answered.
const SWARM_FIRST: Duration = Duration::from_secs(1);

/// How a name is looked up if it is not known.
#[derive(Clone, Copy)]
pub(super) struct LookupLimits {
    /// How long the swarm and the hub may take.
    pub within: Duration,
    /// How the swarm is asked.
    pub patience: SearchPatience,
}

/// The model at a path of a mount: the known one or, with `limits`, the one that the swarm or the hub has. `access` is how
/// the hub is asked; without one, only the swarm is. Fails with `Restricted` for a gated or private model for which the hub
/// has sent no file with this access.
pub(super) async fn readable(
    node: &Arc<Node>,
    sought: &RequestedModel,
    access: Option<&Arc<HubAccess>>,
    limits: Option<LookupLimits>,
) -> Result<Arc<StoredRevision>, NodeError> {
    if let Some(known) = known(node, sought)? {
        let is_permitted = |access: &Arc<HubAccess>| may_read(&node.library, &known, access, false);
        if access.map_or(known.hub.is_none(), is_permitted) {
            return Ok(known);
        }
    }
    match limits {
        Some(limits) => look_up(node, sought, access, limits).await,
        None => Err(NodeError::UnknownModel(sought.model.clone())),
    }
}

/// The model of a name that is known here: the user's own files, the model of the registry, or one that is read from the
/// hub.
pub(super) fn known(node: &Node, sought: &RequestedModel) -> Result<Option<Arc<StoredRevision>>, NodeError> {
    if let Some(local) = node.local.revision(&sought.model).filter(|_| sought.publisher.is_none()) {
        return Ok(Some(local));
    }
    if let Some(manifest) = node.library.known_as(sought) {
        return Ok(Some(node.library.store.revision(manifest)?));
    }
    if sought.publisher.is_some() {
        return Ok(None);
    }
    match node.hub.canonical(&sought.model) {
        Some(model) => known(node, &RequestedModel { model, publisher: None }),
        None => Ok(node.hub.get(&sought.model)),
    }
}

/// Asks the swarm and the hub for a model that is not known, or that the hub has to permit.
pub(super) async fn look_up(
    node: &Arc<Node>,
    sought: &RequestedModel,
    access: Option<&Arc<HubAccess>>,
    limits: LookupLimits,
) -> Result<Arc<StoredRevision>, NodeError> {
    search(node, sought, access, access, limits).await
}

/// Asks only the swarm for a model that is not known. `witness` is how the hub is asked about manifests of strangers.
pub(super) async fn look_up_in_swarm(
    node: &Arc<Node>,
    sought: &RequestedModel,
    witness: &Arc<HubAccess>,
    limits: LookupLimits,
) -> Result<Arc<StoredRevision>, NodeError> {
    search(node, sought, None, Some(witness), limits).await
}

async fn search(
    node: &Arc<Node>,
    sought: &RequestedModel,
    access: Option<&Arc<HubAccess>>,
    witness: Option<&Arc<HubAccess>>,
    limits: LookupLimits,
) -> Result<Arc<StoredRevision>, NodeError> {
    let LookupLimits { within, patience } = limits;
    if let Some(known) = known(node, sought)?.filter(|known| is_restricted(&node.library, known)) {
        if let Some(access) = access {
            hub::lookup::confirm_restricted(node, &known, access, within).await?;
        }
        return Ok(known);
    }
    let swarm = async {
        let manifest = lookup::look_up(node, sought, witness, within, patience).await?;
        Ok::<_, NodeError>(node.library.store.revision(manifest)?)
    };
    let Some(access) = access.filter(|access| is_for_the_hub(node, sought, access)) else {
        return swarm.await;
    };
    let asking = hub::lookup::look_up(node, &sought.model, access, within);
    tokio::pin!(swarm, asking);
    let refused = tokio::select! {
        found = &mut swarm => match found {
            Err(error) if is_absent(&error) => error,
            found => return found,
        },
        asked = &mut asking => match asked {
            Ok(of_hub) => {
                let until = Instant::now() + SWARM_FIRST;
                return match tokio::time::timeout_at(until, swarm).await {
                    Ok(Ok(found)) => Ok(found),
                    Ok(Err(error)) if !is_absent(&error) => Err(error),
                    Ok(Err(_)) | Err(_) => Ok(of_hub),
                };
            }
            Err(error) => {
                let found = swarm.await;
                return found.map_err(|of_swarm| more_useful(&sought.model, of_swarm, error));
            }
        },
    };
    asking.await.map_err(|error| more_useful(&sought.model, refused, error))
}

/// Whether the hub may be asked for a name. A name that is pinned belongs to its publisher, whatever the hub has.
pub(super) fn is_for_the_hub(node: &Node, sought: &RequestedModel, access: &HubAccess) -> bool {
    sought.publisher.is_none()
        && access.is_online
        && node.library.trust.pinned(&sought.model.name).is_ok_and(|pinned| pinned.is_none())
}

/// Whether the swarm has no such model that can be used, or cannot be reached. Manifests that contradict the hub cannot be used.
/// Refusals of the user's rules and disputes are different.
pub(super) fn is_absent(error: &NodeError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Refuted
            | ErrorKind::NotFound
            | ErrorKind::NoNetwork
            | ErrorKind::TimedOut
            | ErrorKind::NoCatalog
    )
}

/// Whether the hub was reached, and may answer the same question later.
fn answers_later(error: &NodeError) -> bool {
    match error {
        NodeError::Mirror(MirrorError::Http(error)) => {
            error.error_response().is_some() && error.is_transient()
        }
        _ => false,
    }
}

/// Of the errors of the swarm and the hub, the one that helps the user. That the hub does not have a model, or cannot be
/// reached, adds nothing to what the swarm answered.
fn more_useful(model: &ModelRef, of_swarm: NodeError, of_hub: NodeError) -> NodeError {
    let names_a_remedy = matches!(of_hub.kind(), ErrorKind::Gated | ErrorKind::Unauthorised);
    if is_absent(&of_swarm) && (names_a_remedy || answers_later(&of_hub)) {
        return of_hub;
    }
    if of_hub.kind() != ErrorKind::NotFound {
        tracing::debug!(error = %of_hub, %model, "the hub was not asked, or did not answer");
    }
    of_swarm
}
