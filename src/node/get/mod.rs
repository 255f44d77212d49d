//! `get`: fetches a model, or some of its files, into a directory.

mod files;
mod from_hub;
mod request;
mod wanted;

use std::sync::Arc;

use crate::model::Manifest;
use crate::model::code::Findings;
use crate::node::check::HashCheck;
use crate::node::hub::access::HubAccess;
use crate::node::jobs::MAX_CHANGES;
use crate::node::progress::with_ticks;
use crate::node::sharing::{Rule, WithheldReason};
use crate::node::{ErrorKind, Node, NodeError, former_states, space, witness};
use crate::store::{Kept, StoredRevision};
pub(super) use files::adopt;
use files::{check, on_store, select, sync_while_arriving};
use from_hub::FromHub;
pub(super) use request::RESOLVE_WITHIN;
pub use request::{GetProgress, GetRequest};
pub(crate) use request::{GetReport, ManifestOrigin};
use wanted::{Wanted, wanted};

/// Gets a model. Continues an interrupted call, and starts again if the model is replaced by another one during the call.
/// Dropping the future stops it and keeps the received bytes.
pub(super) async fn run(
    node: &Arc<Node>,
    request: &GetRequest,
    progress: impl Fn(GetProgress) + Send + Sync,
) -> Result<GetReport, NodeError> {
    let _lent = node.web.lend(&request.surroundings)?;
    let renamed;
    let mut request = request;
    let config = &node.library.config.hub;
    let access = HubAccess::new(&node.web, &config.endpoint, config.lazy, &request.surroundings)?;
    let mut from_hub = from_hub::get(node, request, &access, &progress).await?;
    if let FromHub::Renamed(model) = from_hub {
        renamed = GetRequest { model, ..request.clone() };
        request = &renamed;
        from_hub = from_hub::get(node, request, &access, &progress).await?;
    }
    let (mut received, mut changes) = (0, 0..MAX_CHANGES);
    let mut refuted: Vec<String> = Vec::new();
    loop {
        let (mut origin, mut refusal) = (None, None);
        match from_hub {
            FromHub::Some(mut report) => {
                report.warnings.extend(refuted);
                return Ok(*report);
            }
            FromHub::Complete { bytes, warning } => {
                received += bytes;
                origin = Some(ManifestOrigin::Hub);
                // The same manifest may have been refused during this call.
                refuted.extend(warning.filter(|_| refuted.is_empty()));
            }
            FromHub::Found => origin = Some(ManifestOrigin::Found),
            FromHub::Refused(error) => refusal = Some(error),
            FromHub::No | FromHub::Renamed(_) => {}
        }
        let error = loop {
            match get_as_known_now(node, request, &access, &progress).await {
                Err(e) if (e.is_left() || e.is_incomplete()) && changes.next().is_some() => {}
                Ok(Got::Report(mut report)) => {
                    report.origin = origin.unwrap_or(report.origin);
                    report.downloaded += received;
                    report.downloaded_web += received;
                    report.warnings.extend(refuted);
                    return Ok(*report);
                }
                Ok(Got::Refuted(error)) if changes.next().is_some() => break error,
                // The reason of the hub is more useful.
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(refusal.unwrap_or(error)),
                Ok(Got::Refuted(error)) | Err(error) => return Err(error),
            }
        };
        // Another manifest may be right, or the model comes from the hub.
        refuted.push(error.to_string());
        from_hub = from_hub::get(node, request, &access, &progress).await?;
    }
}

/// The result of a `get` with one manifest.
enum Got {
    Report(Box<GetReport>),
    /// Bytes of the manifest contradict the hub: it is refused now.
    Refuted(NodeError),
}

