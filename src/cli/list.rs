//! `list`: the models known here and how much of each is here.

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::{clean, percent, size};

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

/// Prints the table.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let rows = context.library()?.models()?;
    if args.json {
        return context.out.json(&rows);
    }
    if rows.is_empty() {
        context.out.note(
            "no models are known here; `silmaril discover` finds some, `silmaril get` adds one, `silmaril share` makes one",
        );
        return Ok(());
    }
    let cells = rows.iter().map(|row| {
        vec![
            row.name.to_string(),
            row.revision.to_string(),
            size(row.size),
            percent(row.here, row.size),
            clean(row.license.as_deref().unwrap_or("-")),
            match (&row.alias, &row.fingerprint) {
                (Some(alias), Some(fingerprint)) => clean(&format!("{alias} ({fingerprint})")),
                (None, Some(fingerprint)) => fingerprint.clone(),
                (_, None) => "unsigned".to_owned(),
            },
            clean(&row.path.as_ref().map_or_else(|| "-".to_owned(), |p| p.display().to_string())),
        ]
    });
    let heading = ["NAME", "REVISION", "SIZE", "HERE", "LICENCE", "PUBLISHER", "PATH"];
    context.out.table(&heading, &[2, 3], cells.collect())
}
