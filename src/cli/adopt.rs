//! `adopt`: seeds models that other programs have downloaded, where they are.

use std::path::PathBuf;

use crate::cli::context::{Context, absolute, surroundings, token_if_usable};
use crate::cli::error::CommandError;
use crate::cli::format::{clean, count, size};
use crate::cli::session::with_daemon;
use crate::cli::table::{number, text};
use crate::model::scan::hub_cache;
use crate::model::text::parse_size;
use crate::node::adopt::{AdoptRequest, AdoptState, AdoptedDir};

const EXAMPLES: &str = "\
Examples:
  silmaril adopt                       the models in the caches of the hub's libraries, LM Studio, Ollama and ComfyUI
  silmaril adopt ~/downloads/acme/minilm
  silmaril adopt --fetch 1GB           also models of which files up to 1 GB are missing";

/// Share models that other programs have downloaded, without copying them
///
/// Recognises files by their length and hash, whatever their names are. A directory org/name, or an entry of a cache, is
/// compared with the model of that name: its manifest, or the files that the hub lists. If all files are there, the model is
/// shared in place if its licence and the hub permit it, as `mirror` does; `get` and mounts use the files, too. Small files that
/// are missing are fetched from the hub. Files that change or disappear later are no longer shared.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Directories to search [default: the hub's cache and the directories of LM Studio, Ollama and ComfyUI]
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Fetch the missing files of a model from the hub if they have at most this size together
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = |text: &str| parse_size(text))]
    fetch: u64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Has the daemon adopt the files, and prints a table.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let dirs = if args.dirs.is_empty() { default_dirs() } else { args.dirs.clone() };
    if dirs.is_empty() {
        let why = "no cache of the hub's libraries, LM Studio, Ollama or ComfyUI is on this host";
        return Err(CommandError::failed(why).hint("name a directory: `silmaril adopt DIR`"));
    }
    if let Some(absent) = dirs.iter().find(|dir| !dir.is_dir()) {
        return Err(CommandError::failed(format!(
            "{} is not a directory",
            clean(&absent.display().to_string())
        )));
    }
    let dirs = dirs.iter().map(|dir| absolute(dir)).collect::<Result<_, _>>()?;
    let request =
        AdoptRequest { dirs, fetch_at_most: args.fetch, surroundings: surroundings(token_if_usable()) };
    let adopted = with_daemon(context, async |daemon, signals| {
        let progress = context.out.progress("comparing files");
        let adopting = daemon.client.adopt(&request, |now| progress.set(now.done, now.total, ""));
        signals.unless(async { Ok(adopting.await?) }).await
    })?;
    if args.json {
        return context.out.json(&adopted);
    }
    print(context, &adopted)
}

/// The directories of well-known programs that exist.
fn default_dirs() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = hub_cache().into_iter().collect();
    dirs.extend(std::env::var_os("OLLAMA_MODELS").map(PathBuf::from));
    if let Ok(home) = etcetera::home_dir() {
        let below = [".lmstudio/models", ".cache/lm-studio/models", ".ollama/models", "ComfyUI/models"];
        dirs.extend(below.iter().map(|dir| home.join(dir)));
    }
    dirs.retain(|dir| dir.is_dir());
    dirs
}

fn print(context: &Context, adopted: &[AdoptedDir]) -> Result<(), CommandError> {
    let columns =
        [text("MODEL"), text("STATE"), number("FILES"), number("SIZE"), text("DIRECTORY"), text("NOTE")];
    let rows = adopted.iter().map(|found| {
        let state = match found.state {
            AdoptState::Shared => "shared",
            AdoptState::Withheld => "not shared",
            AdoptState::Known => "known",
            AdoptState::Incomplete => "incomplete",
            AdoptState::Unknown => "not recognised",
        };
        let mut notes: Vec<String> = found.why.iter().map(|why| clean(why)).collect();
        for (bytes, what) in [(found.fetched, "fetched"), (found.missing, "missing")] {
            if bytes > 0 {
                notes.push(format!("{} {what}", size(bytes)));
            }
        }
        vec![
            found.model.as_ref().map_or("-".to_owned(), ToString::to_string),
            state.to_owned(),
            found.files.to_string(),
            size(found.size),
            clean(&found.dir.display().to_string()),
            if notes.is_empty() { "-".to_owned() } else { notes.join("; ") },
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        context.out.table(&columns, &rows)?;
    }
    let shared = adopted.iter().filter(|found| found.state == AdoptState::Shared).count();
    context.out.note(format_args!("{} shared in place", count(shared as u64, "model")));
    Ok(())
}
