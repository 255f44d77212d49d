//! `get`: a model into a directory.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cli::context::{Context, absolute};
use crate::cli::error::CommandError;
use crate::cli::output::{Progress, count, size};
use crate::cli::session::with_node;
use crate::cli::share;
use crate::model::ModelRef;
use crate::node::NodeOptions;
use crate::node::control::Seed;
use crate::node::get::{GetProgress, GetReport, GetRequest};

const EXAMPLES: &str = "\
Examples:
  silmaril get acme/minilm                            into the models directory
  silmaril get acme/minilm@v2 -o ./minilm             a revision, somewhere else
  silmaril get acme/minilm --include '*.json'         only some files
  silmaril get acme/minilm --peer 192.0.2.7:6881      from a host you know
  silmaril get acme/minilm --seed                     and pass it on until Ctrl-C";

/// Get a model into a directory, whole or in part
///
/// What an interrupted call got is kept: calling it again goes on from there. While a mount, a share or a daemon runs
/// on the same base directory, that process fetches; if it ends first, this command goes on by itself.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model, as ORG/NAME or ORG/NAME@REVISION
    model: ModelRef,
    /// Directory to put its files in [default: ORG/NAME in the models directory]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Keep uploading it until Ctrl-C
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    seed: bool,
    /// Do not check the SHA-256 of every file at the end
    #[arg(long)]
    no_verify: bool,
    /// Get only files that match; may be repeated
    #[arg(long, value_name = "GLOB", value_parser = glob)]
    include: Vec<String>,
    /// Leave out files that match; may be repeated
    #[arg(long, value_name = "GLOB", value_parser = glob)]
    exclude: Vec<String>,
    /// The publisher whose model is meant, where several use the name; refuse all others. A key, a fingerprint (or
    /// the first eight digits of either), or an alias
    #[arg(long, value_name = "KEY")]
    publisher: Option<String>,
    /// A host that has it; may be repeated
    #[arg(long = "peer", value_name = "IP:PORT")]
    peers: Vec<SocketAddr>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn glob(text: &str) -> Result<String, globset::Error> {
    globset::Glob::new(text).map(|_| text.to_owned())
}

/// Fetches, checks, and seeds if asked to.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let config = context.config()?;
    let output = args.output.as_deref().map(absolute).transpose()?;
    let request = GetRequest {
        model: args.model.clone(),
        output,
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        verify: config.security.verify_checksums && !args.no_verify,
        publisher: args.publisher.clone(),
        peers: args.peers.clone(),
    };
    let options = NodeOptions { activity: format!("get {}", args.model), ..NodeOptions::default() };
    let mut here = false;
    with_node(context, config, options, async |host, signals| {
        // A later host only goes on with what is left to do.
        if !here {
            let progress = context.out.progress(&args.model.to_string());
            let getting = host.client.get(&request, |p| show(&progress, p));
            let report = signals.unless(async { Ok(getting.await?) }).await?;
            drop(progress);
            print(args, context, &report)?;
            here = true;
        }
        if args.seed {
            let seed = Seed { model: Some(args.model.clone()), peers: args.peers.clone() };
            share::seed_until_stopped(context, host, &seed, signals).await?;
        }
        Ok(())
    })
}

fn show(progress: &Progress, state: GetProgress) {
    match state {
        GetProgress::Fetching { have, want, rate, peers } => {
            let from = if peers == 0 { "looking for peers".to_owned() } else { count(peers.into(), "peer") };
            progress.set(have, want, format_args!("{}/s, {from}", size(rate)));
        }
        GetProgress::Checking { done, want } => progress.set(done, want, "checked"),
    }
}

fn print(args: &Args, context: &Context, report: &GetReport) -> Result<(), CommandError> {
    if args.json {
        return context.out.json(report);
    }
    let checked = if report.verified { ", sha256 checked" } else { "" };
    context.out.line(format_args!(
        "{} is in {} ({}, {}; {} received{checked})",
        report.model,
        report.path.display(),
        count(report.files as u64, "file"),
        size(report.bytes),
        size(report.downloaded),
    ))
}
