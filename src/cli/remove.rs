//! `remove`: deletes a model from the registry and the disk.

use std::cell::Cell;
use std::io::IsTerminal as _;

use crate::cli::cleanup::confirmed;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::format::size;
use crate::cli::session::with_daemon_or_library;
use crate::model::ModelRef;
use crate::node::{ErrorKind, NodeError, remove};

const EXAMPLES: &str = "\
Examples:
  silmaril remove acme/minilm
  silmaril remove acme/minilm@v1 --yes";

/// Remove a model and delete its fetched files
///
/// Files in a directory of your own, which you share in place or filled with `get -o`, are kept. Mounts no longer show the
/// model, and the daemon no longer uploads it. Files of `mirror --skip-lfs` are deleted, too, except those that you have
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

/// Removes the model. Asks first if standard input is a terminal.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let library = context.library()?;
    let revisions = library.revisions_of(&args.model)?;
    let (local, dir) = match (revisions.first(), library.store.partial_mirrors().bytes(&args.model)) {
        (Some(first), _) => {
            (revisions.iter().map(|r| r.held_bytes()).sum(), library.store.placed().own_dir(first))
        }
        // A mirror without its large files is not in the registry, but its files are removed in the same way.
        (None, Some(bytes)) => (bytes, None),
        (None, None) => match library.store.hub().cached_bytes(&args.model)? {
            Some(bytes) => (bytes, None),
            None => return Err(library.absent(args.model.clone()).into()),
        },
    };
    let question = format!("Remove {} ({} on the disk)?", args.model, size(local));
    if !args.yes && std::io::stdin().is_terminal() && !confirmed(&question)? {
        return Err(CommandError::failed("nothing was removed"));
    }
    drop(library);
    let was_requested = Cell::new(false);
    let removed = |removed| match removed {
        // A daemon that ended after the first request had removed it.
        Err(NodeError::Remote { kind: ErrorKind::UnknownModel, .. } | NodeError::UnknownModel(_))
            if was_requested.get() =>
        {
            Ok(())
        }
        removed => Ok(removed?),
    };
    with_daemon_or_library(
        context,
        async |client, _| {
            let done = removed(client.remove(&args.model).await);
            was_requested.set(true);
            done
        },
        async |library, _| removed(remove::remove(&library, &args.model)),
    )?;
    context.out.line(format_args!("removed {}", args.model))?;
    if let Some(dir) = dir.filter(|dir| dir.exists()) {
        context.out.note(format_args!("{} is kept: the remaining files are not silmaril's", dir.display()));
    }
    Ok(())
}
