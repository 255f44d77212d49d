//! `get` of a model that no peer has: its files are read from the hub.
//!
//! If all files are wanted, the model gets its manifest, and `get` continues with that. If only some are, they are copied to
//! the destination without a manifest, and nothing is shared.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::files::select;
use super::{GetProgress, GetReport, GetRequest, ManifestOrigin};
use crate::catalog::SearchPatience;
use crate::model::ModelRef;
use crate::mount::RequestedModel;
use crate::node::hub;
use crate::node::hub::access::HubAccess;
use crate::node::progress::with_ticks;
use crate::node::readable::{self, LookupLimits};
use crate::node::{ErrorKind, Node, NodeError, blocking, space};
use crate::store::copy::{ExtentSharing, duplicate, same_bytes};
use crate::store::{StoreError, StoredRevision};
use crate::{fsutil, nofollow};

/// How long the hub may take to describe a model.
const WITHIN: Duration = Duration::from_secs(30);

/// How long the swarm is searched for a model that the hub has.
const SWARM_FIRST: Duration = Duration::from_secs(6);

/// The result of a `get` of a model of the hub.
pub(super) enum FromHub {
    /// The model has its manifest now.
    Complete {
        /// Bytes that were received.
        bytes: u64,
        /// The reason why a manifest of a peer was refused.
        warning: Option<String>,
    },
    /// Some files were fetched.
    Some(Box<GetReport>),
    /// The hub uses this name for the model.
    Renamed(ModelRef),
    /// A peer has the model: its manifest is known now.
    Found,
    /// The hub has it, and does not permit this user to read it.
    Refused(NodeError),
    /// The model is not read from the hub.
    No,
}

/// Gets a model from the hub if no manifest of it is known and no peer has it. A model that the hub has is searched in the
/// swarm for a moment first.
pub(super) async fn get(
    node: &Arc<Node>,
    request: &GetRequest,
    access: &Arc<HubAccess>,
    progress: &(impl Fn(GetProgress) + Send + Sync),
) -> Result<FromHub, NodeError> {
    let model = &request.model;
    let known = node.library.registry.get(model);
    if let Some(known) = known.filter(|known| !node.library.is_refuted(known)) {
        let known = node.library.store.revision(known)?;
        hub::lookup::confirm_restricted(node, &known, access, WITHIN).await?;
        return Ok(FromHub::No);
    }
    if request.publisher.is_some() {
        return Ok(FromHub::No);
    }
    if !access.is_online && node.hub.get(model).is_none() {
        return Ok(FromHub::No);
    }
    let access = node.hub.with_access(access.clone());
    node.session.trust_hosts(&request.peers);
    node.call_in_catalog(&request.peers);
    let sought = RequestedModel { model: model.clone(), publisher: None };
    if !readable::is_for_the_hub(node, &sought, &access) {
        return Ok(FromHub::No);
    }
    let showing = || {
        let peers = node.catalog.as_ref().map_or(0, |part| part.catalog.status().peers);
        progress(GetProgress::Looking { peers });
    };
    let asking = async {
        match node.hub.get(model).filter(|_| request.update) {
            Some(_) => Ok(hub::lookup::update(node, model, &access, WITHIN).await?.0),
            None => hub::lookup::look_up(node, model, &access, WITHIN).await,
        }
    };
    let found = match with_ticks(asking, showing).await {
        Ok(found) if found.manifest.model_ref() != *model => {
            return Ok(FromHub::Renamed(found.manifest.model_ref()));
        }
        Ok(found) if found.hub.is_some() => found,
        Ok(_) => return Ok(FromHub::No),
        // A peer may have the model all the same.
        Err(error) if names_a_remedy(&error) => return Ok(FromHub::Refused(error)),
        Err(_) => return Ok(FromHub::No),
    };
    let limits = LookupLimits { within: SWARM_FIRST, patience: SearchPatience::All };
    let in_swarm = readable::look_up_in_swarm(node, &sought, &access, limits);
    let warning = match with_ticks(in_swarm, showing).await {
        Ok(_) => return Ok(FromHub::Found),
        Err(error) if !readable::is_absent(&error) => return Ok(FromHub::No),
        Err(error) => Some(error.to_string()).filter(|_| error.kind() == ErrorKind::Refuted),
    };
    if !request.update {
        hub::lookup::look_for_newer(node, model, &access).await;
    }
    fetch(node, request, &found, warning, progress).await
}

