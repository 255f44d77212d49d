//! `share`: makes a model of a directory, and seeds.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::cli::context::{Context, absolute};
use crate::cli::error::CommandError;
use crate::cli::output::{Activity, count, size};
use crate::cli::session::{Host, with_node};
use crate::cli::signals::StopSignals;
use crate::cli::target::{self, Target};
use crate::config::Config;
use crate::fetch::TransferStatus;
use crate::model::describe::DescribeError;
use crate::model::scan::{OutsideLinks, outside_links};
use crate::model::text::parse_size;
use crate::model::web_seed::WebSeed;
use crate::model::{Manifest, ModelName, ModelRef, Revision, is_piece_length};
use crate::node::control::Seed;
use crate::node::share::ShareRequest;
use crate::node::{NodeError, NodeOptions};

const EXAMPLES: &str = "\
Examples:
  silmaril share ./minilm --name acme/minilm --license apache-2.0
  silmaril share ./minilm --name acme/minilm --web-seed https://files.example/minilm/
  silmaril share acme/minilm      seed a model that is known already
  silmaril share --all            seed all of which something is here
  silmaril registry export acme/minilm > minilm.json    what others import to read it";

/// Share a model: make one of a directory, then upload it until Ctrl-C
///
/// The files are read where they are: nothing is copied, nothing in the directory is changed. Whoever shares the same
/// files joins the same swarm. While a mount, another share or a daemon runs on the same base directory, that process
/// hashes and uploads: Ctrl-C here then ends only this command, and what was shared is uploaded as long as the other
/// runs; if the other ends first, this command goes on by itself.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A directory (with --name), or a model that is known here, as ORG/NAME or ORG/NAME@REVISION
    #[arg(value_name = "PATH|MODEL", required_unless_present = "all")]
    what: Option<String>,
    /// Share every model of which something is here
    #[arg(long, conflicts_with_all = ["what", "name"])]
    all: bool,
    /// The name to share a directory under
    #[arg(long, value_name = "ORG/NAME")]
    name: Option<ModelName>,
    /// Its licence, as an SPDX or Hugging Face identifier [default: what its README.md says]
    #[arg(long, value_name = "ID", requires = "name")]
    license: Option<String>,
    /// Its revision
    #[arg(long, value_name = "REV", requires = "name", default_value = "main")]
    version: Revision,
    /// Bytes a piece, such as 4MiB [default: torrent.piece_length of the configuration]
    #[arg(long, value_name = "SIZE", requires = "name", value_parser = piece_length)]
    piece_length: Option<u32>,
    /// Do not use the DHT
    #[arg(long)]
    skip_dht: bool,
    /// Whether to sign it with your key [default: security.sign_manifests of the configuration]
    #[arg(long, value_name = "BOOL", requires = "name", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sign: Option<bool>,
    /// Make a torrent for clients that know BitTorrent v1 only, too
    #[arg(long, requires = "name")]
    hybrid: bool,
    /// Share a known model although its licence or its hub does not say that everybody may pass it on
    #[arg(long, conflicts_with_all = ["all", "name"])]
    i_have_the_right_to_share: bool,
    /// An address where its files are, too: of a directory, ending in /, or of its only file; may be repeated
    ///
    /// Others read from there what no peer has.
    #[arg(long = "web-seed", value_name = "URL", requires = "name")]
    web_seeds: Vec<WebSeed>,
    /// Share also what symbolic links lead to outside the directory, after listing each target
    ///
    /// Files of other users and in hidden directories are refused even then. Without this option such a link is an error.
    /// Links inside the directory, and those of a Hugging Face cache to its blobs, are always followed.
    #[arg(long, requires = "name")]
    follow_links: bool,
    /// A host to connect to; may be repeated
    #[arg(long = "peer", value_name = "IP:PORT")]
    peers: Vec<SocketAddr>,
}

fn piece_length(text: &str) -> Result<u32, String> {
    let bytes = parse_size(text).map_err(|e| e.to_string())?;
    (u32::try_from(bytes).ok().filter(|&n| is_piece_length(n)))
        .ok_or_else(|| "not a power of two from 16KiB to 128MiB".to_owned())
}

/// What the command line asks for.
enum Plan {
    Publish(ShareRequest),
    Seed(ModelRef),
    All,
}

/// Publishes if there is something to publish, then seeds.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let config = context.config()?;
    let mut plan = plan(args, context, &config)?;
    let activity = match &plan {
        Plan::Publish(request) => format!("share {}", request.name),
        Plan::Seed(model) => format!("share {model}"),
        Plan::All => "share --all".to_owned(),
    };
    let options = NodeOptions { skip_dht: args.skip_dht, activity, ..NodeOptions::default() };
    with_node(context, config, options, async |host, signals| {
        if args.skip_dht && !host.is_own() && host.client.status().await?.dht {
            return Err(CommandError::failed(format!(
                "the running silmaril (process {}) uses the DHT, and shares for this command, too",
                host.pid
            ))
            .hint("end it first, or set `network.dht_enabled: false` for it"));
        }
        work(args, context, host, &mut plan, signals).await
    })
}

