//! `trust`: whom this node believes.

use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

use crate::catalog::Query;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::count;
use crate::cli::registry::tell_node;
use crate::cli::table;
use crate::model::{ModelName, PublisherKey};
use crate::node::Library;
use crate::node::control::Client;
use crate::node::discover::DiscoverRequest;
use crate::trust::{Alias, NamedPublisher};
use crate::trust::{Trust, TrustError};

/// How long a running node may ask others who is meant by a fingerprint.
const ASK_WITHIN: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  silmaril trust list
  silmaril trust add 19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1 --alias dora
  silmaril trust add dora --name acme/minilm     the name is dora's, whoever else publishes under it
  silmaril trust remove acme/minilm              the next publisher accepted for the name owns it
  silmaril trust remove dora --names             no longer trusted, and no name is theirs";

/// Show and change whom this node believes
///
/// A name belongs to the first publisher whose model was taken with `get` or `registry import`; others are refused.
/// Reading a model through a mount gives no publisher its name. A publisher on the list is chosen before others for a
/// name that belongs to nobody yet. With `security.trust: strict` in the configuration only publishers on the list, and
/// your own key, are accepted at all.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put a publisher on the list
    Add(Add),
    /// Take a publisher off the list, or let go of a name
    Remove(Remove),
    /// List the trusted publishers, and the names that belong to somebody
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Whom to list.
#[derive(Debug, clap::Args)]
struct Add {
    /// The publisher's key, as `silmaril key show` prints it; fingerprint or alias of one
    /// known here, or announced to a running node
    #[arg(value_name = "KEY")]
    publisher: String,
    /// A name of your choice for the publisher, shown instead of a bare fingerprint
    #[arg(long)]
    alias: Option<Alias>,
    /// A model's name that is to belong to this publisher; may be repeated
    #[arg(long = "name", value_name = "ORG/NAME")]
    names: Vec<ModelName>,
}

/// What to let go of.
#[derive(Debug, clap::Args)]
struct Remove {
    /// A publisher (key, alias, fingerprint), or a model's name
    #[arg(value_name = "KEY|ALIAS|ORG/NAME", required = true)]
    what: Vec<String>,
    /// Let go of all names of the publisher, too
    #[arg(long)]
    names: bool,
}

/// Runs one of them.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let library = context.library()?;
    match &args.command {
        Command::Add(args) => add(args, &library, context),
        Command::Remove(args) => remove(args, &library, context),
        Command::List { json } => list(*json, &library.trust, context),
    }
}

fn add(args: &Add, library: &Library, context: &Context) -> Result<(), CommandError> {
    let trust = &library.trust;
    let key = find(&args.publisher, library, context)?;
    trust.add(key, args.alias.clone(), &args.names)?;
    tell_node(&library.paths, context)?;
    let shown = trust.describe(&key);
    context.out.line(format_args!("{shown} is trusted"))?;
    args.names.iter().try_for_each(|name| context.out.line(format_args!("{name} belongs to {shown}")))
}

fn remove(args: &Remove, library: &Library, context: &Context) -> Result<(), CommandError> {
    let trust = &library.trust;
    for what in &args.what {
        if what.contains('/') {
            let name: ModelName = what.parse().map_err(CommandError::usage)?;
            trust.unpin(&name).map_err(with_list)?;
            context.out.line(format_args!("{name} belongs to nobody now"))?;
            continue;
        }
        let key = trust.find(what, held(library)).map_err(with_list)?;
        let shown = trust.describe(&key);
        let removed = trust.remove(&key, args.names).map_err(with_list)?;
        if removed.listed {
            context.out.line(format_args!("{shown} is no longer trusted"))?;
        }
        let names = count(removed.names as u64, "name");
        if args.names {
            context.out.line(format_args!("let go of {names} of {shown}"))?;
        } else if removed.names > 0 {
            let belong = if removed.names == 1 { "belongs" } else { "belong" };
            context.out.note(format_args!(
                "{names} still {belong} to {shown}; `silmaril trust remove {} --names` lets go of that, too",
                key.fingerprint()
            ));
        }
    }
    tell_node(&library.paths, context)
}

/// The publishers of the models here.
fn held(library: &Library) -> impl Iterator<Item = PublisherKey> {
    library.manifests().into_iter().filter_map(|manifest| manifest.publisher)
}

/// A publisher known here or to a running node, or a whole key.
fn find(text: &str, library: &Library, context: &Context) -> Result<PublisherKey, CommandError> {
    match library.trust.find(text, held(library)) {
        Err(TrustError::UnknownPublisher(_)) => {
            Ok(library.trust.find(text, announced(text, library, context)?)?)
        }
        found => Ok(found?),
    }
}

