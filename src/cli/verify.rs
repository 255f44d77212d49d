//! `verify`: compares the local files of a model with its manifest.

use std::sync::Arc;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::format::{clean, size};
use crate::cli::session::with_daemon_or_library;
use crate::model::ModelRef;
use crate::node::NodeError;
use crate::node::blocking::cancellable;
use crate::node::verify::{self, Verified};

const EXAMPLES: &str = "\
Examples:
  silmaril verify acme/minilm
  silmaril get acme/minilm       fetch the damaged parts again";

/// Read the local files of a model and compare them with its manifest
///
/// Damaged parts are discarded, so that `get` or a reader fetches them again. Fails with exit code 1 if a part is damaged.
/// Reads of parts that are not stored locally wait until the verification is done.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model, as ORG/NAME or ORG/NAME@REVISION
    model: ModelRef,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Verifies in the daemon if it runs, otherwise on a thread of this process. Both end soon after Ctrl-C.
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
    if bad.is_empty() {
        return Ok(());
    }
    Err(NodeError::Damaged { model: args.model.clone(), files: bad }.into())
}

fn print(context: &Context, report: &Verified) -> Result<(), CommandError> {
    let out = &context.out;
    let contradictory = "contradictory: the manifest has a sha256 that does not match its pieces";
    for (what, paths) in [("damaged", &report.damaged), (contradictory, &report.contradictory)] {
        for path in paths {
            out.line(format_args!("{}: {what}", clean(path)))?;
        }
    }
    let mut text = format!("{}: {} right", report.model, size(report.right));
    for (bytes, what) in
        [(report.unchecked, "not checked (piece hashes not known yet)"), (report.missing, "missing")]
    {
        if bytes > 0 {
            text.push_str(&format!(", {} {what}", size(bytes)));
        }
    }
    out.line(text)
}
