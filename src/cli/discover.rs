//! `discover`: what others share.

use std::net::SocketAddr;
use std::time::Duration;

use crate::catalog::Query;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::{Activity, clean, count, size};
use crate::cli::session::with_daemon;
use crate::cli::table::{number, text};
use crate::model::text::parse_time;
use crate::node::discover::{DiscoverProgress, DiscoverRequest, Discovered, MAX_WITHIN, SharedModel};
use crate::trust::Standing;

const EXAMPLES: &str = "\
Examples:
  silmaril discover                            all that others share
  silmaril discover llama                      names that contain it
  silmaril discover 'mistralai/*' 'size<20GB'  by pattern and size; all terms must hold
  silmaril discover tag:code license:mit publisher:x7k2-9fqa
  silmaril discover llama --json | jq -r '.[] | select(.seeds > 0) | .name'

Terms:
  llama 'mistralai/*'        part of a name, or a pattern with * and ?
  tag:TAG license:ID         what the model card says
  publisher:KEY              key or fingerprint, or how it begins
  size<SIZE                  also <=, > and >=; bytes or a unit, such as 20GB

Trust, as `silmaril trust` decides it:
  pinned      the name is theirs here
  listed      you trust them
  own         your key
  new         nothing is known of them
  refused     the name is somebody else's here, or only listed publishers are accepted
  contested   others publish different files under the same name

Exit codes: 0 also where nothing matches; 1 when nobody could be asked and nothing was known here";

/// Find models that others share
///
/// Asks the nodes of the network, and shows what they and this one know: results appear as they come, and as a table at
/// the end. Ends when everybody who could be asked has answered, at the latest after the timeout. Uses the running
/// silmaril, or joins the network for as long as it takes. With --json it prints one array at the end.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What to look for; several terms must all hold [default: everything]
    #[arg(value_name = "PATTERN")]
    terms: Vec<String>,
    /// How long to look: seconds, or a time such as 2min
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
    match time < SHORTEST || time > MAX_WITHIN {
        true => Err("it is not between 1ms and 1h".to_owned()),
        false => Ok(time),
    }
}

/// The shortest time to look: requests count in milliseconds.
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
        let line = context.out.activity("looking for others");
        let discovering = daemon.client.discover(&request, |progress| show(&line, &progress));
        signals.unless(async { Ok(discovering.await?) }).await
    })?;
    if found.models.is_empty() && found.catalog.peers == 0 {
        return Err(nobody(&found));
    }
    if found.more {
        context.out.warn(format_args!("only the first {} are shown; look for less", found.models.len()));
    }
    if args.json {
        return context.out.json(&found.models);
    }
    print(context, &found)
}

fn show(line: &Activity, progress: &DiscoverProgress) {
    let found = count(progress.found as u64, "model");
    match &progress.latest {
        Some(latest) => line.say(format_args!("{found}: {latest}")),
        None => line.say("looking for others"),
    }
}

fn nobody(found: &Discovered) -> CommandError {
    if found.offline {
        return CommandError::failed(
            "no network: no interface of this machine is up but loopback, and nothing that fits is known here",
        )
        .hint("connect this machine, or name a host to ask with `--peer IP:PORT`");
    }
    let through = match found.dht {
        true => format!(" ({} known)", count(found.catalog.dht_nodes.into(), "DHT node")),
        false => " (the DHT is not used)".to_owned(),
    };
    CommandError::failed(format!("no other silmaril was reached{through}, and nothing that fits is known here"))
        .hint("a longer --timeout helps on a slow network; `--peer IP:PORT` names a host; `silmaril doctor` looks for the cause")
}

fn print(context: &Context, found: &Discovered) -> Result<(), CommandError> {
    let asked = count(found.catalog.peers as u64, "peer");
    if found.models.is_empty() {
        context.out.note(format_args!("nothing found; {asked} answered or had time to"));
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
    match found.offline {
        true => context.out.note("no network: this is what was known here"),
        false if found.catalog.peers == 0 => {
            context.out.note("no other silmaril was reached: this is what was known here");
        }
        false => {}
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
