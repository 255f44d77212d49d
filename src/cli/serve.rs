//! `serve`: the endpoint that programs use in place of the hub.

use std::net::SocketAddr;

use crate::cli::connection::not_running;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::session::with_daemon;
use crate::config::listen_address;
use crate::node::control::DaemonClient;
use crate::node::endpoint::ServeRequest;

const EXAMPLES: &str = "\
Examples:
  silmaril serve                                     on 127.0.0.1:8910, until `silmaril stop`
  eval \"$(silmaril env)\"                             this shell uses it
  hf download acme/minilm                            any program that reads models of the hub
  silmaril serve --listen 0.0.0.0:8910               for other hosts; needs serve.token in the configuration
  silmaril serve --stop";

/// Serve models to programs that read them from the hub
///
/// Programs that honour HF_ENDPOINT (transformers, vLLM, llama.cpp, `hf download` and more) then read models from the
/// swarm: each file is fetched when a program asks for it, streamed as it is verified, cached, and uploaded to other hosts.
/// Names are found as in a mount. The daemon serves the endpoint until it ends; with `serve.listen` in the configuration it
/// does so whenever it runs.
///
/// All users of this machine reach the endpoint on 127.0.0.1. Gated, private and other withheld models are served only to a
/// client whose own token (HF_TOKEN) the hub accepts for that model. An address that other hosts reach needs `serve.token`
/// or --open.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where to listen; port 0 is any free port [default: serve.listen, or 127.0.0.1:8910]
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Serve every host that reaches the address, without a token
    #[arg(long)]
    open: bool,
    /// End the endpoint
    #[arg(long, conflicts_with_all = ["listen", "open"])]
    stop: bool,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    listen_address(text).ok_or_else(|| "not an address and port such as 127.0.0.1:8910".to_owned())
}

/// Has the daemon serve the endpoint, or end it.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    if args.stop {
        return stop(context);
    }
    let request = ServeRequest { listen: args.listen, open: args.open };
    let (status, pid) = with_daemon(context, async |daemon, signals| {
        let status = signals.unless(async { Ok(daemon.client.serve(&request).await?) }).await?;
        Ok((status, daemon.pid))
    })?;
    context.out.line(format_args!("serving {} (process {pid})", status.url))?;
    context.out.note("use it in this shell: eval \"$(silmaril env)\"");
    Ok(())
}

fn stop(context: &Context) -> Result<(), CommandError> {
    let paths = context.config()?.paths();
    context.block_on(async {
        let client = DaemonClient::connect(&paths).await?.ok_or_else(|| not_running(&paths))?;
        let was_serving = client.stop_serving().await?;
        context.out.note(if was_serving { "the endpoint has ended" } else { "no endpoint was served" });
        Ok(())
    })
}
