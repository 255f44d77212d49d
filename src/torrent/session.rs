//! The engine over libtorrent.
//!
//! A [`Session`] owns the C++ engine and one thread, the pump, which waits for events, translates them and sends them to the
//! channel. Requests go directly to libtorrent's queue. The state shared by the two is small; its locks are held for a few
//! lines and never while calling into libtorrent.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cxx::UniquePtr;
use fixedbitset::FixedBitSet;
use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc::UnboundedSender;
use url::Url;

use super::dht::Dht;
use super::quiet::{Quiet, topic_of};
use super::talk::{LonelyMeeting, Talk, blocked_addresses};
use super::{
    AddTorrent, EngineError, Event, FileStamp, Mode, Priority, SessionSettings, Swarms, TorrentId, pump,
};
use crate::ffi::{self, RawAdd, RawBlocks, RawEndpoint, RawPath, RawPriority};
use crate::model::PieceIndex;
use crate::model::magnet::Magnet;

/// Peers stored per torrent, to be called again when all have disconnected.
const KNOWN_PEERS: usize = 64;

/// How often another random port is tried when the first one is in use.
const RANDOM_PORT_ATTEMPTS: u32 = 5;

/// How long an engine that could not listen may take to end; it has no torrents and no peers.
const FAILED_START_WITHIN: Duration = Duration::from_secs(5);

/// What the session stores of a torrent.
#[derive(Default)]
pub(super) struct TorrentRecord {
    /// The metainfo, if it was added with all piece layers.
    pub complete_metainfo: Option<Arc<Vec<u8>>>,
    /// Peers that can be called: named when it was added, or connected to by this node.
    pub peers: Vec<SocketAddr>,
    /// Connections now.
    pub connected: usize,
    /// For a meeting, when peers are searched again.
    pub meeting: Option<LonelyMeeting>,
    /// How peers are found if this node is not announced.
    pub quiet: Quiet,
}

impl TorrentRecord {
    /// Stores a peer that can be called.
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
    pub fn torrents(&self) -> parking_lot::MutexGuard<'_, HashMap<TorrentId, TorrentRecord>> {
        self.torrents.lock()
    }

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

/// The result of an engine call that returns false for an unknown torrent.
fn found(done: Result<bool, cxx::Exception>) -> Result<(), EngineError> {
    match done {
        Ok(true) => Ok(()),
        Ok(false) => Err(EngineError::UnknownTorrent),
        Err(error) => Err(internal(error)),
    }
}

fn raw_blocks(piece: PieceIndex, blocks: &Range<u32>) -> RawBlocks {
    RawBlocks { piece: piece.0, first: blocks.start, count: blocks.end.saturating_sub(blocks.start) }
}

pub(super) fn raw_endpoint(peer: &SocketAddr) -> RawEndpoint {
    // A scope would not survive the text form of the address.
    let address = match peer.ip().to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => v6.to_string(),
    };
    RawEndpoint { address, port: peer.port() }
}

