//! The daemon in the process of a command: `silmaril daemon`, and the commands with `--foreground`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::connection::Daemon;
use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::session::{HolderWait, check_base, with_daemon};
use crate::cli::signals::StopSignals;
use crate::config::Config;
use crate::mount::Namespaces;
use crate::node::control::DaemonClient;
use crate::node::lock::NodeLock;
use crate::node::{Ending, Node, NodeError, NodeOptions};
use crate::paths::Paths;

/// Runs `work` with a daemon in this process, which ends with the work or when a client stops it. If a daemon already
/// runs, that daemon is used.
pub fn with_daemon_here(
    context: &Context,
    options: NodeOptions,
    mut work: impl AsyncFnMut(&Daemon, &mut StopSignals) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let config = context.config()?;
    let paths = config.paths();
    check_base(&paths)?;
    let hosted = context.block_on(async {
        let mut signals = StopSignals::new()?;
        let starting = start_node(context, &config, &options);
        let Some(node) = signals.unless(starting).await? else { return Ok(None) };
        let hosted = async {
            node.seed_local()?;
            let client = DaemonClient::connect(&paths).await?.ok_or(NodeError::HostLost)?;
            let daemon =
                Daemon { client, pid: std::process::id(), namespaces: Namespaces::of_this_process().ok() };
            tokio::select! {
                biased;
                _ = node.stop_requested() => Ok(()),
                done = work(&daemon, &mut signals) => done,
                () = base_is_gone(&node) => Err(no_base(&paths)),
            }
        };
        let done = hosted.await;
        let points = node.mount_points();
        signals.stopping(node.stop(), move || unmount_all(&points)).await;
        done.map(Some)
    })?;
    match hosted {
        Some(()) => Ok(()),
        None => with_daemon(context, work),
    }
}

/// Runs the daemon in this process until a signal arrives, a client stops it, or it had no work for `idle`. When it
/// serves clients, `ready` is called with the number of seeded models.
pub fn run_daemon(
    context: &Context,
    options: NodeOptions,
    idle: Option<Duration>,
    ready: impl FnOnce(usize) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let config = context.config()?;
    let paths = config.paths();
    check_base(&paths)?;
    context.block_on(async {
        let mut signals = StopSignals::new()?;
        let node = match idle {
            // If another daemon runs, this process fails, and the command that started it connects to that daemon.
            Some(_) => Some(signals.unless(async { Ok(Node::start(config, options).await?) }).await?),
            None => signals.unless(start_node(context, &config, &options)).await?,
        };
        let Some(node) = node else {
            let pid = NodeLock::holder(&paths).unwrap_or_default();
            return Err(NodeError::Busy { base: paths.base.clone(), pid }.into());
        };
        let running = async {
            ready(node.seed_local()?.len())?;
            tokio::select! {
                stop = signals.wait() => stop.end_of_service(),
                ending = node.stop_requested() => {
                    tracing::info!(replaced = ending == Ending::Replaced, "a client ends this daemon");
                    Ok(())
                }
                () = is_idle(&node, idle) => {
                    tracing::info!("the daemon ends because it has no work");
                    Ok(())
                }
                () = base_is_gone(&node) => Err(no_base(&paths)),
            }
        };
        let done = running.await;
        let points = node.mount_points();
        signals.stopping(node.stop(), move || unmount_all(&points)).await;
        done
    })
}

/// Starts a node in this process. None if a daemon runs. Waits for a daemon that is starting or stopping.
async fn start_node(
    context: &Context,
    config: &Config,
    options: &NodeOptions,
) -> Result<Option<Arc<Node>>, CommandError> {
    let paths = config.paths();
    let mut wait = HolderWait::default();
    loop {
        match Node::start(config.clone(), options.clone()).await {
            Err(NodeError::Busy { pid, .. }) => {
                let answers = match DaemonClient::connect(&paths).await? {
                    Some(client) => client.hello().await.is_ok(),
                    None => false,
                };
                if answers {
                    return Ok(None);
                }
                wait.pause(context, &paths, pid).await?;
            }
            started => return Ok(Some(started?)),
        }
    }
}

/// Unmounts before a hard end of the process, so that no dead mount remains. Most mounts have usually ended before.
fn unmount_all(points: &[std::path::PathBuf]) {
    for point in points {
        let _ = crate::mount::unmount(point, true);
    }
}

/// Returns when the node had no work for `idle`. Never returns if `idle` is none.
async fn is_idle(node: &Node, idle: Option<Duration>) {
    let Some(idle) = idle else { return std::future::pending().await };
    let mut since = Instant::now();
    while since.elapsed() < idle {
        tokio::time::sleep((idle / 4).clamp(Duration::from_millis(20), Duration::from_secs(5))).await;
        if node.has_work() {
            since = Instant::now();
        }
    }
}

/// Returns when the base directory is deleted.
async fn base_is_gone(node: &Node) {
    while node.has_base() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn no_base(paths: &Paths) -> CommandError {
    CommandError::failed(format!("{} is gone, so the daemon ends", paths.base.display()))
}
