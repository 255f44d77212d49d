//! Connects a command to the daemon, and starts the daemon if it does not run.
//!
//! If the daemon ends during the work, the command starts a new daemon and repeats the work, unless the user has stopped
//! the daemon.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use crate::cli::background::{self, Started};
use crate::cli::connection::{Daemon, report_former_config};
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::mounting;
use crate::cli::signals::StopSignals;
use crate::config::Config;
use crate::node::control::DaemonClient;
use crate::node::endpoint::{EndpointStatus, ServeRequest};
use crate::node::lock::NodeLock;
use crate::node::mounts::MountStatus;
use crate::node::patience::Patience;
use crate::node::{Library, NodeError};
use crate::paths::Paths;

/// Interval at which a command checks a daemon that another process starts or stops; polled, because there is no event
/// for this.
const POLL_EVERY: Duration = Duration::from_millis(50);
/// Wait after which the command prints which process it waits for.
const REPORT_AFTER: Duration = Duration::from_secs(2);
/// Number of daemons in a row that may end soon after their start before the command fails.
const MAX_DAEMONS: usize = 10;
/// A daemon that runs longer than this has not ended soon after its start.
const LONG_LIVED: Duration = Duration::from_secs(10);

/// Runs `work` with the daemon, which is started if it does not run. A signal during the start ends the command; `work`
/// handles later signals. `work` is called again when the daemon ends, at most [`MAX_DAEMONS`] times in a row.
pub fn with_daemon<T>(
    context: &Context,
    mut work: impl AsyncFnMut(&Daemon, &mut StopSignals) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let config = context.config()?;
    context.block_on(async {
        let mut signals = StopSignals::new()?;
        let mut former = None;
        let mut daemons = 0;
        while daemons < MAX_DAEMONS {
            let daemon = signals.unless(find_or_start(context, &config, &[])).await?;
            if let Some(former) = former.replace(daemon.pid).filter(|former| *former != daemon.pid) {
                let pid = daemon.pid;
                context.out.note(format_args!(
                    "the daemon (process {former}) has ended; a new one (process {pid}) continues"
                ));
            }
            let since = Instant::now();
            match work(&daemon, &mut signals).await {
                Err(error) if error.is_host_lost() => {}
                done => return done,
            }
            daemons = if since.elapsed() < LONG_LIVED { daemons + 1 } else { 1 };
        }
        Err(NodeError::HostLost.into())
    })
}

/// The wait for a process that has locked the base directory and does not answer.
pub(super) struct HolderWait {
    patience: Patience,
    began: Instant,
    has_reported: bool,
}

impl Default for HolderWait {
    fn default() -> Self {
        Self { patience: Patience::default(), began: Instant::now(), has_reported: false }
    }
}

impl HolderWait {
    /// Waits for [`POLL_EVERY`]. Fails if the process has exceeded its time, or runs on another host.
    pub async fn pause(
        &mut self,
        context: &Context,
        paths: &Paths,
        holder: String,
    ) -> Result<(), CommandError> {
        if holder.contains(" on ") || !self.patience.has(&holder) {
            return Err(NodeError::Busy { base: paths.base.clone(), pid: holder }.into());
        }
        if self.began.elapsed() >= REPORT_AFTER && !std::mem::replace(&mut self.has_reported, true) {
            let base = paths.base.display();
            context.out.note(format_args!("process {holder} is using {base}; waiting for it"));
        }
        tokio::time::sleep(POLL_EVERY).await;
        Ok(())
    }
}

/// Finds the daemon, or starts one in the background with `peers`. A daemon of an older version is replaced and its mounts
/// are restored; a daemon of a newer version is an error.
pub async fn find_or_start(
    context: &Context,
    config: &Config,
    peers: &[SocketAddr],
) -> Result<Daemon, CommandError> {
    let paths = config.paths();
    check_base(&paths)?;
    paths.create()?;
    let mut wait = HolderWait::default();
    let mut replaced: Vec<MountStatus> = Vec::new();
    let mut endpoint = None;
    let mut starts = 0..MAX_DAEMONS;
    loop {
        if let Some(client) = DaemonClient::connect(&paths).await? {
            match client.hello().await {
                Ok(hello) => match version(&hello.version).cmp(&version(env!("CARGO_PKG_VERSION"))) {
                    std::cmp::Ordering::Equal => {
                        report_former_config(context, config, hello.pid, hello.config.as_deref());
                        let daemon = Daemon { client, pid: hello.pid, namespaces: hello.namespaces };
                        mounting::mount_again(context, config, &daemon, replaced).await;
                        if let Some(endpoint) = endpoint {
                            serve_again(context, &daemon, &endpoint).await;
                        }
                        return Ok(daemon);
                    }
                    std::cmp::Ordering::Less => {
                        context.out.note(format_args!(
                            "replacing the daemon of version {} (process {})",
                            hello.version, hello.pid
                        ));
                        if let Ok(status) = client.status().await {
                            replaced.extend(status.mounts);
                            endpoint = status.endpoint.or(endpoint);
                        }
                        client.stop(hello.pid, true).await?;
                        continue;
                    }
                    std::cmp::Ordering::Greater => {
                        let (pid, theirs) = (hello.pid, hello.version);
                        return Err(NodeError::OtherVersion { pid, theirs }.into());
                    }
                },
                Err(NodeError::HostLost) => {}
                Err(e) => return Err(e.into()),
            }
        }
        match NodeLock::holder(&paths) {
            Some(holder) => wait.pause(context, &paths, holder).await?,
            None if starts.next().is_none() => return Err(NodeError::HostLost.into()),
            None => start(context, &paths, peers).await?,
        }
    }
}

