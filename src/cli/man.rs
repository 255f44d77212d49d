//! `man`: the manual, made of the same text as the help.

use clap_mangen::Man;

use crate::cli::context::Context;
use crate::cli::error::CommandError;

const EXAMPLES: &str = "\
Examples:
  silmaril man | man -l -
  silmaril man > ~/.local/share/man/man1/silmaril.1";

/// Print the manual of all commands as one roff document
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {}

/// Prints the pages of silmaril and of each command, one after another.
pub fn run(_args: &Args, context: &Context, mut command: clap::Command) -> Result<(), CommandError> {
    command.build();
    let mut pages = Vec::new();
    render(&command, &mut pages).map_err(CommandError::internal)?;
    context.out.bytes(&pages)
}

fn render(command: &clap::Command, pages: &mut Vec<u8>) -> std::io::Result<()> {
    Man::new(command.clone()).render(pages)?;
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        render(below, pages)?;
    }
    Ok(())
}
