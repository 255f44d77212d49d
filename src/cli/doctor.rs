//! `doctor`: whether this machine can do what silmaril needs.

mod fuse;

use std::fmt::Display;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::output::{clean, count};
use crate::config::Config;
use crate::keys::{KeyError, PublisherKeypair};
use crate::mount::{Liveness, liveness};
use crate::node::control::{Client, Status};
use crate::trust::Trust;

/// Check that this machine can mount and share; say what to do where it cannot
///
/// Fails with exit code 1 when a check fails; warnings do not count.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    /// Fine; the text says what is there.
    Ok(String),
    /// Something will be missing; the texts say what and the remedy.
    Warn(String, String),
    /// Something will not work; the texts say what and the remedy.
    Fail(String, String),
}

use Finding::{Fail, Ok as Fine, Warn};

/// One check, as `--json` has it.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// What was looked at.
    pub check: &'static str,
    /// `ok`, `warn` or `fail`.
    pub result: &'static str,
    /// What is there, or is missing.
    pub found: String,
    /// What to do about it.
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

    /// A line, and one for the remedy.
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
    let mut say = |what: &'static str, finding: Finding| {
        let check = Check::of(what, finding);
        // A check may take a moment: each is shown when it is done.
        let printed = if args.json { Ok(()) } else { check.print(context) };
        checks.push(check);
        printed
    };
    say("fuse device", fuse::device())?;
    say("fusermount3", fusermount())?;
    say("mounts", mounts())?;
    match Config::load(&context.load_options()) {
        Err(error) => say(
            "configuration",
            Fail(error.to_string(), "correct it, or write it again: silmaril init --force".into()),
        )?,
        Ok(config) => {
            let file = Config::config_file(&context.load_options())?;
            let is_default = if file.exists() { "" } else { " (not there: all defaults)" };
            say("configuration", Fine(format!("{}{is_default}", file.display())))?;
            let node = context
                .block_on(async { Ok(Client::find(&config.paths()).await?.map(|(_, status)| status)) });
            say("base directory", base_directory(&config))?;
            say("publisher key", publisher_key(&config))?;
            say("trust", trust(&config))?;
            say("listen port", listen_port(&config, node.as_ref().ok().and_then(Option::as_ref)))?;
            say("node", running(node.map_err(|e| e.render())))?;
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

/// How long a mount may take to answer; it does so from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Looks for mounts whose process has died or hangs.
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
                format!("silmaril unmount {}", point.display()),
            );
        }
    }
    match points.is_empty() {
        true => Fine("none".to_owned()),
        false => Fine(join(&points.iter().map(|p| p.display()).collect::<Vec<_>>())),
    }
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
            format!("others can look into {}", paths.base.display()),
            format!("chmod 700 {}", paths.base.display()),
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
        Err(error) => {
            Fail(error.to_string(), "correct that line, or move the file away to begin anew".into())
        }
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
            "choose others: network.listen_address and network.listen_port (0 takes a free one)".into(),
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
    fn a_taken_port_fails_with_the_remedy() {
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
    fn a_key_that_others_can_read_fails() {
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
    fn an_open_base_directory_is_warned_about() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        assert!(matches!(base_directory(&config), Warn(..)));
        config.paths().create().unwrap();
        assert!(matches!(base_directory(&config), Fine(_)));
        std::fs::set_permissions(&config.storage.base_dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(base_directory(&config), Warn(_, how) if how.contains("chmod 700")));
    }
}
