//! `mount`: shows the models as a directory that the daemon serves.
//!
//! This process mounts in its own mount namespace with its own privileges, and passes the FUSE connection to the daemon.
//! If the daemon is in another mount namespace, a process with `--hold` stays in this one, because only such a process
//! can unmount.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::cli::background;
use crate::cli::connection::Daemon;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::format::shell_quoted;
use crate::cli::hosting::with_daemon_here;
use crate::cli::mounting::{attach, mount};
use crate::cli::session::with_daemon;
use crate::cli::signals::StopSignals;
use crate::mount::{MountError, MountLayout};
use crate::node::NodeOptions;
use crate::node::mounts::ServeOptions;
use crate::paths::Paths;

const EXAMPLES: &str = "\
Examples:
  mkdir -p ~/models && silmaril mount ~/models
  ls -l ~/models/acme/minilm                          known models are listed; reading fetches them
  silmaril unmount ~/models
  cat ~/models/acme/other/config.json                 other models are found by their path
  silmaril mount -f ~/models                          stay in the foreground, log to the terminal
  silmaril mount ~/models --peer 192.0.2.7:6881       a host that has the models
  silmaril mount ~/hub --layout hf                    for HF_HUB_CACHE=~/hub HF_HUB_OFFLINE=1";

/// Show all known models as a directory; reading a file fetches it
///
/// The command returns when the directory can be read. The daemon serves the mount and is started if it does not run.
/// Fetched data is kept in the cache and uploaded to other hosts.
///
/// A path such as ORG/NAME or ORG/NAME@REV need not be known: the first access asks the network, for at most
/// `mount.resolve_timeout`, so that `cat ~/models/acme/minilm/config.json` works. If no connected peer knows a path, it is
/// absent within a second and is not looked up again for a minute, later for longer, unless a record of it arrives;
/// `silmaril status` shows such paths. Listing a directory never asks the network. Since every name may be the name of an
/// organisation, every name is a directory, except the names in `mount.never_resolve`. `ls` shows only the organisations
/// of known models.
///
/// Reading a model does not pin its name to its publisher. A name that several publishers dispute cannot be read; the
/// path .by/FINGERPRINT/ORG/NAME is the model of one publisher, and `silmaril status` shows these paths.
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
    /// Let other users read the mount, too
    #[arg(long)]
    allow_other: bool,
    /// A host that has models; may be repeated
    #[arg(long = "peer", value_name = "IP:PORT")]
    peers: Vec<SocketAddr>,
    /// Show only known models: do not look unknown paths up on the network
    #[arg(long)]
    no_resolve: bool,
    /// How models are arranged: as org/name, or as the cache directory of the hub's clients, for HF_HUB_CACHE
    #[arg(long, value_enum, default_value_t = MountLayout::Plain)]
    layout: MountLayout,
    /// Hold the mount in this mount namespace and report on standard output when it is ready; used by `mount` itself
    #[arg(long, hide = true, conflicts_with = "foreground")]
    hold: bool,
}

impl Args {
    fn options(&self) -> ServeOptions {
        ServeOptions {
            allow_other: self.allow_other,
            resolve: !self.no_resolve,
            peers: self.peers.clone(),
            layout: self.layout,
        }
    }
}

/// Mounts. With `--foreground` or `--hold` it runs until the mount ends.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let config = context.config()?;
    // A bad mount point is reported before the daemon is started.
    let point = match crate::mount::prepare(&args.mountpoint) {
        // The daemon that serves the present mount may be about to end. `attach` checks again.
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
                context.out.note(if daemon.pid == std::process::id() {
                    format!("mounted on {shown}; its log is on standard error; Ctrl-C unmounts it")
                } else {
                    format!("mounted on {shown} by process {}; Ctrl-C unmounts it", daemon.pid)
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
    let quoted = shell_quoted(args.mountpoint.display());
    context.out.note(format_args!("unmount with: silmaril unmount {quoted}"));
    Ok(())
}

/// Mounts, and returns when the mount ends or a signal arrives.
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
        // `silmaril stop` ends the mount without an error.
        Err(error) if error.is_stopped() => Ok(()),
        done => done,
    }
}
