//! `cache`: lists or clears the cached parts of models.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use serde::Serialize;

use crate::cli::cleanup::confirmed;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::format::{clean, size};
use crate::cli::session::with_daemon_or_library;
use crate::cli::table::{number, text};
use crate::model::{ModelRef, PiecesRoot};
use crate::store::eviction::{CacheEntry, disk_space, resolve_size};

const EXAMPLES: &str = "\
Examples:
  silmaril cache
  silmaril cache --json
  silmaril cache clear --yes";

/// Show or clear the cache: the parts of models that were read through a mount
///
/// Cached parts are verified, are used for later reads and, unless the model is withheld, are uploaded to other hosts.
/// The cache stays within `cache.max_size` and `cache.min_free` of the configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Option<CacheCommand>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// List the files in the cache, longest unused first
    Show,
    /// Delete the whole cache; later reads fetch the parts again
    Clear {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// The document that `cache --json` prints.
#[derive(Debug, Serialize)]
pub(super) struct CacheDocument {
    /// Bytes that the cache takes on the disk.
    pub used_bytes: u64,
    /// Bytes that the cache may take.
    pub max_bytes: u64,
    /// Bytes that are free on the disk.
    pub free_bytes: u64,
    /// The cached files, longest unused first.
    pub contents: Vec<CachedFile>,
}

/// One file of the cache.
#[derive(Debug, Serialize)]
pub(super) struct CachedFile {
    /// A model that has a file with this content; none if no known model has one.
    pub model: Option<ModelRef>,
    /// The file's path in that model.
    pub file: Option<String>,
    /// None for a file that comes from the hub.
    pub pieces_root: Option<PiecesRoot>,
    pub size: u64,
    /// Bytes that the file takes on the disk.
    pub used_bytes: u64,
    /// Seconds since 1970.
    pub last_used_at: u64,
}

/// Shows or clears.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    match args.command {
        None | Some(CacheCommand::Show) => show(args.json, context),
        Some(CacheCommand::Clear { yes }) => clear(yes, args.json, context),
    }
}

fn show(json: bool, context: &Context) -> Result<(), CommandError> {
    let library = context.library()?;
    let mut names = HashMap::new();
    for manifest in library.manifests() {
        for file in &manifest.files {
            if let Some(root) = file.pieces_root {
                let named = || (manifest.model_ref(), file.path.to_string());
                names.entry((root, file.size)).or_insert_with(named);
            }
        }
    }
    let mut from_hub = HashMap::new();
    for listing in library.store.hub().listings() {
        for file in &listing.files {
            let named = || (listing.model.clone(), file.path.clone());
            listing.key(file).map(|key| from_hub.entry(key).or_insert_with(named));
        }
    }
    let row = |entry: &CacheEntry| {
        let named = match &entry.hub {
            Some(key) => from_hub.get(key),
            None => names.get(&(entry.key.root, entry.key.len)),
        };
        let (model, file) = named.cloned().unzip();
        CachedFile {
            model,
            file,
            pieces_root: entry.hub.is_none().then_some(entry.key.root),
            size: entry.key.len,
            used_bytes: entry.allocated,
            last_used_at: entry.last_used,
        }
    };
    let contents: Vec<CachedFile> = library.store.cache().entries()?.iter().map(row).collect();
    let used_bytes = contents.iter().map(|row| row.used_bytes).sum();
    let (total, free_bytes) = disk_space(&library.paths.cache())?;
    let max_bytes = resolve_size(library.config.cache.max_size, total);
    let out = &context.out;
    if json {
        return out.json(&CacheDocument { used_bytes, max_bytes, free_bytes, contents });
    }
    if !contents.is_empty() {
        let cells = contents.iter().map(|row| {
            let file = match (&row.model, &row.file) {
                (Some(model), Some(file)) => format!("{model}/{file}"),
                _ => {
                    format!("(unknown) {}", row.pieces_root.map(|root| root.to_string()).unwrap_or_default())
                }
            };
            vec![clean(&file), size(row.used_bytes), size(row.size), ago(row.last_used_at)]
        });
        let columns = [text("FILE"), number("HERE"), number("OF"), text("LAST USED")];
        out.table(&columns, &cells.collect::<Vec<_>>())?;
    }
    let (used, bound, free) = (size(used_bytes), size(max_bytes), size(free_bytes));
    out.line(format_args!("{used} of {bound} used, {free} free on the disk"))
}

/// The time that has passed since `seconds` after 1970, in its largest unit.
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

/// The document that `cache clear --json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Freed {
    pub freed_bytes: u64,
}

fn clear(yes: bool, json: bool, context: &Context) -> Result<(), CommandError> {
    let before = context.library()?.store.cache().usage()?;
    if !yes && before > 0 && !confirmed(&format!("Delete {} from the cache?", size(before)))? {
        return Err(CommandError::failed("nothing was deleted"));
    }
    let freed = with_daemon_or_library(
        context,
        async |client, _| Ok(client.clear_cache().await?),
        async |library, _| {
            library.store.cache().evict(u64::MAX, &|_| false)?;
            Ok(before.saturating_sub(library.store.cache().usage()?))
        },
    )?;
    if json {
        context.out.json(&Freed { freed_bytes: freed })
    } else {
        context.out.line(format_args!("freed {}", size(freed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_shown_in_its_largest_unit() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        for (passed, text) in
            [(0, "just now"), (90, "1 min ago"), (7300, "2 h ago"), (864_500, "10 days ago")]
        {
            assert_eq!(ago(now - passed), text);
        }
        assert_eq!(ago(now + 100), "just now", "a clock that was set back");
    }
}
