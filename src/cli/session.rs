//! Commands that need a node: they are clients of the one that runs, and host one where none does.
//!
//! Either way the work goes through the control socket, so that a command does and says the same whoever hosts. When
//! the host goes away in the middle, the work is begun anew on the next: another process's, or our own. So it is when
//! a mount asks for the node that this process hosts.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::signals::StopSignals;
use crate::config::Config;
use crate::node::control::Client;
use crate::node::handover::LISTENS_WITHIN;
use crate::node::patience::Patience;
use crate::node::{ErrorKind, Library, Node, NodeError, NodeOptions, chain};
use crate::paths::Paths;

/// How often a node is looked for; there is nothing to be woken by.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After this long the user is told for whom we wait.
const SAYS_AFTER: Duration = Duration::from_secs(2);
/// How often the work is begun anew when one host after another goes away at once.
const MAX_HOSTS: usize = 20;
/// How long work may take to end by itself when its node is asked to stop.
const LAST_WORD: Duration = Duration::from_millis(200);
/// A host that lived so long did not go away at once.
const LASTS: Duration = Duration::from_secs(10);

/// The node that does the work.
pub struct Host {
    /// How to speak to it.
    pub client: Client,
    /// Its process.
    pub pid: u32,
    /// It, where this process hosts it.
    own: Option<Arc<Node>>,
}

impl Host {
    /// Finds the node that runs, or starts one.
    async fn find(context: &Context, config: &Config, options: &NodeOptions) -> Result<Self, NodeError> {
        let paths = config.paths();
        let node = match reach(context, &paths, async || Node::start(config.clone(), options.clone()).await)
            .await?
        {
            Reached::Running(client, pid) => return Ok(Self { client, pid, own: None }),
            Reached::Alone(node) => node,
        };
        match Client::connect(&paths).await {
            Ok(Some(client)) => Ok(Self { client, pid: std::process::id(), own: Some(node) }),
            failed => {
                node.stop().await;
                let reason = "it cannot be reached".to_owned();
                Err(failed.err().unwrap_or(NodeError::Control { socket: paths.socket(), reason }))
            }
        }
    }