fn names_a_remedy(error: &NodeError) -> bool {
    matches!(error.kind(), ErrorKind::Gated | ErrorKind::Unauthorised)
}

async fn fetch(
    node: &Arc<Node>,
    request: &GetRequest,
    revision: &Arc<StoredRevision>,
    warning: Option<String>,
    progress: &(impl Fn(GetProgress) + Send + Sync),
) -> Result<FromHub, NodeError> {
    let files = select(&revision.manifest, &request.include, &request.exclude)?;
    let want: u64 = files.iter().map(|&file| revision.manifest.files[file].size).sum();
    hub::twins::find(node, revision, u64::MAX).await;
    let have = || -> u64 { files.iter().map(|&file| revision.contents[file].cached_bytes()).sum() };
    let before = have();
    space::check(&node.library, revision, &files, None)?;
    let began = tokio::time::Instant::now();
    let showing = || {
        let have = have();
        let received = have.saturating_sub(before);
        let rate = (received as f64 / began.elapsed().as_secs_f64().max(0.1)) as u64;
        progress(GetProgress::Fetching { have, want, rate, peers: 0, web: true });
    };
    with_ticks(space::fetch_files((&node.library, &node.fetch), revision, &files, None), showing).await?;
    if hub::hand_over::has_ended(node, revision).await {
        return Ok(FromHub::Complete { bytes: 0, warning });
    }
    let received = want.saturating_sub(before);
    hub::complete::complete(node, revision, &files).await?;
    if files.len() == revision.manifest.files.len() {
        return Ok(FromHub::Complete { bytes: received, warning });
    }
    let dest = match &request.output {
        Some(dir) => {
            std::path::absolute(dir).map_err(|source| NodeError::Io { path: dir.clone(), source })?
        }
        None => node.library.paths.models.join(request.model.to_string()),
    };
    let (from, to, which) = (revision.clone(), dest.clone(), files.clone());
    blocking::run(move || put(&from, &which, &to)).await?;
    Ok(FromHub::Some(Box::new(GetReport {
        model: request.model.to_string(),
        path: dest,
        files: files.len(),
        total_size: want,
        downloaded: received,
        downloaded_web: received,
        verified: true,
        publisher: None,
        fingerprint: None,
        alias: None,
        origin: ManifestOrigin::Hub,
        warnings: warning.into_iter().collect(),
        seeded: false,
    })))
}

/// Copies complete files to their paths below a directory. An existing file with other bytes is refused.
fn put(revision: &StoredRevision, files: &[usize], dest: &Path) -> Result<(), NodeError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| NodeError::from(StoreError::Io { path, source })
    };
    std::fs::create_dir_all(dest).map_err(failed(dest))?;
    let dest = nofollow::real_path(dest, Path::new("")).map_err(failed(dest))?;
    for &file in files {
        let to = dest.join(&revision.manifest.files[file].path);
        let content = &revision.contents[file];
        nofollow::create_dir_all(fsutil::parent(&to)).map_err(failed(&to))?;
        let Some(from) = content.of_hub().and_then(|of_hub| of_hub.path()) else {
            if !nofollow::exists(&to) {
                nofollow::create_new(&to).map_err(failed(&to))?;
            }
            continue;
        };
        if nofollow::exists(&to) {
            match same_bytes(&from, &to).map_err(failed(&to))? {
                Some(_) => continue,
                None => return Err(StoreError::Occupied { path: to }.into()),
            }
        }
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(".silmaril-new");
        let temporary: PathBuf = to.with_file_name(name);
        duplicate(&from, &temporary, ExtentSharing::Extents).map_err(failed(&temporary))?;
        nofollow::rename_new(&temporary, &to).map_err(failed(&to))?;
        nofollow::sync_dir(fsutil::parent(&to)).map_err(failed(&to))?;
    }
    Ok(())
}
