//! `mirror`: makes a model from a repository, and shares it if that is permitted.
//!
//! The files are downloaded into a staging directory ([`crate::mirror`]). When all of them are complete and verified,
//! they move to the directory of the model. The rule of sharing is set before the model is known to any peer.

mod job;
mod local;
pub(super) mod publish;
mod request;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::progress::with_ticks;
use super::{Node, NodeError, blocking};
use crate::mirror::{self, ProgressBoard, Snapshot};
use crate::model::{Manifest, ModelName, manifest};
use crate::nofollow;
use crate::store::StoreError;
use crate::store::vacant::ExistingFile;
use job::MirrorJob;
use publish::MirroredModel;
pub(crate) use request::{MirrorProgress, MirrorReport, MirrorRequest};

/// Parallel downloads: enough to use the whole link with files of a few megabytes, few enough for any server.
const PARALLEL: usize = 4;

/// Mirrors a repository. Continues an interrupted call. Dropping the future stops it and keeps the received bytes.
pub(super) async fn run(
    node: &Arc<Node>,
    request: &MirrorRequest,
    progress: impl Fn(MirrorProgress) + Send + Sync,
) -> Result<MirrorReport, NodeError> {
    let mut request = request.clone();
    loop {
        match attempt(node, &request, &progress).await? {
            MirrorAttempt::Mirrored(report) => return Ok(*report),
            MirrorAttempt::Renamed { name, branch } => {
                let repository = name.to_string();
                request = MirrorRequest { shown: repository.clone(), repository, branch, ..request };
            }
        }
    }
}

/// The result of one attempt.
enum MirrorAttempt {
    /// The repository is mirrored.
    Mirrored(Box<MirrorReport>),
    /// The hub uses another name for the repository. The model gets that name.
    Renamed { name: ModelName, branch: Option<String> },
}

async fn attempt(
    node: &Arc<Node>,
    request: &MirrorRequest,
    progress: &(impl Fn(MirrorProgress) + Send + Sync),
) -> Result<MirrorAttempt, NodeError> {
    let job = Arc::new(MirrorJob::new(&node.library, request)?);
    // Refused before anything is downloaded.
    let own = node.library.signer(request.sign)?.map(|key| key.public());
    node.library.trust.check(&job.model.name, own)?;
    if let Some(address) = job.repository.address() {
        node.reach.check_repository(address, &request.shown)?;
    }
    let turn = node.mirrors.turn(&job.model).await;
    let board = Arc::new(ProgressBoard::default());
    let source = job.open(node, request, &board)?;
    let showing = || progress(MirrorProgress::of(&board.now()));
    let snapshot = Arc::new(with_ticks(job.snapshot(node, request, &*source), showing).await?);
    if let Some(name) = job.new_name(source.canonical_name(), request, &node.library) {
        return Ok(MirrorAttempt::Renamed { name, branch: job.branch() });
    }
    let from = source.describe(snapshot.commit);
    if let Some(known) = mirrored_before(node, &job, request, &from)? {
        let report = still_mirrored(node, &job, &snapshot, request, &known)?;
        publish::finish(node, &job, &known, turn).await?;
        return Ok(MirrorAttempt::Mirrored(Box::new(report)));
    }
    if !request.skip_lfs {
        check_vacant(node, &job, &snapshot).await?;
    }
    let local = local::local_copies(&node.library, &snapshot, request.piece_length).await?;
    let download = mirror::DownloadJob {
        staging: &job.staging,
        piece_length: request.piece_length,
        skip_lfs: request.skip_lfs,
        have: &|file| local.find(file),
        parallel: PARALLEL,
        min_free: if node.library.store.is_on_cache_disk(&job.staging) {
            node.library.config.cache.min_free
        } else {
            0
        },
    };
    let downloading = mirror::download(&*source, &snapshot, download, &board);
    let downloaded = with_ticks(downloading, showing).await?;
    let web_seeds = source.web_seed(snapshot.commit).into_iter().collect();
    drop(source);
    let (node, request) = (node.clone(), request.clone());
    let model = MirroredModel { node, job, request, snapshot, source: from, web_seeds, turn };
    Ok(MirrorAttempt::Mirrored(Box::new(model.put(downloaded).await?)))
}

/// Fails if files of the user have paths of the snapshot in the directory of the model.
async fn check_vacant(
    node: &Arc<Node>,
    job: &Arc<MirrorJob>,
    snapshot: &Arc<Snapshot>,
) -> Result<(), NodeError> {
    let (node, job, snapshot) = (node.clone(), job.clone(), snapshot.clone());
    blocking::cancellable(move |cancel| {
        let paths = snapshot.files.iter().map(|file| file.path.as_str());
        for ExistingFile { index, path, len } in
            node.library.store.staging().existing(&job.model, &job.dest, paths)?
        {
            let file = &snapshot.files[index];
            let read = || nofollow::read(&path).and_then(|bytes| file.identity.is_of(len, bytes));
            if cancel.load(Ordering::Relaxed) {
                return Err(NodeError::Cancelled);
            }
            if len != file.size || !read().map_err(|e| StoreError::io(&path, e))? {
                return Err(StoreError::Occupied { path }.into());
            }
        }
        Ok(())
    })
    .await
}

/// The manifest from an earlier mirror of this commit, if all of its files are still in the directory.
fn mirrored_before(
    node: &Node,
    job: &MirrorJob,
    request: &MirrorRequest,
    from: &manifest::SourceEntry,
) -> Result<Option<Arc<Manifest>>, NodeError> {
    let known = node.library.registry.get(&job.model).filter(|known| {
        let same = known.source.as_ref().is_some_and(|s| s.url == from.url && s.commit == from.commit);
        same && !request.skip_lfs
            && known.torrent.piece_length == request.piece_length
            && known.signed_by() == node.library.trust.own().filter(|_| request.sign)
            && (known.license.is_some() || request.license.is_none())
    });
    Ok(known.filter(|known| node.library.store.placed().has_all(known, &job.dest)))
}

fn still_mirrored(
    node: &Node,
    job: &MirrorJob,
    snapshot: &Snapshot,
    request: &MirrorRequest,
    known: &Manifest,
) -> Result<MirrorReport, NodeError> {
    let rule = request.rule(snapshot, known.license.as_deref());
    node.set_rule(known, rule)?;
    Ok(MirrorReport {
        model: job.model.clone(),
        path: job.dest.clone(),
        source: job.repository.to_string(),
        commit: snapshot.commit.to_string(),
        files: known.files.len(),
        total_size: known.total_size,
        downloaded: 0,
        up_to_date: true,
        pointers: Vec::new(),
        info_hash: Some(known.torrent.info_hash),
        withheld: rule.withheld,
        warnings: snapshot.warnings.clone(),
    })
}
