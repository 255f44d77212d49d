//! Keeps the unshared models that a mount shows up to date while the node runs.
//!
//! Changes below the models directory are reported by inotify. The directory is also scanned periodically: the kernel
//! limits the number of watches, and network file systems report no changes of other hosts.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::dir_watch::DirWatch;
use super::unshared::{self, Memory, Wholeness};
use super::{Library, Node};

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
