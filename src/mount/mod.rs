//! The mount: models as a read-only file system.
//!
//! `tree` holds inodes and knows nothing of FUSE; `fuse` converts types and nothing else; reads are parked as
//! tasks that own their reply, and so are lookups of what is not known here. No handler waits: metadata is answered
//! from memory, reads from the disk or later.
//!
//! | module | what it owns |
//! |---|---|
//! | `inode`, `place`, `never`, `listing`, `view`, `tree`, `xattr` | names, numbers, attributes, facts |
//! | `lookups`, `misses`, `budget` | lookups of models that the network may have |
//! | `reads`, `handles`, `errno` | open files, parked reads, error numbers |
//! | `asker`, `threads`, `watching` | programs that wait and are about to end |
//! | `caution` | warnings of files that can run code |
//! | `fuse` | the adapter, on threads of its own |
//! | `mountpoint`, `mountinfo`, `liveness`, `attach`, `detach`, `helper` | the mount point and the mount itself |
//!
//! Threads: `silmaril-mount` runs the session and, when it ends for whatever reason, makes sure that no dead mount
//! stays behind; `fuser-N` take requests and never wait; parked reads are tasks of the runtime.

mod asker;
mod attach;
mod budget;
mod caution;
mod detach;
mod errno;
mod error;
mod fuse;
mod handles;
mod helper;
mod inode;
mod listing;
mod liveness;
mod lookups;
#[cfg(test)]
mod lookups_tests;
mod misses;
mod mountinfo;
mod mountpoint;
mod never;
mod opens;
mod place;
mod reads;
mod threads;
mod tree;
#[cfg(test)]
mod tree_tests;
mod view;
mod watching;
mod xattr;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::process::{getegid, geteuid};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::fetch::Fetch;
use crate::model::{ModelName, ModelRef};
use crate::store::StoredRevision;
pub use detach::{MountRecord, list_mounts, resolve, unmount};
pub use error::MountError;
pub use liveness::{Liveness, liveness};
use lookups::Lookups;
pub use lookups::{LookupRules, ResolveError, Resolver, Resolving};
use mountinfo::MountEntry;
pub use mountpoint::prepare;
pub use never::NeverResolve;
pub use place::Sought;
pub use reads::ReadCounters;
use reads::Reads;
pub use tree::Judge;
use tree::{Owner, Tree};
pub use view::Shown;

/// How many threads take requests. Each only looks something up or copies from the page cache, so few are
/// enough; at least two, so that one long copy does not hold up a lookup.
const THREADS: std::ops::RangeInclusive<usize> = 2..=4;

/// How long `stop` waits for the session to end before it is ended by force.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// An existing empty directory.
    pub mountpoint: PathBuf,
    /// Whether other users may read.
    pub allow_other: bool,
}

/// A live mount. Dropping it detaches the mount; `stop` does so in order.
pub struct Mounted {
    tree: Arc<Tree>,
    lookups: Arc<Lookups>,
    counters: Arc<ReadCounters>,
    mount: MountEntry,
    over: watch::Receiver<bool>,
}

