//! `share`: makes a model of a directory, and has the daemon seed it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cli::connection::Daemon;
use crate::cli::context::{Context, absolute};
use crate::cli::error::CommandError;
use crate::cli::format::count;
use crate::cli::hosting::with_daemon_here;
use crate::cli::publishing::{publish, report, share_at_its_place};
use crate::cli::seeding::{self, ANNOUNCED_WITHIN};
use crate::cli::session::with_daemon;
use crate::cli::signals::StopSignals;
use crate::cli::target::{self, ShareTarget};
use crate::config::Config;
use crate::model::describe::DescribeError;
use crate::model::scan::{OutsideLinks, outside_links};
use crate::model::text::parse_size;
use crate::model::web_seed::WebSeed;
use crate::model::{ModelName, ModelRef, Revision, is_piece_length, text};
use crate::node::control::Seed;
use crate::node::share::ShareRequest;
use crate::node::unshared::{self, Memory, Unshared, Wholeness};
use crate::node::{ErrorKind, NodeError, NodeOptions, chain};

/// Longest wait for models that are still changing.
const UNCHANGED_WITHIN: Duration = Duration::from_secs(30);

const EXAMPLES: &str = "\
Examples:
  silmaril share ./minilm --name acme/minilm --license apache-2.0
  silmaril share ./minilm --name acme/minilm --web-seed https://files.example/minilm/
  silmaril share acme/minilm      seed a known model, or share models/acme/minilm
  silmaril share --all            share all local models
  silmaril registry export acme/minilm > minilm.json    a manifest that other hosts can import";

/// Share a model, or make a model of a directory and share it
///
/// The files are read in place: nothing is copied, and nothing in the directory is changed. All hosts that share the same
/// files are in the same swarm. A directory that you put into the models directory, as ORG/NAME, needs no --name: it is
/// shared when it is complete and has not changed for 10 seconds. The daemon hashes and uploads the model, and is started
/// if it does not run. This command returns when the model is seeded and announced, or after 5 seconds. The daemon
/// continues to seed it, even after a restart, until `silmaril remove` or `silmaril stop`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A directory (with --name), or a model that is known or in the models directory, as ORG/NAME[@REVISION]
    #[arg(value_name = "PATH|MODEL", required_unless_present = "all")]
    what: Option<String>,
    /// Share every model that has local files, and every complete model in the models directory
    #[arg(long, conflicts_with_all = ["what", "name"])]
    all: bool,
    /// The name under which a directory is shared
    #[arg(long, value_name = "ORG/NAME")]
    name: Option<ModelName>,
    /// The licence, as an SPDX or Hugging Face identifier [default: the licence in the directory's README.md]
    #[arg(long, value_name = "ID", conflicts_with = "all")]
    license: Option<String>,
    /// The revision
    #[arg(long, value_name = "REV", requires = "name", default_value = "main")]
    version: Revision,
    /// Bytes per piece, such as 4MiB [default: torrent.piece_length of the configuration]
    #[arg(long, value_name = "SIZE", value_parser = piece_length)]
    piece_length: Option<u32>,
    /// Do not announce the model in the DHT, now or later
    #[arg(long)]
    skip_dht: bool,
    /// Stay in the foreground until Ctrl-C; this process is the daemon if none runs
    #[arg(short, long)]
    foreground: bool,
    /// Whether to sign the manifest with your key [default: security.sign_manifests of the configuration]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sign: Option<bool>,
    /// Make a hybrid torrent, which clients of BitTorrent v1 can join, too
    #[arg(long)]
    hybrid: bool,
    /// Share a known model even if its licence or its hub does not permit everybody to redistribute it
    #[arg(long, conflicts_with_all = ["all", "name"])]
    i_have_the_right_to_share: bool,
    /// A web address of the same files: of their directory, ending in /, or of the only file; may be repeated
    ///
    /// Other hosts fetch from this address the pieces that no peer has.
    #[arg(long = "web-seed", value_name = "URL", conflicts_with = "all")]
    web_seeds: Vec<WebSeed>,
    /// Also share the targets of symbolic links that lead out of the directory; each target is listed first
    ///
    /// Targets of other users and in hidden directories are refused even then. Without this option such a link is an error.
    /// Links inside the directory, and links of a Hugging Face cache to its blobs, are always followed.
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

/// Work that the command line requests.
enum SharePlan {
    /// Publish a directory, then seed it.
    Publish(ShareRequest),
    /// Seed a known model. If its directory in the models directory has none of its files, publish that directory instead.
    Seed(ModelRef, Option<ShareRequest>),
    /// Publish these directories of the models directory, then seed all models. The second list has the directories that
    /// cannot be shared.
    All(VecDeque<ShareRequest>, Vec<ModelName>),
}