async fn get_as_known_now(
    node: &Arc<Node>,
    request: &GetRequest,
    access: &Arc<HubAccess>,
    progress: &(impl Fn(GetProgress) + Send + Sync),
) -> Result<Got, NodeError> {
    let wanted = wanted(node, request, access, progress).await?;
    let revision = node.library.store.revision(wanted.manifest.clone())?;
    let got = get_revision(node, request, wanted, &revision, progress).await;
    // Its files are compared with the hub only while no job has them.
    node.witness.completed.notify_one();
    match got {
        Ok(report) => Ok(Got::Report(Box::new(report))),
        Err(error) => Ok(Got::Refuted(witness::contents::refused(node, &revision).await.ok_or(error)?)),
    }
}

async fn get_revision(
    node: &Arc<Node>,
    request: &GetRequest,
    Wanted { manifest, origin, warning }: Wanted,
    revision: &Arc<StoredRevision>,
    progress: &(impl Fn(GetProgress) + Send + Sync),
) -> Result<GetReport, NodeError> {
    let model = &request.model;
    let files = select(&manifest, &request.include, &request.exclude)?;
    let dest = match &request.output {
        Some(dir) => {
            std::path::absolute(dir).map_err(|source| NodeError::Io { path: dir.clone(), source })?
        }
        None => node.library.paths.models.join(model.to_string()),
    };
    let want: u64 = files.iter().map(|&i| manifest.files[i].size).sum();
    node.session.trust_hosts(&request.peers);
    node.fetch.introduce(&manifest.torrent.info_hash, &request.peers);
    // Another command may be getting the same model: its progress is shown as well.
    let showing = || progress(fetching(node, revision, &files, want));
    // A thread that moves files keeps the turn, also when the future is dropped.
    let turn = Arc::new(with_ticks(node.jobs.turn(&manifest.torrent.info_hash), showing).await);

    adopt(node, revision, &turn, &dest, progress).await?;
    let (to, which) = (dest.clone(), files.clone());
    let staging = on_store(node, revision, &turn, move |store, revision| {
        // Before anything is downloaded.
        store.staging().check_vacant(revision, &which, &to)?;
        store.staging().stage(revision, &to)
    });
    staging.await?;
    let here = |files: &[usize]| -> u64 { files.iter().map(|&i| revision.contents[i].cached_bytes()).sum() };
    let permitted = space::check(&node.library, revision, &files, Some(&dest)).and_then(|()| {
        if here(&files) < want { node.reach.check_model(model, &request.peers) } else { Ok(()) }
    });
    if let Err(refusal) = permitted {
        let to = dest.clone();
        let removing = on_store(node, revision, &turn, move |store, revision| {
            store.staging().unstage_empty(revision, &to)
        });
        if let Err(error) = removing.await {
            tracing::warn!(%error, %model, "could not remove an empty staging directory");
        }
        return Err(refusal);
    }
    let over_http = || node.fetch.progress(&manifest.torrent.info_hash).map_or(0, |s| s.downloaded_web);
    let (before, web_before) = (here(&files), over_http());
    let fetched = space::fetch_files((&node.library, &node.fetch), revision, &files, Some(&dest));
    let fetching = with_ticks(while_finding_holders(node, &manifest, fetched), showing);
    if request.verify {
        let begun = HashCheck::new(revision, &files);
        tokio::select! {
            fetched = fetching => fetched?,
            () = begun.follow() => {}
            () = sync_while_arriving(revision, &files) => {}
        }
        showing();
        let damaged = check(begun, want, progress).await?;
        witness::contents::record_hashed(node, revision, &files, &damaged).await;
        if !damaged.is_empty() {
            return Err(NodeError::Damaged { model: manifest.model_ref(), files: damaged });
        }
    } else {
        tokio::select! {
            fetched = fetching => fetched?,
            () = sync_while_arriving(revision, &files) => {}
        }
        showing();
    }
    witness::contents::check_small(node, revision, &files).await?;
    let (to, which) = (dest.clone(), files.clone());
    let whole = files.len() == manifest.files.len();
    let publishing = on_store(node, revision, &turn, move |store, revision| {
        let kept = store.staging().publish(revision, &which, &to)?;
        // Files of a mirror without its large files that are not part of the model belong to no model.
        if whole && store.dirs.is_own(&revision.manifest.model_ref(), &to) {
            store.partial_mirrors().clear(&revision.manifest.model_ref())?;
        }
        Ok(kept)
    });
    let kept = publishing.await?;
    // Its bytes are stored for this model as well now.
    node.seeds.apply_rules(&manifest.torrent.info_hash);
    if whole {
        former_states::clear(node, &manifest, &dest).await?;
    }
    node.changed();
    let seeded = seed_after_get(node, revision, request.seed)?;
    let code = code_in(revision, &files).await;
    let downloaded = want.saturating_sub(before);
    // Bytes that were received and discarded do not count.
    let downloaded_web = over_http().saturating_sub(web_before).min(downloaded);
    Ok(GetReport {
        model: model.to_string(),
        path: dest,
        files: files.len(),
        total_size: want,
        downloaded,
        downloaded_web,
        // A manifest made from a torrent has none: its files were compared with their pieces roots.
        verified: request.verify && files.iter().all(|&i| manifest.files[i].sha256.is_some()),
        publisher: manifest.publisher,
        fingerprint: manifest.publisher.map(|key| key.fingerprint()),
        alias: manifest.publisher.and_then(|key| node.library.trust.named(&key).alias),
        origin,
        warnings: warning.into_iter().chain(code).chain(kept.iter().map(Kept::to_string)).collect(),
        seeded,
    })
}

