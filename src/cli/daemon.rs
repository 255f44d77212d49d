//! `daemon`: a node without a mount, for as long as it is wanted.

use std::net::SocketAddr;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::{clean, count};
use crate::cli::session::with_node;
use crate::cli::status::not_running;
use crate::node::NodeOptions;
use crate::node::attached::Companion;
use crate::node::control::{Client, Seed};

/// What `status` says of it.
const ACTIVITY: &str = "daemon";

const EXAMPLES: &str = "\
Examples:
  silmaril daemon              upload what is here until Ctrl-C; get, share and verify use it meanwhile
  silmaril daemon --stop       from another terminal";

/// Run without a mount: upload what is here and serve the other commands
///
/// Runs until Ctrl-C. A mount does the same, and more: while there is one on the same base directory, or another
/// command at work, the daemon waits, and goes on when that ends.
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
        false => serve(args, context),
    }
}

fn serve(args: &Args, context: &Context) -> Result<(), CommandError> {
    let options =
        NodeOptions { peers: args.peers.clone(), activity: ACTIVITY.to_owned(), ..NodeOptions::default() };
    let all = Seed { model: None, peers: args.peers.clone(), right: false };
    with_node(context, context.config()?, options, async |host, signals| {
        let seeded = signals.unless(async { Ok(host.client.seed(&all).await?) }).await?.len() as u64;
        let this = std::process::id();
        let seeding = count(seeded, "model");
        if host.is_own() {
            context.out.line(format_args!("running (process {this}), seeding {seeding}"))?;
            context.out.note("Ctrl-C ends it");
            return tokio::select! {
                stop = signals.wait() => stop.end_of_service(),
                () = host.stop_requested() => Ok(()),
            };
        }
        let companion = Companion { pid: this, activity: ACTIVITY.to_owned() };
        let attending = host.client.attend(&companion);
        let at = host.pid;
        context
            .out
            .line(format_args!("running (process {this}) beside process {at}, which is seeding {seeding}"))?;
        context.out.note("Ctrl-C ends this one only");
        tokio::select! {
            stop = signals.wait() => stop.end_of_service(),
            asked = attending => Ok(asked?),
        }
    })
}

async fn stop(context: &Context) -> Result<(), CommandError> {
    let paths = context.config()?.paths();
    let (client, status) = Client::find(&paths).await?.ok_or_else(|| not_running(&paths))?;
    let pid = if status.activity == ACTIVITY {
        client.stop(status.pid).await?;
        status.pid
    } else if status.attached.iter().any(|companion| companion.activity == ACTIVITY) {
        client.detach(ACTIVITY).await?.pid
    } else {
        return Err(CommandError::failed(format!(
            "process {} is no daemon but `silmaril {}`",
            status.pid,
            clean(&status.activity)
        ))
        .hint("a mount ends with `silmaril unmount DIR`, everything else with Ctrl-C where it runs"));
    };
    context.out.note(format_args!("stopped process {pid}"));
    Ok(())
}
