//! `list`: the models known here and how much of each is here.

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::{clean, percent, size};
use crate::cli::table::{number, text};
use crate::model::code::RunsCode;

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
            pinned(row.pinned).to_owned(),
            code(&row.runs_code),
            clean(&row.path.as_ref().map_or_else(|| "-".to_owned(), |p| p.display().to_string())),
        ]
    });
    let columns = [
        text("NAME"),
        text("REVISION"),
        number("SIZE"),
        number("HERE"),
        text("LICENCE"),
        text("PUBLISHER"),
        text("TRUST"),
        text("RUNS CODE"),
        text("PATH"),
    ];
    context.out.table(&columns, &cells.collect::<Vec<_>>())
}

/// Whether a name belongs to the publisher of its model.
pub(in crate::cli) fn pinned(pinned: bool) -> &'static str {
    if pinned { "pinned" } else { "not pinned" }
}

/// What of a model can run code when it is loaded.
pub(in crate::cli) fn code(kinds: &[RunsCode]) -> String {
    let words: Vec<&str> = kinds.iter().map(|kind| kind.word()).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}
