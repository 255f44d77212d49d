//! `unmount`: ends a mount through the daemon, or without it.

use std::path::{Path, PathBuf};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::mount::{self, MountError, Namespaces};
use crate::node::NodeError;
use crate::node::control::DaemonClient;
use crate::node::mounts::UnmountRequest;
use crate::paths::Paths;

const EXAMPLES: &str = "\
Examples:
  silmaril unmount ~/models";

/// End a mount, even if its process has died
///
/// The daemon continues to seed the models that were read. Reads that are still waiting fail.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The directory that is the mount point
    mountpoint: PathBuf,
}

/// Has the daemon end the mount. Unmounts from this process if no daemon serves the mount.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let point = mount::resolve_mounted(&args.mountpoint)?;
    let paths = context.config()?.paths();
    let was_mounted = is_mounted(&point)?;
    let ended = context.block_on(end(&paths, &point))?;
    // A daemon that ended in the meantime may have unmounted, or may have left a dead mount.
    let existed = ended || was_mounted;
    if is_mounted(&point)? || !existed {
        match detach(&point) {
            Err(MountError::NotMounted(_)) if existed => {}
            detached => detached?,
        }
    }
    context.out.note(format_args!("unmounted {}", point.display()));
    Ok(())
}

fn is_mounted(point: &Path) -> Result<bool, CommandError> {
    Ok(mount::list_mounts()?.iter().any(|record| record.mountpoint == point))
}

/// Has the daemon end the mount. Returns whether the daemon served it.
async fn end(paths: &Paths, point: &Path) -> Result<bool, CommandError> {
    let Some(client) = DaemonClient::connect(paths).await? else { return Ok(false) };
    let namespaces = Namespaces::of_this_process().map_err(CommandError::internal)?;
    match client.unmount(&UnmountRequest { path: point.to_owned(), namespaces }).await {
        Err(NodeError::HostLost | NodeError::Stopped) => Ok(false),
        ended => Ok(ended?),
    }
}

fn detach(point: &Path) -> Result<(), MountError> {
    match mount::unmount(point, false) {
        Err(MountError::InUse(_)) => mount::unmount(point, true),
        result => result,
    }
}
