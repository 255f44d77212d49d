//! `cache`: the parts of models that were read and kept.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use serde::Serialize;

use crate::cli::cleanup::confirmed;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::{clean, size};
use crate::cli::session::with_node_or_library;
use crate::cli::table::{number, text};
use crate::model::PiecesRoot;
use crate::store::cache::{disk_space, resolve_size};

const EXAMPLES: &str = "\
Examples:
  silmaril cache
  silmaril cache show --json
  silmaril cache clear --yes";

/// Show or clear the cache: the parts of models that were read through a mount
///
/// What the cache holds is verified, served to later readers and, unless the model is withheld, uploaded to others. It
/// keeps itself within `cache.max_size` and `cache.min_free` of the configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List what the cache holds, longest unused first
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete all of it; it is fetched again when it is read
    Clear {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// One file of the cache.
#[derive(Debug, Serialize)]
struct Row {
    /// `org/name@revision/path` of one file with this content; none when no model has it any more.
    file: Option<String>,
    pieces_root: PiecesRoot,
    size: u64,
    here: u64,
    /// Seconds since 1970.
    last_used: u64,
}

/// Shows or clears.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    match args.command {
        None => show(false, context),
        Some(Command::Show { json }) => show(json, context),
        Some(Command::Clear { yes }) => clear(yes, context),
    }
}

fn show(json: bool, context: &Context) -> Result<(), CommandError> {
    let library = context.library()?;
    let mut names = HashMap::new();
    for manifest in library.manifests() {
        for file in &manifest.files {
            if let Some(root) = file.pieces_root {
                names
                    .entry((root, file.size))
                    .or_insert_with(|| format!("{}/{}", manifest.model_ref(), file.path));
            }
        }
    }
    let entries = library.store.cache_entries()?;
    let rows: Vec<Row> = entries
        .iter()
        .map(|entry| Row {
            file: names.get(&(entry.key.root, entry.key.len)).cloned(),
            pieces_root: entry.key.root,
            size: entry.key.len,
            here: entry.allocated,
            last_used: entry.last_used,
        })
        .collect();
    let out = &context.out;
    if json {
        return out.json(&rows);
    }
    if !rows.is_empty() {
        let cells = rows.iter().map(|row| {
            let file = row.file.clone().unwrap_or_else(|| format!("(unknown) {}", row.pieces_root));
            vec![clean(&file), size(row.here), size(row.size), ago(row.last_used)]
        });
        let columns = [text("FILE"), number("HERE"), number("OF"), text("LAST USED")];
        out.table(&columns, &cells.collect::<Vec<_>>())?;
    }
    let used = rows.iter().map(|row| row.here).sum();
    let (total, free) = disk_space(&library.paths.cache())?;
    let bound = resolve_size(library.config.cache.max_size, total);
    out.line(format_args!("{} of {} used, {} free on the disk", size(used), size(bound), size(free)))
}

/// How long ago a time is, for people.
fn ago(seconds: u64) -> String {
    let then = UNIX_EPOCH + Duration::from_secs(seconds);
    let passed = SystemTime::now().duration_since(then).unwrap_or_default().as_secs();
    match passed {
        0..60 => "just now".to_owned(),
        60..3600 => format!("{} min ago", passed / 60),
        3600..86400 => format!("{} h ago", passed / 3600),
        _ => format!("{} days ago", passed / 86400),
    }
}

fn clear(yes: bool, context: &Context) -> Result<(), CommandError> {
    let before = context.library()?.store.cache_usage()?;
    if !yes && before > 0 && !confirmed(&format!("Delete {} from the cache?", size(before)))? {
        return Err(CommandError::failed("nothing was deleted"));
    }
    let freed = with_node_or_library(
        context,
        async |client, _| Ok(client.clear_cache().await?),
        async |library, _| {
            library.store.evict(u64::MAX, &|_| false)?;
            Ok(before.saturating_sub(library.store.cache_usage()?))
        },
    )?;
    context.out.line(format_args!("freed {}", size(freed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_largest_unit() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        for (passed, text) in
            [(0, "just now"), (90, "1 min ago"), (7300, "2 h ago"), (864_500, "10 days ago")]
        {
            assert_eq!(ago(now - passed), text);
        }
        assert_eq!(ago(now + 100), "just now", "a clock that was set back");
    }
}
