//! `list`: the models known here and how much of each is here.

use std::path::PathBuf;

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::{clean, percent, size};
use crate::model::PublisherKey;
use crate::store::StoredRevision;

const EXAMPLES: &str = "\
Examples:
  silmaril list
  silmaril list --json | jq -r '.[] | select(.complete) | .path'";

/// List the models known here, and how much of each is here
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One model of `--json`.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    revision: String,
    size: u64,
    here: u64,
    complete: bool,
    license: Option<String>,
    publisher: Option<PublisherKey>,
    fingerprint: Option<String>,
    info_hash: String,
    path: Option<PathBuf>,
}

impl Row {
    fn of(revision: &StoredRevision) -> Self {
        let manifest = &revision.manifest;
        Self {
            name: manifest.name.to_string(),
            revision: manifest.version.to_string(),
            size: manifest.total_size,
            here: revision.cached_bytes(),
            complete: revision.is_complete(),
            license: manifest.license.clone(),
            publisher: manifest.publisher,
            fingerprint: manifest.publisher.map(|key| key.fingerprint()),
            info_hash: manifest.torrent.info_hash.to_string(),
            path: place(revision),
        }
    }
}

/// The directory that holds all files of a revision under their own names; none while some are in the cache.
pub fn place(revision: &StoredRevision) -> Option<PathBuf> {
    let mut dirs =
        revision.manifest.files.iter().zip(&revision.contents).filter(|(file, _)| file.size > 0).map(
            |(file, content)| {
                let path = content.path();
                let depth = file.path.split('/').count();
                path.ends_with(&file.path).then(|| path.ancestors().nth(depth).map(PathBuf::from)).flatten()
            },
        );
    let first = dirs.next()??;
    dirs.all(|dir| dir.as_ref() == Some(&first)).then_some(first)
}

/// Prints the table.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let rows: Vec<Row> = context.library()?.revisions()?.iter().map(|r| Row::of(r)).collect();
    if args.json {
        return context.out.json(&rows);
    }
    if rows.is_empty() {
        context.out.note(
            "no models are known here; `silmaril registry import FILE` adds one, `silmaril share` makes one",
        );
        return Ok(());
    }
    let cells = rows.iter().map(|row| {
        vec![
            row.name.clone(),
            row.revision.clone(),
            size(row.size),
            percent(row.here, row.size),
            clean(row.license.as_deref().unwrap_or("-")),
            row.fingerprint.clone().unwrap_or_else(|| "unsigned".to_owned()),
            clean(&row.path.as_ref().map_or_else(|| "-".to_owned(), |p| p.display().to_string())),
        ]
    });
    let heading = ["NAME", "REVISION", "SIZE", "HERE", "LICENCE", "PUBLISHER", "PATH"];
    context.out.table(&heading, &[2, 3], cells.collect())
}
