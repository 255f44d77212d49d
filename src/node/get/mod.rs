//! `get`: fetches a model, or some of its files, into a directory.

mod files;
mod from_hub;
mod wanted;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::code::Findings;
use crate::model::{Manifest, ModelRef, PublisherKey};
use crate::node::check::HashCheck;
use crate::node::sharing::{Rule, WithheldReason};
use crate::node::{ErrorKind, Node, NodeError, Surroundings, former_states, space};
use crate::store::{Kept, StoredRevision};
pub(super) use files::adopt;
use files::{check, on_store, select};
use from_hub::FromHub;
use wanted::{Wanted, wanted};

/// How long a name is looked up in the network.
pub(super) const RESOLVE_WITHIN: Duration = Duration::from_secs(30);

/// How often the work on a model is repeated when the model is replaced by another one each time.
pub(super) const MAX_CHANGES: usize = 10;

/// How often progress is reported.
pub(super) const REPORT_EVERY: Duration = Duration::from_millis(200);

/// The body of `POST /v1/get`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetRequest {
    /// Which model.
    pub model: ModelRef,
    /// The destination, an absolute path; none is the models directory.
    pub output: Option<PathBuf>,
    /// Globs of paths to fetch; empty is all.
    pub include: Vec<String>,
    /// Globs of paths to leave out.
    pub exclude: Vec<String>,
    /// Whether to check sha256 at the end.
    pub verify: bool,
    /// Only a manifest signed by this publisher is accepted (see [`Trust::find`](crate::trust::Trust::find)).
    pub publisher: Option<String>,
    /// Hosts that have it.
    pub peers: Vec<SocketAddr>,
    /// Whether to look for a newer state in the network, also if one is known here.
    #[serde(default)]
    pub update: bool,
    /// Whether the state may be older than the known one of its publisher.
    #[serde(default)]
    pub allow_older: bool,
    /// Whether the node seeds it afterwards: `false` turns that off for this model, `true` turns it on again, none
    /// changes nothing.
    #[serde(default)]
    pub seed: Option<bool>,
    /// How the command reaches the web.
    #[serde(default)]
    pub surroundings: Surroundings,
}

/// The progress of a `get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GetProgress {
    /// The name is looked up in the network.
    Looking {
        /// Connected peers of the catalog.
        peers: usize,
    },
    /// The wanted files are received.
    Fetching {
        /// Verified bytes.
        have: u64,
        /// Bytes wanted.
        want: u64,
        /// Bytes per second.
        rate: u64,
        /// Connected peers.
        peers: u32,
        /// Whether some bytes arrive over HTTP now.
        #[serde(default)]
        web: bool,
    },
    /// The files are compared with their sha256.
    Checking {
        /// Bytes checked.
        done: u64,
        /// Bytes to check.
        want: u64,
    },
}

impl GetProgress {
    /// Bytes done and bytes to do.
    pub fn bytes(&self) -> (u64, u64) {
        match *self {
            Self::Looking { .. } => (0, 0),
            Self::Fetching { have, want, .. } => (have, want),
            Self::Checking { done, want } => (done, want),
        }
    }
}

/// The result of a `get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GetReport {
    /// The model.
    pub model: String,
    /// Its directory.
    pub path: PathBuf,
    /// Number of files wanted.
    pub files: usize,
    /// Their bytes.
    pub total_size: u64,
    /// Bytes that this job received from the network.
    pub downloaded: u64,
    /// How many of them arrived over HTTP instead of from peers.
    #[serde(default)]
    pub downloaded_web: u64,
    /// Whether the sha256 of every file was checked.
    pub verified: bool,
    /// Who signed it; none where it is unsigned.
    #[serde(default)]
    pub publisher: Option<PublisherKey>,
    /// The key for people to compare.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// The alias that the user has given the publisher.
    #[serde(default)]
    pub alias: Option<String>,
    /// Where its manifest is from.
    #[serde(default)]
    pub origin: ManifestOrigin,
    /// Warnings for the user.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Whether the node seeds it.
    #[serde(default)]
    pub seeded: bool,
}

/// Why the files of a `get` cannot be chosen.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// No file matches the patterns.
    #[error("no file of {0} matches --include and --exclude")]
    NoMatch(ModelRef),
    /// A pattern is invalid.
    #[error("--include or --exclude: {0}")]
    Glob(#[from] globset::Error),
}

