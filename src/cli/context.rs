//! What every command is given: the global options and what they lead to.

use std::path::{Path, PathBuf};

use clap::ArgAction;

use crate::cli::error::CommandError;
use crate::cli::output::Output;
use crate::config::{Config, LoadOptions};
use crate::http::{EnvironmentProxies, Token};
use crate::mirror::token;
use crate::node::{Library, Surroundings};
use crate::telemetry;

/// A path from the root, as another process needs it.
pub fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    std::path::absolute(path).map_err(|e| CommandError::io(path, e))
}

/// What this command has in its environment, and the daemon has not.
pub fn surroundings(token: Option<Token>) -> Surroundings {
    Surroundings { proxies: EnvironmentProxies::of_this_process(), token }
}

/// The token for the hub. One that cannot be used is logged: models that may be read without one need none.
pub fn token_if_usable() -> Option<Token> {
    let token = token::find().inspect_err(|e| tracing::warn!("the hub is asked without a token: {e}"));
    token.ok().flatten()
}

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
pub struct Globals {
    /// Configuration file [default: ~/.config/silmaril/config.yaml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Base directory, above SILMARIL_HOME and the configuration [default: ~/.silmaril]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub home: Option<PathBuf>,
    /// Say more; twice says everything
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// Say nothing but results and errors; twice silences the log, too
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "verbose", help_heading = "Global options")]
    pub quiet: u8,
}

/// What every command is given.
#[derive(Debug)]
pub struct Context {
    /// The global options.
    pub globals: Globals,
    /// Where results and remarks go.
    pub out: Output,
}

impl Context {
    /// Reads nothing yet.
    pub fn new(globals: Globals) -> Self {
        let out = Output::new(globals.quiet > 0);
        Self { globals, out }
    }

    /// The number of `-v` less the number of `-q`.
    pub fn verbosity(&self) -> i8 {
        let count = |n: u8| i8::try_from(n).unwrap_or(i8::MAX);
        count(self.globals.verbose) - count(self.globals.quiet)
    }

    /// Starts logging to stderr. Only a command that serves others warns unasked: the others say themselves what
    /// they found.
    pub fn start_logging(&self, serves: bool) -> Result<(), CommandError> {
        let verbosity = self.verbosity();
        let verbosity = if serves || verbosity != 0 { verbosity } else { -1 };
        Ok(telemetry::init(verbosity, telemetry::Target::Stderr)?)
    }

    /// What the global options say about the configuration.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions { config_path: self.globals.config.clone(), home: self.globals.home.clone() }
    }

    /// The effective configuration.
    pub fn config(&self) -> Result<Config, CommandError> {
        Ok(Config::load(&self.load_options())?)
    }

    /// The registry and the store.
    pub fn library(&self) -> Result<Library, CommandError> {
        Ok(Library::open(self.config()?)?)
    }

    /// Runs a future to its end on a runtime of its own. Work that a blocking thread still does then is left
    /// behind: the process is about to end.
    pub fn block_on<T>(
        &self,
        work: impl Future<Output = Result<T, CommandError>>,
    ) -> Result<T, CommandError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("silmaril")
            .build()
            .map_err(CommandError::internal)?;
        let result = runtime.block_on(work);
        runtime.shutdown_background();
        result
    }
}