/// Publishes the directories of the plan, then seeds.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let config = context.config()?;
    let mut plan = plan(args, context, &config)?;
    let ended = if args.foreground {
        with_daemon_here(context, NodeOptions::default(), async |daemon, signals| {
            execute(args, context, daemon, &mut plan, signals).await?;
            seeding::watch(context, daemon, signals).await
        })
    } else {
        with_daemon(context, async |daemon, signals| {
            let model = execute(args, context, daemon, &mut plan, signals).await?;
            seeding::explain(context, daemon, model.as_ref());
            Ok(())
        })
    };
    match plan {
        SharePlan::All(_, skipped) if !skipped.is_empty() => ended.and(Err(not_shared(&skipped))),
        _ => ended,
    }
}

/// The error for models that `--all` could not share. A warning has named each before.
fn not_shared(skipped: &[ModelName]) -> CommandError {
    let names: Vec<String> = skipped.iter().map(ToString::to_string).collect();
    CommandError::failed(format!(
        "{} not shared: {}",
        count(names.len() as u64, "model"),
        text::listed(&names)
    ))
    .hint("`silmaril share MODEL --license ID` sets a licence; `silmaril list --unshared` lists the reasons")
}

fn plan(args: &Args, context: &Context, config: &Config) -> Result<SharePlan, CommandError> {
    let Some(what) = &args.what else { return plan_all(args, context, config) };
    match (target::decide(what, args.name.is_some(), |path| path.is_dir())?, &args.name) {
        (ShareTarget::Directory(path), Some(name)) => {
            let follow_links =
                if args.follow_links { outside_links_of(context, &path)? } else { OutsideLinks::new() };
            let request = request(args, config, absolute(&path)?, name.clone());
            Ok(SharePlan::Publish(ShareRequest { follow_links, ..request }))
        }
        (ShareTarget::Directory(path), None) => {
            Err(CommandError::usage(format!("the directory {} needs a name", path.display())))
        }
        (ShareTarget::Model { model, also_directory }, _) => {
            // Opening the library makes the base directory, which this command must not do if it then fails.
            let library = if config.paths().base.exists() { Some(context.library()?) } else { None };
            let known = library.as_ref().is_some_and(|library| library.registry.get(&model).is_some());
            let list_unshared = || {
                let library = library.as_ref().filter(|_| model.revision.is_default());
                library.and_then(|library| unshared::find(&library.store, &model.name)).into_iter().collect()
            };
            let unshared = wait_until_unchanged(context, list_unshared);
            let publishing =
                |unshared: &Unshared| request(args, config, unshared.path.clone(), unshared.name.clone());
            match unshared.first() {
                Some(unshared) if known => return Ok(SharePlan::Seed(model, Some(publishing(unshared)))),
                Some(unshared) if unshared.is_whole() => return Ok(SharePlan::Publish(publishing(unshared))),
                Some(unshared) => {
                    let state = &unshared.state;
                    return Err(CommandError::failed(format!("{model} cannot be shared: {state}")).hint(
                        format!(
                            "its files are in {}; share it when they are complete",
                            unshared.path.display()
                        ),
                    ));
                }
                None => {}
            }
            if let Some(option) = args.publishing_option() {
                return Err(CommandError::usage(format!(
                    "{option} is for a directory that is not shared yet, and there is none of {model}"
                )));
            }
            if also_directory {
                context.out.note(format_args!(
                    "taking {model} as the model of that name; to share the directory, add --name {}",
                    model.name
                ));
            }
            Ok(SharePlan::Seed(model, None))
        }
    }
}

/// Plans to publish each complete model of the models directory. Prints a warning for each incomplete one.
fn plan_all(args: &Args, context: &Context, config: &Config) -> Result<SharePlan, CommandError> {
    let library = context.library()?;
    let mut memory = Memory::default();
    let (mut publish, mut skipped) = (VecDeque::new(), Vec::new());
    for unshared in wait_until_unchanged(context, || unshared::find_all(&library.store, &mut memory)) {
        if unshared.is_whole() {
            publish.push_back(request(args, config, unshared.path, unshared.name));
        } else {
            context.out.warn(format_args!("{} is not shared: {}", unshared.name, unshared.state));
            skipped.push(unshared.name);
        }
    }
    Ok(SharePlan::All(publish, skipped))
}