/// Restores the endpoint of a daemon that was replaced. Prints a warning if that fails.
async fn serve_again(context: &Context, daemon: &Daemon, former: &EndpointStatus) {
    let request = ServeRequest { listen: Some(former.address), open: former.open };
    if let Err(error) = daemon.client.serve(&request).await {
        context.out.warn(format_args!("the endpoint {} is not served again: {error}", former.url));
    }
}

/// Starts a daemon in the background. It is no error if another process has just started one.
async fn start(context: &Context, paths: &Paths, peers: &[SocketAddr]) -> Result<(), CommandError> {
    let mut arguments: Vec<OsString> = vec!["daemon".into(), "--ready-on-stdout".into()];
    arguments.extend(peers.iter().map(|peer| format!("--peer={peer}").into()));
    let started =
        tokio::task::block_in_place(|| background::start(context, paths, &arguments, &paths.daemon_log()))?;
    if let Started::Ready(pid) = started {
        tracing::info!(pid, "started the daemon");
    }
    Ok(())
}

/// The numbers of a version. A part that is no number counts as 0.
fn version(text: &str) -> [u64; 3] {
    let mut parts = text.split(['-', '+']).next().unwrap_or_default().split('.');
    [(); 3].map(|()| parts.next().and_then(|part| part.parse().ok()).unwrap_or(0))
}

/// Refuses a base directory of another user, because files of this user in it would be unusable for its owner. An invalid
/// configuration is accepted here; the command itself reports it.
pub fn refuse_base_of_another_user(context: &Context) -> Result<(), CommandError> {
    let Ok(config) = context.config() else { return Ok(()) };
    let base = config.paths().base;
    match std::fs::metadata(&base) {
        Ok(there) if there.uid() != rustix::process::geteuid().as_raw() => {
            Err(NodeError::OtherUser { base, uid: there.uid() }.into())
        }
        _ => Ok(()),
    }
}

/// Refuses a base directory on a network file system.
pub(super) fn check_base(paths: &Paths) -> Result<(), CommandError> {
    if let Some(kind) = paths.network_file_system() {
        return Err(NodeError::NetworkDisk { base: paths.base.clone(), kind }.into());
    }
    Ok(())
}

/// Runs work that needs no engine: in the daemon if it runs, otherwise in this process with the base directory locked. If
/// the daemon ends during the work, the work is repeated.
pub fn with_daemon_or_library<T>(
    context: &Context,
    mut by_daemon: impl AsyncFnMut(&DaemonClient, &mut StopSignals) -> Result<T, CommandError>,
    local: impl AsyncFnOnce(Library, &mut StopSignals) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let config = context.config()?;
    let paths = config.paths();
    check_base(&paths)?;
    context.block_on(async {
        let mut signals = StopSignals::new()?;
        let mut wait = HolderWait::default();
        loop {
            if let Some(client) = DaemonClient::connect(&paths).await?
                && !matches!(client.hello().await, Err(NodeError::HostLost))
            {
                // Replaces a daemon of an older version.
                let daemon = signals.unless(find_or_start(context, &config, &[])).await?;
                match by_daemon(&daemon.client, &mut signals).await {
                    Err(error) if error.is_host_lost() => {}
                    done => return done,
                }
            }
            match crate::node::open_locked(config.clone()) {
                Ok((library, _lock)) => return local(library, &mut signals).await,
                Err(NodeError::Busy { pid, .. }) => {
                    signals.unless(wait.pause(context, &paths, pid)).await?;
                }
                Err(e) => return Err(e.into()),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(version("0.9.0") < version("0.10.0") && version("0.1.0") < version("0.1.1"));
        assert_eq!(version("1.2.3-dev+5"), [1, 2, 3]);
        assert!(version("nonsense") < version("0.0.1"));
    }
}
