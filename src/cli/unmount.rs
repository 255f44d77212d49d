//! `unmount`: ends a mount and the process that serves it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::mount::ACTIVITY;
use crate::mount::{self, MountError};
use crate::node::control::Client;

/// How long the process may take to stop: more than its own deadlines add up to.
const STOP_WITHIN: Duration = Duration::from_secs(40);

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
    let stopped = context.block_on(async {
        let client = Client::connect(&paths).await?;
        if let Some(client) = client {
            let activity = client.status().await?.activity;
            if activity.strip_prefix(ACTIVITY).is_some_and(|served| Path::new(served) == point) {
                client.stop(STOP_WITHIN).await?;
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    let mounted = mount::list_mounts()?.iter().any(|record| record.mountpoint == point);
    if mounted || !stopped {
        detach(&point)?;
    }
    context.out.note(format_args!("unmounted {}", point.display()));
    Ok(())
}

fn detach(point: &Path) -> Result<(), CommandError> {
    match mount::unmount(point, false) {
        Err(MountError::InUse(_)) => Ok(mount::unmount(point, true)?),
        result => Ok(result?),
    }
}