/// Where the manifest of a model is from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestOrigin {
    /// It was known here.
    #[default]
    Known,
    /// It was known here, and a newer state of the same publisher is announced.
    Outdated,
    /// It was just found in the network.
    Found,
    /// A newer state was looked for, and no peer knew one.
    NoneNewer,
    /// The files were read from the hub, because no peer has the model.
    Hub,
}

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
    let mut from_hub = from_hub::get(node, request, &progress).await?;
    if let FromHub::Renamed(model) = from_hub {
        renamed = GetRequest { model, ..request.clone() };
        request = &renamed;
        from_hub = from_hub::get(node, request, &progress).await?;
    }
    let (mut received, mut origin, mut refusal) = (0, None, None);
    match from_hub {
        FromHub::Some(report) => return Ok(*report),
        FromHub::Complete(bytes) => (received, origin) = (bytes, Some(ManifestOrigin::Hub)),
        FromHub::Found => origin = Some(ManifestOrigin::Found),
        FromHub::Refused(error) => refusal = Some(error),
        FromHub::No | FromHub::Renamed(_) => {}
    }
    let mut changes = 0..MAX_CHANGES;
    loop {
        match get_as_known_now(node, request, &progress).await {
            Err(e) if (e.is_left() || e.is_incomplete()) && changes.next().is_some() => {}
            Ok(mut report) => {
                report.origin = origin.unwrap_or(report.origin);
                report.downloaded += received;
                report.downloaded_web += received;
                return Ok(report);
            }
            // The reason of the hub is more useful.
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(refusal.unwrap_or(error)),
            Err(error) => return Err(error),
        }
    }
}

async fn get_as_known_now(
    node: &Arc<Node>,
    request: &GetRequest,
    progress: &(impl Fn(GetProgress) + Send + Sync),
) -> Result<GetReport, NodeError> {
    let model = &request.model;
    let Wanted { manifest, origin, warning } = wanted(node, request, progress).await?;
    let revision = node.library.store.revision(manifest.clone())?;
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
    let showing = || progress(fetching(node, &revision, &files, want));
    // A thread that moves files keeps the turn, also when the future is dropped.
    let turn = Arc::new(with_ticks(node.jobs.turn(&manifest.torrent.info_hash), showing).await);

    adopt(node, &revision, &turn, &dest, progress).await?;
    let (to, which) = (dest.clone(), files.clone());
    let staging = on_store(node, &revision, &turn, move |store, revision| {
        // Before anything is downloaded.
        store.staging().check_vacant(revision, &which, &to)?;
        store.staging().stage(revision, &to)
    });
    staging.await?;
    let here = |files: &[usize]| -> u64 { files.iter().map(|&i| revision.contents[i].cached_bytes()).sum() };
    let permitted = space::check(&node.library, &revision, &files, Some(&dest)).and_then(|()| {
        if here(&files) < want { node.reach.check_model(model, &request.peers) } else { Ok(()) }
    });
    if let Err(refusal) = permitted {
        let to = dest.clone();
        let removing = on_store(node, &revision, &turn, move |store, revision| {
            store.staging().unstage_empty(revision, &to)
        });
        if let Err(error) = removing.await {
            tracing::warn!(%error, %model, "could not remove an empty staging directory");
        }
        return Err(refusal);
    }
    let over_http = || node.fetch.progress(&manifest.torrent.info_hash).map_or(0, |s| s.downloaded_web);
    let (before, web_before) = (here(&files), over_http());
    let fetched = space::fetch_files(node, &revision, &files, Some(&dest));
    let fetching = with_ticks(while_finding_holders(node, &manifest, fetched), showing);
    if request.verify {
        let begun = HashCheck::new(&revision, &files);
        tokio::select! {
            fetched = fetching => fetched?,
            () = begun.follow() => {}
        }
        showing();
        check(begun, &manifest, want, progress).await?;
    } else {
        fetching.await?;
        showing();
    }
    let (to, which) = (dest.clone(), files.clone());
    let whole = files.len() == manifest.files.len();
    let publishing = on_store(node, &revision, &turn, move |store, revision| {
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
    let seeded = seed_after_get(node, &revision, request.seed)?;
    let code = code_in(&revision, &files).await;
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

/// Awaits some work, and calls `tick` every [`REPORT_EVERY`] until it ends.
pub(super) async fn with_ticks<T>(work: impl Future<Output = T>, tick: impl Fn()) -> T {
    tokio::pin!(work);
    let mut clock = tokio::time::interval(REPORT_EVERY);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = clock.tick() => tick(),
        }
    }
}
