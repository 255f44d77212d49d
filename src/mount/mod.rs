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
//! | `mountpoint`, `mountinfo`, `namespaces`, `liveness`, `attach`, `detach`, `helper` | the mount point and the mount itself |
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
mod namespaces;
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
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::process::{getegid, geteuid};
use serde::{Deserialize, Serialize};
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
pub use namespaces::Namespaces;
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

/// A file system that was mounted and has no server yet: the connection to the kernel, and where it is mounted.
#[derive(Debug)]
pub struct Connection {
    /// The open connection (`/dev/fuse`).
    pub device: OwnedFd,
    /// What the kernel says of the mount in the mount namespace of the process that mounted.
    pub place: Place,
}

/// Where a file system is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The mount point, absolute and without links.
    pub path: PathBuf,
    /// The number of the mount.
    pub id: u32,
    /// The device number of the file system.
    pub device: (u32, u32),
    /// The namespaces of the process that mounted.
    pub namespaces: Namespaces,
}

/// Mounts on a directory that [`prepare`] has found fit, and returns the connection, which is then to be served by
/// [`Mounted::serve`], in this process or another one. Until then every access to the directory waits.
pub fn attach(path: &Path, allow_other: bool) -> Result<Connection, MountError> {
    let io_error = |source| MountError::Io { what: "mounting on", path: path.to_owned(), source };
    let device = attach::attach(path, allow_other)?;
    let entry = mountinfo::at(path).map_err(io_error)?.filter(MountEntry::is_silmaril);
    let entry = entry.ok_or_else(|| io_error(io::Error::other("the mount vanished")))?;
    attach::widen_read_ahead(&entry);
    let namespaces = Namespaces::of_this_process().map_err(io_error)?;
    let place =
        Place { path: entry.mount_point, id: entry.id, device: (entry.major, entry.minor), namespaces };
    Ok(Connection { device, place })
}

/// A mount that this process serves. Dropping it detaches the mount; `stop` does so in order.
pub struct Mounted {
    tree: Arc<Tree>,
    lookups: Arc<Lookups>,
    counters: Arc<ReadCounters>,
    place: Place,
    /// Parked reads end when it is true.
    closing: watch::Sender<bool>,
    over: watch::Receiver<bool>,
}

impl Mounted {
    /// Serves a connection. Reads that must wait do so as tasks on `runtime`. Where this fails, the caller unmounts.
    pub fn serve(
        connection: Connection,
        fetch: Arc<Fetch>,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, MountError> {
        let Connection { device, place } = connection;
        let owner = Owner { uid: geteuid().as_raw(), gid: getegid().as_raw(), mounted_at: SystemTime::now() };
        let tree = Arc::new(Tree::new(owner));
        let counters = Arc::new(ReadCounters::default());
        let lookups = Lookups::new(tree.clone(), runtime.clone());
        let closing = watch::Sender::new(false);
        let reads = Reads::new(fetch, runtime, counters.clone(), closing.subscribe());
        let sees_processes = place.namespaces.are_those_of_processes_here();
        let service = fuse::Service::new(tree.clone(), lookups.clone(), reads, sees_processes);
        let over = serve(&place, service, device)?;
        info!(path = %place.path.display(), "Mounted.");
        Ok(Self { tree, lookups, counters, place, closing, over })
    }

    /// Where it is mounted, without links.
    pub fn mountpoint(&self) -> &Path {
        &self.place.path
    }

    /// Where it is mounted.
    pub fn place(&self) -> &Place {
        &self.place
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

    /// Answers parked reads and lookups, then unmounts, lazily if files are in use. A mount of another mount namespace is
    /// unmounted by the process that mounted it, which is waited for.
    pub async fn stop(&self) {
        self.lookups.stop();
        self.closing.send_replace(true);
        if self.place.namespaces.have_this_mount_table() {
            let place = self.place.clone();
            let down = tokio::task::spawn_blocking(move || take_down(&place));
            if tokio::time::timeout(STOP_WITHIN, down).await.is_err() {
                warn!("Unmounting hangs; ending the connection by force.");
            }
        }
        if tokio::time::timeout(STOP_WITHIN, self.gone()).await.is_ok() {
            return info!(path = %self.place.path.display(), "Unmounted.");
        }
        // Detached, but a file is still open somewhere, so the kernel keeps the connection.
        if let Err(error) = detach::abort(&self.place) {
            warn!(%error, "Files are still open; their readers get errors when this process ends.");
        } else if tokio::time::timeout(STOP_WITHIN, self.gone()).await.is_err() {
            warn!("The connection to the kernel did not end in time; it ends with this process.");
        }
    }

    /// Waits until [`Self::stop`] is called or the mount is gone.
    pub async fn closing(&self) {
        let mut closing = self.closing.subscribe();
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => {}
            () = self.gone() => {}
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.lookups.stop();
        self.closing.send_replace(true);
        if !*self.over.borrow() {
            take_down(&self.place);
        }
    }
}

/// Exchanges the first messages with the kernel and starts the session's thread.
fn serve(
    place: &Place,
    service: fuse::Service,
    connection: OwnedFd,
) -> Result<watch::Receiver<bool>, MountError> {
    let io_error = |source| MountError::Io { what: "mounting on", path: place.path.clone(), source };
    let cores = std::thread::available_parallelism().map_or(*THREADS.start(), usize::from);
    let threads = cores.clamp(*THREADS.start(), *THREADS.end());
    let run = fuse::connect(service, connection, threads, attach::can_clone()).map_err(io_error)?;
    let (ended, over) = watch::channel(false);
    let ours = place.clone();
    std::thread::Builder::new()
        .name("silmaril-mount".into())
        .spawn(move || {
            if let Err(error) = run() {
                error!(%error, "The connection to the kernel failed.");
            }
            // After an umount by the user there is nothing left to take down. After a failure there is: no process
            // answers there any more.
            take_down(&ours);
            ended.send_replace(true);
        })
        .map_err(io_error)?;
    Ok(over)
}

/// Unmounts if the mount is still there and is the one that its path leads to; by force if it is busy. Does nothing in
/// another mount namespace.
fn take_down(place: &Place) {
    if !place.namespaces.have_this_mount_table() {
        return;
    }
    // `stop` and the end of the session come at the same time: the later one finds nothing to do.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock();
    match mountinfo::at(&place.path) {
        Ok(Some(top)) if top.id == place.id => {}
        _ => return,
    }
    let result = match detach::detach(&place.path, false) {
        // No process may wait for this one from here on: the connection is ended as well, where that is permitted.
        Err(MountError::InUse(path)) => detach::force(&place.path).or_else(|_| detach::detach(&path, true)),
        other => other,
    };
    if let Err(error) = result {
        error!(path = %place.path.display(), %error, "Cannot unmount.");
    }
}
