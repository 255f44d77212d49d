//! The running node.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::fetch::Fetch;
use crate::node::{Library, NodeError};
use crate::store::StoredRevision;

/// How to run a node.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// Peers given by hand.
    pub peers: Vec<SocketAddr>,
    /// Leave the DHT alone, whatever the configuration says.
    pub skip_dht: bool,
    /// What this process does, for `status`: `mount /path`, `share`, `get org/name`.
    pub activity: String,
}

/// The running engine of one base directory.
pub struct Node {
    /// Registry and store.
    pub library: Library,
    /// The scheduler.
    pub fetch: Arc<Fetch>,
}

impl Node {
    /// Takes the lock, starts the session and serves the control socket. Must run inside a tokio runtime.
    pub async fn start(_config: Config, _options: NodeOptions) -> Result<Arc<Self>, NodeError> {
        todo!()
    }

    /// The addresses the session listens on.
    pub fn listening(&self) -> Vec<SocketAddr> {
        todo!()
    }

    /// Joins the swarms of all models of which something is here, to upload it.
    pub fn seed_local(&self) -> Result<Vec<Arc<StoredRevision>>, NodeError> {
        todo!()
    }

    /// Resolves when somebody asked the node to stop through its socket.
    pub async fn stop_requested(&self) {
        todo!()
    }

    /// Called whenever the set of known models changed (import, reload); the mount publishes anew.
    pub fn on_change(&self, _callback: impl Fn(&Node) + Send + Sync + 'static) {
        todo!()
    }

    /// Answers waiting reads, writes resume data and ends the session, all within a deadline.
    pub async fn stop(&self) {
        todo!()
    }
}
