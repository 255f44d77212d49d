//! A connection to the daemon, and what commands report about the daemon that they find.

use std::path::Path;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::config::Config;
use crate::mount::Namespaces;
use crate::node::control::DaemonClient;
use crate::paths::Paths;

/// Connection to the daemon.
#[derive(Debug)]
pub struct Daemon {
    pub client: DaemonClient,
    /// Process identifier of the daemon.
    pub pid: u32,
    /// Namespaces of the daemon; none if it does not report them.
    pub namespaces: Option<Namespaces>,
}

impl Daemon {
    /// Fails if the daemon does not see the files of this process, because it is in another mount namespace or has another
    /// root directory. `path` is the path that the daemon has to open.
    pub fn check_sees(&self, path: &Path) -> Result<(), CommandError> {
        if self.sees_files() {
            return Ok(());
        }
        let (path, pid) = (path.display(), self.pid);
        Err(CommandError::failed(format!(
            "{path} is not visible to the daemon (process {pid}), which is in another mount namespace"
        ))
        .hint("run the command where the daemon was started, or give this namespace a daemon of its own with `--home DIR`"))
    }

    /// Whether paths and mounts are the same for the daemon. False if the daemon does not report its namespaces.
    pub fn sees_files(&self) -> bool {
        let here = Namespaces::of_this_process();
        here.is_ok_and(|here| self.namespaces.is_some_and(|there| there.share_mount_table_with(&here)))
    }
}

/// The error of commands that need a running daemon and do not start one.
pub fn not_running(paths: &Paths) -> CommandError {
    CommandError::failed(format!("no silmaril is running on {}", paths.base.display()))
        .hint("`silmaril mount DIR` or `silmaril daemon` starts one")
}

/// Reports that the daemon was started with another configuration than the present one. `theirs` is the daemon's, in the
/// form of [`Config`]'s `Display`; none if the daemon does not report it.
pub fn report_former_config(context: &Context, config: &Config, daemon: u32, theirs: Option<&str>) {
    if theirs.is_some_and(|theirs| theirs != config.to_string()) {
        context.out.note(format_args!(
            "the configuration has changed; the daemon (process {daemon}) uses the former one until `silmaril stop`"
        ));
    }
}
