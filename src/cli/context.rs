//! The global options, and the configuration, output and runtime that a command derives from them.

use std::path::{Path, PathBuf};

use clap::ArgAction;

use crate::cli::error::CommandError;
use crate::cli::output::Output;
use crate::config::{Config, LoadOptions};
use crate::http::{EnvironmentProxies, Token};
use crate::mirror::token;
use crate::node::{Library, Surroundings};
use crate::telemetry;

/// The absolute form of a path, because the daemon has another working directory.
pub fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    std::path::absolute(path).map_err(|e| CommandError::io(path, e))
}

/// The proxies of this command's environment, and `token`: the daemon uses them for this command's job only.
pub fn surroundings(token: Option<Token>) -> Surroundings {
    Surroundings { proxies: EnvironmentProxies::of_this_process(), token, hub_offline: is_hub_offline() }
}

/// Whether the environment forbids requests to the hub, as the libraries of the hub read it.
fn is_hub_offline() -> bool {
    let is_set = |name| {
        std::env::var(name)
            .is_ok_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
    };
    is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE")
}

/// The token for the hub. A token that cannot be used is logged and ignored, because public models need none.
pub fn token_if_usable() -> Option<Token> {
    let token = token::find().inspect_err(|error| tracing::warn!(%error, "the hub is asked without a token"));
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
    /// Log more; repeat it to log everything
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// Print only results and errors; repeat it to silence the log, too
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "verbose", help_heading = "Global options")]
    pub quiet: u8,
}

/// The global options and the output of one command.
#[derive(Debug)]
pub struct Context {
    pub globals: Globals,
    /// Writes results and remarks.
    pub out: Output,
}

impl Context {
    /// Reads no file.
    pub fn new(globals: Globals) -> Self {
        let out = Output::new(globals.quiet > 0);
        Self { globals, out }
    }

    /// The number of `-v` minus the number of `-q`.
    pub fn verbosity(&self) -> i8 {
        let count = |n: u8| i8::try_from(n).unwrap_or(i8::MAX);
        count(self.globals.verbose) - count(self.globals.quiet)
    }

    /// Starts logging to stderr. Without `-v`, only a command that may run the daemon (`runs_daemon`) logs warnings: all
    /// other commands print their results and errors themselves.
    pub fn start_logging(&self, runs_daemon: bool) -> Result<(), CommandError> {
        let verbosity = self.verbosity();
        let verbosity = if runs_daemon || verbosity != 0 { verbosity } else { -1 };
        Ok(telemetry::init(verbosity)?)
    }

    /// The global options that concern the configuration.
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

    /// Runs a future to its end on a runtime of its own. Does not wait for threads that still run blocking work: the
    /// process ends soon.
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
