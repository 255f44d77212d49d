//! `status`: what the running node does.

use std::io::{IsTerminal as _, stdout};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::list::{code, pinned};
use crate::cli::output::{clean, count, percent, size};
use crate::cli::signals::StopSignals;
use crate::cli::table::{Column, number, text};
use crate::node::control::{Client, Status};
use crate::node::limited::LimitedProcess;
use crate::paths::Paths;

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How long `--watch` waits for the next node when the one that was shown has ended.
const NEXT_WITHIN: Duration = Duration::from_secs(15);

/// The latest paths that could not be resolved that are printed.
const MAX_UNRESOLVED: usize = 10;

const EXAMPLES: &str = "\
Examples:
  silmaril status
  silmaril status --watch
  silmaril status --json | jq '.transfers[] | {model, cached_bytes, peers}'";

/// Show what the running silmaril does: transfers, peers, errors
///
/// Fails with exit code 1 when none runs.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show it again every second until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// The error of commands that need a running node.
pub fn not_running(paths: &Paths) -> CommandError {
    CommandError::failed(format!("no silmaril is running on {}", paths.base.display()))
        .hint("`silmaril mount DIR` or `silmaril daemon` starts one")
}

/// Prints what the node answers.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let paths = context.config()?.paths();
    context.block_on(async {
        let mut signals = StopSignals::new()?;
        let mut clock = tokio::time::interval_at(Instant::now() + WATCH_EVERY, WATCH_EVERY);
        let mut shown: Option<Instant> = None;
        loop {
            match Client::find(&paths).await? {
                Some((_, status)) => {
                    show(args, context, &status)?;
                    shown = Some(Instant::now());
                }
                // Another may be about to take its place.
                None if shown.is_some_and(|shown| shown.elapsed() < NEXT_WITHIN) => {}
                None => return Err(not_running(&paths)),
            }
            if !args.watch {
                return Ok(());
            }
            tokio::select! {
                _ = clock.tick() => {}
                stop = signals.wait() => return stop.end_of_service(),
            }
        }
    })
}

fn show(args: &Args, context: &Context, status: &Status) -> Result<(), CommandError> {
    if args.watch && stdout().is_terminal() {
        // Home, then clear to the end.
        context.out.bytes(b"\x1b[H\x1b[J")?;
    }
    if args.json { context.out.json(status) } else { print(context, status) }
}

fn print(context: &Context, status: &Status) -> Result<(), CommandError> {
    let out = &context.out;
    out.line(format_args!(
        "{} (process {}, silmaril {}, up {})",
        clean(&status.activity),
        status.pid,
        clean(&status.version),
        humantime::format_duration(Duration::from_secs(status.uptime)),
    ))?;
    out.line(format_args!("base directory  {}", clean(&status.base_dir.display().to_string())))?;
    let listening: Vec<String> = status.listening.iter().map(ToString::to_string).collect();
    out.line(format_args!("listening on    {}", listening.join(", ")))?;
    if let Some(catalog) = &status.catalog {
        let dht = match status.dht {
            true => count(catalog.dht_nodes.into(), "DHT node"),
            false => "no DHT".to_owned(),
        };
        let (records, peers) = (count(catalog.records as u64, "record"), count(catalog.peers as u64, "peer"));
        out.line(format_args!("catalog         {records}, {peers}, {dht}"))?;
    }
    for job in &status.jobs {
        let seconds = humantime::format_duration(Duration::from_secs(job.seconds));
        let done = match job.total {
            0 => String::new(),
            total => format!(", {} of {}", percent(job.done, total), size(total)),
        };
        out.line(format_args!("for a command   {} (since {seconds}{done})", clean(&job.what)))?;
    }
    for companion in &status.attached {
        let (what, pid) = (clean(&companion.activity), companion.pid);
        out.line(format_args!("goes on after   {what} (process {pid})"))?;
    }
    for process in &status.limited {
        let LimitedProcess { pid, command, lookups, seconds } = process;
        let ago = humantime::format_duration(Duration::from_secs(*seconds));
        let lookups = count(*lookups, "unknown name");
        out.line(format_args!(
            "not looked up   {lookups} of {} (process {pid}), beyond mount.max_lookups ({ago} ago)",
            clean(command),
        ))?;
    }
    let hidden = status.unresolved.len().saturating_sub(MAX_UNRESOLVED);
    if hidden > 0 {
        let hidden = count(hidden as u64, "earlier path");
        out.line(format_args!("not shown       {hidden}; `silmaril status --json` names all"))?;
    }
    for name in &status.unresolved[hidden..] {
        let ago = humantime::format_duration(Duration::from_secs(name.seconds));
        out.line(format_args!(
            "not shown       {}: {} ({ago} ago)",
            clean(&name.model),
            clean(&name.reason)
        ))?;
        print_paths(context, &name.paths)?;
    }
    for name in &status.disputed {
        let publishers = clean(&name.publishers.join(", "));
        let model = clean(&name.model);
        out.line(format_args!("disputed        {model}: published by {publishers}"))?;
        if let Some(kept) = &name.kept {
            let kept = clean(kept);
            out.line(format_args!(
                "                the mount shows {kept}, read before, until it is unmounted"
            ))?;
        }
        print_paths(context, &name.paths)?;
    }
    if status.transfers.is_empty() {
        return out.line("no transfers");
    }
    out.line("")?;
    let rows = status.transfers.iter().map(|t| {
        let note = status.notes.iter().find(|note| note.model == t.model);
        vec![
            clean(&t.model),
            size(t.total_size),
            percent(t.cached_bytes, t.total_size),
            format!("{}/s", size(t.download_rate + t.web_rate)),
            format!("{}/s", size(t.upload_rate)),
            format!("{} ({})", t.peers, t.seeds),
            t.waiting_reads.to_string(),
            size(t.downloaded),
            size(t.downloaded_web),
            size(t.uploaded),
            note.map_or("-", |note| pinned(note.pinned)).to_owned(),
            note.map_or_else(|| "-".to_owned(), |note| code(&note.runs_code)),
        ]
    });
    out.table(&COLUMNS, &rows.collect::<Vec<_>>())?;
    for t in &status.transfers {
        if let Some(error) = &t.last_error {
            out.line(format_args!("{}: {}", clean(&t.model), clean(error)))?;
        }
    }
    Ok(())
}

/// The most important first: those that do not fit a narrow terminal follow on lines of their own.
const COLUMNS: [Column; 12] = [
    text("MODEL"),
    number("SIZE"),
    number("HERE"),
    number("DOWN"),
    number("UP"),
    number("PEERS (FULL)"),
    number("READS WAITING"),
    number("FROM PEERS"),
    number("FROM WEB"),
    number("SENT"),
    text("TRUST"),
    text("RUNS CODE"),
];

/// Where the models of several publishers are read.
fn print_paths(context: &Context, paths: &[PathBuf]) -> Result<(), CommandError> {
    let line = |path: &PathBuf| {
        context.out.line(format_args!("                read {}", clean(&path.display().to_string())))
    };
    paths.iter().try_for_each(line)
}
