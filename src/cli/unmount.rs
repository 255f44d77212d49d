//! `unmount`: ends a mount.

use std::path::{Path, PathBuf};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::mount::{self, MountError, Namespaces};
use crate::node::NodeError;
use crate::node::control::Client;
use crate::node::mounts::UnmountRequest;
use crate::paths::Paths;

const EXAMPLES: &str = "\
Examples:
  silmaril unmount ~/models";

/// End a mount, also one whose process has died
///
/// The daemon goes on: it seeds what was read. Programs that still read get errors.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The directory that was mounted on
    mountpoint: PathBuf,
}

/// Has the daemon end the mount; a mount of no daemon that is reachable is taken down from here.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let point = mount::resolve(&args.mountpoint)?;
    let paths = context.config()?.paths();
    let was_mounted = is_mounted(&point)?;
    let ended = context.block_on(end(&paths, &point))?;
    // One that ended by itself meanwhile may have taken its mount with it, or left it dead.
    let gone = ended || was_mounted;
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

/// Has the daemon end the mount; returns whether it served one there.
async fn end(paths: &Paths, point: &Path) -> Result<bool, CommandError> {
    let Some(client) = Client::connect(paths).await? else { return Ok(false) };
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
