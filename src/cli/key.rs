//! `key`: prints or replaces the publisher's key.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use serde::Serialize;

use crate::cli::cleanup::confirmed;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::session::with_daemon_or_library;
use crate::model::PublisherKey;
use crate::model::keys::PublisherKeypair;
use crate::paths::Paths;
use crate::trust::rotation;
use crate::trust::{NamedPublisher, TrustDocument};

const EXAMPLES: &str = "\
Examples:
  silmaril key show
  silmaril key rotate       if the key may have leaked, or you give its machine away";

/// Show or replace the key that signs the models that you share
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: KeyCommand,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Print the public key, its fingerprint and the path of the secret key
    ///
    /// Publish the fingerprint, so that users can check that a model is yours. Keys that this key has replaced are listed,
    /// too.
    Show,
    /// Replace the key by a new one, which inherits all names and the trust in the former key
    ///
    /// The former key signs a statement that names the new key. A host that trusts the former key, or has a model that it
    /// signed, accepts the new key when it receives this statement; after that it accepts no new signature of the former
    /// key. The models that you share are signed again. This cannot be undone: a key can be replaced only once. The
    /// former secret key is kept next to the new one.
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
        KeyCommand::Show => show(args.json, &paths, context),
        KeyCommand::Rotate { yes } => rotate(yes, args.json, &paths, context),
    }
}

/// The document that `key --json` prints.
#[derive(Debug, Serialize)]
pub(super) struct KeyReport {
    pub publisher: PublisherKey,
    pub fingerprint: String,
    /// The file with the secret key.
    pub path: PathBuf,
    /// The former keys of this publisher.
    pub replaced: Vec<ReplacedKey>,
    /// The file with the secret key that `key rotate` has just replaced; none for `key show`.
    pub former_path: Option<PathBuf>,
}

/// A former key and the key that replaced it.
#[derive(Debug, Serialize)]
pub(super) struct ReplacedKey {
    pub publisher: PublisherKey,
    pub fingerprint: String,
    pub successor: NamedPublisher,
}

impl KeyReport {
    fn load(paths: &Paths, former_path: Option<PathBuf>) -> Result<Self, CommandError> {
        let path = paths.publisher_key();
        let publisher = PublisherKeypair::load(&path)?.public();
        let replaced = |(former, successor): (PublisherKey, PublisherKey)| ReplacedKey {
            publisher: former,
            fingerprint: former.fingerprint(),
            successor: TrustDocument::default().named(&successor),
        };
        let replaced = rotation::successors(paths).into_iter().map(replaced).collect();
        Ok(Self { publisher, fingerprint: publisher.fingerprint(), path, replaced, former_path })
    }
}

fn show(json: bool, paths: &Paths, context: &Context) -> Result<(), CommandError> {
    let key = KeyReport::load(paths, None)?;
    let out = &context.out;
    if json {
        return out.json(&key);
    }
    out.line(format_args!("fingerprint  {}", key.fingerprint))?;
    out.line(format_args!("publisher    {}", key.publisher))?;
    out.line(format_args!("secret key   {}", key.path.display()))?;
    key.replaced.iter().try_for_each(|ReplacedKey { fingerprint, successor, .. }| {
        out.line(format_args!("former key   {fingerprint}, replaced by {successor}"))
    })
}

fn rotate(yes: bool, json: bool, paths: &Paths, context: &Context) -> Result<(), CommandError> {
    let fingerprint = PublisherKeypair::load(&paths.publisher_key())?.public().fingerprint();
    let question = format!("Replace the key {fingerprint} by a new one? This cannot be undone.");
    if !yes && std::io::stdin().is_terminal() && !confirmed(&question)? {
        return Err(CommandError::failed("the key was not replaced"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let rotated = rotation::rotate(paths, now)?;
    let out = &context.out;
    if json {
        out.json(&KeyReport::load(paths, Some(rotated.kept))?)?;
    } else {
        out.line(format_args!("fingerprint  {}", rotated.current.fingerprint()))?;
        out.line(format_args!("publisher    {}", rotated.current))?;
        out.line(format_args!("former key   {fingerprint}, kept in {}", rotated.kept.display()))?;
    }
    // The daemon signs the shared models again; without a daemon this process does.
    with_daemon_or_library(
        context,
        async |client, _| Ok(client.reload().await?),
        async |library, _| Ok(crate::node::rotation::finish(&library).map(|_| ())?),
    )?;
    out.note("keep a copy of the new key; other hosts receive it while the daemon runs (`silmaril daemon`)");
    Ok(())
}
