//! `completions`: scripts with which a shell completes the command line of silmaril.

use clap_complete::Shell;

use crate::cli::context::Context;
use crate::cli::error::CommandError;

const EXAMPLES: &str = "\
Examples:
  silmaril completions bash > ~/.local/share/bash-completion/completions/silmaril
  silmaril completions zsh > \"${fpath[1]}/_silmaril\"
  silmaril completions fish > ~/.config/fish/completions/silmaril.fish";

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &Args, context: &Context, mut command: clap::Command) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "silmaril", &mut script);
    context.out.bytes(&script)
}