/// Bit `i` of the set is bit `7 - i % 8` of byte `i / 8`.
fn packed(bits: &FixedBitSet) -> Vec<u8> {
    let mut bytes = vec![0u8; bits.len().div_ceil(8)];
    for i in bits.ones() {
        bytes[i / 8] |= 0x80 >> (i % 8);
    }
    bytes
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
            // Not left to the background: the process may be about to exit.
            let ended = shared.engine.shutdown(FAILED_START_WITHIN.as_millis() as i32);
            tracing::debug!(?ended, "The engine that could not listen has ended.");
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
        // libtorrent wants two at least.
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

impl Swarms for Session {
    fn add(&self, torrent: AddTorrent) -> Result<TorrentId, EngineError> {
        let id = self.new_id();
        let network = &self.settings.network;
        let dht = torrent.discovery.dht && network.dht_enabled;
        let mut trackers = self.trackers();
        let mut quiet = Quiet::default();
        if !self.announces() && !torrent.withheld {
            quiet = Quiet::torrent(dht.then(|| topic_of(&torrent.info_hash)), std::mem::take(&mut trackers));
        }
        let raw = RawAdd {
            torrent: id.0,
            info_hash: torrent.info_hash.0,
            metainfo: torrent.metainfo,
            paths: torrent
                .file_paths
                .iter()
                .enumerate()
                .map(|(file, path)| {
                    let stamp = torrent.file_stamps.get(file).copied().flatten();
                    let FileStamp { size, mtime_ns, inode, changed_ns } = stamp.unwrap_or_default();
                    let care = torrent.file_care.get(file).cloned().unwrap_or_default();
                    RawPath {
                        bytes: path.as_os_str().as_bytes().to_vec(),
                        fixed: stamp.is_some(),
                        size,
                        mtime_ns,
                        inode,
                        changed_ns: changed_ns.unwrap_or(0),
                        doubted: care.doubted,
                        granules: care
                            .granules
                            .map(|path| path.into_os_string().into_vec())
                            .unwrap_or_default(),
                    }
                })
                .collect(),
            have: packed(&torrent.have),
            kept: torrent.blocks.iter().map(|(piece, blocks)| raw_blocks(*piece, blocks)).collect(),
            resume: torrent.resume.unwrap_or_default(),
            lazy: torrent.mode == Mode::Lazy,
            withheld: torrent.withheld,
            peers: torrent.peers.iter().map(raw_endpoint).collect(),
            trackers,
            dht,
            lan: torrent.discovery.lan && network.lan_discovery,
            pex: torrent.discovery.pex,
            max_connections: self.max_connections(),
        };
        self.shared
            .torrents()
            .insert(id, TorrentRecord { peers: torrent.peers, quiet, ..TorrentRecord::default() });
        match self.shared.engine.add(&raw) {
            Ok(all_layers) => {
                if all_layers && let Some(known) = self.shared.torrents().get_mut(&id) {
                    known.complete_metainfo = Some(Arc::new(raw.metainfo));
                }
                Ok(id)
            }
            Err(error) => {
                self.shared.torrents().remove(&id);
                Err(EngineError::BadTorrent(error.what().to_owned()))
            }
        }
    }

    fn fetch_metadata(&self, magnet: &str, peers: &[SocketAddr]) -> Result<TorrentId, EngineError> {
        let id = self.new_id();
        let raw_peers: Vec<_> = peers.iter().map(raw_endpoint).collect();
        let mut quiet = Quiet::default();
        if !self.announces() && self.settings.network.dht_enabled {
            let magnet: Result<Magnet, _> = magnet.parse();
            quiet = Quiet::meeting(magnet.ok().map(|magnet| topic_of(&magnet.info_hash)));
        }
        self.shared
            .torrents()
            .insert(id, TorrentRecord { peers: peers.to_vec(), quiet, ..TorrentRecord::default() });
        let trackers = self.trackers();
        match self.shared.engine.fetch_metadata(id.0, magnet, &raw_peers, &trackers, self.max_connections()) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.shared.torrents().remove(&id);
                Err(EngineError::BadTorrent(error.what().to_owned()))
            }
        }
    }

    fn remove(&self, id: TorrentId) -> Result<(), EngineError> {
        // First, since the engine may have removed the torrent itself.
        self.shared.torrents().remove(&id);
        found(self.shared.engine.remove(id.0))
    }

    fn request(&self, id: TorrentId, piece: PieceIndex, deadline: Duration) -> Result<(), EngineError> {
        let milliseconds = deadline.as_millis().min(i32::MAX as u128) as i32;
        found(self.shared.engine.request(id.0, piece.0, milliseconds))?;
        self.want_peers(id);
        Ok(())
    }

    fn request_blocks(
        &self,
        id: TorrentId,
        piece: PieceIndex,
        blocks: &[Range<u32>],
        deadline: Duration,
    ) -> Result<(), EngineError> {
        let milliseconds = deadline.as_millis().min(i32::MAX as u128) as i32;
        let raw: Vec<_> = blocks.iter().map(|blocks| raw_blocks(piece, blocks)).collect();
        found(self.shared.engine.request_blocks(id.0, piece.0, &raw, milliseconds))?;
        self.want_peers(id);
        Ok(())
    }

    fn set_priority(&self, id: TorrentId, pieces: &[(PieceIndex, Priority)]) -> Result<(), EngineError> {
        let raw: Vec<_> = pieces
            .iter()
            .map(|(piece, priority)| RawPriority {
                piece: piece.0,
                // Of libtorrent's 0 to 7; 7 is for pieces that readers wait for.
                priority: match priority {
                    Priority::None => 0,
                    Priority::Normal => 1,
                    Priority::Ahead => 4,
                },
            })
            .collect();
        found(self.shared.engine.set_priority(id.0, &raw))?;
        if raw.iter().any(|one| one.priority > 0) {
            self.want_peers(id);
        }
        Ok(())
    }

    fn connect_peer(&self, id: TorrentId, peer: SocketAddr) -> Result<(), EngineError> {
        found(self.shared.engine.connect_peer(id.0, &raw_endpoint(&peer)))?;
        if let Some(known) = self.shared.torrents().get_mut(&id) {
            known.remember(peer);
        }
        Ok(())
    }

    fn redial(&self, id: TorrentId) -> Result<(), EngineError> {
        let earlier = match self.shared.torrents().get(&id) {
            Some(known) if known.connected == 0 => known.peers.clone(),
            _ => Vec::new(),
        };
        // The engine forgets peers that failed when its list is full.
        for peer in &earlier {
            found(self.shared.engine.connect_peer(id.0, &raw_endpoint(peer)))?;
        }
        found(self.shared.engine.redial(id.0))
    }

    fn withdraw(&self, id: TorrentId, pieces: &[PieceIndex]) -> Result<(), EngineError> {
        let pieces: Vec<u32> = pieces.iter().map(|piece| piece.0).collect();
        found(self.shared.engine.withdraw(id.0, &pieces))
    }

    fn set_withheld(&self, id: TorrentId, withheld: bool) -> Result<(), EngineError> {
        found(self.shared.engine.set_withheld(id.0, withheld))
    }

    fn reannounce(&self, id: TorrentId) -> Result<(), EngineError> {
        found(self.shared.engine.reannounce(id.0))?;
        self.shared.look_up(id);
        Ok(())
    }

    fn give_piece(&self, id: TorrentId, piece: PieceIndex, bytes: Vec<u8>) -> Result<(), EngineError> {
        found(self.shared.engine.give_piece(id.0, piece.0, &bytes))
    }

    fn save_resume(&self, id: TorrentId) -> Result<(), EngineError> {
        let complete = self.shared.torrents().get(&id).is_some_and(|known| known.complete_metainfo.is_some());
        if complete {
            // The metainfo has all piece layers.
            self.shared.send(Event::ResumeData(id, Vec::new()));
            return Ok(());
        }
        found(self.shared.engine.save_layers(id.0, false))
    }

    fn export_metainfo(&self, id: TorrentId) -> Result<(), EngineError> {
        let complete = self.shared.torrents().get(&id).and_then(|known| known.complete_metainfo.clone());
        if let Some(metainfo) = complete {
            self.shared.send(Event::Metainfo(id, Some(metainfo.to_vec())));
            return Ok(());
        }
        found(self.shared.engine.save_layers(id.0, true))
    }
}
