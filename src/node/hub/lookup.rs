//! Looks a name up at the hub.

use std::sync::Arc;
use std::time::Duration;

use super::access::HubAccess;
use super::{hub_of, is_restricted, may_read, reference_of, twins};
use crate::mirror::{MirrorError, RemoteFile, RepositorySource as _, Snapshot};
use crate::model::{GitOid, Identity, ModelName, ModelRef};
use crate::node::{ErrorKind, Node, NodeError, blocking, chain};
use crate::store::{HubFile, HubListing, StoredRevision};

/// The commit of a model: the stored one or, within a time, the one that the hub has now. Fails immediately if there is no
/// network, and if requests are not permitted.
pub(in crate::node) async fn look_up(
    node: &Arc<Node>,
    model: &ModelRef,
    access: &Arc<HubAccess>,
    within: Duration,
) -> Result<Arc<StoredRevision>, NodeError> {
    let looking = async {
        let _turn = node.hub.turns.turn(model).await;
        let canonical = node.hub.canonical(model);
        let model = canonical.as_ref().unwrap_or(model);
        match node.hub.get(model) {
            Some(known) => {
                confirm(node, &known, access).await?;
                Ok(known)
            }
            None => ask(node, model, access).await,
        }
    };
    in_time(node, model, access, within, looking).await
}

/// The commit that the hub has now, in place of the stored one. Returns the model, and whether the commit is another one.
pub(in crate::node) async fn update(
    node: &Arc<Node>,
    model: &ModelRef,
    access: &Arc<HubAccess>,
    within: Duration,
) -> Result<(Arc<StoredRevision>, bool), NodeError> {
    let looking = async {
        let _turn = node.hub.turns.turn(model).await;
        let known = node.hub.get(model).map(|known| hub_of(&known).listing.commit);
        let found = ask(node, model, access).await?;
        let is_new = known != Some(hub_of(&found).listing.commit);
        Ok((found, is_new))
    };
    in_time(node, model, access, within, looking).await
}

/// Whether the hub has a newer commit of a model than the stored one; recorded for `list`.
pub(in crate::node) async fn look_for_newer(node: &Arc<Node>, model: &ModelRef, access: &Arc<HubAccess>) {
    let Some(known) = node.hub.get(model).filter(|_| access.is_online) else { return };
    let listing = &hub_of(&known).listing;
    let asking = access.source(&listing.repository, reference_of(&model.revision));
    let newest = match tokio::time::timeout(Duration::from_secs(10), asking.newest()).await {
        Ok(Ok(newest)) => Some(newest).filter(|newest| *newest != listing.commit),
        Ok(Err(error)) => return tracing::debug!(%model, %error, "could not ask the hub for a newer commit"),
        Err(_) => return,
    };
    if newest != listing.newer {
        let listing = HubListing { newer: newest, ..listing.clone() };
        let store = node.library.store.clone();
        let saving = tokio::task::spawn_blocking(move || store.hub().save_listing(&listing));
        if let Ok(Err(error)) = saving.await {
            tracing::warn!(%error, %model, "could not record that the hub has a newer commit");
        }
    }
}

async fn in_time<T>(
    node: &Node,
    model: &ModelRef,
    access: &HubAccess,
    within: Duration,
    looking: impl Future<Output = Result<T, NodeError>>,
) -> Result<T, NodeError> {
    let interrupted = |message: String| NodeError::Remote { kind: ErrorKind::Interrupted, message };
    if !access.is_online {
        return Err(interrupted("requests to the hub are not permitted".to_owned()));
    }
    node.reach.check_repository(&node.library.config.hub.endpoint, &model.to_string())?;
    if access.is_unreachable() {
        return Err(interrupted("the hub cannot be reached".to_owned()));
    }
    if let Some(pause) = access.pause().filter(|pause| *pause > within) {
        return Err(interrupted(format!("the hub accepts no requests for {} s", pause.as_secs())));
    }
    match tokio::time::timeout(within, looking).await {
        Ok(looked) => looked,
        Err(_) => Err(interrupted(format!("the hub did not answer within {} s", within.as_secs()))),
    }
}

