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
    let source = concat!("silmaril ", env!("CARGO_PKG_VERSION"));
    let mut page = Vec::new();
    Man::new(command.clone()).source(source).render(&mut page)?;
    pages.extend(examples_as_written(&page));
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        render(below, pages)?;
    }
    Ok(())
}

/// Gives the examples their own section, in which lines are not filled.
fn examples_as_written(page: &[u8]) -> Vec<u8> {
    let page = String::from_utf8_lossy(page);
    let Some((before, examples)) = page.split_once(".SH EXTRA\nExamples:\n") else {
        return page.into_owned().into_bytes();
    };
    let (examples, after) = examples.split_at(examples.find("\n.SH").map_or(examples.len(), |at| at + 1));
    format!("{before}.SH EXAMPLES\n.nf\n{examples}.fi\n{after}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_keep_their_lines() {
        let page = b".SH NAME\nx\n.SH EXTRA\nExamples:\n  one\n  two\n.SH VERSION\nv\n";
        let expected = b".SH NAME\nx\n.SH EXAMPLES\n.nf\n  one\n  two\n.fi\n.SH VERSION\nv\n";
        assert_eq!(examples_as_written(page), expected);
        assert_eq!(examples_as_written(b".SH NAME\nx\n"), b".SH NAME\nx\n");
    }
}
