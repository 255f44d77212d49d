//! `trust`: lists and changes the trusted publishers and the owners of names.

use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

use crate::catalog::Query;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::format::count;
use crate::cli::registry::reload_daemon;
use crate::cli::table;
use crate::model::{ModelName, PublisherKey};
use crate::node::Library;
use crate::node::control::DaemonClient;
use crate::node::discover::DiscoverRequest;
use crate::trust::{Alias, NamedPublisher};
use crate::trust::{Trust, TrustError};

/// Time for which a running daemon asks peers for the key of a fingerprint.
const ASK_WITHIN: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  silmaril trust list
  silmaril trust add 19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1 --alias dora
  silmaril trust add dora --name acme/minilm     the name belongs to dora, even if other publishers use it
  silmaril trust remove acme/minilm              release the name; the next accepted publisher owns it
  silmaril trust remove dora --names             no longer trust dora, and release all names of dora";

/// Show and change the trusted publishers and the owners of names
///
/// A name belongs to the first publisher whose model was added with `get` or `registry import`; models of other publishers
/// with this name are refused. Reading a model through a mount does not give its publisher the name. For a name without
/// owner, a publisher on the list is preferred. With `security.trust: strict` in the configuration, only publishers on the
/// list and your own key are accepted.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum TrustCommand {
    /// Add a publisher to the list
    Add(Add),
    /// Remove a publisher from the list, or release a name
    Remove(Remove),
    /// List the trusted publishers and the names that have an owner
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub struct Add {
    /// The publisher's key, as `silmaril key show` prints it; or the fingerprint or alias of a known publisher
    #[arg(value_name = "KEY")]
    publisher: String,
    /// A name of your choice for the publisher, shown together with the fingerprint
    #[arg(long)]
    alias: Option<Alias>,
    /// A model's name that belongs to this publisher; may be repeated
    #[arg(long = "name", value_name = "ORG/NAME")]
    names: Vec<ModelName>,
}

#[derive(Debug, clap::Args)]
pub struct Remove {
    /// A publisher (key, alias, fingerprint), or a model's name
    #[arg(value_name = "KEY|ALIAS|ORG/NAME", required = true)]
    what: Vec<String>,
    /// Release all names of the publisher, too
    #[arg(long)]
    names: bool,
}

pub fn run(command: &TrustCommand, context: &Context) -> Result<(), CommandError> {
    let library = context.library()?;
    match command {
        TrustCommand::Add(args) => add(args, &library, context),
        TrustCommand::Remove(args) => remove(args, &library, context),
        TrustCommand::List { json } => list(*json, &library.trust, context),
    }
}

fn add(args: &Add, library: &Library, context: &Context) -> Result<(), CommandError> {
    let trust = &library.trust;
    let key = find(&args.publisher, library, context)?;
    trust.add(key, args.alias.clone(), &args.names)?;
    reload_daemon(&library.paths, context)?;
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
            context.out.line(format_args!("{name} has no owner now"))?;
            continue;
        }
        let key = trust.find(what, publishers_of_models(library)).map_err(with_list)?;
        let shown = trust.describe(&key);
        let removed = trust.remove(&key, args.names).map_err(with_list)?;
        if removed.listed {
            context.out.line(format_args!("{shown} is no longer trusted"))?;
        }
        let names = count(removed.names as u64, "name");
        if args.names {
            context.out.line(format_args!("released {names} of {shown}"))?;
        } else if removed.names > 0 {
            let (belong, them) = if removed.names == 1 { ("belongs", "it") } else { ("belong", "them") };
            context.out.note(format_args!(
                "{names} still {belong} to {shown}; `silmaril trust remove {} --names` releases {them}",
                key.fingerprint()
            ));
        }
    }
    reload_daemon(&library.paths, context)
}

/// The publishers of the known models.
fn publishers_of_models(library: &Library) -> impl Iterator<Item = PublisherKey> {
    library.manifests().into_iter().filter_map(|manifest| manifest.publisher)
}

/// Finds a publisher by its key, or by the fingerprint or alias of a publisher that this host or a running daemon knows.
fn find(text: &str, library: &Library, context: &Context) -> Result<PublisherKey, CommandError> {
    match library.trust.find(text, publishers_of_models(library)) {
        Err(TrustError::UnknownPublisher(_)) => {
            Ok(library.trust.find(text, announced(text, library, context)?)?)
        }
        found => Ok(found?),
    }
}

/// The publishers whose key or fingerprint starts with `text` and that announce models to a running daemon.
fn announced(text: &str, library: &Library, context: &Context) -> Result<Vec<PublisherKey>, CommandError> {
    let query = format!("publisher:{text}");
    if query.parse::<Query>().is_err() {
        return Ok(Vec::new());
    }
    context.block_on(async {
        let Some(client) = DaemonClient::connect(&library.paths).await? else { return Ok(Vec::new()) };
        let within = u64::try_from(ASK_WITHIN.as_millis()).unwrap_or(u64::MAX);
        let request = DiscoverRequest { query, within, peers: Vec::new() };
        let found = client.discover(&request, |_| {}).await?;
        Ok(found.models.into_iter().map(|model| model.publisher).collect())
    })
}

fn with_list(error: TrustError) -> CommandError {
    CommandError::from(error).hint("`silmaril trust list` shows the publishers and the names")
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

/// The document that `trust list --json` prints.
#[derive(Debug, Serialize)]
pub(super) struct TrustReport {
    pub policy: String,
    pub own: Option<NamedPublisher>,
    pub publishers: Vec<ListedRow>,
    pub names: Vec<NameRow>,
    pub replaced: Vec<ReplacedRow>,
}

impl TrustReport {
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
    let report = TrustReport::of(trust)?;
    let out = &context.out;
    if json {
        return out.json(&report);
    }
    let TrustReport { policy, own, publishers, names, replaced } = report;
    out.line(format_args!("policy     {policy}"))?;
    if let Some(own) = &own {
        out.line(format_args!("your key   {}", own.fingerprint))?;
    }
    if publishers.is_empty() && names.is_empty() {
        out.note(
            "no publisher is listed, and no name has an owner; `silmaril trust add KEY` lists a publisher",
        );
    }
    let section = |headings: [&'static str; 4], rows: Vec<Vec<String>>| {
        if rows.is_empty() {
            return Ok(());
        }
        out.line("").and_then(|()| out.table(&headings.map(table::text), &rows))
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
