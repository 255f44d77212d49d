//! `remove`: forgets a model and frees its space.

use std::cell::Cell;
use std::io::IsTerminal as _;

use crate::cli::cleanup::confirmed;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::size;
use crate::cli::session::with_daemon_or_library;
use crate::model::ModelRef;
use crate::node::{ErrorKind, NodeError, remove};

const EXAMPLES: &str = "\
Examples:
  silmaril remove acme/minilm
  silmaril remove acme/minilm@v1 --yes";

/// Forget a model and delete what was fetched of it
///
/// Files that you share from a directory of your own, or got into one with `get -o`, stay. A running mount shows the
/// model no longer, and a running node uploads it no longer. What `mirror --skip-lfs` left goes, too, but for what you
/// edited.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model, as ORG/NAME or ORG/NAME@REVISION
    model: ModelRef,
    /// Do not ask on a terminal
    #[arg(short, long)]
    yes: bool,
}

/// Removes it, asking first where somebody can answer.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let library = context.library()?;
    let revisions = library.revisions_of(&args.model)?;
    let (here, place) = match (revisions.first(), library.store.laid_out_bytes(&args.model)) {
        (Some(first), _) => (revisions.iter().map(|r| r.held_bytes()).sum(), library.store.own_place(first)),
        // A mirror that left its large files out is no model, and goes as one does.
        (None, Some(bytes)) => (bytes, None),
        (None, None) => return Err(library.absent(args.model.clone()).into()),
    };
    let question = format!("Remove {} ({} here)?", args.model, size(here));
    if !args.yes && std::io::stdin().is_terminal() && !confirmed(&question)? {
        return Err(CommandError::failed("nothing was removed"));
    }
    drop(library);
    let begun = Cell::new(false);
    let removed = |removed| match removed {
        // The node that went away had done it.
        Err(NodeError::Remote { kind: ErrorKind::UnknownModel, .. } | NodeError::UnknownModel(_))
            if begun.get() =>
        {
            Ok(())
        }
        removed => Ok(removed?),
    };
    with_daemon_or_library(
        context,
        async |client, _| {
            let done = removed(client.remove(&args.model).await);
            begun.set(true);
            done
        },
        async |library, _| removed(remove::remove(&library, &args.model)),
    )?;
    context.out.line(format_args!("removed {}", args.model))?;
    if let Some(dir) = place.filter(|dir| dir.exists()) {
        context.out.note(format_args!("what is left in {} is yours and stays", dir.display()));
    }
    Ok(())
}
