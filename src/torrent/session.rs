//! The engine over libtorrent.
//!
//! A [`Session`] owns the C++ engine and one thread, the pump, which waits for events, translates them and sends them to the
//! channel. Requests go directly to libtorrent's queue. The state shared by the two is small; its locks are held for a few
//! lines and never while calling into libtorrent.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cxx::UniquePtr;
use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc::UnboundedSender;
use url::Url;

use super::dht::Dht;
use super::quiet::Quiet;
use super::talk::{MeetingSearch, Talk, blocked_addresses};
use super::{EngineError, Event, SessionSettings, TorrentId, pump};
use crate::ffi::{self, RawEndpoint};

/// Peers stored per torrent, to which this node connects again when all have disconnected.
const KNOWN_PEERS: usize = 64;

/// How often another random port is tried when the first one is in use.
const RANDOM_PORT_ATTEMPTS: u32 = 5;

/// How long an engine that could not listen may take to end; it has no torrents and no peers.
const FAILED_START_WITHIN: Duration = Duration::from_secs(5);

/// The state of one torrent in the session.
#[derive(Default)]
pub(super) struct TorrentRecord {
    /// The metainfo, if it was added with all piece layers.
    pub complete_metainfo: Option<Arc<Vec<u8>>>,
    /// Peers that accept connections: named when the torrent was added, or connected to by this node.
    pub peers: Vec<SocketAddr>,
    /// The number of present connections.
    pub connected: usize,
    /// For a meeting, when peers are searched again.
    pub meeting: Option<MeetingSearch>,
    /// How peers are found if this node is not announced.
    pub quiet: Quiet,
}

impl TorrentRecord {
    /// Stores a peer that accepts connections. The oldest one is dropped beyond [`KNOWN_PEERS`].
    pub fn remember(&mut self, peer: SocketAddr) {
        if !self.peers.contains(&peer) {
            if self.peers.len() >= KNOWN_PEERS {
                self.peers.remove(0);
            }
            self.peers.push(peer);
        }
    }
}

/// The state shared by the session and its pump.
pub(super) struct SessionShared {
    pub engine: UniquePtr<ffi::Engine>,
    pub events: UnboundedSender<Event>,
    pub torrents: Mutex<HashMap<TorrentId, TorrentRecord>>,
    pub talk: Mutex<Talk>,
    pub dht: Mutex<Dht>,
    /// The port that is announced in the DHT; 0 until it is known.
    pub listen_port: AtomicU16,
    /// The port that is only for the DHT, or 0.
    pub dht_port: u16,
    pub stopping: AtomicBool,
    /// Notified, through `turn`, whenever the pump has sent events.
    pub turned: Condvar,
    pub turn: Mutex<()>,
}

impl SessionShared {
    /// Sends an event to the channel. Without a receiver the event is dropped.
    pub fn send(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

/// The engine.
pub struct Session {
    pub(super) shared: Arc<SessionShared>,
    pub(super) settings: SessionSettings,
    next: AtomicU64,
    pump: Mutex<Option<JoinHandle<()>>>,
}

pub(super) fn internal(error: cxx::Exception) -> EngineError {
    EngineError::Internal(error.what().to_owned())
}

pub(super) fn raw_endpoint(peer: &SocketAddr) -> RawEndpoint {
    // A scope would not survive the text form of the address.
    let address = match peer.ip().to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => v6.to_string(),
    };
    RawEndpoint { address, port: peer.port() }
}

impl Session {
    /// Starts the engine, which sends its events to `events`.
    ///
    /// A configured port that is in use is an error. If at least one interface can be listened on, the interfaces that
    /// cannot are only reported, by [`Event::ListenFailed`].
    pub fn start(settings: SessionSettings, events: UnboundedSender<Event>) -> Result<Self, EngineError> {
        let mut attempts = 1..RANDOM_PORT_ATTEMPTS;
        loop {
            match Self::start_once(settings.clone(), events.clone()) {
                // Another program took the port that was free a moment ago; the next attempt chooses another one.
                Err(EngineError::Listen { in_use: true, address, .. })
                    if settings.network.listen_port == 0
                        && address.port() != settings.network.dht_port
                        && attempts.next().is_some() => {}
                started => return started,
            }
        }
    }