fn plan(args: &Args, context: &Context, config: &Config) -> Result<Plan, CommandError> {
    let Some(what) = &args.what else { return Ok(Plan::All) };
    match (target::decide(what, args.name.is_some(), |path| path.is_dir())?, &args.name) {
        (Target::Directory(path), Some(name)) => Ok(Plan::Publish(ShareRequest {
            path: absolute(&path)?,
            name: name.clone(),
            version: args.version.clone(),
            license: args.license.clone(),
            piece_length: args.piece_length.unwrap_or(config.torrent.piece_length),
            sign: args.sign.unwrap_or(config.security.sign_manifests),
            hybrid: args.hybrid,
            web_seeds: args.web_seeds.clone(),
            follow_links: if args.follow_links { followed(context, &path)? } else { OutsideLinks::new() },
        })),
        (Target::Directory(path), None) => {
            Err(CommandError::usage(format!("{} needs a name to be shared under", path.display())))
        }
        (Target::Model { model, also_directory }, _) => {
            if also_directory {
                context.out.note(format_args!(
                    "taking {model} as the model of that name; to share the directory, add --name {}",
                    model.name
                ));
            }
            Ok(Plan::Seed(model))
        }
    }
}

/// Lists the links out of a directory, which are followed then.
fn followed(context: &Context, dir: &Path) -> Result<OutsideLinks, CommandError> {
    let links = outside_links(dir).map_err(|e| NodeError::from(DescribeError::from(e)))?;
    for (link, target) in &links {
        context.out.line(format_args!("following {link} to {}", target.display()))?;
    }
    Ok(links)
}

/// Does what the plan says. What is published is only seeded when it is called again.
async fn work(
    args: &Args,
    context: &Context,
    host: &Host,
    plan: &mut Plan,
    signals: &mut StopSignals,
) -> Result<(), CommandError> {
    if let Plan::Publish(request) = plan {
        let progress = context.out.progress(&format!("hashing {}", request.name));
        let publishing = host.client.share(request, |p| progress.set(p.done, p.total, ""));
        let shared = signals.unless(async { Ok(publishing.await?) }).await?;
        drop(progress);
        for warning in &shared.warnings {
            context.out.warn(warning);
        }
        describe(context, &shared.manifest, args.skip_dht)?;
        *plan = Plan::Seed(shared.manifest.model_ref());
    }
    let model = match plan {
        Plan::Seed(model) => Some(model.clone()),
        Plan::All | Plan::Publish(_) => None,
    };
    let seed = Seed { model, peers: args.peers.clone(), right: args.i_have_the_right_to_share };
    seed_until_stopped(context, host, &seed, signals).await
}

fn describe(context: &Context, manifest: &Manifest, skip_dht: bool) -> Result<(), CommandError> {
    let out = &context.out;
    let model = manifest.model_ref();
    out.line(format_args!(
        "shared {model} ({}, {})",
        count(manifest.files.len() as u64, "file"),
        size(manifest.total_size)
    ))?;
    out.line(format_args!("info hash {}", manifest.torrent.info_hash))?;
    out.line(format_args!("magnet {}", manifest.magnet_uri))?;
    match manifest.publisher {
        Some(key) => out.line(format_args!("publisher {}", key.fingerprint()))?,
        None => out.line("unsigned")?,
    }
    if manifest.publisher.is_some() && !skip_dht {
        out.note(format_args!("others get it by its name: silmaril get {model}"));
        return Ok(());
    }
    let file = manifest.name.name();
    out.note(format_args!(
        "others read it with this manifest: silmaril registry export {model} > {file}.json"
    ));
    Ok(())
}

/// Has the node seed, says what and where, then waits for a signal or for somebody who asks the node to stop.
pub async fn seed_until_stopped(
    context: &Context,
    host: &Host,
    what: &Seed,
    signals: &mut StopSignals,
) -> Result<(), CommandError> {
    let out = &context.out;
    let client = &host.client;
    let seeded = signals.unless(async { Ok(client.seed(what).await?) }).await?;
    if seeded.is_empty() {
        return Err(CommandError::failed("there is nothing here to share")
            .hint("`silmaril share DIR --name ORG/NAME --license ID` shares a directory"));
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
                let status = status?;
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

    #[test]
    fn piece_lengths_are_powers_of_two_in_any_notation() {
        assert_eq!(piece_length("4MiB"), Ok(4 << 20));
        assert_eq!(piece_length("16384"), Ok(16384));
        for bad in ["4MB", "8KiB", "256MiB", "x", "0"] {
            assert!(piece_length(bad).is_err(), "{bad}");
        }
    }
}
