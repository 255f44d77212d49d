//! `mount`: serves the models as a directory until it is unmounted.
//!
//! In the foreground this process is the node. In the background [`super::ready`] starts the same command in a process
//! of its own and waits until that one says that it is ready.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::ready;
use crate::cli::signals::StopSignals;
use crate::config::Show;
use crate::mount::{MountOptions, Mounted};
use crate::node::{Node, NodeOptions};

/// What `status` says of a mount, before the mount point.
pub const ACTIVITY: &str = "mount ";

const EXAMPLES: &str = "\
Examples:
  mkdir -p ~/models && silmaril mount ~/models
  ls -l ~/models/acme/minilm                          known models are there; reading fetches them
  silmaril unmount ~/models
  silmaril mount -f ~/models                          stay in the foreground, log to the terminal
  silmaril mount ~/models --peer 192.0.2.7:6881       a host that has the models";

/// Show all known models as a directory; what is read is fetched
///
/// Returns when the directory can be read; a process in the background serves it. What is read is kept in the cache and
/// uploaded to others while the mount is there.
///
/// Other commands may run on the same base directory, before and after. One that works by itself leaves its work to
/// the mount (a share that is still hashing begins anew), and goes on by itself when the mount ends.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An empty directory
    pub mountpoint: PathBuf,
    /// Stay in the foreground until Ctrl-C
    #[arg(short, long)]
    pub foreground: bool,
    /// Let other users read it, too
    #[arg(long)]
    pub allow_other: bool,
    /// A host that has models; may be repeated
    #[arg(long = "peer", value_name = "IP:PORT")]
    pub peers: Vec<SocketAddr>,
    /// Serve in this process and say on standard output when ready: what the background process is started with
    #[arg(long, hide = true)]
    pub ready_on_stdout: bool,
}

/// Mounts in the background, or serves in the foreground.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    if args.ready_on_stdout {
        ready::in_background(|ready| serve(args, context, ready))
    } else if args.foreground {
        serve(args, context, |point| {
            context.out.note(format_args!("mounted on {}; Ctrl-C unmounts it", point.display()));
            Ok(())
        })
    } else {
        ready::start(args, context)
    }
}

/// Runs the node and its mount until a signal, an unmount or a request to stop. `ready` is called once models can be
/// read.
fn serve(
    args: &Args,
    context: &Context,
    ready: impl FnOnce(&Path) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let config = context.config()?;
    // Before anything is started: what is wrong with the directory is said at once.
    let point = crate::mount::prepare(&args.mountpoint)?;
    let options = NodeOptions {
        peers: args.peers.clone(),
        activity: format!("{ACTIVITY}{}", point.display()),
        mount: Some(point.clone()),
        ..NodeOptions::default()
    };
    context.block_on(async {
        let mut signals = StopSignals::new()?;
        let node = signals.unless(async { Ok(Node::start_or_take_over(config, options).await?) }).await?;
        let mount = MountOptions { mountpoint: point.clone(), allow_other: args.allow_other };
        let runtime = tokio::runtime::Handle::current();
        let fetch = node.fetch.clone();
        let mounted = match tokio::task::block_in_place(|| Mounted::new(&mount, fetch, runtime)) {
            Ok(mounted) => Arc::new(mounted),
            Err(error) => {
                signals.stopping(node.stop(), || ()).await;
                return Err(error.into());
            }
        };
        let result = attend(&node, &mounted, || ready(&mount.mountpoint), &mut signals).await;
        let stop = async {
            // Parked reads get their answers first, so that nothing holds the mount.
            node.fetch.stop();
            mounted.stop().await;
            node.stop().await;
        };
        // A process that ends hard leaves no dead mount behind: usually there is nothing left to unmount.
        let last = move || drop(crate::mount::unmount(&point, true));
        signals.stopping(stop, last).await;
        result
    })
}

/// Shows the models and waits for the end.
async fn attend(
    node: &Arc<Node>,
    mounted: &Arc<Mounted>,
    ready: impl FnOnce() -> Result<(), CommandError>,
    signals: &mut StopSignals,
) -> Result<(), CommandError> {
    match node.library.config.mount.show {
        Show::All => {}
        Show::Pinned => mounted.list_only(|revision| revision.manifest.signed_by().is_some()),
        Show::Local => mounted.list_only(|revision| revision.cached_bytes() > 0),
    }
    mounted.publish(node.library.shown()?);
    let shown = Arc::downgrade(mounted);
    node.on_change(move |node| {
        let Some(mounted) = shown.upgrade() else { return };
        match node.library.shown() {
            Ok(revisions) => mounted.publish(revisions),
            Err(error) => tracing::error!("the mount still shows the former models: {error}"),
        }
    });
    // What is here already is passed on, too.
    node.seed_local()?;
    ready()?;
    tokio::select! {
        stop = signals.wait() => stop.end_of_service(),
        () = mounted.gone() => Ok(()),
        () = node.stop_requested() => Ok(()),
    }
}
