//! `daemon`: the process that seeds, mounts and fetches.

use std::net::SocketAddr;

use crate::cli::background;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::format::count;
use crate::cli::{hosting::run_daemon, session::with_daemon};
use crate::node::NodeOptions;
use crate::node::control::Seed;

const EXAMPLES: &str = "\
Examples:
  silmaril daemon                  seed the local models in the background
  silmaril stop                    end the daemon
  silmaril daemon --foreground     for a container or a service manager";

/// Run the daemon, which seeds the local models and does the work of the other commands
///
/// Every command that needs the daemon starts it; this command is for machines that only seed. The daemon runs in the
/// background until `silmaril stop`, or until it has had nothing to seed, serve or mount for `daemon.idle_timeout`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A host that has models; may be repeated
    #[arg(long = "peer", value_name = "IP:PORT")]
    peers: Vec<SocketAddr>,
    /// Stay in the foreground until Ctrl-C, even without work, and log to standard error
    #[arg(short, long)]
    foreground: bool,
    /// Run the daemon in this process and report on standard output when it is ready; used by commands that start it
    #[arg(long, hide = true, conflicts_with = "foreground")]
    ready_on_stdout: bool,
}

/// Starts the daemon in the background, or runs it in this process.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let options = NodeOptions { peers: args.peers.clone() };
    let this = std::process::id();
    if args.ready_on_stdout {
        let idle = Some(context.config()?.daemon.idle_timeout);
        return background::serve(|ready| run_daemon(context, options, idle, |_| ready()));
    }
    if args.foreground {
        return run_daemon(context, options, None, |seeded| {
            let seeding = count(seeded as u64, "model");
            context.out.line(format_args!("running (process {this}), seeding {seeding}"))?;
            context.out.note("Ctrl-C ends it");
            Ok(())
        });
    }
    let all = Seed { peers: args.peers.clone(), ..Seed::default() };
    let (pid, seeded) = with_daemon(context, async |daemon, signals| {
        let seeded = signals.unless(async { Ok(daemon.client.seed(&all).await?) }).await?;
        Ok((daemon.pid, seeded.models.len()))
    })?;
    let seeding = count(seeded as u64, "model");
    context.out.line(format_args!("running (process {pid}), seeding {seeding}"))?;
    context.out.note("`silmaril stop` ends it");
    Ok(())
}
