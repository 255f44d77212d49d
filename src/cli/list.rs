//! `list`: prints the known models and how much of each is stored locally.

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::format::{clean, percent, size};
use crate::cli::output::terminal_width;
use crate::cli::table::{self, Column, number, text};
use crate::model::code::RunsCode;
use crate::node::models::KnownModel;

const EXAMPLES: &str = "\
Examples:
  silmaril list
  silmaril list --unshared     models in the models directory that are not shared
  silmaril list --json | jq -r '.[] | select(.complete) | .path'";

/// List the known models, and how much of each is stored locally
///
/// A directory that you put into the models directory, as ORG/NAME, is listed as not shared: mounts show it when it is
/// complete and has not changed for 10 seconds, and `silmaril share` shares it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// List only models in the models directory that are not shared, with the reason if they cannot be shared
    #[arg(long)]
    unshared: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the table.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let mut models = crate::node::models::all(&context.library()?)?;
    if args.unshared {
        models.retain(KnownModel::is_unshared);
    }
    if args.json {
        return context.out.json(&models);
    }
    if models.is_empty() && args.unshared {
        context.out.note("every model in the models directory is shared or was fetched");
        return Ok(());
    }
    if models.is_empty() {
        context.out.note(
            "no models are known; `silmaril discover` finds models, `silmaril get` adds one, `silmaril share` makes one",
        );
        return Ok(());
    }
    lines(&models, terminal_width()).iter().try_for_each(|line| context.out.line(line))
}

/// The lines of the table for a terminal of `width` columns. Without a width each model is one line.
fn lines(models: &[KnownModel], width: Option<usize>) -> Vec<String> {
    table::render(&COLUMNS, &models.iter().map(row).collect::<Vec<_>>(), width)
}

/// Ordered by importance: on a narrow terminal the last columns are printed on separate lines.
const COLUMNS: [Column; 10] = [
    text("MODEL"),
    number("SIZE"),
    number("HERE"),
    text("SHARED"),
    text("TRUST"),
    text("PUBLISHER"),
    text("LICENCE"),
    text("RUNS CODE"),
    text("PATH"),
    text("REASON"),
];

fn row(model: &KnownModel) -> Vec<String> {
    vec![
        model.model.to_string(),
        size(model.total_size),
        percent(model.cached_bytes, model.total_size),
        if model.shared { "yes" } else { "not shared" }.to_owned(),
        if model.info_hash.is_none() { "-" } else { pinned(model.pinned) }.to_owned(),
        match (&model.alias, &model.fingerprint) {
            (Some(alias), Some(fingerprint)) => clean(&format!("{alias} ({fingerprint})")),
            (None, Some(fingerprint)) => fingerprint.clone(),
            (_, None) if model.hub_commit.is_some() => "the hub".to_owned(),
            (_, None) if model.is_unshared() => "-".to_owned(),
            (_, None) => "unsigned".to_owned(),
        },
        clean(model.license.as_deref().unwrap_or("-")),
        code(&model.runs_code),
        clean(&model.path.as_ref().map_or_else(|| "-".to_owned(), |path| path.display().to_string())),
        clean(model.reason.as_deref().unwrap_or("-")),
    ]
}

/// The word for whether a name belongs to the publisher of its model.
pub(in crate::cli) fn pinned(pinned: bool) -> &'static str {
    if pinned { "pinned" } else { "not pinned" }
}

/// The parts of a model that can run code when the model is loaded, as a list of words.
pub(in crate::cli) fn code(kinds: &[RunsCode]) -> String {
    let words: Vec<&str> = kinds.iter().map(|kind| kind.word()).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests;