    fn start_once(settings: SessionSettings, events: UnboundedSender<Event>) -> Result<Self, EngineError> {
        let raw = settings.raw();
        let network = &settings.network;
        let (threads, files) = (settings.disk_threads(), settings.open_files());
        let engine = ffi::start_engine(&raw, threads, files, &settings.dht_state, !network.announce)
            .map_err(internal)?;
        engine.wait_until_started().map_err(internal)?;
        engine.block_addresses(&blocked_addresses()).map_err(internal)?;
        let shared = Arc::new(SessionShared {
            engine,
            events,
            torrents: Mutex::default(),
            talk: Mutex::default(),
            dht: Mutex::default(),
            listen_port: AtomicU16::new(0),
            dht_port: if network.dht_port == network.listen_port { 0 } else { network.dht_port },
            stopping: AtomicBool::new(false),
            turned: Condvar::new(),
            turn: Mutex::default(),
        });
        let mut pump = pump::EventPump::new(shared.clone());
        // All events about listening are in the queue now.
        let listening = pump.turn(Duration::ZERO);
        if let Some(error) = listen_error(&listening, &pump.in_use) {
            // Waited for, because the process may be about to exit.
            let ended = shared.engine.shutdown(FAILED_START_WITHIN.as_millis() as i32);
            tracing::debug!(?ended, "the engine that could not listen has ended");
            return Err(error);
        }
        pump.send(listening);
        if network.dht_enabled {
            // libtorrent asks its bootstrap nodes, but never stores them in the routing table: two nodes that name only
            // each other would find no node.
            for node in &network.dht_bootstrap_nodes {
                shared.engine.add_dht_node(&node.host_text(), node.port).map_err(internal)?;
            }
        }
        let thread = std::thread::Builder::new()
            .name("engine-events".into())
            .spawn(move || pump.run())
            .map_err(|error| EngineError::Internal(error.to_string()))?;
        Ok(Self { shared, settings, next: AtomicU64::new(1), pump: Mutex::new(Some(thread)) })
    }

    /// How many bytes per second all connections together may upload; 0 for no limit. Waits for the network thread. An error
    /// after the session ended.
    pub fn upload_limit(&self) -> Result<u32, EngineError> {
        let limit = self.shared.engine.upload_limit().map_err(internal)?;
        Ok(u32::try_from(limit).unwrap_or(0))
    }

    /// Leaves all swarms and ends the engine. Waits for requested answers, at most `within`. Returns whether everything ended
    /// in time; otherwise the rest ends in the background. Later requests fail.
    pub fn shutdown(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let Some(pump) = self.pump.lock().take() else { return true };
        let paused = self.shared.engine.pause().is_ok();
        // The pump is still running and sends the answers.
        let mut turn = self.shared.turn.lock();
        while paused
            && Instant::now() < deadline
            && self.shared.engine.saves_pending().is_ok_and(|pending| pending > 0)
        {
            let left = deadline.saturating_duration_since(Instant::now());
            self.shared.turned.wait_for(&mut turn, left);
        }
        drop(turn);
        self.shared.stopping.store(true, Ordering::Release);
        let woken = self.shared.engine.wake().is_ok();
        let joined = woken && pump.join().is_ok();
        let left =
            deadline.saturating_duration_since(Instant::now()).as_millis().min(i32::MAX as u128) as i32;
        self.shared.engine.shutdown(left).unwrap_or(false) && joined
    }

    /// Exempts hosts that the user named from the limits of the gate that hold for address groups. Their connections
    /// are limited one by one, as all are.
    pub fn trust_hosts(&self, peers: &[SocketAddr]) {
        for peer in peers {
            if let Err(error) = self.shared.engine.trust_host(&raw_endpoint(peer).address) {
                tracing::warn!(%peer, %error, "could not exempt a named host from limits");
            }
        }
    }

    pub(super) fn new_id(&self) -> TorrentId {
        TorrentId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The configured trackers.
    pub(super) fn trackers(&self) -> Vec<String> {
        self.settings.network.trackers.iter().map(Url::to_string).collect()
    }

    pub(super) fn max_connections(&self) -> i32 {
        // libtorrent needs two at least.
        self.settings.network.max_connections.max(2) as i32
    }
}

/// The reason not to start: a port is in use, or no interface can be listened on.
fn listen_error(events: &[Event], in_use: &[SocketAddr]) -> Option<EngineError> {
    let listening = events.iter().any(|event| matches!(event, Event::Listening(_)));
    events.iter().find_map(|event| match event {
        Event::ListenFailed(address, reason) if !listening || in_use.contains(address) => {
            Some(EngineError::Listen {
                address: *address,
                reason: reason.clone(),
                in_use: in_use.contains(address),
            })
        }
        _ => None,
    })
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shutdown(Duration::from_secs(5));
    }
}
