//! The mount: models as a read-only file system.
//!
//! `tree` holds inodes and does not depend on FUSE. `fuse` only converts types. A handler never waits: it answers
//! metadata from memory and reads from the disk. A read or a lookup that has to wait becomes a task that owns its reply.
//!
//! | module | what it owns |
//! |---|---|
//! | `inode`, `top_path`, `never_resolve`, `listing`, `shown`, `view`, `tree`, `open_dir`, `attr`, `xattr` | names, inode numbers, attributes |
//! | `names`, `lookups`, `misses`, `budget` | models by name, and lookups of models that the network may have |
//! | `reads`, `handles`, `open_files`, `errno` | open files, parked reads, error numbers |
//! | `requester`, `threads`, `reader_watch` | programs that wait, and whether they are about to end |
//! | `code_warnings` | warnings about files that can run code |
//! | `fuse` | the adapter, on its own threads |
//! | `mountpoint`, `mountinfo`, `namespaces`, `liveness`, `attach`, `detach`, `helper` | the mount point and the mount itself |
//!
//! Threads: `silmaril-mount` runs the session and removes the mount when the session ends, for any reason. `fuser-N`
//! handle requests and never wait. Parked reads are tasks of the runtime.

mod attach;
mod attr;
mod budget;
mod code_warnings;
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
mod names;
mod namespaces;
mod never_resolve;
mod open_dir;
mod open_files;
mod read_ahead;
mod reader_watch;
mod reads;
mod requester;
mod shown;
mod threads;
mod top_path;
mod tree;
mod tree_error;
#[cfg(test)]
mod tree_tests;
mod view;
mod xattr;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::fetch::Fetch;
use crate::store::StoredRevision;
pub(crate) use attr::Owner;
pub use detach::{list_mounts, unmount};
pub(crate) use detach::{resolve, resolve_mounted};
pub use error::MountError;
pub use liveness::{Liveness, liveness};
pub use lookups::{LookupRules, ResolveError, Resolver, Resolving};
use mountinfo::MountEntry;
pub use mountpoint::prepare;
pub(crate) use names::{FindError, ModelNames};
pub(crate) use namespaces::Namespaces;
pub use never_resolve::NeverResolve;
use read_ahead::ReadAhead;
pub(crate) use reads::ReadCounters;
use reads::Reads;
pub use top_path::{MountLayout, RequestedModel};
pub(crate) use tree::PublisherTrust;
pub(crate) use view::ShownModels;

/// How many threads handle requests. A request only reads memory or copies from the page cache, so few threads are
/// enough. At least two, so that one long copy does not delay a lookup.
const THREADS: std::ops::RangeInclusive<usize> = 2..=4;

/// How long `stop` waits for the session to end before it ends the session by force.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// A mounted file system that no process serves yet.
#[derive(Debug)]
pub struct FuseConnection {
    /// The connection to the kernel, an open file of `/dev/fuse`.
    pub device: OwnedFd,
    /// Where it is mounted, as the process that mounted it sees it.
    pub place: MountLocation,
}

/// Where a file system is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountLocation {
    /// The mount point, absolute and without symbolic links.
    pub path: PathBuf,
    /// The kernel's number of the mount.
    pub id: u32,
    /// The device number of the file system, major and minor.
    pub device: (u32, u32),
    /// The namespaces of the process that mounted.
    pub namespaces: Namespaces,
}

/// Mounts on a directory that [`prepare`] has checked. [`Mounted::serve`] must then serve the connection, in this process
/// or another one; until then every access to the directory waits.
pub fn attach(path: &Path, allow_other: bool) -> Result<FuseConnection, MountError> {
    let io_error = |source| MountError::Io { what: "mounting on", path: path.to_owned(), source };
    let device = attach::attach(path, allow_other)?;
    let entry = mountinfo::at(path).map_err(io_error)?.filter(MountEntry::is_silmaril);
    let entry = entry.ok_or_else(|| io_error(io::Error::other("the mount disappeared")))?;
    let namespaces = Namespaces::of_this_process().map_err(io_error)?;
    let place = MountLocation {
        path: entry.mount_point,
        id: entry.id,
        device: (entry.major, entry.minor),
        namespaces,
    };
    Ok(FuseConnection { device, place })
}

/// A mount that this process serves. Dropping it detaches the mount; [`Mounted::stop`] answers waiting readers first.
pub struct Mounted {
    names: Arc<ModelNames>,
    counters: Arc<ReadCounters>,
    place: MountLocation,
    /// True ends all parked reads.
    closing: watch::Sender<bool>,
    /// True when the session has ended.
    ended: watch::Receiver<bool>,
}

