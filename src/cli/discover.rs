//! `discover`: searches the network for models that other hosts share.

use std::net::SocketAddr;
use std::time::Duration;

use crate::catalog::Query;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::format::{clean, count, size};
use crate::cli::output::Activity;
use crate::cli::session::with_daemon;
use crate::cli::table::{number, text};
use crate::model::text::parse_time;
use crate::node::discover::{DiscoverProgress, DiscoverRequest, Discovered, MAX_WITHIN, SharedModel};
use crate::trust::Standing;

const EXAMPLES: &str = "\
Examples:
  silmaril discover                            all models that other hosts share
  silmaril discover llama                      names that contain it
  silmaril discover 'mistralai/*' 'size<20GB'  by pattern and size; all terms must hold
  silmaril discover tag:code license:mit publisher:x7k2-9fqa
  silmaril discover llama --json | jq -r '.[] | select(.seeds > 0) | .name'

Terms:
  llama 'mistralai/*'        part of a name, or a pattern with * and ?
  tag:TAG license:ID         tag or licence of the model card
  publisher:KEY              key or fingerprint, or its first characters
  size<SIZE                  also <=, > and >=; bytes or a unit, such as 20GB

Trust in the publisher (see `silmaril trust`):
  pinned      the name belongs to this publisher
  listed      you trust this publisher
  own         your key
  new         the publisher is not known yet
  refused     the name belongs to another publisher, or only listed publishers are accepted
  contested   several publishers have different files under the same name

Exit codes: 0, even if no model matches; 1 if no peer was reached and no known model matches";

/// Find models that other hosts share
///
/// Asks the peers of the network. Results appear while the answers arrive, and as a table at the end. Ends when every
/// peer that was reached has answered, at the latest after the timeout. The daemon does the search and is started if
/// it does not run. With --json the command prints one array at the end.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to look for; several terms must all hold [default: everything]
    #[arg(value_name = "PATTERN")]
    terms: Vec<String>,
    /// How long to search: seconds, or a time such as 2min
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = timeout)]
    timeout: Duration,
    /// A host to ask; may be repeated
    #[arg(long = "peer", value_name = "IP:PORT")]
    peers: Vec<SocketAddr>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn timeout(text: &str) -> Result<Duration, String> {
    let time = parse_time(text).map_err(|e| e.to_string())?;
    if time < SHORTEST || time > MAX_WITHIN {
        return Err("it is not between 1ms and 1h".to_owned());
    }
    Ok(time)
}

/// Shortest time of a search: requests count in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

/// Searches and prints.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let query: Query = args.terms.join(" ").parse().map_err(CommandError::usage)?;
    let request = DiscoverRequest {
        query: query.as_str().to_owned(),
        within: u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX),
        peers: args.peers.clone(),
    };
    let found = with_daemon(context, async |daemon, signals| {
        let line = context.out.activity("looking for peers");
        let discovering = daemon.client.discover(&request, |progress| show(&line, &progress));
        signals.unless(async { Ok(discovering.await?) }).await
    })?;
    if found.models.is_empty() && found.catalog.peers == 0 {
        return Err(no_peer_reached(&found));
    }
    if found.more {
        context.out.warn(format_args!(
            "only the first {} models are shown; add terms to narrow the search",
            found.models.len()
        ));
    }
    if args.json {
        return context.out.json(&found.models);
    }
    print(context, &found)
}

fn show(line: &Activity, progress: &DiscoverProgress) {
    let found = count(progress.found as u64, "model");
    match &progress.latest {
        Some(latest) => line.set_text(format_args!("{found}: {latest}")),
        None => line.set_text("looking for peers"),
    }
}

fn no_peer_reached(found: &Discovered) -> CommandError {
    if found.offline {
        return CommandError::failed(
            "no network: no interface of this machine is up but loopback, and no known model matches",
        )
        .hint("connect this machine, or name a host to ask with `--peer IP:PORT`");
    }
    let dht = if found.dht {
        format!("{} known", count(found.catalog.dht_nodes.into(), "DHT node"))
    } else {
        "the DHT is not used".to_owned()
    };
    CommandError::failed(format!("no other silmaril was reached ({dht}), and no known model matches"))
        .hint("try a longer --timeout on a slow network, name a host with `--peer IP:PORT`, or run `silmaril doctor` to find the cause")
}

fn print(context: &Context, found: &Discovered) -> Result<(), CommandError> {
    let asked = count(found.catalog.peers as u64, "peer");
    if found.models.is_empty() {
        context.out.note(format_args!("nothing found; {asked} had time to answer"));
        return Ok(());
    }
    let columns = [
        text("MODEL"),
        number("SIZE"),
        number("SEEDS"),
        text("TRUST"),
        text("PUBLISHER"),
        text("LICENCE"),
        number("FILES"),
    ];
    context.out.table(&columns, &found.models.iter().map(row).collect::<Vec<_>>())?;
    if found.offline {
        context.out.note("no network: only models that were known before are shown");
    } else if found.catalog.peers == 0 {
        context.out.note("no other silmaril was reached: only models that were known before are shown");
    }
    Ok(())
}

fn row(model: &SharedModel) -> Vec<String> {
    let mut trust = match model.trust {
        Standing::Pinned => "pinned",
        Standing::Listed => "listed",
        Standing::Own => "own",
        Standing::Unknown => "new",
        Standing::Refused => "refused",
    }
    .to_owned();
    if model.contested {
        trust.push_str(", contested");
    }
    vec![
        model.model.to_string(),
        size(model.total_size),
        model.seeds.to_string(),
        trust,
        match &model.alias {
            Some(alias) => clean(&format!("{alias} ({})", model.fingerprint)),
            None => model.fingerprint.clone(),
        },
        clean(model.license.as_deref().unwrap_or("-")),
        model.files.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_bounded() {
        assert_eq!(timeout("15s"), Ok(Duration::from_secs(15)));
        assert_eq!(timeout("2"), Ok(Duration::from_secs(2)));
        for bad in ["0", "0s", "1ns", "2h", "3601", "-1s", "soon"] {
            assert!(timeout(bad).is_err(), "{bad}");
        }
    }
}
