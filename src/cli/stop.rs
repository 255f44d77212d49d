//! `stop`: ends the daemon.

use crate::cli::connection::not_running;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::signals::StopSignals;
use crate::node::control::DaemonClient;

const EXAMPLES: &str = "\
Examples:
  silmaril stop";

/// End the daemon: unmount everything and stop all uploads
///
/// Returns when the daemon has ended. Reads that are still waiting in a mount fail. The next command that needs the daemon
/// starts it again; it then seeds the same models as before.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {}

/// Stops the daemon and waits for its end.
pub fn run(_args: &Args, context: &Context) -> Result<(), CommandError> {
    let paths = context.config()?.paths();
    context.block_on(async {
        let mut signals = StopSignals::new()?;
        let stopping = async {
            let (client, status) = DaemonClient::find(&paths).await?.ok_or_else(|| not_running(&paths))?;
            client.stop(status.pid, false).await?;
            Ok(status.pid)
        };
        let pid = signals.unless(stopping).await?;
        context.out.note(format_args!("stopped process {pid}"));
        Ok(())
    })
}