impl Mounted {
    /// Serves a connection. Reads that have to wait are tasks on `runtime`; with `asks_hub` they may request bytes of models of
    /// which no manifest is known from a hub. On an error the caller must unmount.
    pub fn serve(
        connection: FuseConnection,
        layout: MountLayout,
        fetch: Arc<Fetch>,
        runtime: tokio::runtime::Handle,
        asks_hub: bool,
    ) -> Result<Self, MountError> {
        let FuseConnection { device, place } = connection;
        let names = Arc::new(ModelNames::new(Owner::of_this_process(), layout, runtime.clone()));
        let counters = Arc::new(ReadCounters::default());
        let closing = watch::Sender::new(false);
        let reads = Reads::new(fetch, runtime, counters.clone(), closing.subscribe(), asks_hub);
        let sees_processes = place.namespaces.share_pids();
        let service = fuse::Service::new(
            names.tree.clone(),
            names.lookups.clone(),
            reads,
            ReadAhead::of(place.device),
            sees_processes,
        );
        let ended = serve(&place, service, device)?;
        info!(path = %place.path.display(), "mounted");
        Ok(Self { names, counters, place, closing, ended })
    }

    /// Counters of the reads through this mount.
    pub fn counters(&self) -> &ReadCounters {
        &self.counters
    }

    /// The models that the mount shows, and their lookups.
    pub fn names(&self) -> &Arc<ModelNames> {
        &self.names
    }

    /// Sets the source of answers about publishers.
    pub fn set_trust(&self, trust: Arc<dyn PublisherTrust>) {
        self.names.tree.set_trust(trust);
    }

    /// From now on lists only the revisions that the filter accepts. The filter runs when a directory is opened and must
    /// not block. A lookup by name still finds a revision that is not listed.
    pub fn list_only(&self, filter: impl Fn(&StoredRevision) -> bool + Send + Sync + 'static) {
        self.names.tree.list_only(Arc::new(filter));
    }

    /// Waits until the mount is gone, by `stop` or because a user unmounted it.
    pub async fn gone(&self) {
        let mut ended = self.ended.clone();
        // An error means that the session's thread has ended, and so has the session.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Answers parked reads and lookups, then unmounts, lazily if files are in use. A mount in another mount namespace is
    /// unmounted by the process that mounted it; this function waits for that. Takes at most three times 3 s.
    pub async fn stop(&self) {
        self.names.stop();
        self.closing.send_replace(true);
        if self.place.namespaces.share_mount_table() {
            let place = self.place.clone();
            let unmounting = tokio::task::spawn_blocking(move || unmount_if_ours(&place));
            if tokio::time::timeout(STOP_WITHIN, unmounting).await.is_err() {
                warn!("unmounting hangs, so the connection to the kernel is closed by force");
            }
        }
        if tokio::time::timeout(STOP_WITHIN, self.gone()).await.is_ok() {
            return info!(path = %self.place.path.display(), "unmounted");
        }
        // The mount is detached, but a program still has a file open, so the kernel keeps the connection.
        if let Err(error) = detach::abort(&self.place) {
            warn!(%error, "files are still open; their readers get errors when this process ends");
        } else if tokio::time::timeout(STOP_WITHIN, self.gone()).await.is_err() {
            warn!("the connection to the kernel did not end in time; it ends with this process");
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
        self.names.stop();
        self.closing.send_replace(true);
        if !*self.ended.borrow() {
            unmount_if_ours(&self.place);
        }
    }
}

/// Exchanges the first messages with the kernel and starts the session's thread.
fn serve(
    place: &MountLocation,
    service: fuse::Service,
    connection: OwnedFd,
) -> Result<watch::Receiver<bool>, MountError> {
    let io_error = |source| MountError::Io { what: "mounting on", path: place.path.clone(), source };
    let cores = std::thread::available_parallelism().map_or(*THREADS.start(), usize::from);
    let threads = cores.clamp(*THREADS.start(), *THREADS.end());
    let run = fuse::connect(service, connection, threads, attach::can_clone()).map_err(io_error)?;
    let (set_ended, ended) = watch::channel(false);
    let place = place.clone();
    std::thread::Builder::new()
        .name("silmaril-mount".into())
        .spawn(move || {
            if let Err(error) = run() {
                error!(%error, "the connection to the kernel failed");
            }
            // After a user's umount the mount is already gone. After a failure it is still there, and no process
            // answers its requests any more.
            unmount_if_ours(&place);
            set_ended.send_replace(true);
        })
        .map_err(io_error)?;
    Ok(ended)
}

/// Unmounts if the topmost mount at the path is still this one, by force if it is busy. Does nothing in another mount
/// namespace.
fn unmount_if_ours(place: &MountLocation) {
    if !place.namespaces.share_mount_table() {
        return;
    }
    // `stop` and the end of the session call this at the same time. The later call finds no mount.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock();
    match mountinfo::at(&place.path) {
        Ok(Some(top)) if top.id == place.id => {}
        _ => return,
    }
    let result = match detach::detach(&place.path, false) {
        // Readers must not wait for this process any more, so the connection is closed too where that is permitted.
        Err(MountError::InUse(path)) => detach::force(&place.path).or_else(|_| detach::detach(&path, true)),
        other => other,
    };
    if let Err(error) = result {
        error!(path = %place.path.display(), %error, "could not unmount");
    }
}
