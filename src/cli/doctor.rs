//! `doctor`: checks whether this machine can mount and share.

mod endpoint;
mod fuse;

use std::fmt::Display;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::format::{clean, count, shell_quoted};
use crate::config::Config;
use crate::model::keys::{KeyError, PublisherKeypair};
use crate::mount::{Liveness, liveness};
use crate::node::control::{DaemonClient, Status};
use crate::trust::Trust;

/// Check that this machine can mount and share, and print a remedy for each fault
///
/// Fails with exit code 1 when a check fails; warnings do not count.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    /// Passed. The text describes what was found.
    Ok(String),
    /// A function is limited. Fault and remedy.
    Warn(String, String),
    /// A function does not work. Fault and remedy.
    Fail(String, String),
}

use Finding::{Fail, Ok as Fine, Warn};

/// One element of the array that `doctor --json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// The name of the check.
    pub check: &'static str,
    /// `ok`, `warn` or `fail`.
    pub result: &'static str,
    /// A description of what was found or is missing.
    pub found: String,
    /// How to repair the fault; none if there is no fault.
    pub remedy: Option<String>,
}

impl Check {
    fn of(check: &'static str, finding: Finding) -> Self {
        let (result, found, remedy) = match finding {
            Fine(found) => ("ok", found, None),
            Warn(found, remedy) => ("warn", found, Some(remedy)),
            Fail(found, remedy) => ("fail", found, Some(remedy)),
        };
        Self { check, result, found, remedy }
    }

    fn print(&self, context: &Context) -> Result<(), CommandError> {
        let Self { check, result, found, remedy } = self;
        context.out.line(format_args!("{result:4}  {check:14}  {}", clean(found)))?;
        match remedy {
            Some(remedy) => context.out.line(format_args!("{:22}{}", "", clean(remedy))),
            None => Ok(()),
        }
    }
}

/// Runs all checks and prints one line each.
pub fn run(args: &Args, context: &Context) -> Result<(), CommandError> {
    let mut checks = Vec::new();
    let mut report = |name: &'static str, finding: Finding| {
        let check = Check::of(name, finding);
        // Checks may be slow, so the result of each is shown immediately.
        let printed = if args.json { Ok(()) } else { check.print(context) };
        checks.push(check);
        printed
    };
    report("fuse device", fuse::device())?;
    report("fusermount3", fusermount())?;
    report("mounts", mounts())?;
    match Config::load(&context.load_options()) {
        Err(error) => report(
            "configuration",
            Fail(error.to_string(), "correct it, or write it again: silmaril init --force".into()),
        )?,
        Ok(config) => {
            let file = Config::config_file(&context.load_options())?;
            let is_default = if file.exists() { "" } else { " (does not exist: all defaults)" };
            report("configuration", Fine(format!("{}{is_default}", file.display())))?;
            let node = context
                .block_on(async { Ok(DaemonClient::find(&config.paths()).await?.map(|(_, status)| status)) });
            report("base directory", base_directory(&config))?;
            report("publisher key", publisher_key(&config))?;
            report("trust", trust(&config))?;
            report("listen port", listen_port(&config, node.as_ref().ok().and_then(Option::as_ref)))?;
            let served = node.as_ref().ok().and_then(Option::as_ref);
            report("endpoint", endpoint::check(served, &endpoint::Variables::of_this_process()))?;
            report("node", running(node.map_err(|e| e.render())))?;
        }
    }
    if args.json {
        context.out.json(&checks)?;
    }
    match checks.iter().filter(|check| check.result == "fail").count() {
        0 => Ok(()),
        failed => Err(CommandError::failed(format!("{} failed", count(failed as u64, "check")))),
    }
}

fn fusermount() -> Finding {
    let found = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|dir| dir.join("fusermount3")).find(|file| file.is_file())
    });
    let remedy = "install it: apt install fuse3".to_owned();
    match found {
        Some(file) => Fine(file.display().to_string()),
        None if rustix::process::geteuid().is_root() => {
            Warn("not found; only users other than root need it".into(), remedy)
        }
        None => Fail("not found; mounting needs it".into(), remedy),
    }
}

/// Time within which a mount must answer; the daemon answers from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Finds mounts whose process has died or hangs.
fn mounts() -> Finding {
    let mounts = match crate::mount::list_mounts() {
        Ok(mounts) => mounts,
        Err(error) => return Fail(error.to_string(), "is /proc mounted?".into()),
    };
    let points: Vec<PathBuf> = mounts.into_iter().map(|mount| mount.mountpoint).collect();
    for point in &points {
        if let Err(why) = answers(point) {
            return Warn(
                format!("{}: {why}", point.display()),
                format!("silmaril unmount {}", shell_quoted(point.display())),
            );
        }
    }
    if points.is_empty() {
        return Fine("none".to_owned());
    }
    Fine(join(&points.iter().map(|p| p.display()).collect::<Vec<_>>()))
}

