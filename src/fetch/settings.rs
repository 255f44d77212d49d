//! The settings of [`Fetch`](super::Fetch) from the configuration.

use std::sync::Arc;
use std::time::Duration;

use super::web::WebSettings;
use crate::store::Rooms;
use crate::torrent::{Discovery, GivenPeers};

/// The settings of `Fetch` from the configuration.
#[derive(Debug, Clone)]
pub struct FetchSettings {
    /// How long a read waits; any byte of the swarm postpones the end up to twice.
    pub read_timeout: Duration,
    /// The widest window, in bytes.
    pub readahead_max: u64,
    /// Bytes of pieces that one window may request ahead of its reader: a quarter of the cache.
    pub window_bound: u64,
    /// The limits of space.
    pub rooms: Arc<Rooms>,
    /// Discovery of every torrent.
    pub discovery: Discovery,
    /// Peers named by the user for every torrent.
    pub peers: GivenPeers,
    /// The web as the seed of last resort; none where it must not be used.
    pub web: Option<WebSettings>,
    /// The requests to hubs at a time for the daemon ([`REQUESTS`](super::hub::REQUESTS)).
    pub hub_budget: Arc<tokio::sync::Semaphore>,
}
