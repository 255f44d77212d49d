//! Starts seeding, and shows it in the foreground.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::cli::connection::Daemon;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::format::{count, size};
use crate::cli::output::Activity;
use crate::cli::signals::StopSignals;
use crate::fetch::TransferStatus;
use crate::model::ModelRef;
use crate::node::NodeError;
use crate::node::control::{Seed, Seeded};

/// Time within which the first announcement of a shared model must succeed; after that the command warns.
pub const ANNOUNCED_WITHIN: Duration = Duration::from_secs(5);

/// Has the daemon seed, and prints the models and addresses. Warns if no announcement succeeded. `nothing` is the error
/// if no model is seeded.
pub async fn seed(
    context: &Context,
    daemon: &Daemon,
    request: &Seed,
    signals: &mut StopSignals,
    nothing: Option<CommandError>,
) -> Result<(), CommandError> {
    let out = &context.out;
    let client = &daemon.client;
    let Seeded { models, announced } = signals.unless(async { Ok(client.seed(request).await?) }).await?;
    if models.is_empty() {
        return Err(nothing.unwrap_or_else(|| {
            CommandError::failed("there is no model to share")
                .hint("`silmaril share DIR --name ORG/NAME --license ID` shares a directory")
        }));
    }
    for address in reachable(client.status().await?.listening) {
        out.line(format_args!("listening on {address}"))?;
    }
    for model in models {
        out.line(format_args!("seeding {model}"))?;
    }
    if !announced && request.announce_within > 0 {
        out.warn(format_args!(
            "not announced within {} s: no other silmaril and no DHT node is known yet; the daemon keeps trying",
            ANNOUNCED_WITHIN.as_secs()
        ));
    }
    Ok(())
}

/// Prints that the daemon continues to seed, and how to stop it.
pub fn explain(context: &Context, daemon: &Daemon, model: Option<&ModelRef>) {
    let what = if model.is_some() { "it" } else { "them" };
    context.out.note(format_args!(
        "process {} continues to seed {what} in the background; `silmaril stop` ends it",
        daemon.pid
    ));
}

/// Shows the upload rate, until a signal arrives or the daemon ends.
pub async fn watch(
    context: &Context,
    daemon: &Daemon,
    signals: &mut StopSignals,
) -> Result<(), CommandError> {
    let out = &context.out;
    if daemon.pid == std::process::id() {
        out.note("Ctrl-C ends it");
    } else {
        out.note(format_args!("process {} seeds; Ctrl-C ends only this command", daemon.pid));
    }
    let line = out.activity("");
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            stop = signals.wait() => return stop.end_of_service(),
            status = async { clock.tick().await; daemon.client.status().await } => {
                let status = match status {
                    Err(NodeError::Stopped) => return Ok(()),
                    Err(NodeError::HostLost) => return Err(NodeError::HostLost.into()),
                    // A temporary failure, such as a lack of descriptors. The models are still seeded.
                    Err(error) => {
                        tracing::warn!(%error, "could not get the status of the daemon");
                        continue;
                    }
                    Ok(status) => status,
                };
                // A new daemon has not received the request to seed.
                if status.pid != daemon.pid {
                    return Err(NodeError::HostLost.into());
                }
                show(&line, &status.transfers);
            }
        }
    }
}

fn show(line: &Activity, transfers: &[TransferStatus]) {
    let peers: u32 = transfers.iter().map(|t| t.peers).sum();
    let rate = transfers.iter().map(|t| t.upload_rate).sum();
    let sent = transfers.iter().map(|t| t.uploaded).sum();
    let peers = count(peers.into(), "peer");
    line.set_text(format_args!("{peers}, sending {}/s, {} sent", size(rate), size(sent)));
}

/// The addresses that other hosts can use: neither loopback nor link-local. All addresses if there is no such address.
fn reachable(all: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_reachable = |address: &&SocketAddr| match address.ip() {
        IpAddr::V4(ip) => !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let reachable: Vec<SocketAddr> = all.iter().filter(is_reachable).copied().collect();
    if reachable.is_empty() { all } else { reachable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreachable_addresses_are_left_out() {
        let parse = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let all = parse(&["127.0.0.1:1", "10.0.0.1:1", "[::1]:1", "[fe80::1]:1", "[2001:db8::1]:1"]);
        assert_eq!(reachable(all), parse(&["10.0.0.1:1", "[2001:db8::1]:1"]));
        assert_eq!(reachable(parse(&["127.0.0.1:1"])), parse(&["127.0.0.1:1"]));
    }
}
