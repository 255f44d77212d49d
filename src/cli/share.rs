//! `share`: makes a model of a directory, and has the daemon seed it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cli::context::{Context, absolute};
use crate::cli::error::CommandError;
use crate::cli::output::count;
use crate::cli::publishing::{publish, report, share_at_its_place};
use crate::cli::seeding::{self, ANNOUNCED_WITHIN};
use crate::cli::session::{Daemon, with_daemon, with_daemon_here};
use crate::cli::signals::StopSignals;
use crate::cli::target::{self, Target};
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

/// How long models that are still changing are waited for.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);

const EXAMPLES: &str = "\
Examples:
  silmaril share ./minilm --name acme/minilm --license apache-2.0
  silmaril share ./minilm --name acme/minilm --web-seed https://files.example/minilm/
  silmaril share acme/minilm      seed a known model, or share models/acme/minilm
  silmaril share --all            share all that is here
  silmaril registry export acme/minilm > minilm.json    what others import to read it";

/// Share a model: make one of a directory, and upload it in the background
///
/// The files are read where they are: nothing is copied, nothing in the directory is changed. Whoever shares the same
/// files joins the same swarm. A directory that was put into the models directory, as ORG/NAME, needs no --name: it is
/// shared when it is complete and has not changed for 10 seconds. The daemon hashes and uploads it, and is started if it does
/// not run. This command returns when the model is seeded and announced, or after 5 seconds; the daemon goes on, also after
/// a restart, until `silmaril remove` or `silmaril stop`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A directory (with --name), or a model that is known here or in the models directory, as ORG/NAME[@REVISION]
    #[arg(value_name = "PATH|MODEL", required_unless_present = "all")]
    what: Option<String>,
    /// Share every model of which something is here, and every complete one in the models directory
    #[arg(long, conflicts_with_all = ["what", "name"])]
    all: bool,
    /// The name to share a directory under
    #[arg(long, value_name = "ORG/NAME")]
    name: Option<ModelName>,
    /// Its licence, as an SPDX or Hugging Face identifier [default: what its README.md says]
    #[arg(long, value_name = "ID", conflicts_with = "all")]
    license: Option<String>,
    /// Its revision
    #[arg(long, value_name = "REV", requires = "name", default_value = "main")]
    version: Revision,
    /// Bytes a piece, such as 4MiB [default: torrent.piece_length of the configuration]
    #[arg(long, value_name = "SIZE", value_parser = piece_length)]
    piece_length: Option<u32>,
    /// Do not announce it in the DHT, now or later
    #[arg(long)]
    skip_dht: bool,
    /// Stay in the foreground until Ctrl-C; this process is the daemon if none runs
    #[arg(short, long)]
    foreground: bool,
    /// Whether to sign it with your key [default: security.sign_manifests of the configuration]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sign: Option<bool>,
    /// Make a torrent for clients that know BitTorrent v1 only, too
    #[arg(long)]
    hybrid: bool,
    /// Share a known model although its licence or its hub does not say that everybody may pass it on
    #[arg(long, conflicts_with_all = ["all", "name"])]
    i_have_the_right_to_share: bool,
    /// An address where its files are, too: of a directory, ending in /, or of its only file; may be repeated
    ///
    /// Others read from there what no peer has.
    #[arg(long = "web-seed", value_name = "URL", conflicts_with = "all")]
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
    /// Publish a directory, then seed it.
    Publish(ShareRequest),
    /// Seed a known model. Publish the directory at its place if no file of the model is found there.
    Seed(ModelRef, Option<ShareRequest>),
    /// Publish these directories of the models directory, then seed all. The second list has those that were left out.
    All(VecDeque<ShareRequest>, Vec<ModelName>),
}

/// Publishes if there is something to publish, then seeds.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let config = context.config()?;
    let mut plan = plan(args, context, &config)?;
    let ended = match args.foreground {
        true => with_daemon_here(context, NodeOptions::default(), async |daemon, signals| {
            work(args, context, daemon, &mut plan, signals).await?;
            seeding::watch(context, daemon, signals).await
        }),
        false => with_daemon(context, async |daemon, signals| {
            let model = work(args, context, daemon, &mut plan, signals).await?;
            seeding::explain(context, daemon, model.as_ref());
            Ok(())
        }),
    };
    match plan {
        Plan::All(_, skipped) if !skipped.is_empty() => ended.and(Err(not_shared(&skipped))),
        _ => ended,
    }
}

/// The error for models that `--all` left out; each was named before.
fn not_shared(skipped: &[ModelName]) -> CommandError {
    let names: Vec<String> = skipped.iter().map(ToString::to_string).collect();
    CommandError::failed(format!(
        "{} not shared: {}",
        count(names.len() as u64, "model"),
        text::listed(&names)
    ))
    .hint("`silmaril share MODEL --license ID` names a licence; `silmaril list --unshared` gives the reasons")
}

