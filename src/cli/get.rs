//! `get`: fetches a model into a directory.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cli::context::{Context, absolute, surroundings, token_if_usable};
use crate::cli::error::CommandError;
use crate::cli::format::{clean, count, size};
use crate::cli::output::{Activity, Progress};
use crate::cli::session::with_daemon;
use crate::cli::wanted;
use crate::model::ModelRef;
use crate::node::get::{GetProgress, GetReport, GetRequest, ManifestOrigin};

const EXAMPLES: &str = "\
Examples:
  silmaril get acme/minilm                            into the models directory
  silmaril get acme/minilm@v2 -o ./minilm             a revision, into another directory
  silmaril get https://huggingface.co/acme/minilm     the model with this name, from peers first
  silmaril get acme/minilm --include '*.json'         only some files
  silmaril get acme/minilm --peer 192.0.2.7:6881      from a host you know
  silmaril get acme/minilm --update                   search for a newer state first
  silmaril get acme/minilm --seed=false               do not seed it";

/// Get a model into a directory, whole or in part
///
/// A model that is not known yet is searched on the network by its name. The first publisher whose model you get owns the
/// name from then on (see `silmaril trust`). After an interruption the received data is kept; the same command resumes.
/// The daemon fetches the model and then seeds it in the background, unless --seed=false is given; it is started if it
/// does not run.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model: ORG/NAME, ORG/NAME@REVISION, hf://ORG/NAME@REVISION, or its address on the hub
    #[arg(value_name = "MODEL|URL")]
    model: String,
    /// Directory for the files [default: ORG/NAME in the models directory]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Whether the daemon seeds the model afterwards [default: true, unless the model is withheld]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    seed: Option<bool>,
    /// Do not check the SHA-256 of every file at the end
    #[arg(long)]
    no_verify: bool,
    /// Get only files that match; may be repeated
    #[arg(long, value_name = "GLOB", value_parser = glob)]
    include: Vec<String>,
    /// Leave out files that match; may be repeated
    #[arg(long, value_name = "GLOB", value_parser = glob)]
    exclude: Vec<String>,
    /// Accept the model only from this publisher: a key, a fingerprint, an alias, or the first eight characters of a key or
    /// fingerprint that `silmaril trust list` shows
    #[arg(long, value_name = "KEY")]
    publisher: Option<String>,
    /// Search the network for a newer state, even if the model is known
    #[arg(long)]
    update: bool,
    /// With --update: accept a state that is older than the known one
    #[arg(long, requires = "update")]
    allow_older: bool,
    /// A host that has the model; may be repeated
    #[arg(long = "peer", value_name = "IP:PORT")]
    peers: Vec<SocketAddr>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn glob(text: &str) -> Result<String, globset::Error> {
    globset::Glob::new(text).map(|_| text.to_owned())
}

/// Has the daemon fetch, verify and seed the model.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let config = context.config()?;
    let model = wanted::model(&args.model, &config.hub.endpoint)?;
    let output = args.output.as_deref().map(absolute).transpose()?;
    let request = GetRequest {
        model: model.clone(),
        output,
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        verify: config.security.verify_checksums && !args.no_verify,
        publisher: args.publisher.clone(),
        peers: args.peers.clone(),
        update: args.update,
        allow_older: args.allow_older,
        seed: args.seed,
        surroundings: surroundings(token_if_usable()),
    };
    let got = with_daemon(context, async |daemon, signals| {
        if let Some(output) = &request.output {
            daemon.check_sees(output)?;
        }
        let mut display = Display::Nothing;
        let getting = daemon.client.get(&request, |p| display.show(p, context, &model));
        Ok((signals.unless(async { Ok(getting.await?) }).await?, daemon.pid))
    });
    let (report, pid) = got.map_err(CommandError::resumable)?;
    print(args, context, &report)?;
    if report.seeded {
        context.out.note(format_args!(
            "process {pid} seeds it in the background; `silmaril get {model} --seed=false` ends the seeding"
        ));
    }
    Ok(())
}

/// The progress display that is on the terminal.
enum Display {
    Nothing,
    Searching(Activity),
    Fetching(Progress),
}

impl Display {
    fn show(&mut self, progress: GetProgress, context: &Context, model: &ModelRef) {
        let (done, want, detail) = match progress {
            GetProgress::Looking { peers } => {
                if !matches!(self, Self::Searching(_)) {
                    *self = Self::Searching(context.out.activity(""));
                }
                if let Self::Searching(line) = self {
                    line.set_text(format_args!("looking for {model}, {}", count(peers as u64, "peer")));
                }
                return;
            }
            GetProgress::Fetching { have, want, rate, peers, web } => {
                let from = match (peers, web) {
                    (0, false) => "looking for peers".to_owned(),
                    (0, true) => "from the web, looking for peers".to_owned(),
                    (_, false) => count(peers.into(), "peer"),
                    (_, true) => format!("{} and the web", count(peers.into(), "peer")),
                };
                (have, want, format!("{}/s, {from}", size(rate)))
            }
            GetProgress::Checking { done, want } => (done, want, "checked".to_owned()),
        };
        if !matches!(self, Self::Fetching(_)) {
            *self = Self::Fetching(context.out.progress(&model.to_string()));
        }
        if let Self::Fetching(progress) = self {
            progress.set(done, want, detail);
        }
    }
}

fn print(args: &Args, context: &Context, report: &GetReport) -> Result<(), CommandError> {
    let model = &report.model;
    let by = match (&report.alias, &report.fingerprint) {
        (Some(alias), Some(fingerprint)) => format!("signed by {alias} ({fingerprint})"),
        (_, Some(fingerprint)) => format!("signed by {fingerprint}"),
        (_, None) => "unsigned".to_owned(),
    };
    match report.origin {
        ManifestOrigin::Known => {}
        ManifestOrigin::Found => context.out.note(format_args!("found {model}, {}", clean(&by))),
        ManifestOrigin::NoneNewer => {
            context.out.note(format_args!("no newer state of {model} was found on the network"));
        }
        ManifestOrigin::Hub => {
            context.out.note(format_args!("no peer has {model}; its files are from the hub"))
        }
        ManifestOrigin::Outdated => context.out.note(format_args!(
            "its publisher has announced a newer state; to get it: silmaril get {model} --update"
        )),
    }
    for warning in &report.warnings {
        context.out.warn(warning);
    }
    if args.json {
        return context.out.json(report);
    }
    let checked = if report.verified { ", sha256 checked" } else { "" };
    let web = match report.downloaded_web {
        0 => String::new(),
        all if all == report.downloaded => " over HTTP".to_owned(),
        part => format!(", {} of it over HTTP", size(part)),
    };
    context.out.line(format_args!(
        "{} is in {} ({}, {}; {} received{web}{checked})",
        report.model,
        report.path.display(),
        count(report.files as u64, "file"),
        size(report.total_size),
        size(report.downloaded),
    ))
}