fn answers(point: &Path) -> Result<(), String> {
    match liveness(point, ANSWER_WITHIN) {
        Liveness::Alive => Ok(()),
        Liveness::Dead => Err("the process behind it has died".to_owned()),
        Liveness::Silent => Err(format!("it does not answer within {} s", ANSWER_WITHIN.as_secs())),
    }
}

fn base_directory(config: &Config) -> Finding {
    let paths = config.paths();
    if !paths.base.exists() {
        return Warn(format!("{} does not exist", paths.base.display()), "make it: silmaril init".into());
    }
    let remedy = || "make it yours and writable, or choose another with --home".to_owned();
    match paths.base.metadata() {
        Err(e) => Fail(format!("{}: {e}", paths.base.display()), remedy()),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => Warn(
            format!("other users can read {}", paths.base.display()),
            format!("chmod 700 {}", shell_quoted(paths.base.display())),
        ),
        Ok(_) => match paths.create() {
            Ok(()) => Fine(paths.base.display().to_string()),
            Err(e) => Fail(e.to_string(), remedy()),
        },
    }
}

fn publisher_key(config: &Config) -> Finding {
    let path = config.paths().publisher_key();
    match PublisherKeypair::load(&path) {
        Ok(key) => Fine(key.public().fingerprint()),
        Err(KeyError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Warn(format!("{} does not exist", path.display()), "make it: silmaril init".into())
        }
        Err(error) => Fail(error.to_string(), "correct its permissions, or restore it from a backup".into()),
    }
}

fn trust(config: &Config) -> Finding {
    let trust = Trust::open(&config.paths(), config.security.trust);
    match trust.document() {
        Ok(document) => Fine(format!(
            "{}, {}, {}",
            trust.policy(),
            count(document.publishers.len() as u64, "publisher"),
            count(document.pins.len() as u64, "name")
        )),
        Err(error) => Fail(
            error.to_string(),
            "correct that line, or move the file away to start with an empty one".into(),
        ),
    }
}

fn listen_port(config: &Config, node: Option<&Status>) -> Finding {
    let network = &config.network;
    if let Some(node) = node {
        return Fine(join(&node.listening));
    }
    let address = network.listen_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    match TcpListener::bind((address, network.listen_port)) {
        Ok(_) if network.listen_port == 0 => Fine(format!("{address}, any port that is free")),
        Ok(_) => Fine(format!("{address}:{} is free", network.listen_port)),
        Err(e) => Fail(
            format!("cannot listen on {address}:{}: {e}", network.listen_port),
            "set another network.listen_address or network.listen_port (0 is any free port)".into(),
        ),
    }
}

fn running(node: Result<Option<Status>, String>) -> Finding {
    match node {
        Ok(Some(status)) => {
            Fine(format!("process {}, {}", status.pid, count(status.mounts.len() as u64, "mount")))
        }
        Ok(None) => Fine("none runs".to_owned()),
        Err(error) => Fail(error, "end the process that node.lock names, with `kill`".into()),
    }
}

fn join(items: &[impl Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &std::path::Path) -> Config {
        Config::defaults(&PathBuf::from(dir).join("base"))
    }

    #[test]
    fn port_in_use_fails_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let held = TcpListener::bind(taken).unwrap();
        config.network.listen_address = Some(taken.ip());
        config.network.listen_port = taken.port();
        assert!(matches!(listen_port(&config, None), Fail(what, how)
            if what.contains(&taken.to_string()) && how.contains("listen_port")));
        drop(held);
    }

    #[test]
    fn key_readable_by_other_users_fails() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        assert!(matches!(publisher_key(&config), Warn(..)));
        let path = config.paths().publisher_key();
        PublisherKeypair::load_or_create(&path).unwrap();
        assert!(matches!(publisher_key(&config), Fine(_)));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(publisher_key(&config), Fail(..)));
    }

    #[test]
    fn base_directory_readable_by_other_users_is_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        assert!(matches!(base_directory(&config), Warn(..)));
        config.paths().create().unwrap();
        assert!(matches!(base_directory(&config), Fine(_)));
        std::fs::set_permissions(&config.storage.base_dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(base_directory(&config), Warn(_, how) if how.contains("chmod 700")));
    }
}