/// Lists unshared models, repeatedly until none of them is changing, for at most [`UNCHANGED_WITHIN`].
fn wait_until_unchanged(
    context: &Context,
    mut list_unshared: impl FnMut() -> Vec<Unshared>,
) -> Vec<Unshared> {
    let until = Instant::now() + UNCHANGED_WITHIN;
    let mut has_reported = false;
    loop {
        let found = list_unshared();
        let changing = found.iter().filter_map(|model| match model.state {
            Wholeness::Changing(left) => Some((left, &model.name)),
            Wholeness::Whole | Wholeness::Incomplete(_) => None,
        });
        let Some((left, name)) = changing.min_by_key(|(left, _)| *left) else { return found };
        if Instant::now() >= until {
            return found;
        }
        if !std::mem::replace(&mut has_reported, true) {
            context.out.note(format_args!("waiting until nothing in {name} has changed for 10 s"));
        }
        std::thread::sleep(left + Duration::from_millis(20));
    }
}

fn request(args: &Args, config: &Config, path: PathBuf, name: ModelName) -> ShareRequest {
    ShareRequest {
        path,
        name,
        version: args.version.clone(),
        license: args.license.clone(),
        piece_length: args.piece_length.unwrap_or(config.torrent.piece_length),
        sign: args.sign.unwrap_or(config.security.sign_manifests),
        hybrid: args.hybrid,
        web_seeds: args.web_seeds.clone(),
        follow_links: OutsideLinks::new(),
        skip_dht: args.skip_dht,
    }
}

impl Args {
    /// The first given option that is only for publishing a directory.
    fn publishing_option(&self) -> Option<&'static str> {
        let given = [
            (self.license.is_some(), "--license"),
            (self.piece_length.is_some(), "--piece-length"),
            (self.sign.is_some(), "--sign"),
            (self.hybrid, "--hybrid"),
            (!self.web_seeds.is_empty(), "--web-seed"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, option)| option)
    }
}

/// Prints the links that lead out of a directory, and returns them.
fn outside_links_of(context: &Context, dir: &Path) -> Result<OutsideLinks, CommandError> {
    let links = outside_links(dir).map_err(|e| NodeError::from(DescribeError::from(e)))?;
    for (link, target) in &links {
        context.out.line(format_args!("following {link} to {}", target.display()))?;
    }
    Ok(links)
}

/// Executes the plan and returns the shared model, or none for `--all`. Updates the plan, so that a second call with
/// another daemon only seeds the models that are already published.
async fn execute(
    args: &Args,
    context: &Context,
    daemon: &Daemon,
    plan: &mut SharePlan,
    signals: &mut StopSignals,
) -> Result<Option<ModelRef>, CommandError> {
    let within = if args.skip_dht || args.foreground { Duration::ZERO } else { ANNOUNCED_WITHIN };
    let seed = |model| Seed {
        model,
        peers: args.peers.clone(),
        right: args.i_have_the_right_to_share,
        skip_dht: args.skip_dht,
        announce_within: within.as_millis() as u64,
    };
    if let SharePlan::Seed(model, local @ Some(_)) = plan {
        let known = seed(Some(model.clone()));
        match signals.unless(async { Ok(daemon.client.seed(&known).await) }).await? {
            Err(e) if e.kind() == ErrorKind::NothingHere => {
                *plan = SharePlan::Publish(local.take().expect("matched"));
            }
            seeded => drop(seeded?),
        }
    }
    if let SharePlan::Publish(request) = plan {
        let shared = publish(context, daemon, request, signals).await??;
        report(context, &shared, args.skip_dht)?;
        *plan = SharePlan::Seed(shared.manifest.model_ref(), None);
    }
    if let SharePlan::All(publishing, skipped) = plan {
        while let Some(request) = publishing.front_mut() {
            let model = ModelRef { name: request.name.clone(), revision: request.version.clone() };
            let known = seed(Some(model.clone()));
            let published =
                share_at_its_place(context, daemon, &known, request, args.skip_dht, signals).await?;
            publishing.pop_front();
            if let Err(error) = published {
                context.out.warn(format_args!("{model} is not shared: {}", chain(&error)));
                skipped.push(model.name);
            }
        }
    }
    let (model, nothing) = match plan {
        SharePlan::Seed(model, _) => (Some(model.clone()), None),
        SharePlan::All(_, skipped) => (None, (!skipped.is_empty()).then(|| not_shared(skipped))),
        SharePlan::Publish(_) => (None, None),
    };
    seeding::seed(context, daemon, &seed(model.clone()), signals, nothing).await?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piece_lengths_are_powers_of_two_in_any_notation() {
        assert_eq!(piece_length("4MiB"), Ok(4 << 20));
        assert_eq!(piece_length("16384"), Ok(16384));
        for bad in ["4MB", "8KiB", "256MiB", "x", "0"] {
            assert!(piece_length(bad).is_err(), "{bad}");
        }
    }
}
