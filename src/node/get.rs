//! `get`: a model into a directory, whole or by pattern.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::model::{Manifest, ModelRef};
use crate::node::{Node, NodeError};
use crate::store::verify::UNWATCHED;
use crate::store::{Store, StoreError, StoredRevision};

/// How often progress is told.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// What to get.
#[derive(Debug, Clone)]
pub struct GetRequest {
    /// Which model.
    pub model: ModelRef,
    /// Where to; none is the models directory.
    pub output: Option<PathBuf>,
    /// Globs of paths to fetch; empty is all.
    pub include: Vec<String>,
    /// Globs of paths to leave out.
    pub exclude: Vec<String>,
    /// Whether to check sha256 at the end.
    pub verify: bool,
    /// Only a manifest signed by this publisher will do (hex key or its fingerprint).
    pub publisher: Option<String>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GetProgress {
    /// Bytes of the wanted files here, of how many, and how fast and from how many peers.
    Fetching {
        /// Verified bytes here.
        have: u64,
        /// Bytes wanted.
        want: u64,
        /// Bytes per second.
        rate: u64,
        /// Connected peers.
        peers: u32,
    },
    /// Bytes checked against sha256, of how many.
    Checking {
        /// Bytes checked.
        done: u64,
        /// Bytes to check.
        want: u64,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct GetReport {
    /// The model.
    pub model: String,
    /// Where it is now.
    pub path: PathBuf,
    /// Number of files wanted.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that came over the network just now.
    pub downloaded: u64,
    /// Whether sha256 was checked.
    pub verified: bool,
}

impl Node {
    /// Gets a model. Resumes what an earlier call left. Dropping the future stops it, keeping what came.
    pub async fn get(
        &self,
        request: &GetRequest,
        progress: impl Fn(GetProgress) + Send + Sync,
    ) -> Result<GetReport, NodeError> {
        let model = &request.model;
        let revision = self.library.revision(model)?;
        let manifest = revision.manifest.clone();
        check_wanted_publisher(&manifest, request.publisher.as_deref())?;
        let files = select(&manifest, &request.include, &request.exclude)?;
        let dest = match &request.output {
            Some(dir) => {
                std::path::absolute(dir).map_err(|source| NodeError::Io { path: dir.clone(), source })?
            }
            None => self.library.paths.models.join(model.to_string()),
        };
        let want: u64 = files.iter().map(|&i| manifest.files[i].size).sum();

        self.on_store(&revision, |store, revision| {
            let found = store.unverified(revision, &dest);
            store.adopt(revision, &found, &dest, &store.layers(&revision.manifest)?, UNWATCHED)?;
            store.stage(revision, &dest)
        })
        .await?;
        self.fetch.relocate(&revision);
        let before = self.fetch.progress(&manifest.torrent.info_hash).map_or(0, |s| s.downloaded);
        let failed = |source| NodeError::Fetch { model: model.clone(), source };
        let stall = self.library.config.torrent.download_timeout;
        let fetched = self.fetch.fetch_files(&revision, &files, stall);
        tokio::pin!(fetched);
        let mut clock = tokio::time::interval(REPORT_EVERY);
        loop {
            tokio::select! {
                done = &mut fetched => { done.map_err(failed)?; break }
                _ = clock.tick() => progress(self.fetching(&revision, &files, want)),
            }
        }
        progress(self.fetching(&revision, &files, want));
        if request.verify {
            self.check(&revision, &files, want, &progress).await?;
        }
        self.on_store(&revision, |store, revision| store.publish(revision, &files, &dest)).await?;
        self.fetch.relocate(&revision);
        let after = self.fetch.progress(&manifest.torrent.info_hash).map_or(0, |s| s.downloaded);
        Ok(GetReport {
            model: model.to_string(),
            path: dest,
            files: files.len(),
            bytes: want,
            downloaded: after.saturating_sub(before),
            verified: request.verify,
        })
    }

    fn fetching(&self, revision: &Arc<StoredRevision>, files: &[usize], want: u64) -> GetProgress {
        let have = files.iter().map(|&i| revision.contents[i].cached_bytes()).sum();
        let status = self.fetch.progress(&revision.manifest.torrent.info_hash);
        let (rate, peers) = status.map_or((0, 0), |s| (s.download_rate, s.peers));
        GetProgress::Fetching { have, want, rate, peers }
    }

    /// Compares every file with its sha256. A file that differs although its pieces were right comes from a
    /// manifest that contradicts itself.
    async fn check(
        &self,
        revision: &Arc<StoredRevision>,
        files: &[usize],
        want: u64,
        progress: &(impl Fn(GetProgress) + Send + Sync),
    ) -> Result<(), NodeError> {
        let (told, mut done) = tokio::sync::watch::channel(0u64);
        let (work, files) = (revision.clone(), files.to_vec());
        let checking = tokio::task::spawn_blocking(move || {
            super::check::damaged(&work, &files, &|bytes| told.send_modify(|done| *done += bytes))
        });
        while done.changed().await.is_ok() {
            let done = *done.borrow_and_update();
            progress(GetProgress::Checking { done, want });
        }
        match checking.await {
            Ok(damaged) if damaged.is_empty() => Ok(()),
            Ok(files) => Err(NodeError::Damaged { model: revision.manifest.model_ref(), files }),
            Err(e) => Err(NodeError::Request(format!("checking was interrupted: {e}"))),
        }
    }

    /// Runs a store operation that reads or writes files off the runtime's workers.
    async fn on_store<T: Send>(
        &self,
        revision: &Arc<StoredRevision>,
        work: impl FnOnce(&Store, &StoredRevision) -> Result<T, StoreError> + Send,
    ) -> Result<T, NodeError> {
        Ok(tokio::task::block_in_place(|| work(&self.library.store, revision))?)
    }
}

/// Indices of the files that the globs choose: all or those matching an `include`, less those matching an
/// `exclude`. A glob without `/` matches in every directory, as in `hf download`.
fn select(manifest: &Manifest, include: &[String], exclude: &[String]) -> Result<Vec<usize>, NodeError> {
    let (include_set, exclude_set) = (globs(include)?, globs(exclude)?);
    let files: Vec<usize> = (0..manifest.files.len())
        .filter(|&i| {
            let path = &manifest.files[i].path;
            (include.is_empty() || include_set.is_match(path)) && !exclude_set.is_match(path)
        })
        .collect();
    if files.is_empty() {
        let model = manifest.model_ref();
        return Err(NodeError::Request(format!("no file of {model} matches --include and --exclude")));
    }
    Ok(files)
}

fn globs(patterns: &[String]) -> Result<GlobSet, NodeError> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(|e| NodeError::Request(format!("bad pattern: {e}")))?);
    }
    set.build().map_err(|e| NodeError::Request(format!("bad pattern: {e}")))
}

fn check_wanted_publisher(manifest: &Manifest, wanted: Option<&str>) -> Result<(), NodeError> {
    let Some(wanted) = wanted else { return Ok(()) };
    match manifest.publisher {
        Some(key) if key.to_string().eq_ignore_ascii_case(wanted) || key.fingerprint() == wanted => Ok(()),
        given => Err(NodeError::OtherPublisher {
            name: manifest.name.clone(),
            known: wanted.to_owned(),
            given: given.map_or_else(|| "nobody".to_owned(), |key| key.fingerprint()),
        }),
    }
}
