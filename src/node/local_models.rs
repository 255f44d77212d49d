//! The unshared models that a mount shows, kept up to date while the node runs.
//!
//! Changes below the models directory are reported by inotify. The directory is also scanned periodically: the kernel
//! limits the number of watches, and network file systems report no changes of other hosts.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::dir_watch::DirWatch;
use super::unshared::{self, Memory, Unshared, Wholeness};
use super::{Library, Node};
use crate::model::{ModelName, ModelRef};
use crate::store::StoredRevision;

/// Changes come in groups: after the first, this long is waited for more.
const GATHER: Duration = Duration::from_millis(500);
/// A scan that took long is not repeated before this multiple of its time.
const PAUSE_FACTOR: u32 = 4;
/// How often the directory is scanned if changes are reported: some file systems report only changes of this host.
const SCAN_EVERY: Duration = Duration::from_secs(60);
/// How often it is scanned if they are not.
const SCAN_EVERY_UNWATCHED: Duration = Duration::from_secs(5);
/// The most directories that are watched; the kernel's usual limit for a user is some thousands.
const MAX_WATCHED: usize = 4096;

/// The unshared models that the mounts show.
pub(super) struct LocalModels {
    library: Arc<Library>,
    shown: Mutex<Vec<LocalModel>>,
    /// Notified when records of the store have changed: a directory may be shared now, or no longer.
    records_changed: Notify,
    scanned: watch::Sender<bool>,
}

/// An unshared model that the mounts show.
#[derive(Debug, Clone)]
struct LocalModel {
    name: ModelName,
    path: PathBuf,
    revision: Arc<StoredRevision>,
}

impl LocalModels {
    /// Shows none until the first scan.
    pub fn new(library: Arc<Library>) -> Self {
        let (records_changed, scanned) = (Notify::new(), watch::Sender::new(false));
        Self { library, shown: Mutex::default(), records_changed, scanned }
    }

    /// Waits until the models directory was scanned for the first time.
    pub async fn first_scan(&self) {
        // The sender lives as long as the node.
        let _ = self.scanned.subscribe().wait_for(|scanned| *scanned).await;
    }

    /// The unshared models that the mount shows now. A directory that was shared since the latest scan is not among
    /// them.
    pub fn revisions(&self) -> Vec<Arc<StoredRevision>> {
        let local = self.shown.lock().clone();
        if local.is_empty() {
            return Vec::new();
        }
        let recorded = self.library.store.placed().recorded_dirs();
        let unshared = local.into_iter().filter(|local| !unshared::is_recorded(&recorded, &local.path));
        unshared.map(|local| local.revision).collect()
    }

    /// The unshared model that the mount shows for a name.
    pub fn revision(&self, model: &ModelRef) -> Option<Arc<StoredRevision>> {
        if !model.revision.is_default() || !self.shown.lock().iter().any(|local| local.name == model.name) {
            return None;
        }
        self.revisions().into_iter().find(|revision| revision.manifest.name == model.name)
    }

    /// Has the directory scanned again, since records of the store may have changed.
    pub fn records_changed(&self) {
        self.records_changed.notify_one();
    }

    /// Applies the result of a scan. Returns whether the mounts must change what they show.
    fn update(&self, found: &[Unshared]) -> bool {
        let before = self.shown.lock().clone();
        let was_shown = |model: &&Unshared| before.iter().any(|local| local.path == model.path);
        // A model that changes while it is in use stays visible.
        let ready = found.iter().filter(|model| match model.state {
            Wholeness::Whole => true,
            Wholeness::Changing(_) => was_shown(model),
            Wholeness::Incomplete(_) => false,
        });
        let next: Vec<LocalModel> = ready
            .filter_map(|model| {
                let revision = StoredRevision::local(&self.library.store.parts, &model.name, &model.files);
                let revision = revision
                    .inspect_err(|error| tracing::warn!(%error, path = %model.path.display(), "could not read an unshared model"))
                    .ok()?;
                Some(LocalModel { name: model.name.clone(), path: model.path.clone(), revision })
            })
            .collect();
        let id = |local: &LocalModel| (local.path.clone(), local.revision.manifest.torrent.info_hash);
        let changed = before.iter().map(id).ne(next.iter().map(id));
        if changed {
            *self.shown.lock() = next;
        }
        changed
    }
}

/// Keeps the unshared models of a node up to date. Runs until the node is gone.
pub(super) async fn run(node: Weak<Node>) {
    let watch = DirWatch::new();
    let watch = watch.inspect_err(|error| {
        tracing::info!(%error, "could not watch the models directory; it is scanned instead");
    });
    let mut watch = watch.ok().map(Arc::new);
    let mut memory = Memory::default();
    loop {
        let Some(scanning) = node.upgrade() else { return };
        let (began, watching) = (Instant::now(), watch.clone());
        let scan = tokio::task::spawn_blocking(move || {
            // Before the scan, so that no change between the two is missed.
            let watched = watching.is_some_and(|watch| watch_all(&watch, &scanning.library));
            let found = unshared::find_all(&scanning.library.store, &mut memory);
            if scanning.local.update(&found) {
                scanning.changed();
            }
            scanning.local.scanned.send_replace(true);
            let settles = found.iter().filter_map(|model| match model.state {
                Wholeness::Changing(left) => Some(left),
                Wholeness::Whole | Wholeness::Incomplete(_) => None,
            });
            (memory, watched, settles.min())
        });
        let watched;
        let settles;
        (memory, watched, settles) = match scan.await {
            Ok(scanned) => scanned,
            Err(error) => {
                tracing::error!(%error, "could not scan the models directory");
                (Memory::default(), false, None)
            }
        };
        let pause = GATHER.max(began.elapsed() * PAUSE_FACTOR);
        let period = if watched { SCAN_EVERY } else { SCAN_EVERY_UNWATCHED };
        // A little later, so that the model counts as settled then.
        let due = settles.map_or(period, |left| period.min(left + GATHER / 10)).max(pause);
        let Some(waiting) = node.upgrade() else { return };
        let records = async { waiting.local.records_changed.notified().await };
        tokio::select! {
            () = tokio::time::sleep(due) => continue,
            () = records => {}
            changed = changed(watch.as_deref()) => if let Err(error) = changed {
                tracing::warn!(%error, "could not watch the models directory any longer; it is scanned instead");
                watch = None;
            }
        }
        drop(waiting);
        tokio::time::sleep(pause).await;
    }
}

async fn changed(watch: Option<&DirWatch>) -> std::io::Result<()> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Watches the directories that hold models, and those inside unshared models. Returns whether changes in all of them
/// are reported.
fn watch_all(watch: &DirWatch, library: &Library) -> bool {
    let models = &library.store.dirs.models;
    let recorded = library.store.placed().recorded_dirs();
    let mut dirs = BTreeSet::from([models.to_owned()]);
    let mut todo = vec![models.to_owned()];
    while let Some(dir) = todo.pop() {
        for (name, below) in unshared::subdirectories(&dir) {
            // The history of a clone is no part of the model.
            if name == ".git" || recorded.contains(&below) {
                continue;
            }
            if dirs.len() == MAX_WATCHED {
                watch.watch(&dirs);
                return false;
            }
            dirs.insert(below.clone());
            todo.push(below);
        }
    }
    watch.watch(&dirs)
}
