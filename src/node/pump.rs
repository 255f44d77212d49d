//! Passes the events of the session, in order, to the parts of the node that handle them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::metadata::MetadataWaiters;
use super::node_catalog::NodeCatalog;
use crate::fetch::Fetch;
use crate::torrent::Event;

/// The parts that handle events.
pub(super) struct Pump {
    pub fetch: Arc<Fetch>,
    pub metadata: Arc<MetadataWaiters>,
    pub catalog: Option<Arc<NodeCatalog>>,
    /// Receives the addresses on which the session listens.
    pub listening: watch::Sender<Vec<SocketAddr>>,
}

impl Pump {
    /// Runs until the session is gone.
    pub async fn run(self, mut queue: mpsc::UnboundedReceiver<Event>) {
        // Torrents with a piece received in this run.
        let mut begun = HashSet::new();
        while let Some(event) = queue.recv().await {
            match &event {
                Event::PieceVerified(id, _) if begun.insert(*id) => self.changed(),
                Event::Added(_) => self.changed(),
                Event::Removed(id) => {
                    begun.remove(id);
                    self.changed();
                }
                Event::Listening(address) => self.listening.send_modify(|addresses| {
                    if !addresses.contains(address) {
                        addresses.push(*address);
                    }
                }),
                Event::ListenFailed(address, reason) => {
                    tracing::warn!(%address, reason, "could not listen on an address");
                }
                Event::Metadata(id, info) => self.metadata.found(*id, info),
                Event::Failed(id, _) => self.metadata.forget(*id),
                _ => {}
            }
            match (event, &self.catalog) {
                (Event::Overlay(event), Some(part)) => part.catalog.handle(event),
                (Event::Overlay(_), None) => {}
                (event, _) => self.fetch.handle(event),
            }
        }
    }

    /// Has the catalog announce the names of the models again.
    fn changed(&self) {
        if let Some(part) = &self.catalog {
            part.changed.notify_one();
        }
    }
}
