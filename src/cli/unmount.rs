//! `unmount`: ends a mount and the process that serves it.

use std::path::{Path, PathBuf};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::mount::ACTIVITY;
use crate::mount::{self, MountError};
use crate::node::NodeError;
use crate::node::control::Client;
use crate::node::lock::NodeLock;
use crate::paths::Paths;

const EXAMPLES: &str = "\
Examples:
  silmaril unmount ~/models";

/// End a mount, also one whose process has died
///
/// Returns when the process that served it has let go of the base directory. Programs that still read get errors.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The directory that was mounted on
    mountpoint: PathBuf,
}

/// Stops the node that serves the mount; a mount of no node that is reachable is taken down from here.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let point = mount::resolve(&args.mountpoint)?;
    let paths = context.config()?.paths();
    let was_mounted = is_mounted(&point)?;
    let stopped = context.block_on(stop(&paths, &point))?;
    // One that ended by itself meanwhile may have taken its mount with it, or left it dead.
    let gone = stopped || was_mounted;
    if is_mounted(&point)? || !gone {
        match detach(&point) {
            Err(MountError::NotMounted(_)) if gone => {}
            detached => detached?,
        }
    }
    context.out.note(format_args!("unmounted {}", point.display()));
    Ok(())
}

fn is_mounted(point: &Path) -> Result<bool, CommandError> {
    Ok(mount::list_mounts()?.iter().any(|record| record.mountpoint == point))
}

/// Stops the node that serves the mount, and waits for one that ends already; tells whether there was one.
async fn stop(paths: &Paths, point: &Path) -> Result<bool, CommandError> {
    let Some(client) = Client::connect(paths).await? else { return Ok(false) };
    let holder = NodeLock::holder(paths);
    match (client.status().await, holder) {
        (Ok(status), _) => {
            let served = status.activity.strip_prefix(ACTIVITY).map(Path::new);
            if served == Some(point) {
                client.stop(status.pid).await?;
            }
            Ok(served == Some(point))
        }
        (Err(NodeError::HostLost), Some(pid)) => {
            client.gone(&pid).await?;
            Ok(false)
        }
        (Err(NodeError::HostLost), None) => Ok(false),
        (Err(e), _) => Err(e.into()),
    }
}

fn detach(point: &Path) -> Result<(), MountError> {
    match mount::unmount(point, false) {
        Err(MountError::InUse(_)) => mount::unmount(point, true),
        result => result,
    }
}