/// Asks the hub for the commit of a model, and stores it.
async fn ask(
    node: &Arc<Node>,
    model: &ModelRef,
    access: &Arc<HubAccess>,
) -> Result<Arc<StoredRevision>, NodeError> {
    let source = access.source(&model.name, reference_of(&model.revision));
    let snapshot = source.snapshot().await?;
    let name = source.canonical_name().cloned().unwrap_or_else(|| model.name.clone());
    if name != model.name {
        let canonical = ModelRef { name: name.clone(), revision: model.revision.clone() };
        node.hub.aliases.add(model, &canonical);
        node.changed();
        let known = node.library.registry.get(&canonical).filter(|known| node.library.is_accepted(known));
        if let Some(known) = known {
            return Ok(node.library.store.revision(known)?);
        }
        if let Some(known) = node.hub.get(&canonical) {
            confirm(node, &known, access).await?;
            return Ok(known);
        }
    }
    let model = &ModelRef { name: name.clone(), revision: model.revision.clone() };
    let listing = listing(node, model, name, &snapshot);
    if let Some(known) = node.hub.get(model).filter(|known| hub_of(known).listing == listing) {
        confirm(node, &known, access).await?;
        return Ok(known);
    }
    if listing.files.is_empty() {
        return Err(MirrorError::NotFound { repository: model.to_string(), anonymous: false }.into());
    }
    if listing.is_restricted() {
        probe(access, &listing).await?;
        access.accept(model);
    }
    let this = node.clone();
    let entered = blocking::run(move || {
        let revision = this.hub.enter(listing)?;
        this.changed();
        Ok(revision)
    });
    let entered = entered.await?;
    twins::find(node, &entered, twins::AT_LOOKUP).await;
    Ok(entered)
}

fn listing(node: &Node, model: &ModelRef, repository: ModelName, snapshot: &Snapshot) -> HubListing {
    let file =
        |file: &RemoteFile| HubFile { path: file.path.clone(), size: file.size, identity: file.identity };
    HubListing {
        model: model.clone(),
        repository,
        endpoint: node.library.config.hub.endpoint.to_string(),
        commit: snapshot.commit,
        files: snapshot.files.iter().map(file).collect(),
        gated: snapshot.gated,
        private: snapshot.private == Some(true),
        license: snapshot.license.clone(),
        newer: None,
    }
}

/// Fails unless a model may be read with this access. The hub is asked for a restricted one.
async fn confirm(
    node: &Arc<Node>,
    known: &Arc<StoredRevision>,
    access: &Arc<HubAccess>,
) -> Result<(), NodeError> {
    let model = known.manifest.model_ref();
    if !is_restricted(&node.library, known) || access.is_accepted(&model) {
        return Ok(());
    }
    match &known.hub {
        Some(hub) => probe(access, &hub.listing).await?,
        None => probe_manifest(access, known).await?,
    }
    access.accept(&model);
    node.hub.refresh();
    node.changed();
    Ok(())
}

/// [`confirm`] for a known model, within a time. While the hub cannot be asked, the model is refused.
pub(in crate::node) async fn confirm_restricted(
    node: &Arc<Node>,
    known: &Arc<StoredRevision>,
    access: &Arc<HubAccess>,
    within: Duration,
) -> Result<(), NodeError> {
    let model = known.manifest.model_ref();
    if may_read(&node.library, known, access, false) {
        return Ok(());
    }
    let asked = in_time(node, &model, access, within, confirm(node, known, access)).await;
    asked.map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::Gated | ErrorKind::Unauthorised => error,
        _ => NodeError::Remote {
            kind: ErrorKind::Unauthorised,
            message: format!("{model} is gated or private, and the hub cannot be asked: {}", chain(&error)),
        },
    })
}

/// Requests one byte of a restricted model: its description is visible to users who may not read its files.
async fn probe(access: &HubAccess, listing: &HubListing) -> Result<(), NodeError> {
    let source = access.source_at(&listing.repository, listing.commit);
    let smallest = listing.files.iter().filter(|file| file.size > 0).min_by_key(|file| file.size);
    let Some(file) = smallest else { return Ok(()) };
    source.open_range(&super::origin::remote(file), 0..1).await?;
    Ok(())
}

/// [`probe`] for a model with a manifest that came from the hub.
async fn probe_manifest(access: &HubAccess, known: &StoredRevision) -> Result<(), NodeError> {
    let manifest = &known.manifest;
    let restricted = || NodeError::Restricted(manifest.model_ref());
    let commit: GitOid = manifest.commit().parse().map_err(|_| restricted())?;
    let smallest = manifest.files.iter().filter(|file| file.size > 0).min_by_key(|file| file.size);
    let file = smallest.ok_or_else(restricted)?;
    // The response is not compared with a hash.
    let identity = Identity::Git(GitOid([0; 20]));
    let file = HubFile { path: file.path.clone(), size: file.size, identity };
    let source = access.source_at(&manifest.name, commit);
    source.open_range(&super::origin::remote(&file), 0..1).await?;
    Ok(())
}