/// Who announces models to a running node, of those whose key or fingerprint begins so.
fn announced(text: &str, library: &Library, context: &Context) -> Result<Vec<PublisherKey>, CommandError> {
    let query = format!("publisher:{text}");
    if query.parse::<Query>().is_err() {
        return Ok(Vec::new());
    }
    context.block_on(async {
        let Some(client) = Client::connect(&library.paths).await? else { return Ok(Vec::new()) };
        let within = u64::try_from(ASK_WITHIN.as_millis()).unwrap_or(u64::MAX);
        let request = DiscoverRequest { query, within, peers: Vec::new() };
        let found = client.discover(&request, |_| {}).await?;
        Ok(found.models.into_iter().map(|model| model.publisher).collect())
    })
}

fn with_list(error: TrustError) -> CommandError {
    CommandError::from(error).hint("`silmaril trust list` shows whom this node believes")
}

/// A listed publisher.
#[derive(Debug, Serialize)]
pub(super) struct ListedRow {
    #[serde(flatten)]
    pub publisher: NamedPublisher,
    pub since: String,
}

/// A name that belongs to a publisher.
#[derive(Debug, Serialize)]
pub(super) struct NameRow {
    pub name: ModelName,
    #[serde(flatten)]
    pub publisher: NamedPublisher,
    pub since: String,
}

/// A key that its publisher has replaced.
#[derive(Debug, Serialize)]
pub(super) struct ReplacedRow {
    pub publisher: PublisherKey,
    pub fingerprint: String,
    pub successor: NamedPublisher,
    pub since: String,
}

/// All of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Everything {
    pub policy: String,
    pub own: Option<NamedPublisher>,
    pub publishers: Vec<ListedRow>,
    pub names: Vec<NameRow>,
    pub replaced: Vec<ReplacedRow>,
}

impl Everything {
    fn of(trust: &Trust) -> Result<Self, TrustError> {
        let document = &*trust.document()?;
        let of = |key: PublisherKey| document.named(&key);
        let listed = document.publishers.iter();
        let replaced = document.successions.values();
        Ok(Self {
            policy: trust.policy().to_string(),
            own: trust.own().map(of),
            publishers: listed
                .map(|listed| ListedRow { publisher: of(listed.key), since: listed.added.to_string() })
                .collect(),
            names: (document.pins.values())
                .map(|pin| NameRow {
                    name: pin.name.clone(),
                    publisher: of(pin.publisher),
                    since: pin.since.to_string(),
                })
                .collect(),
            replaced: replaced
                .map(|known| ReplacedRow {
                    publisher: known.key,
                    fingerprint: known.key.fingerprint(),
                    successor: of(known.successor),
                    since: known.since.to_string(),
                })
                .collect(),
        })
    }
}

fn list(json: bool, trust: &Trust, context: &Context) -> Result<(), CommandError> {
    let everything = Everything::of(trust)?;
    let out = &context.out;
    if json {
        return out.json(&everything);
    }
    let Everything { policy, own, publishers, names, replaced } = everything;
    out.line(format_args!("policy     {policy}"))?;
    if let Some(own) = &own {
        out.line(format_args!("your key   {}", own.fingerprint))?;
    }
    if publishers.is_empty() && names.is_empty() {
        out.note(
            "nobody is listed, and no name belongs to anybody; `silmaril trust add KEY` lists a publisher",
        );
    }
    let section = |headings: [&'static str; 4], rows: Vec<Vec<String>>| match rows.is_empty() {
        true => Ok(()),
        false => out.line("").and_then(|()| out.table(&headings.map(table::text), &rows)),
    };
    let alias = |publisher: &NamedPublisher| publisher.alias.clone().unwrap_or_else(|| "-".to_owned());
    let row = |row: &ListedRow| {
        let ListedRow { publisher, since } = row;
        vec![publisher.fingerprint.clone(), alias(publisher), since.clone(), publisher.publisher.to_string()]
    };
    section(["TRUSTED", "ALIAS", "SINCE", "KEY"], publishers.iter().map(row).collect())?;
    let row = |row: &NameRow| {
        let NameRow { name, publisher, since } = row;
        vec![name.to_string(), publisher.fingerprint.clone(), alias(publisher), since.clone()]
    };
    section(["NAME", "BELONGS TO", "ALIAS", "SINCE"], names.iter().map(row).collect())?;
    let row = |row: &ReplacedRow| {
        vec![
            row.fingerprint.clone(),
            row.successor.fingerprint.clone(),
            alias(&row.successor),
            row.since.clone(),
        ]
    };
    section(["FORMER KEY", "REPLACED BY", "ALIAS", "SINCE"], replaced.iter().map(row).collect())
}
