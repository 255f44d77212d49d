//! The running control server, as its node owns it.

use tokio::sync::watch;
use tokio::task::JoinSet;

/// The running server. Dropping it ends it immediately.
#[derive(Debug)]
pub(in crate::node) struct ControlServer {
    pub(super) task: JoinSet<()>,
    pub(super) ending: watch::Sender<bool>,
}

impl ControlServer {
    /// Accepts no more connections and ends their jobs. Their clients see that the node is gone.
    pub async fn end(mut self) {
        self.ending.send_replace(true);
        self.task.join_next().await;
    }
}
