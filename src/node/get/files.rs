//! The files of a `get`: which ones, which are present already, and whether they are right.

use std::path::Path;
use std::sync::Arc;

use globset::{Glob, GlobSet, GlobSetBuilder};
use tokio::sync::OwnedMutexGuard;

use super::GetProgress;
use crate::model::Manifest;
use crate::node::blocking::Abandoned;
use crate::node::check::HashCheck;
use crate::node::progress::REPORT_EVERY;
use crate::node::request_errors::GetError;
use crate::node::{Node, NodeError, blocking};
use crate::store::verify::Watch;
use crate::store::{Store, StoreError, StoredRevision};

/// After so many new bytes, those of a running `get` are made durable.
const SYNC_EVERY: u64 = 128 << 20;

/// Verifies and records files that are already at the destination. Dropping the future stops it.
pub(in crate::node) async fn adopt(
    node: &Node,
    revision: &Arc<StoredRevision>,
    turn: &Arc<OwnedMutexGuard<()>>,
    dest: &Path,
    progress: &(impl Fn(GetProgress) + Send + Sync),
) -> Result<(), NodeError> {
    let found = node.library.store.placed().unverified(revision, dest);
    if found.is_empty() {
        return Ok(());
    }
    let want = found.iter().map(|&i| revision.manifest.files[i].size).sum();
    let (counter, mut done) = tokio::sync::watch::channel(0u64);
    let abandoned = Abandoned::default();
    let (dest, cancel) = (dest.to_owned(), abandoned.0.clone());
    let adopting = on_store(node, revision, turn, move |store, revision| {
        let progress = |bytes| counter.send_modify(|done| *done += bytes);
        let watch = Watch { progress: &progress, cancel: &cancel };
        store.placed().adopt(revision, &found, &dest, &store.torrents.layers(&revision.manifest)?, watch)
    });
    tokio::pin!(adopting);
    loop {
        tokio::select! {
            adopted = &mut adopting => return adopted.map(|_| ()),
            Ok(()) = done.changed() => {
                let done = *done.borrow_and_update();
                progress(GetProgress::Checking { done, want });
            }
        }
    }
}

/// Makes received bytes durable while the rest arrives, so that the disk need not be waited for at the end. Never ends. When
/// the future is dropped, a thread may still wait for the disk.
pub(super) async fn sync_while_arriving(revision: &Arc<StoredRevision>, files: &[usize]) {
    let here = || -> u64 { files.iter().map(|&file| revision.contents[file].cached_bytes()).sum() };
    let mut synced = here();
    let mut clock = tokio::time::interval(REPORT_EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let now = here();
        if now < synced.saturating_add(SYNC_EVERY) {
            continue;
        }
        synced = now;
        let (revision, files) = (revision.clone(), files.to_vec());
        let syncing = blocking::run(move || Ok(revision.sync(&files)?)).await;
        if let Err(error) = syncing {
            // The bytes are synced again before the files get their names, and that must succeed.
            tracing::warn!(%error, "could not sync received bytes");
        }
    }
}

/// Compares every file with its sha256. A file that differs although its pieces were right comes from a
/// manifest that contradicts itself. Returns the paths of such files.
pub(super) async fn check(
    check: Arc<HashCheck>,
    want: u64,
    progress: &(impl Fn(GetProgress) + Send + Sync),
) -> Result<Vec<String>, NodeError> {
    let (counter, mut done) = tokio::sync::watch::channel(0u64);
    let checking = tokio::task::spawn_blocking(move || {
        check.damaged(&|bytes| counter.send_modify(|done| *done += bytes))
    });
    while done.changed().await.is_ok() {
        let done = (*done.borrow_and_update()).min(want);
        progress(GetProgress::Checking { done, want });
    }
    Ok(checking.await?)
}

/// Runs a store operation that moves files, while the engine has them closed, off the runtime's workers.
pub(super) async fn on_store<T: Send + 'static>(
    node: &Node,
    revision: &Arc<StoredRevision>,
    turn: &Arc<OwnedMutexGuard<()>>,
    work: impl FnOnce(&Store, &StoredRevision) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, NodeError> {
    let until_done = (turn.clone(), node.seeds.close(revision).await?, node.lock.clone());
    let (store, revision) = (node.library.store.clone(), revision.clone());
    blocking::run(move || {
        // Held by the thread, which continues when the future is dropped.
        let _until_done = until_done;
        Ok(work(&store, &revision)?)
    })
    .await
}

/// Indices of the files that the globs choose: all or those matching an `include`, less those matching an
/// `exclude`. A glob without `/` matches in every directory, as in `hf download`.
pub(super) fn select(
    manifest: &Manifest,
    include: &[String],
    exclude: &[String],
) -> Result<Vec<usize>, GetError> {
    let (include_set, exclude_set) = (globs(include)?, globs(exclude)?);
    let files: Vec<usize> = (0..manifest.files.len())
        .filter(|&i| {
            let path = &manifest.files[i].path;
            (include.is_empty() || include_set.is_match(path)) && !exclude_set.is_match(path)
        })
        .collect();
    if files.is_empty() {
        let model = manifest.model_ref();
        return Err(GetError::NoMatch(model));
    }
    Ok(files)
}

fn globs(patterns: &[String]) -> Result<GlobSet, GetError> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern)?);
    }
    Ok(set.build()?)
}
