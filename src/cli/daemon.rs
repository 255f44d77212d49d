//! `daemon`: a node without a mount, for as long as it is wanted.

use std::net::SocketAddr;
use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::{clean, count};
use crate::cli::signals::StopSignals;
use crate::cli::status::not_running;
use crate::node::control::Client;
use crate::node::{Node, NodeOptions};

/// What `status` says of it.
const ACTIVITY: &str = "daemon";
/// How long it may take to stop: more than its own deadlines add up to.
const STOP_WITHIN: Duration = Duration::from_secs(40);

const EXAMPLES: &str = "\
Examples:
  silmaril daemon              upload what is here until Ctrl-C; get, share and verify use it meanwhile
  silmaril daemon --stop       from another terminal";

/// Run without a mount: upload what is here and serve the other commands
///
/// Runs until Ctrl-C. A mount does the same, and more. A directory cannot be mounted while a daemon runs: stop it first, or mount instead of it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A host that has models; may be repeated
    #[arg(long = "peer", value_name = "IP:PORT", conflicts_with = "stop")]
    peers: Vec<SocketAddr>,
    /// End the daemon that runs
    #[arg(long)]
    stop: bool,
}

/// Runs until it is stopped, or stops the one that runs.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    match args.stop {
        true => context.block_on(stop(context)),
        false => context.block_on(serve(args, context)),
    }
}

async fn serve(args: &Args, context: &Context) -> Result<(), CommandError> {
    let mut signals = StopSignals::new()?;
    let options =
        NodeOptions { peers: args.peers.clone(), activity: ACTIVITY.to_owned(), ..NodeOptions::default() };
    let config = context.config()?;
    let node = signals.unless(async { Ok(Node::start(config, options).await?) }).await?;
    let result = attend(context, &node, &mut signals).await;
    signals.stopping(node.stop(), || ()).await;
    result
}

async fn attend(context: &Context, node: &Node, signals: &mut StopSignals) -> Result<(), CommandError> {
    let seeded = node.seed_local()?.len() as u64;
    context.out.line(format_args!(
        "running (process {}), seeding {}",
        std::process::id(),
        count(seeded, "model")
    ))?;
    context.out.note("Ctrl-C ends it");
    tokio::select! {
        stop = signals.wait() => stop.end_of_service(),
        () = node.stop_requested() => Ok(()),
    }
}

async fn stop(context: &Context) -> Result<(), CommandError> {
    let paths = context.config()?.paths();
    let client = Client::connect(&paths).await?.ok_or_else(|| not_running(&paths))?;
    let status = client.status().await?;
    if status.activity != ACTIVITY {
        return Err(CommandError::failed(format!(
            "process {} is no daemon but `silmaril {}`",
            status.pid,
            clean(&status.activity)
        ))
        .hint("a mount ends with `silmaril unmount DIR`, everything else with Ctrl-C where it runs"));
    }
    client.stop(STOP_WITHIN).await?;
    context.out.note(format_args!("stopped process {}", status.pid));
    Ok(())
}
