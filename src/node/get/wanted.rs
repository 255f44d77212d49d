//! Chooses the manifest that a `get` uses: the known one, or one from the network.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{GetProgress, GetRequest, ManifestOrigin, RESOLVE_WITHIN};
use crate::catalog::SearchPatience;
use crate::model::Manifest;
use crate::node::accept::Intent;
use crate::node::disputes::Claim;
use crate::node::hub::access::HubAccess;
use crate::node::lookup::Lookup;
use crate::node::progress::with_ticks;
use crate::node::{ErrorKind, Node, NodeError, lookup};
use crate::trust::TrustError;

/// How long a node without any peer waits for one: hosts of one LAN need a second or two.
const MEET_WITHIN: Duration = Duration::from_secs(6);
/// The pause between two lookups.
const MEET_PAUSE: Duration = Duration::from_millis(300);

/// The manifest of the model to get.
pub(super) struct Wanted {
    pub manifest: Arc<Manifest>,
    pub origin: ManifestOrigin,
    pub warning: Option<String>,
}

/// The manifest of the model: the known one, or the one that the network has. `witness` is how the hub is asked about manifests
/// of strangers.
pub(super) async fn wanted(
    node: &Arc<Node>,
    request: &GetRequest,
    witness: &Arc<HubAccess>,
    progress: &(impl Fn(GetProgress) + Send + Sync),
) -> Result<Wanted, NodeError> {
    let model = &request.model;
    let held = node.library.registry.get(model).filter(|held| !node.library.is_refuted(held));
    let refused = held.as_ref().map(|held| fits(node, held, request)).transpose()?.flatten();
    let mut known = held.clone().filter(|_| refused.is_none());
    if let Some(of_now) = known.as_ref().filter(|_| !request.update) {
        // A mount may have read it and pinned nothing.
        match node.disputes.claim_known(of_now)? {
            Claim::Accepted => {
                let origin = if lookup::is_outdated(node, of_now) {
                    ManifestOrigin::Outdated
                } else {
                    ManifestOrigin::Known
                };
                return Ok(Wanted { manifest: of_now.clone(), origin, warning: None });
            }
            Claim::Another => known = None,
        }
    }
    node.reach.check_model(model, &request.peers)?;
    node.session.trust_hosts(&request.peers);
    node.call_in_catalog(&request.peers);
    let showing = || {
        let peers = node.catalog.as_ref().map_or(0, |part| part.catalog.status().peers);
        progress(GetProgress::Looking { peers });
    };
    let found = with_ticks(look_for(node, request, witness, held.is_some()), showing).await;
    match (found, known) {
        (Ok(found), Some(known)) if found.torrent.info_hash == known.torrent.info_hash => {
            Ok(Wanted { manifest: found, origin: ManifestOrigin::NoneNewer, warning: None })
        }
        (Ok(found), _) => Ok(Wanted { manifest: found, origin: ManifestOrigin::Found, warning: None }),
        (Err(e), Some(known)) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Older) => {
            if let Claim::Another = node.disputes.claim_known(&known)? {
                return Err(e);
            }
            let offered = Some(e.to_string()).filter(|_| e.kind() == ErrorKind::Older);
            let warning = offered.map(|e| format!("the network offers an older state only: {e}"));
            Ok(Wanted { manifest: known, origin: ManifestOrigin::NoneNewer, warning })
        }
        // The reason why the known one is refused is more useful.
        (Err(e), None) if e.kind() == ErrorKind::NotFound => Err(refused.map_or(e, NodeError::from)),
        (Err(e), _) => Err(e),
    }
}

/// Whether the known manifest is signed by a trusted publisher, and by the requested one. Returns the reason if not,
/// and fails if the requested publisher is unknown.
fn fits(node: &Node, held: &Manifest, request: &GetRequest) -> Result<Option<TrustError>, NodeError> {
    let trust = &node.library.trust;
    if let Err(refused) = trust.still_accepts(&held.name, held.signed_by()) {
        return Ok(Some(refused));
    }
    let Some(wanted) = &request.publisher else { return Ok(None) };
    match trust.insist(&held.name, held.signed_by(), wanted) {
        Ok(()) => Ok(None),
        Err(refused @ TrustError::NotOffered { .. }) => {
            let known = node.catalog.as_ref().map(|part| part.store.digest()).unwrap_or_default();
            match trust.find(wanted, known.into_iter().map(|have| have.publisher)) {
                Ok(_) => Ok(Some(refused)),
                Err(_) => Err(refused.into()),
            }
        }
        Err(e) => Err(e.into()),
    }
}

/// Looks the model up in the network. A node without any peer waits up to [`MEET_WITHIN`] for one.
async fn look_for(
    node: &Arc<Node>,
    request: &GetRequest,
    witness: &Arc<HubAccess>,
    is_known: bool,
) -> Result<Arc<Manifest>, NodeError> {
    let (model, publisher) = (&request.model, request.publisher.as_deref());
    let intent = Intent::Take { allow_older: request.allow_older };
    let alone = || node.catalog.as_ref().is_some_and(|part| part.catalog.status().peers == 0);
    let until = Instant::now() + MEET_WITHIN;
    loop {
        let waits = alone() && Instant::now() < until;
        let lookup =
            Lookup { model, publisher, patience: SearchPatience::All, intent, witness: Some(witness) };
        let found = if is_known {
            lookup::resolve_in_network(node, lookup, RESOLVE_WITHIN).await
        } else {
            lookup::resolve(node, lookup, RESOLVE_WITHIN).await
        };
        match found {
            Err(e) if waits && e.kind() == ErrorKind::NotFound => tokio::time::sleep(MEET_PAUSE).await,
            found => return found,
        }
    }
}
