//! The hosts that announced a model's name in the DHT.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::core::{CatalogEvent, Core};
use super::dht_entries::topic_of;
use crate::model::{ModelName, PublisherKey};
use crate::torrent::Topic;

/// Addresses called for one operation.
const MAX_CALLED: usize = 24;

/// Looks up the hosts that announced a name, and calls them in the catalog's swarm.
pub(super) struct Announcers {
    core: Arc<Core>,
    topic: Topic,
    /// An item of the DHT that is looked up as well: publisher and salt.
    pub item: Option<(PublisherKey, [u8; 20])>,
    called: HashSet<SocketAddr>,
    /// When an address was called last.
    pub called_at: Option<Instant>,
    /// The latest lookup.
    pub looked_up_at: Option<Instant>,
    /// The first lookup for which the DHT had nodes.
    pub dht_asked_at: Option<Instant>,
}

impl Announcers {
    pub fn new(core: &Arc<Core>, name: &ModelName, item: Option<(PublisherKey, [u8; 20])>) -> Self {
        Self {
            core: Arc::clone(core),
            topic: topic_of(name),
            item,
            called: HashSet::new(),
            called_at: None,
            looked_up_at: None,
            dht_asked_at: None,
        }
    }

    /// Starts a lookup in the DHT, unless the DHT is off.
    pub fn look_up(&mut self) {
        let now = Instant::now();
        self.looked_up_at = Some(now);
        if !self.core.settings.dht {
            return;
        }
        if *self.core.dht_nodes.borrow() > 0 {
            self.dht_asked_at.get_or_insert(now);
        }
        let overlay = &self.core.overlay;
        let found = overlay.find(self.topic);
        let got = self.item.map_or(Ok(()), |(publisher, salt)| overlay.get_item(publisher, salt));
        if let Err(error) = found.and(got) {
            tracing::debug!(%error, "could not ask the DHT for a name");
        }
    }

    /// Calls announced addresses. Repeats a lookup that was started before the DHT had nodes.
    pub fn on_event(&mut self, event: &CatalogEvent) {
        match event {
            CatalogEvent::DhtPeers(topic, addresses) if *topic == self.topic => self.connect(addresses),
            CatalogEvent::DhtReady if self.looked_up_at.is_some() => self.look_up(),
            _ => {}
        }
    }

    /// Whether an address announced the name.
    pub fn has_called(&self, address: &SocketAddr) -> bool {
        self.called.contains(address)
    }

    fn connect(&mut self, addresses: &[SocketAddr]) {
        for address in addresses {
            if self.core.swarm().is_some() && self.called.len() < MAX_CALLED && self.called.insert(*address) {
                self.called_at = Some(Instant::now());
                self.core.connect(*address);
            }
        }
    }
}