fn plan(args: &Args, context: &Context, config: &Config) -> Result<Plan, CommandError> {
    let Some(what) = &args.what else { return plan_all(args, context, config) };
    match (target::decide(what, args.name.is_some(), |path| path.is_dir())?, &args.name) {
        (Target::Directory(path), Some(name)) => {
            let follow_links =
                if args.follow_links { followed(context, &path)? } else { OutsideLinks::new() };
            let request = request(args, config, absolute(&path)?, name.clone());
            Ok(Plan::Publish(ShareRequest { follow_links, ..request }))
        }
        (Target::Directory(path), None) => {
            Err(CommandError::usage(format!("{} needs a name to be shared under", path.display())))
        }
        (Target::Model { model, also_directory }, _) => {
            // Nothing is made for a command that cannot work.
            let library = if config.paths().base.exists() { Some(context.library()?) } else { None };
            let known = library.as_ref().is_some_and(|library| library.registry.get(&model).is_some());
            let look = || {
                let library = library.as_ref().filter(|_| model.revision.is_default());
                library.and_then(|library| unshared::find(&library.store, &model.name)).into_iter().collect()
            };
            let unshared = settled(context, look);
            let publishing =
                |unshared: &Unshared| request(args, config, unshared.path.clone(), unshared.name.clone());
            match unshared.first() {
                Some(unshared) if known => return Ok(Plan::Seed(model, Some(publishing(unshared)))),
                Some(unshared) if unshared.is_whole() => return Ok(Plan::Publish(publishing(unshared))),
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
            Ok(Plan::Seed(model, None))
        }
    }
}

/// Plans to publish what is complete in the models directory; names what is not.
fn plan_all(args: &Args, context: &Context, config: &Config) -> Result<Plan, CommandError> {
    let library = context.library()?;
    let mut memory = Memory::default();
    let (mut publish, mut skipped) = (VecDeque::new(), Vec::new());
    for unshared in settled(context, || unshared::find_all(&library.store, &mut memory)) {
        if unshared.is_whole() {
            publish.push_back(request(args, config, unshared.path, unshared.name));
        } else {
            context.out.warn(format_args!("{} is not shared: {}", unshared.name, unshared.state));
            skipped.push(unshared.name);
        }
    }
    Ok(Plan::All(publish, skipped))
}

/// Looks for unshared models, and again until none of them is still changing, or for [`SETTLE_WITHIN`].
fn settled(context: &Context, mut look: impl FnMut() -> Vec<Unshared>) -> Vec<Unshared> {
    let until = Instant::now() + SETTLE_WITHIN;
    let mut told = false;
    loop {
        let found = look();
        let changing = found.iter().filter_map(|model| match model.state {
            Wholeness::Changing(left) => Some((left, &model.name)),
            Wholeness::Whole | Wholeness::Incomplete(_) => None,
        });
        let Some((left, name)) = changing.min_by_key(|(left, _)| *left) else { return found };
        if Instant::now() >= until {
            return found;
        }
        if !std::mem::replace(&mut told, true) {
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
    /// An option that was given and concerns the publication of a directory.
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

/// Lists the links out of a directory, which are followed then.
fn followed(context: &Context, dir: &Path) -> Result<OutsideLinks, CommandError> {
    let links = outside_links(dir).map_err(|e| NodeError::from(DescribeError::from(e)))?;
    for (link, target) in &links {
        context.out.line(format_args!("following {link} to {}", target.display()))?;
    }
    Ok(links)
}

/// Does what the plan says, and returns the model, if it is one. What is published is only seeded when this is called again.
async fn work(
    args: &Args,
    context: &Context,
    daemon: &Daemon,
    plan: &mut Plan,
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
    if let Plan::Seed(model, local @ Some(_)) = plan {
        let known = seed(Some(model.clone()));
        match signals.unless(async { Ok(daemon.client.seed(&known).await) }).await? {
            Err(e) if e.kind() == ErrorKind::NothingHere => {
                *plan = Plan::Publish(local.take().expect("matched"));
            }
            seeded => drop(seeded?),
        }
    }
    if let Plan::Publish(request) = plan {
        let shared = publish(context, daemon, request, signals).await??;
        report(context, &shared, args.skip_dht)?;
        *plan = Plan::Seed(shared.manifest.model_ref(), None);
    }
    if let Plan::All(publishing, skipped) = plan {
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
        Plan::Seed(model, _) => (Some(model.clone()), None),
        Plan::All(_, skipped) => (None, (!skipped.is_empty()).then(|| not_shared(skipped))),
        Plan::Publish(_) => (None, None),
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
