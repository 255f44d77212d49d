//! `verify`: is what is here of a model what its manifest says?

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::{clean, size};
use crate::cli::session::blocking;
use crate::cli::signals::StopSignals;
use crate::model::ModelRef;
use crate::node::maintenance::Verified;
use crate::node::{Library, NodeError};

const EXAMPLES: &str = "\
Examples:
  silmaril verify acme/minilm
  silmaril get acme/minilm       fetches again what turned out to be damaged";

/// Read all that is here of a model again and compare it with its manifest
///
/// Damaged parts do not count as here any more, so that `get` or a reader fetches them again. Fails with exit code 1
/// when something is damaged.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model, as ORG/NAME or ORG/NAME@REVISION
    model: ModelRef,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Verifies on a thread of its own, which ends soon after Ctrl-C.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let (library, _lock) = Library::open_locked(context.config()?)?;
    let report = context.block_on(async {
        let mut signals = StopSignals::new()?;
        let progress = context.out.progress(&format!("verifying {}", args.model));
        let model = args.model.clone();
        let work = blocking(move |cancel| {
            library.verify(&model, &|done, total| progress.set(done, total, ""), cancel)
        });
        signals.unless(work).await
    })?;
    if args.json {
        context.out.json(&report)?;
    } else {
        print(context, &report)?;
    }
    let bad: Vec<String> = report.damaged.into_iter().chain(report.contradictory).collect();
    match bad.is_empty() {
        true => Ok(()),
        false => Err(NodeError::Damaged { model: args.model.clone(), files: bad }.into()),
    }
}

fn print(context: &Context, report: &Verified) -> Result<(), CommandError> {
    let out = &context.out;
    let contradictory = "contradictory: its manifest gives it a sha256 that its pieces do not have";
    for (what, paths) in [("damaged", &report.damaged), (contradictory, &report.contradictory)] {
        for path in paths {
            out.line(format_args!("{}: {what}", clean(path)))?;
        }
    }
    let mut text = format!("{}: {} right", report.model, size(report.right));
    for (bytes, what) in [(report.unchecked, "cannot be checked yet"), (report.missing, "not here")] {
        if bytes > 0 {
            text.push_str(&format!(", {} {what}", size(bytes)));
        }
    }
    out.line(text)
}
