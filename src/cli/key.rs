//! `key`: the publisher's key.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use serde::Serialize;

use crate::catalog::rotation;
use crate::catalog::trust::{Document, NamedPublisher};
use crate::cli::cleanup::confirmed;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::session::with_daemon_or_library;
use crate::keys::PublisherKeypair;
use crate::model::PublisherKey;
use crate::paths::Paths;

const EXAMPLES: &str = "\
Examples:
  silmaril key show
  silmaril key rotate       when the key may have leaked, or its machine leaves your hands";

/// Show or replace the key that signs what you share
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the public key, its fingerprint and where the secret key lies
    ///
    /// Tell others the fingerprint, so that they can see that a model is yours. Keys that it has replaced are listed,
    /// too.
    Show,
    /// Replace the key by a new one that takes over all names and the trust of others
    ///
    /// The former key signs who its successor is. Whoever trusts the former key, or owns a model that it signed, goes
    /// by the new one once they hear of it; the former one signs nothing new for them from then on. What you share is
    /// signed anew. There is no way back: a key is replaced once. The former secret key is kept beside the new one.
    Rotate {
        /// Do not ask on a terminal
        #[arg(short, long)]
        yes: bool,
    },
}

/// Prints or replaces the key.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let paths = context.config()?.paths();
    if !paths.publisher_key().exists() {
        let path = paths.publisher_key();
        return Err(CommandError::failed(format!("there is no key at {}", path.display()))
            .hint("`silmaril init` makes one"));
    }
    match args.command {
        Command::Show => show(args.json, &paths, context),
        Command::Rotate { yes } => rotate(yes, args.json, &paths, context),
    }
}

/// The key, as `--json` has it.
#[derive(Debug, Serialize)]
pub(super) struct Key {
    pub publisher: PublisherKey,
    pub fingerprint: String,
    /// The file with the secret key.
    pub path: PathBuf,
    /// The keys that it has replaced.
    pub replaced: Vec<Replaced>,
    /// The file with the secret key that was replaced just now; none where none was.
    pub former_path: Option<PathBuf>,
}

/// A key that was replaced.
#[derive(Debug, Serialize)]
pub(super) struct Replaced {
    pub publisher: PublisherKey,
    pub fingerprint: String,
    pub successor: NamedPublisher,
}

impl Key {
    fn load(paths: &Paths, former_path: Option<PathBuf>) -> Result<Self, CommandError> {
        let path = paths.publisher_key();
        let publisher = PublisherKeypair::load(&path)?.public();
        let replaced = |(former, successor): (PublisherKey, PublisherKey)| Replaced {
            publisher: former,
            fingerprint: former.fingerprint(),
            successor: Document::default().named(&successor),
        };
        let replaced = rotation::successors(paths).into_iter().map(replaced).collect();
        Ok(Self { publisher, fingerprint: publisher.fingerprint(), path, replaced, former_path })
    }
}

fn show(json: bool, paths: &Paths, context: &Context) -> Result<(), CommandError> {
    let key = Key::load(paths, None)?;
    let out = &context.out;
    if json {
        return out.json(&key);
    }
    out.line(format_args!("fingerprint  {}", key.fingerprint))?;
    out.line(format_args!("publisher    {}", key.publisher))?;
    out.line(format_args!("secret key   {}", key.path.display()))?;
    key.replaced.iter().try_for_each(|Replaced { fingerprint, successor, .. }| {
        out.line(format_args!("former key   {fingerprint}, replaced by {successor}"))
    })
}

fn rotate(yes: bool, json: bool, paths: &Paths, context: &Context) -> Result<(), CommandError> {
    let fingerprint = PublisherKeypair::load(&paths.publisher_key())?.public().fingerprint();
    let question = format!("Replace the key {fingerprint} by a new one, for good?");
    if !yes && std::io::stdin().is_terminal() && !confirmed(&question)? {
        return Err(CommandError::failed("the key was not replaced"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let rotated = rotation::rotate(paths, now)?;
    let out = &context.out;
    if json {
        out.json(&Key::load(paths, Some(rotated.kept))?)?;
    } else {
        out.line(format_args!("fingerprint  {}", rotated.current.fingerprint()))?;
        out.line(format_args!("publisher    {}", rotated.current))?;
        out.line(format_args!("former key   {fingerprint}, kept in {}", rotated.kept.display()))?;
    }
    // Whoever holds the base directory signs anew; opening it here does as much.
    with_daemon_or_library(
        context,
        async |client, _| Ok(client.reload().await?),
        async |library, _| Ok(crate::node::rotation::finish(&library).map(|_| ())?),
    )?;
    out.note("keep a copy of the new key; others learn of it while you share, or run `silmaril daemon`");
    Ok(())
}
