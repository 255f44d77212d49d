//! The command line: one file per subcommand. No other module prints.
//!
//! A subcommand has an `Args`, whose doc comments are the help text, and a function `run`. Results go to stdout, remarks
//! and errors to stderr. A failure is a `CommandError`, which has the exit code.

mod adopt;
mod background;
mod bar;
mod cache;
mod cleanup;
mod completions;
mod config;
mod connection;
mod context;
mod daemon;
mod discover;
mod doctor;
mod env;
mod error;
mod format;
mod get;
mod hosting;
mod init;
#[cfg(test)]
mod json_doc;
mod key;
mod list;
mod man;
mod mirror;
mod mount;
mod mounting;
mod output;
mod publishing;
mod registry;
mod remove;
#[cfg(test)]
pub(crate) mod samples;
mod seeding;
mod serve;
mod session;
mod share;
mod signals;
mod status;
mod stop;
mod table;
mod target;
mod transfers;
mod trust;
mod unmount;
mod verify;
mod wanted;
mod warm;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use context::{Context, Globals};
use error::CommandError;
use tracing::debug_span;

use crate::descriptors;
use crate::ffi::process::exit;

const EXAMPLES: &str = "\
Examples:
  Make your base directory and key, once:
      silmaril init

  Share a directory as a model; other hosts read it while your daemon runs:
      silmaril share ./all-MiniLM-L6-v2 --name acme/minilm --license apache-2.0

  On another machine, find models that other hosts share:
      silmaril discover minilm

  Use the model without downloading it first:
      mkdir -p ~/models && silmaril mount ~/models
      ls -l ~/models/acme/minilm
      silmaril unmount ~/models

  Or download the whole model:
      silmaril get acme/minilm

  Or let programs that read from the hub read it here:
      silmaril serve && eval \"$(silmaril env)\"
      hf download acme/minilm

Exit codes:
  0 done   1 not found, refused or no network   2 wrong usage or configuration   3 internal fault   130 Ctrl-C";

/// The network as a directory of AI models: mount it, read it, share it. No server, no account.
///
/// Models are shared as BitTorrent v2 swarms under names such as org/name. A mounted model is read on demand: only the
/// parts that a program reads are fetched. They are verified, cached, and uploaded to other hosts.
#[derive(Debug, Parser)]
#[command(name = "silmaril", version, after_long_help = EXAMPLES, after_help = "`silmaril --help` shows examples; `silmaril COMMAND --help` explains a command.")]
#[command(arg_required_else_help = true, disable_help_subcommand = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Args),
    Mount(mount::Args),
    Unmount(unmount::Args),
    Status(status::Args),
    Stop(stop::Args),
    Serve(serve::Args),
    Env(env::Args),
    Warm(warm::Args),
    List(list::Args),
    Discover(discover::Args),
    Get(get::Args),
    Mirror(mirror::Args),
    Share(share::Args),
    Adopt(adopt::Args),
    Daemon(daemon::Args),
    #[command(subcommand)]
    Registry(registry::RegistryCommand),
    Verify(verify::Args),
    Remove(remove::Args),
    Cache(cache::Args),
    #[command(subcommand)]
    Trust(trust::TrustCommand),
    Key(key::Args),
    #[command(subcommand)]
    Config(config::ConfigCommand),
    Doctor(doctor::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the program and ends the process with its exit code.
pub fn main() -> ! {
    descriptors::raise_limit();
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        let name = matches.subcommand_name().unwrap_or_default().to_owned();
        let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut Cli::command()))?;
        Ok((name, cli))
    });
    let result = match parsed {
        Ok((name, cli)) => run(&name, cli),
        Err(error) => {
            // Help and version are errors for clap. A failed write means that the reader has closed the pipe.
            let _ = error.print();
            exit(if error.use_stderr() { 2 } else { 0 })
        }
    };
    exit(result.map_or_else(
        |error| {
            error.print();
            error.exit_code()
        },
        |()| 0,
    ))
}

/// Runs the command of this name.
fn run(name: &str, cli: Cli) -> Result<(), CommandError> {
    let context = Context::new(cli.globals);
    context
        .start_logging(matches!(cli.command, Command::Mount(_) | Command::Share(_) | Command::Daemon(_)))?;
    let _span = debug_span!("command", name).entered();
    if !matches!(
        cli.command,
        Command::Status(_)
            | Command::List(_)
            | Command::Stop(_)
            | Command::Doctor(_)
            | Command::Completions(_)
            | Command::Man(_)
    ) {
        session::refuse_base_of_another_user(&context)?;
    }
    match cli.command {
        Command::Init(args) => init::run(&args, &context),
        Command::Mount(args) => mount::run(&args, &context),
        Command::Unmount(args) => unmount::run(&args, &context),
        Command::Status(args) => status::run(&args, &context),
        Command::Stop(args) => stop::run(&args, &context),
        Command::Serve(args) => serve::run(&args, &context),
        Command::Env(args) => env::run(&args, &context),
        Command::Warm(args) => warm::run(&args, &context),
        Command::List(args) => list::run(&args, &context),
        Command::Discover(args) => discover::run(&args, &context),
        Command::Get(args) => get::run(&args, &context),
        Command::Mirror(args) => mirror::run(&args, &context),
        Command::Share(args) => share::run(&args, &context),
        Command::Adopt(args) => adopt::run(&args, &context),
        Command::Daemon(args) => daemon::run(&args, &context),
        Command::Registry(command) => registry::run(&command, &context),
        Command::Verify(args) => verify::run(&args, &context),
        Command::Remove(args) => remove::run(&args, &context),
        Command::Cache(args) => cache::run(&args, &context),
        Command::Trust(command) => trust::run(&command, &context),
        Command::Key(args) => key::run(&args, &context),
        Command::Config(command) => config::run(&command, &context),
        Command::Doctor(args) => doctor::run(&args, &context),
        Command::Completions(args) => completions::run(&args, &context, Cli::command()),
        Command::Man(args) => man::run(&args, &context, Cli::command()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
