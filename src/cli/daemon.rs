//! `daemon`: a node without a mount, for as long as it is wanted.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::{clean, count};
use crate::cli::session::with_node;
use crate::cli::status::not_running;
use crate::node::NodeOptions;
use crate::node::attached::Companion;
use crate::node::control::{Client, Seed, Status};
use crate::node::patience::LETS_GO_WITHIN;

/// What `status` says of it.
const ACTIVITY: &str = "daemon";
/// How often it is looked for while it takes another's place; there is nothing to be woken by.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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

/// Stops the daemon, wherever it is: where the node that it waits beside ends just now, it is about to host itself.
async fn stop(context: &Context) -> Result<(), CommandError> {
    let paths = context.config()?.paths();
    let mut lost: Option<Instant> = None;
    let pid = loop {
        match Client::find(&paths).await? {
            Some((client, status)) => match end(&client, &status).await {
                Err(error) if error.is_host_lost() => lost = lost.or(Some(Instant::now())),
                ended => break ended?,
            },
            None if lost.is_some() => {}
            None => return Err(not_running(&paths)),
        }
        if lost.is_some_and(|lost| lost.elapsed() >= LETS_GO_WITHIN) {
            return Err(not_running(&paths));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    context.out.note(format_args!("stopped process {pid}"));
    Ok(())
}

/// Ends the daemon that is the node, or waits beside it; tells which process it was.
async fn end(client: &Client, status: &Status) -> Result<u32, CommandError> {
    if status.activity == ACTIVITY {
        client.stop(status.pid).await?;
        return Ok(status.pid);
    }
    if status.attached.iter().any(|companion| companion.activity == ACTIVITY) {
        return Ok(client.detach(ACTIVITY).await?.pid);
    }
    let (pid, activity) = (status.pid, clean(&status.activity));
    Err(CommandError::failed(format!("process {pid} is no daemon but `silmaril {activity}`"))
        .hint("a mount ends with `silmaril unmount DIR`, everything else with Ctrl-C where it runs"))
}