impl Mounted {
    /// Mounts. Detaches a dead predecessor first. Reads that must wait do so as tasks on `runtime`.
    pub fn new(
        options: &MountOptions,
        fetch: Arc<Fetch>,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, MountError> {
        let path = mountpoint::prepare(&options.mountpoint)?;
        let owner = Owner { uid: geteuid().as_raw(), gid: getegid().as_raw(), mounted_at: SystemTime::now() };
        let tree = Arc::new(Tree::new(owner));
        let counters = Arc::new(ReadCounters::default());
        let lookups = Lookups::new(tree.clone(), runtime.clone());
        let reads = Reads::new(fetch, runtime, counters.clone());
        let service = fuse::Service::new(tree.clone(), lookups.clone(), reads);
        let connection = attach::attach(&path, options.allow_other)?;
        let mount = serve(&path, service, connection).inspect_err(|_| {
            if let Err(error) = detach::detach(&path, true) {
                error!(path = %path.display(), %error, "A failed mount stays behind.");
            }
        })?;
        info!(path = %path.display(), allow_other = options.allow_other, "Mounted.");
        let (mount, over) = mount;
        Ok(Self { tree, lookups, counters, mount, over })
    }

    /// Where it is mounted, without links.
    pub fn mountpoint(&self) -> &Path {
        &self.mount.mount_point
    }

    /// Figures of the reads through this mount.
    pub fn counters(&self) -> &ReadCounters {
        &self.counters
    }

    /// Replaces the set of revisions that the mount shows. Models that were refused are looked up again: called whenever
    /// something changed here, which may be the publishers that the user trusts. A disputed name that was read through
    /// this mount keeps its publisher; returns these names.
    pub fn publish(&self, shown: impl Into<Shown>) -> BTreeSet<ModelRef> {
        let kept = self.tree.publish(shown);
        self.lookups.rules_changed();
        kept
    }

    /// Asks about publishers from now on.
    pub fn ask_trust(&self, judge: Arc<dyn Judge>) {
        self.tree.ask_trust(judge);
    }

    /// Lists, from now on, only the revisions that the filter accepts, asked whenever a directory is opened; it must
    /// not block. What is not listed is found by its name all the same.
    pub fn list_only(&self, filter: impl Fn(&StoredRevision) -> bool + Send + Sync + 'static) {
        self.tree.list_only(Arc::new(filter));
    }

    /// Asks for models that are looked up and not known, from now on. What is found is to be published before the query
    /// ends. Listings never ask.
    pub fn resolve_with(&self, resolver: Arc<dyn Resolver>, rules: LookupRules) {
        self.lookups.resolve_with(resolver, rules);
    }

    /// Has the models of a name looked up again although they were not found: a record of the name has arrived, or a
    /// peer has it.
    pub fn name_appeared(&self, name: &ModelName) {
        self.lookups.name_appeared(name);
    }

    /// Has all models looked up again that were not found: a peer has come that was not asked.
    pub fn peer_appeared(&self) {
        self.lookups.peer_appeared();
    }

    /// Has all models looked up again whose holders could not be reached: a peer is connected that may hold them.
    pub fn holder_appeared(&self) {
        self.lookups.holder_appeared();
    }

    /// How many lookups wait for the network now.
    pub fn waiting_lookups(&self) -> usize {
        self.lookups.waiting()
    }

    /// Waits until the mount is gone, by `stop` or by somebody's umount.
    pub async fn gone(&self) {
        let mut over = self.over.clone();
        // An error means that the session's thread is gone, and with it the session.
        let _ = over.wait_for(|over| *over).await;
    }

    /// Unmounts, lazily if busy. The caller has stopped `Fetch`, so parked reads have their answers; parked lookups
    /// get theirs here.
    pub async fn stop(&self) {
        self.lookups.stop();
        let mount = self.mount.clone();
        let down = tokio::task::spawn_blocking(move || take_down(&mount));
        if tokio::time::timeout(STOP_WITHIN, down).await.is_err() {
            warn!("Unmounting hangs; ending the connection by force.");
        }
        if tokio::time::timeout(STOP_WITHIN, self.gone()).await.is_ok() {
            return info!(path = %self.mount.mount_point.display(), "Unmounted.");
        }
        // Detached, but a file is still open somewhere, so the kernel keeps the connection.
        if let Err(error) = detach::abort(&self.mount) {
            warn!(%error, "Files are still open; their readers get errors when this process ends.");
        } else if tokio::time::timeout(STOP_WITHIN, self.gone()).await.is_err() {
            warn!("The connection to the kernel did not end in time; it ends with this process.");
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.lookups.stop();
        if !*self.over.borrow() {
            take_down(&self.mount);
        }
    }
}

/// Shakes hands and starts the session's thread.
fn serve(
    path: &Path,
    service: fuse::Service,
    connection: std::os::fd::OwnedFd,
) -> Result<(MountEntry, watch::Receiver<bool>), MountError> {
    let io_error = |source| MountError::Io { what: "mounting on", path: path.to_owned(), source };
    let mount = mountinfo::at(path).map_err(io_error)?.filter(MountEntry::is_silmaril);
    let mount = mount.ok_or_else(|| io_error(io::Error::other("the mount vanished")))?;
    let cores = std::thread::available_parallelism().map_or(*THREADS.start(), usize::from);
    let threads = cores.clamp(*THREADS.start(), *THREADS.end());
    let run = fuse::connect(service, connection, threads, attach::can_clone()).map_err(io_error)?;
    attach::widen_read_ahead(&mount);
    let (tell, over) = watch::channel(false);
    let ours = mount.clone();
    std::thread::Builder::new()
        .name("silmaril-mount".into())
        .spawn(move || {
            if let Err(error) = run() {
                error!(%error, "The connection to the kernel failed.");
            }
            // After somebody's umount there is nothing left to take down. After a failure there is: nobody answers
            // there any more.
            take_down(&ours);
            tell.send_replace(true);
        })
        .map_err(io_error)?;
    Ok((mount, over))
}

/// Unmounts if the mount is still there and is the one that its path leads to; by force if it is busy.
fn take_down(mount: &MountEntry) {
    match mountinfo::at(&mount.mount_point) {
        Ok(Some(top)) if top.id == mount.id => {}
        _ => return,
    }
    let result = match detach::detach(&mount.mount_point, false) {
        // Nobody may wait for us from here on: end the connection as well, where we may.
        Err(MountError::InUse(path)) => detach::force(mount).or_else(|_| detach::detach(&path, true)),
        other => other,
    };
    if let Err(error) = result {
        error!(path = %mount.mount_point.display(), %error, "Cannot unmount.");
    }
}
