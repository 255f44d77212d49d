//! Seeding in the foreground, until a signal or a request to stop.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::{Activity, count, size};
use crate::cli::session::Host;
use crate::cli::signals::StopSignals;
use crate::fetch::TransferStatus;
use crate::node::NodeError;
use crate::node::control::Seed;

/// Has the node seed, prints the models and addresses, then waits for a signal or for a request to stop. `nothing` is the
/// error where no model is seeded.
pub async fn seed_until_stopped(
    context: &Context,
    host: &Host,
    what: &Seed,
    signals: &mut StopSignals,
    nothing: Option<CommandError>,
) -> Result<(), CommandError> {
    let out = &context.out;
    let client = &host.client;
    let seeded = signals.unless(async { Ok(client.seed(what).await?) }).await?;
    if seeded.is_empty() {
        return Err(nothing.unwrap_or_else(|| {
            CommandError::failed("there is nothing here to share")
                .hint("`silmaril share DIR --name ORG/NAME --license ID` shares a directory")
        }));
    }
    for address in reachable(client.status().await?.listening) {
        out.line(format_args!("listening on {address}"))?;
    }
    for model in seeded {
        out.line(format_args!("seeding {model}"))?;
    }
    if host.is_own() {
        out.note("Ctrl-C ends it");
    } else {
        out.note(format_args!("process {} does it; Ctrl-C leaves that one running", host.pid));
    }
    let line = out.activity("");
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            stop = signals.wait() => return stop.end_of_service(),
            () = host.stop_requested() => return Ok(()),
            status = async { clock.tick().await; client.status().await } => {
                let status = match status {
                    Err(NodeError::HostLost) => return Err(NodeError::HostLost.into()),
                    // Of the moment, such as a shortage of descriptors: the models are still seeded.
                    Err(error) => {
                        tracing::warn!("the figures are not shown: {error}");
                        continue;
                    }
                    Ok(status) => status,
                };
                // Another took its place since the last look, and does not know what is to be seeded.
                if status.pid != host.pid {
                    return Err(NodeError::HostLost.into());
                }
                say(&line, &status.transfers);
            }
        }
    }
}

fn say(line: &Activity, transfers: &[TransferStatus]) {
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
