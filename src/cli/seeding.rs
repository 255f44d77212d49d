//! Seeding: starting it, and showing it in the foreground.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::{Activity, count, size};
use crate::cli::session::Daemon;
use crate::cli::signals::StopSignals;
use crate::fetch::TransferStatus;
use crate::model::ModelRef;
use crate::node::NodeError;
use crate::node::control::{Seed, Seeded};

/// How long the first announcement of a shared model is waited for.
pub const ANNOUNCED_WITHIN: Duration = Duration::from_secs(5);

/// Has the daemon seed, prints the models and addresses, and warns when no announcement succeeded. `nothing` is the error
/// where no model is seeded.
pub async fn seed(
    context: &Context,
    daemon: &Daemon,
    what: &Seed,
    signals: &mut StopSignals,
    nothing: Option<CommandError>,
) -> Result<(), CommandError> {
    let out = &context.out;
    let client = &daemon.client;
    let Seeded { models, announced } = signals.unless(async { Ok(client.seed(what).await?) }).await?;
    if models.is_empty() {
        return Err(nothing.unwrap_or_else(|| {
            CommandError::failed("there is nothing here to share")
                .hint("`silmaril share DIR --name ORG/NAME --license ID` shares a directory")
        }));
    }
    for address in reachable(client.status().await?.listening) {
        out.line(format_args!("listening on {address}"))?;
    }
    for model in models {
        out.line(format_args!("seeding {model}"))?;
    }
    if !announced && what.announce_within > 0 {
        out.warn(format_args!(
            "not announced within {} s: no other silmaril and no DHT node is known yet; the daemon goes on trying",
            ANNOUNCED_WITHIN.as_secs()
        ));
    }
    Ok(())
}

/// Says that the daemon goes on seeding, and how that is ended.
pub fn explain(context: &Context, daemon: &Daemon, model: Option<&ModelRef>) {
    let what = if model.is_some() { "it" } else { "them" };
    context.out.note(format_args!(
        "process {} goes on seeding {what} in the background; `silmaril stop` ends that",
        daemon.pid
    ));
}

/// Shows how much is uploaded, until a signal or until the daemon ends.
pub async fn watch(
    context: &Context,
    daemon: &Daemon,
    signals: &mut StopSignals,
) -> Result<(), CommandError> {
    let out = &context.out;
    match daemon.pid == std::process::id() {
        true => out.note("Ctrl-C ends it"),
        false => out.note(format_args!("process {} does it; Ctrl-C leaves that one running", daemon.pid)),
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
                    // Of the moment, such as a shortage of descriptors: the models are still seeded.
                    Err(error) => {
                        tracing::warn!("the figures are not shown: {error}");
                        continue;
                    }
                    Ok(status) => status,
                };
                // A later daemon does not know what is to be seeded.
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
    line.say(format_args!("{peers}, sending {}/s, {} sent", size(rate), size(sent)));
}

/// The addresses that tell another host something; all where there are no others.
fn reachable(all: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let tells = |address: &&SocketAddr| match address.ip() {
        IpAddr::V4(ip) => !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let some: Vec<SocketAddr> = all.iter().filter(tells).copied().collect();
    if some.is_empty() { all } else { some }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_tell_others_nothing_are_left_out() {
        let parse = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let all = parse(&["127.0.0.1:1", "10.0.0.1:1", "[::1]:1", "[fe80::1]:1", "[2001:db8::1]:1"]);
        assert_eq!(reachable(all), parse(&["10.0.0.1:1", "[2001:db8::1]:1"]));
        assert_eq!(reachable(parse(&["127.0.0.1:1"])), parse(&["127.0.0.1:1"]));
    }
}