/// Seeds the model or stops seeding it, as the request requires. Returns whether it is seeded.
fn seed_after_get(
    node: &Node,
    revision: &Arc<StoredRevision>,
    seed: Option<bool>,
) -> Result<bool, NodeError> {
    let manifest = &revision.manifest;
    let rule = node.library.sharing.of(&manifest.model_ref());
    match seed {
        Some(false) if rule.withheld.is_none() => {
            node.set_rule(manifest, Rule { withheld: Some(WithheldReason::NotAsked), ..rule })?;
        }
        Some(true) if rule.withheld == Some(WithheldReason::NotAsked) => {
            node.set_rule(manifest, Rule { withheld: None, ..rule })?;
        }
        Some(_) | None => {}
    }
    if node.library.sharing.of(&manifest.model_ref()).withheld.is_some() {
        return Ok(false);
    }
    node.seeds.join(revision)?;
    Ok(true)
}

/// Warnings about files of this `get` that can run code when they are loaded.
async fn code_in(revision: &Arc<StoredRevision>, files: &[usize]) -> Vec<String> {
    let (revision, files) = (revision.clone(), files.to_vec());
    let looking = tokio::task::spawn_blocking(move || {
        let got = files.iter().map(|&i| &revision.manifest.files[i]);
        let read = |at: usize, limit| revision.contents[files[at]].read(0..limit).ok().flatten();
        Findings::of(got.map(|file| (file.path.as_str(), file.size)), read).warnings()
    });
    looking.await.unwrap_or_else(|e| vec![format!("the files were not searched for code: {e}")])
}

/// Does some work, and during it connects to holders of the model that peers of the catalog know: its own swarm may
/// need long to find them.
async fn while_finding_holders<T>(node: &Node, manifest: &Manifest, work: impl Future<Output = T>) -> T {
    let Some(part) = &node.catalog else { return work.await };
    let (model, info_hash) = (manifest.model_ref(), manifest.torrent.info_hash);
    let introduce = |holder| node.fetch.introduce(&info_hash, &[holder]);
    let looking = part.catalog.look_for_holders(&model, &info_hash, introduce);
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => done,
        () = looking => work.await,
    }
}

fn fetching(node: &Node, revision: &Arc<StoredRevision>, files: &[usize], want: u64) -> GetProgress {
    let have = files.iter().map(|&i| revision.contents[i].cached_bytes()).sum();
    let status = node.fetch.progress(&revision.manifest.torrent.info_hash);
    let (from_peers, from_web, peers) = status.map_or((0, 0, 0), |s| (s.download_rate, s.web_rate, s.peers));
    GetProgress::Fetching { have, want, rate: from_peers + from_web, peers, web: from_web > 0 }
}
