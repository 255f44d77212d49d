//! `mount`: has the daemon show the models as a directory.
//!
//! This process mounts, in its own mount namespace and with its own privileges, and passes the connection to the daemon,
//! which serves it. A mount in another mount namespace than the daemon's is held by a process that stays there
//! (`--hold`), since only that process can unmount it.

use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::cli::background::{self, Started};
use crate::cli::context::{Context, surroundings, token_if_usable};
use crate::cli::error::CommandError;
use crate::cli::session::{Daemon, with_daemon, with_daemon_here};
use crate::cli::signals::StopSignals;
use crate::config::Config;
use crate::mount::MountError;
use crate::node::mounts::{MountRequest, MountStatus, ServeOptions};
use crate::node::{NodeError, NodeOptions};
use crate::paths::Paths;

/// How long another command that mounts on the same base directory is waited for.
const TURN_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

const EXAMPLES: &str = "\
Examples:
  mkdir -p ~/models && silmaril mount ~/models
  ls -l ~/models/acme/minilm                          known models are there; reading fetches them
  silmaril unmount ~/models
  cat ~/models/acme/other/config.json                 others are found by their path
  silmaril mount -f ~/models                          stay in the foreground, log to the terminal
  silmaril mount ~/models --peer 192.0.2.7:6881       a host that has the models";

/// Show all known models as a directory; what is read is fetched
///
/// Returns when the directory can be read. The daemon serves it, and is started if it does not run. What is read is kept in
/// the cache and uploaded to others.
///
/// A path such as ORG/NAME or ORG/NAME@REV need not be known: the first look at it asks the network, for at most
/// `mount.resolve_timeout`, so that `cat ~/models/acme/minilm/config.json` works. A path that no connected peer knows is
/// absent within a second, and is not looked up again for a minute, then for longer, unless news of it arrive; `silmaril
/// status` shows such paths. Listing never asks. Since any name could be that of an organisation, any is a directory,
/// except those of `mount.never_resolve`: `ls` shows those of which something is known.
///
/// Reading pins no name to its publisher. A name that several publishers dispute cannot be read; the path
/// .by/FINGERPRINT/ORG/NAME is the model of one of them, and `silmaril status` shows these paths.
///
/// One daemon serves several mounts. The mount ends with `silmaril unmount DIR` or `silmaril stop`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An empty directory
    mountpoint: PathBuf,
    /// Stay in the foreground until Ctrl-C, which unmounts; this process is the daemon if none runs
    #[arg(short, long)]
    foreground: bool,
    /// Let other users read it, too
    #[arg(long)]
    allow_other: bool,
    /// A host that has models; may be repeated
    #[arg(long = "peer", value_name = "IP:PORT")]
    peers: Vec<SocketAddr>,
    /// Show only what is known here: a path that is not known is looked up nowhere
    #[arg(long)]
    no_resolve: bool,
    /// Hold the mount and report on standard output when it is ready: what stays in another mount namespace
    #[arg(long, hide = true, conflicts_with = "foreground")]
    hold: bool,
}

impl Args {
    fn options(&self) -> ServeOptions {
        ServeOptions { allow_other: self.allow_other, resolve: !self.no_resolve, peers: self.peers.clone() }
    }
}

/// Mounts, and stays with the mount if asked to.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let config = context.config()?;
    // What is wrong with the directory is reported before anything is started.
    let point = match crate::mount::prepare(&args.mountpoint) {
        // The daemon that serves it may be about to end; it is looked at again when the daemon is known.
        Err(MountError::Busy(_)) => crate::mount::resolve(&args.mountpoint)?,
        prepared => prepared?,
    };
    let options = args.options();
    if args.hold {
        return background::serve(|ready| {
            let mut ready = Some(ready);
            with_daemon(context, async |daemon, signals| {
                let ready = || ready.take().map_or(Ok(()), |ready| ready());
                hold(&config.paths(), daemon, &point, &options, signals, ready).await
            })
        });
    }
    if args.foreground {
        let peers = args.peers.clone();
        let shown = point.display();
        return with_daemon_here(context, NodeOptions { peers }, async |daemon, signals| {
            let ready = || {
                context.out.note(match daemon.pid == std::process::id() {
                    true => format!("mounted on {shown}; its log is on standard error; Ctrl-C unmounts it"),
                    false => format!("mounted on {shown} by process {}; Ctrl-C unmounts it", daemon.pid),
                });
                Ok(())
            };
            hold(&config.paths(), daemon, &point, &options, signals, ready).await
        });
    }
    let pid = with_daemon(context, async |daemon, signals| {
        signals.unless(mount(context, &config.paths(), daemon, &point, &options)).await?;
        Ok(daemon.pid)
    })?;
    context.out.line(format_args!("mounted on {} (process {pid})", point.display()))?;
    context.out.note(format_args!("its log is {}", config.paths().daemon_log().display()));
    context.out.note(format_args!("unmount with: silmaril unmount {}", args.mountpoint.display()));
    Ok(())
}