    /// [`Self::find`] after another host; an address that is still in use is waited for.
    async fn find_next(
        context: &Context,
        config: &Config,
        options: &NodeOptions,
    ) -> Result<Self, CommandError> {
        let until = Instant::now() + LISTENS_WITHIN;
        let mut told = false;
        loop {
            match Self::find(context, config, options).await {
                Err(error) if error.kind() == ErrorKind::Listen && Instant::now() < until => {
                    if !std::mem::replace(&mut told, true) {
                        context.out.note(format_args!("{}; trying again", chain(&error)));
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                found => return Ok(found?),
            }
        }
    }

    /// Whether this process hosts the node.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Resolves to the process that is to have the node that this process hosts, when it asks for it.
    async fn handover_requested(&self) -> u32 {
        match &self.own {
            Some(node) => node.handover_requested().await,
            None => std::future::pending().await,
        }
    }

    /// Resolves when somebody asked the node that this process hosts to stop.
    pub async fn stop_requested(&self) {
        match &self.own {
            Some(node) => node.stop_requested().await,
            None => std::future::pending().await,
        }
    }
}

/// Why another host is looked for.
#[derive(Debug, Clone, Copy)]
enum Former {
    /// The host, another process, has ended.
    Ended(u32),
    /// This process hosted, and let that one have the node.
    HandedTo(u32),
}

/// Does work on a node: the one that runs, or one of our own that ends with the work. A signal during the start ends
/// it; later ones are for `work` to watch. `work` is dropped and called again when the host went away or another
/// process took its place, but not more than [`MAX_HOSTS`] times at once.
pub fn with_node<T>(
    context: &Context,
    config: Config,
    options: NodeOptions,
    mut work: impl AsyncFnMut(&Host, &mut StopSignals) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    context.block_on(async {
        let mut signals = StopSignals::new()?;
        let mut former: Option<Former> = None;
        let mut hosts = 0;
        while hosts < MAX_HOSTS {
            let host = match former {
                None => signals.unless(async { Ok(Host::find(context, &config, &options).await?) }).await?,
                Some(_) => signals.unless(Host::find_next(context, &config, &options)).await?,
            };
            if let Some(former) = former {
                tell(context, former, host.pid);
            }
            let since = Instant::now();
            let result = {
                let mut work = pin!(work(&host, &mut signals));
                tokio::select! {
                    biased;
                    result = &mut work => Ok(result),
                    // Work that watches for that itself has the first word.
                    () = host.stop_requested() => Ok(match tokio::time::timeout(LAST_WORD, &mut work).await {
                        Ok(result) => result,
                        Err(_) => Err(CommandError::interrupted()),
                    }),
                    heir = host.handover_requested() => Err(heir),
                }
            };
            if let Some(node) = &host.own {
                signals.stopping(node.stop(), || ()).await;
            }
            former = Some(match result {
                Err(heir) => Former::HandedTo(heir),
                Ok(Err(error)) if error.is_host_lost() && !host.is_own() => Former::Ended(host.pid),
                Ok(result) => return result,
            });
            hosts = if since.elapsed() < LASTS { hosts + 1 } else { 1 };
        }
        Err(NodeError::HostLost.into())
    })
}

/// Says who goes on with the work.
fn tell(context: &Context, former: Former, host: u32) {
    let is_own = host == std::process::id();
    let now = if is_own { "this process".into() } else { format!("process {host}") };
    match former {
        Former::Ended(former) if former == host => {}
        Former::Ended(former) => context.out.note(format_args!(
            "the silmaril that did this (process {former}) has ended; {now} goes on with it"
        )),
        Former::HandedTo(heir) if is_own => context.out.note(format_args!(
            "process {heir} asked to go on with this and has ended; this process does again"
        )),
        Former::HandedTo(_) => {
            context.out.note(format_args!("{now} has taken the place of this one and goes on with it"));
        }
    }
}

/// Does work that needs no engine: by the node that runs, or here where none does, with the base directory held. It is
/// begun anew when the node goes away in the middle, but not more than [`MAX_HOSTS`] times.
pub fn with_node_or_library<T>(
    context: &Context,
    mut by_node: impl AsyncFnMut(&Client, &mut StopSignals) -> Result<T, CommandError>,
    here: impl AsyncFnOnce(Library, &mut StopSignals) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let config = context.config()?;
    context.block_on(async {
        let mut signals = StopSignals::new()?;
        let mut former: Option<Former> = None;
        for _ in 0..MAX_HOSTS {
            let reached = signals.unless(async {
                Ok(reach(context, &config.paths(), async || Library::open_locked(config.clone())).await?)
            });
            let reached = reached.await?;
            let host = reached.pid();
            if let Some(former) = former.replace(Former::Ended(host)) {
                tell(context, former, host);
            }
            match reached {
                Reached::Running(client, _) => match by_node(&client, &mut signals).await {
                    Err(error) if error.is_host_lost() => {}
                    done => return done,
                },
                Reached::Alone((library, _lock)) => return here(library, &mut signals).await,
            }
        }
        Err(NodeError::HostLost.into())
    })
}

/// Who holds the base directory.
enum Reached<T> {
    /// A node, and its process.
    Running(Client, u32),
    /// We do, by this.
    Alone(T),
}

impl<T> Reached<T> {
    /// The process.
    fn pid(&self) -> u32 {
        match self {
            Self::Running(_, pid) => *pid,
            Self::Alone(_) => std::process::id(),
        }
    }
}

/// Connects to the node that runs, or takes the base directory. Another process that starts or stops meanwhile is
/// waited for.
async fn reach<T>(
    context: &Context,
    paths: &Paths,
    mut take: impl AsyncFnMut() -> Result<T, NodeError>,
) -> Result<Reached<T>, NodeError> {
    let mut patience = Patience::default();
    let (since, mut told) = (Instant::now(), false);
    loop {
        if let Some(client) = Client::connect(paths).await? {
            match client.hello().await {
                Ok(hello) => return Ok(Reached::Running(client, hello.pid)),
                Err(NodeError::HostLost) => {}
                Err(e) => return Err(e),
            }
        }
        match take().await {
            Ok(taken) => return Ok(Reached::Alone(taken)),
            Err(NodeError::Busy { base, pid }) if patience.has(&pid) => {
                if since.elapsed() >= SAYS_AFTER && !std::mem::replace(&mut told, true) {
                    let base = base.display();
                    context.out.note(format_args!("process {pid} is using {base}; waiting for it"));
                }
            }
            Err(e) => return Err(e),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
