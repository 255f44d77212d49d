//! Handing the base directory over to another process, and asking for that.
//!
//! A mount reads from the engine in its own process, so it must host the node. It claims the base directory
//! ([`Claim`]), asks the node that runs, and takes its place; the command that hosted goes on as a client. While the
//! claim lasts nobody else takes the lock, the former host included; if the claimant dies, anybody does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::control::Client;
use super::lock::Claim;
use super::patience::Patience;
use super::{ErrorKind, Node, NodeError, NodeOptions};
use crate::config::Config;
use crate::paths::Paths;

/// How long a port may be taken when we go on in another's place: its last sockets may still be closing.
pub const LISTENS_WITHIN: Duration = Duration::from_secs(20);
/// How often it is looked for; there is nothing to be woken by.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Body of `POST /v1/handover`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct HandoverRequest {
    /// The process that asks.
    pub pid: u32,
    /// Whether its node will use the DHT.
    pub dht: bool,
}

/// What somebody asked a node through its socket. The first to ask has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// To end.
    Stop,
    /// To let the process with that number have the base directory.
    HandOver(u32),
}

impl Node {
    /// Starts a node in this process, in the place of the one that runs if need be.
    pub async fn start_or_take_over(config: Config, options: NodeOptions) -> Result<Arc<Self>, NodeError> {
        let paths = config.paths();
        let request =
            HandoverRequest { pid: std::process::id(), dht: config.network.dht_enabled && !options.skip_dht };
        let mut patience = Patience::default();
        let mut listens_by: Option<Instant> = None;
        let mut claim: Option<Claim> = None;
        loop {
            match Self::start(config.clone(), options.clone()).await {
                Err(NodeError::Busy { pid, .. }) if patience.has(&pid) => {}
                // The port was that of the process whose place this is.
                Err(e)
                    if e.kind() == ErrorKind::Listen
                        && claim.is_some()
                        && Instant::now()
                            < *listens_by.get_or_insert_with(|| Instant::now() + LISTENS_WITHIN) => {}
                started => return started,
            }
            match &mut claim {
                Some(claim) => claim.renew()?,
                None => claim = Claim::stake(&paths)?,
            }
            // Somebody else's claim comes first; what that one starts is asked later.
            if claim.is_some() {
                ask(&paths, request).await?;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Asks whoever runs this node to stop it.
    pub fn request_stop(&self) {
        self.ask(Asked::Stop);
    }

    /// Resolves when somebody asked the node to stop through its socket.
    pub async fn stop_requested(&self) {
        self.is_asked(|asked| (asked == Asked::Stop).then_some(())).await;
    }

    /// Asks whoever runs this node to let another process have the base directory. Refused where that cannot be.
    pub(super) fn request_handover(&self, request: HandoverRequest) -> Result<(), NodeError> {
        if *self.asked.borrow() == Some(Asked::Stop) {
            return Err(NodeError::HostLost);
        }
        if let Some(mount) = &self.mount {
            let (base, at) = (self.library.paths.base.clone(), mount.clone());
            return Err(NodeError::Mounted { base, at, pid: std::process::id() });
        }
        if request.dht && self.library.config.network.dht_enabled && !self.settings.discovery.dht {
            return Err(NodeError::Request(format!(
                "process {} shares without the DHT (--skip-dht), and this command would use it; end that one, or set \
                 `network.dht_enabled: false`",
                std::process::id()
            )));
        }
        match self.ask(Asked::HandOver(request.pid)) {
            Asked::HandOver(_) => Ok(()),
            Asked::Stop => Err(NodeError::HostLost),
        }
    }

    /// Resolves to the process that is to have the base directory when one asked for it. Whoever runs the node stops
    /// and drops it then.
    pub async fn handover_requested(&self) -> u32 {
        self.is_asked(|asked| match asked {
            Asked::HandOver(pid) => Some(pid),
            Asked::Stop => None,
        })
        .await
    }

    /// Asks, unless somebody did already; tells what was asked first.
    fn ask(&self, what: Asked) -> Asked {
        self.asked.send_if_modified(|asked| asked.is_none() && asked.insert(what) == &what);
        self.asked.borrow().unwrap_or(what)
    }

    async fn is_asked<T>(&self, mut which: impl FnMut(Asked) -> Option<T>) -> T {
        let mut asked = self.asked.subscribe();
        loop {
            if let Some(found) = asked.borrow_and_update().and_then(&mut which) {
                return found;
            }
            // The sender lives as long as `self`, so this cannot fail.
            let _ = asked.changed().await;
        }
    }
}

/// Asks the node that runs, if there is one. One that is about to end needs no asking.
async fn ask(paths: &Paths, request: HandoverRequest) -> Result<(), NodeError> {
    let Some(client) = Client::connect(paths).await? else { return Ok(()) };
    let asked = async {
        client.hello().await?;
        client.handover(request).await
    };
    match asked.await {
        Err(NodeError::HostLost) => Ok(()),
        asked => asked,
    }
}
