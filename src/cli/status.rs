//! `status`: shows the work of the daemon.

mod lines;

use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use tokio::time::Instant;

use crate::cli::connection::{not_running, report_former_config};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::terminal_width;
use crate::cli::signals::StopSignals;
use crate::node::control::{DaemonClient, Status};

/// Interval at which `--watch` requests the status.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Time for which `--watch` waits for a new daemon after the daemon has ended.
const NEXT_WITHIN: Duration = Duration::from_secs(15);

const EXAMPLES: &str = "\
Examples:
  silmaril status
  silmaril status --watch
  silmaril status --json | jq '.transfers[] | {model, cached_bytes, peers}'";

/// Show the work of the daemon: mounts, transfers, peers, errors
///
/// Fails with exit code 1 if no daemon runs.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show the status every second until Ctrl-C
    #[arg(long)]
    watch: bool,
}

pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let config = context.config()?;
    let paths = config.paths();
    context.block_on(async {
        let mut signals = StopSignals::new()?;
        let mut clock = tokio::time::interval_at(Instant::now() + WATCH_EVERY, WATCH_EVERY);
        let mut shown: Option<Instant> = None;
        loop {
            match DaemonClient::find(&paths).await? {
                Some((_, status)) => {
                    show(args, context, &status)?;
                    if shown.replace(Instant::now()).is_none() {
                        report_former_config(context, &config, status.pid, status.config.as_deref());
                    }
                }
                // Another daemon may be about to start.
                None if shown.is_some_and(|shown| shown.elapsed() < NEXT_WITHIN) => {}
                None => return Err(not_running(&paths)),
            }
            if !args.watch {
                return Ok(());
            }
            tokio::select! {
                _ = clock.tick() => {}
                stop = signals.wait() => return stop.end_of_service(),
            }
        }
    })
}

fn show(args: &Args, context: &Context, status: &Status) -> Result<(), CommandError> {
    if args.watch && stdout().is_terminal() {
        // Moves the cursor to the top left corner, then clears the screen.
        context.out.bytes(b"\x1b[H\x1b[J")?;
    }
    if args.json {
        return context.out.json(status);
    }
    lines::of(status, terminal_width()).iter().try_for_each(|line| context.out.line(line))
}
