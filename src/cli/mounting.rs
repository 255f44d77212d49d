//! Mounts in this process and passes the connection to the daemon, or starts a process that holds the mount.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::cli::background::{self, Started};
use crate::cli::connection::Daemon;
use crate::cli::context::{Context, surroundings, token_if_usable};
use crate::cli::error::CommandError;
use crate::config::Config;
use crate::mount::MountLayout;
use crate::node::NodeError;
use crate::node::mounts::{MountRequest, MountStatus, ServeOptions};
use crate::paths::Paths;

/// Longest wait for another command that mounts with the same base directory.
const LOCKED_WITHIN: Duration = Duration::from_secs(60);
/// Interval at which the lock of that command is tried: `flock` has no timeout.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Restores the mounts of a daemon that was replaced. Prints a warning for each mount that fails.
pub async fn mount_again(context: &Context, config: &Config, daemon: &Daemon, mounts: Vec<MountStatus>) {
    for MountStatus { path, options, held } in mounts {
        // The command that holds this mount restores it.
        if held {
            continue;
        }
        let mounted = async {
            crate::mount::prepare(&path)?;
            mount(context, &config.paths(), daemon, &path, &options).await
        };
        if let Err(error) = mounted.await {
            context.out.warn(format_args!("{} could not be mounted again", path.display()));
            error.print();
        }
    }
}

/// Mounts from this process, or starts a process that holds the mount if the daemon is in another mount namespace.
pub(super) async fn mount(
    context: &Context,
    paths: &Paths,
    daemon: &Daemon,
    point: &Path,
    options: &ServeOptions,
) -> Result<(), CommandError> {
    if !daemon.sees_files() {
        return start_holder(context, paths, point, options);
    }
    attach(paths, daemon, point, options, false, || ()).await
}

/// Mounts and passes the connection to the daemon. Unmounts if the daemon cannot serve it, and when a held mount ends.
/// Calls `ready` when the mount can be read.
pub(super) async fn attach(
    paths: &Paths,
    daemon: &Daemon,
    point: &Path,
    options: &ServeOptions,
    held: bool,
    ready: impl FnOnce(),
) -> Result<(), CommandError> {
    let mut lock = Some(lock_mounting(paths).await?);
    // Another command may have mounted on the directory since the first check.
    let point = crate::mount::prepare(point)?;
    let allow_other = options.allow_other;
    let connection = tokio::task::block_in_place(|| crate::mount::attach(&point, allow_other))?;
    let mut undo = Undo(Some(point.clone()));
    let request = MountRequest {
        place: connection.place,
        options: options.clone(),
        held,
        surroundings: surroundings(token_if_usable()),
    };
    let mut ready = Some(ready);
    let served = daemon.client.mount(&request, connection.device, || {
        drop(lock.take());
        if let Some(ready) = ready.take() {
            ready();
        }
    });
    let served = served.await;
    if served.is_ok() && !held {
        undo.0 = None;
    }
    Ok(served?)
}

/// Unmounts when it is dropped, unless the path was removed. The mount may have ended before.
struct Undo(Option<PathBuf>);

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(point) = self.0.take()
            && let Err(error) = crate::mount::unmount(&point, true)
        {
            tracing::debug!(%error, mountpoint = %point.display(), "could not unmount");
        }
    }
}

/// Waits until no other command mounts with this base directory, and locks it for this one.
async fn lock_mounting(paths: &Paths) -> Result<File, CommandError> {
    let path = paths.mounting();
    let failed = |e| CommandError::io(&path, e);
    let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    let until = Instant::now() + LOCKED_WITHIN;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => tokio::time::sleep(TRY_EVERY).await,
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Starts the process that holds a mount in this mount namespace.
fn start_holder(
    context: &Context,
    paths: &Paths,
    point: &Path,
    options: &ServeOptions,
) -> Result<(), CommandError> {
    let ServeOptions { allow_other, resolve, peers, layout } = options;
    let mut arguments: Vec<OsString> = vec!["mount".into(), "--hold".into()];
    arguments.extend(allow_other.then(|| "--allow-other".into()));
    arguments.extend((!resolve).then(|| "--no-resolve".into()));
    arguments.extend(peers.iter().map(|peer| format!("--peer={peer}").into()));
    arguments.extend((*layout == MountLayout::Hf).then(|| "--layout=hf".into()));
    arguments.extend(["--".into(), point.into()]);
    let log = paths.logs().join("mount.log");
    match tokio::task::block_in_place(|| background::start(context, paths, &arguments, &log))? {
        Started::Ready(_) => Ok(()),
        Started::Busy => Err(NodeError::HostLost.into()),
    }
}
