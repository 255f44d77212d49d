//! `man`: prints manual pages that are generated from the help texts.

use std::fs;
use std::path::PathBuf;

use clap_mangen::Man;

use crate::cli::context::Context;
use crate::cli::error::CommandError;

const EXAMPLES: &str = "\
Examples:
  silmaril man | man -l -
  silmaril man --output ~/.local/share/man/man1     then: man silmaril-get";

/// Print the manual of all commands, or write a page for each (roff)
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Write silmaril.1 and a silmaril-COMMAND.1 for each command into this directory
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Prints all pages to standard output, or writes each page to a file.
pub fn run(args: &Args, context: &Context, mut command: clap::Command) -> Result<(), CommandError> {
    command.build();
    let mut pages = Vec::new();
    render(&command, &mut pages).map_err(CommandError::internal)?;
    let Some(dir) = &args.output else {
        return context.out.bytes(&pages.into_iter().map(|(_, page)| page).collect::<Vec<_>>().concat());
    };
    fs::create_dir_all(dir).map_err(|e| CommandError::io(dir, e))?;
    pages.into_iter().try_for_each(|(name, page)| {
        let path = dir.join(name);
        fs::write(&path, page).map_err(|e| CommandError::io(&path, e))
    })
}

/// Appends the page of a command and the pages of its subcommands, each with its file name.
fn render(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    let source = concat!("silmaril ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(source);
    let mut page = Vec::new();
    man.render(&mut page)?;
    pages.push((man.get_filename(), examples_as_written(&page)));
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        render(below, pages)?;
    }
    Ok(())
}

/// Moves the examples to their own section, in which roff keeps the line breaks.
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
    fn examples_keep_their_line_breaks() {
        let page = b".SH NAME\nx\n.SH EXTRA\nExamples:\n  one\n  two\n.SH VERSION\nv\n";
        let expected = b".SH NAME\nx\n.SH EXAMPLES\n.nf\n  one\n  two\n.fi\n.SH VERSION\nv\n";
        assert_eq!(examples_as_written(page), expected);
        assert_eq!(examples_as_written(b".SH NAME\nx\n"), b".SH NAME\nx\n");
    }
}
