//! `config`: prints the effective configuration.

use clap::Subcommand;

use crate::cli::connection::report_former_config;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::table::text;
use crate::config::{Config, Setting, ValueOrigin};
use crate::node::control::DaemonClient;

const EXAMPLES: &str = "\
Examples:
  silmaril config show
  silmaril config show --json | jq -r '.[] | select(.key == \"storage.models_dir\").value'";

/// Show the configuration that commands use
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum ConfigCommand {
    /// Print every key with its value and the value's origin: the file, the environment, an option or the default
    ///
    /// docs/CONFIGURATION.md and the file that `silmaril init` writes explain the keys. Passwords of proxies are hidden.
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Prints the configuration. Starts no process and writes no file.
pub fn run(command: &ConfigCommand, context: &Context) -> Result<(), CommandError> {
    let ConfigCommand::Show { json } = *command;
    let options = context.load_options();
    let settings = Config::settings(&options)?;
    if json {
        return context.out.json(&settings);
    }
    let row = |setting: &Setting| {
        let origin = match setting.set_by {
            ValueOrigin::Default => "default",
            ValueOrigin::File => "file",
            ValueOrigin::Environment => "SILMARIL_HOME",
            ValueOrigin::Option => "--home",
        };
        vec![setting.key.to_owned(), origin.to_owned(), setting.value.clone()]
    };
    let rows: Vec<_> = settings.iter().map(row).collect();
    context.out.table(&[text("KEY"), text("FROM"), text("VALUE")], &rows)?;
    if let Ok(file) = Config::config_file(&options) {
        let absent = if file.exists() { "" } else { " (absent)" };
        context.out.note(format_args!("file: {}{absent}", file.display()));
    }
    let config = context.config()?;
    let running = context.block_on(async { Ok(DaemonClient::find(&config.paths()).await?) });
    if let Ok(Some((_, status))) = running {
        report_former_config(context, &config, status.pid, status.config.as_deref());
    }
    Ok(())
}
