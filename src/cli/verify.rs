//! `verify`: is what is here of a model what its manifest says?

use std::sync::Arc;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::{clean, size};
use crate::cli::session::with_daemon_or_library;
use crate::model::ModelRef;
use crate::node::NodeError;
use crate::node::blocking::cancellable;
use crate::node::verify::{self, Verified};

const EXAMPLES: &str = "\
Examples:
  silmaril verify acme/minilm
  silmaril get acme/minilm       fetches again what turned out to be damaged";

/// Read all that is here of a model again and compare it with its manifest
///
/// Damaged parts do not count as here any more, so that `get` or a reader fetches them again. Fails with exit code 1
/// when something is damaged. While a mount runs, readers of parts that are not here wait until this is done.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model, as ORG/NAME or ORG/NAME@REVISION
    model: ModelRef,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Has the running node verify, or does it on a thread of its own; either ends soon after Ctrl-C.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let progress = Arc::new(context.out.progress(&format!("verifying {}", args.model)));
    let (shown, model) = (progress.clone(), args.model.clone());
    let report = with_daemon_or_library(
        context,
        async |client, signals| {
            let verifying = client.verify(&args.model, |p| progress.set(p.done, p.total, ""));
            signals.unless(async { Ok(verifying.await?) }).await
        },
        async |library, signals| {
            let verifying = cancellable(move |cancel| {
                verify::verify(&library, &model, &|done, total| shown.set(done, total, ""), cancel)
            });
            signals.unless(async { Ok(verifying.await?) }).await
        },
    )?;
    drop(progress);
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
    for (bytes, what) in
        [(report.unchecked, "not checked (piece hashes not known yet)"), (report.missing, "not here")]
    {
        if bytes > 0 {
            text.push_str(&format!(", {} {what}", size(bytes)));
        }
    }
    out.line(text)
}
