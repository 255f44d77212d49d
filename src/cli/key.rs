//! `key`: the publisher's key.

use std::io::IsTerminal as _;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use serde_json::json;

use crate::catalog::rotation;
use crate::cli::cleanup::confirmed;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::session::with_node_or_library;
use crate::keys::PublisherKeypair;
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
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the public key, its fingerprint and where the secret key lies
    ///
    /// Tell others the fingerprint, so that they can see that a model is yours. Keys that it has replaced are listed,
    /// too.
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
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
        Command::Show { json } => show(json, &paths, context),
        Command::Rotate { yes } => rotate(yes, &paths, context),
    }
}

fn show(json: bool, paths: &Paths, context: &Context) -> Result<(), CommandError> {
    let path = paths.publisher_key();
    let public = PublisherKeypair::load(&path)?.public();
    let former = rotation::successors(paths);
    let out = &context.out;
    if json {
        let former = former.iter().map(|(former, successor)| {
            json!({
                "publisher": former.to_string(),
                "fingerprint": former.fingerprint(),
                "successor": successor.to_string(),
            })
        });
        return out.json(&json!({
            "publisher": public.to_string(),
            "fingerprint": public.fingerprint(),
            "path": path.display().to_string(),
            "former": former.collect::<Vec<_>>(),
        }));
    }
    out.line(format_args!("fingerprint  {}", public.fingerprint()))?;
    out.line(format_args!("publisher    {public}"))?;
    out.line(format_args!("secret key   {}", path.display()))?;
    former.iter().try_for_each(|(former, successor)| {
        let (former, successor) = (former.fingerprint(), successor.fingerprint());
        out.line(format_args!("former key   {former}, replaced by {successor}"))
    })
}

fn rotate(yes: bool, paths: &Paths, context: &Context) -> Result<(), CommandError> {
    let fingerprint = PublisherKeypair::load(&paths.publisher_key())?.public().fingerprint();
    let question = format!("Replace the key {fingerprint} by a new one, for good?");
    if !yes && std::io::stdin().is_terminal() && !confirmed(&question)? {
        return Err(CommandError::failed("the key was not replaced"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let rotated = rotation::rotate(paths, now)?;
    let out = &context.out;
    out.line(format_args!("fingerprint  {}", rotated.current.fingerprint()))?;
    out.line(format_args!("publisher    {}", rotated.current))?;
    out.line(format_args!("former key   {fingerprint}, kept in {}", rotated.kept.display()))?;
    // Whoever holds the base directory signs anew; opening it here does as much.
    with_node_or_library(
        context,
        async |client, _| Ok(client.reload().await?),
        async |library, _| Ok(library.finish_rotation().map(|_| ())?),
    )?;
    out.note("keep a copy of the new key; others learn of it while you share, or run `silmaril daemon`");
    Ok(())
}