/// Mounts the mounts of a daemon that was replaced. Those that fail are named.
pub async fn mount_again(context: &Context, config: &Config, daemon: &Daemon, mounts: Vec<MountStatus>) {
    for MountStatus { path, options, held } in mounts {
        // The command that holds it mounts again by itself.
        if held {
            continue;
        }
        let mounted = async {
            crate::mount::prepare(&path)?;
            mount(context, &config.paths(), daemon, &path, &options).await
        };
        if let Err(error) = mounted.await {
            context.out.warn(format_args!("{} is not mounted any more", path.display()));
            error.print();
        }
    }
}

/// Mounts, here or by a process that holds the mount where the daemon is in another mount namespace.
async fn mount(
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

/// Mounts, has the daemon serve it, and unmounts when that fails or a held mount ends.
async fn attach(
    paths: &Paths,
    daemon: &Daemon,
    point: &Path,
    options: &ServeOptions,
    held: bool,
    ready: impl FnOnce(),
) -> Result<(), CommandError> {
    let mut turn = Some(take_turn(paths).await?);
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
        drop(turn.take());
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

/// Unmounts when it goes out of scope, unless that was called off. The mount may be gone already.
struct Undo(Option<PathBuf>);

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(point) = self.0.take()
            && let Err(error) = crate::mount::unmount(&point, true)
        {
            tracing::debug!("{} is not unmounted: {error}", point.display());
        }
    }
}

/// Waits until no other command mounts on this base directory.
async fn take_turn(paths: &Paths) -> Result<File, CommandError> {
    let path = paths.mounting();
    let failed = |e| CommandError::io(&path, e);
    let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    let until = Instant::now() + TURN_WITHIN;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => tokio::time::sleep(LOOK_EVERY).await,
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Mounts, and stays until the mount ends or a signal ends it.
async fn hold(
    paths: &Paths,
    daemon: &Daemon,
    point: &Path,
    options: &ServeOptions,
    signals: &mut StopSignals,
    ready: impl FnOnce() -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let mut reported = Ok(());
    let held = attach(paths, daemon, point, options, true, || reported = ready());
    let done = tokio::select! {
        held = held => held,
        stop = signals.wait() => stop.end_of_service(),
    };
    reported?;
    match done {
        // The user has stopped the daemon, and the mount with it.
        Err(error) if error.is_stopped() => Ok(()),
        done => done,
    }
}

/// Starts the process that holds a mount in this mount namespace.
fn start_holder(
    context: &Context,
    paths: &Paths,
    point: &Path,
    options: &ServeOptions,
) -> Result<(), CommandError> {
    let ServeOptions { allow_other, resolve, peers } = options;
    let mut arguments: Vec<OsString> = vec!["mount".into(), "--hold".into()];
    arguments.extend(allow_other.then(|| "--allow-other".into()));
    arguments.extend((!resolve).then(|| "--no-resolve".into()));
    arguments.extend(peers.iter().map(|peer| format!("--peer={peer}").into()));
    arguments.extend(["--".into(), point.into()]);
    let log = paths.logs().join("mount.log");
    match tokio::task::block_in_place(|| background::start(context, paths, &arguments, &log))? {
        Started::Ready(_) => Ok(()),
        Started::Busy => Err(NodeError::HostLost.into()),
    }
}
