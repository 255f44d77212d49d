//! The running node: one session, one pump that hands its events on, one housekeeper.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::catalog::NodeCatalog;
use super::clients::Clients;
use super::control::{self, Status};
use super::disputes::Disputes;
use super::jobs::Jobs;
use super::limited::Limited;
use super::local_models::{self, LocalModels};
use super::lock::NodeLock;
use super::metadata::MetadataWaiters;
use super::mounts::Mounts;
use super::places::Places;
use super::pump::Pump;
use super::resolve::Resolvings;
use super::unresolved::Unresolved;
use super::{ErrorKind, Library, NodeError};
use crate::catalog::CatalogSettings;
use crate::config::{Config, HubConfig};
use crate::fetch::web::{HttpSource, Lent, WebSettings};
use crate::fetch::{Fetch, FetchSettings};
use crate::http::{Client, EnvironmentProxies, Token};
use crate::mirror::token;
use crate::model::{InfoHash, ModelRef};
use crate::mount::Namespaces;
use crate::store::{Rooms, StoredRevision};
use crate::torrent::{Discovery, EngineError, GivenPeers, PeersGuard, Session, SessionSettings, TorrentId};

/// How long the session may take to say where it listens.
const LISTEN_WITHIN: Duration = Duration::from_secs(10);
/// After this long without another address there is no other. All are opened at once, so it is short.
const LISTEN_SETTLED: Duration = Duration::from_millis(50);
/// How long a port that is taken is tried: the last sockets of a process that was killed may outlive its lock for a
/// moment. Short, since it may be another program's.
const TAKEN_WITHIN: Duration = Duration::from_secs(3);
/// How often it is tried; there is nothing to be woken by.
const TRY_EVERY: Duration = Duration::from_millis(100);
/// How often verified blocks and piece layers are made safe against a power cut.
const SYNC_EVERY: Duration = Duration::from_secs(30);
/// How long stopping may take before what is left is abandoned.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// One window of read-ahead takes at most this part of the cache.
const WINDOWS_PER_CACHE: u64 = 4;

/// How to run a node.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// Hosts that have models, called for every torrent.
    pub peers: Vec<SocketAddr>,
}

/// What a command has in its own environment, and lends to the node for its work alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// The proxies that its environment names.
    pub proxies: EnvironmentProxies,
    /// The token of its environment, for the hub.
    pub token: Option<Token>,
}

impl Surroundings {
    fn is_empty(&self) -> bool {
        self.proxies.is_empty() && self.token.is_none()
    }
}

/// Why a node is to end, as a client has said through the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The user has stopped it: what it did for clients ends as well.
    Stopped,
    /// A node of another version replaces it and goes on with what it did for clients.
    Replaced,
}

/// The running engine of one base directory.
pub struct Node {
    /// Registry and store.
    pub library: Library,
    /// The scheduler.
    pub fetch: Arc<Fetch>,
    pub(super) session: Arc<Session>,
    pub(super) metadata: Arc<MetadataWaiters>,
    pub(super) settings: FetchSettings,
    /// The hybrid twins that are to be seeded; none for one of which files are absent or damaged now.
    pub(super) hybrids: Mutex<HashMap<InfoHash, Option<TorrentId>>>,
    /// One at a time per torrent: what moves or rereads its files.
    pub(super) jobs: Jobs<InfoHash>,
    /// One at a time per model: what mirrors it.
    pub(super) mirrors: Jobs<ModelRef>,
    /// For hubs, git servers and web seeds.
    pub(super) http: Client,
    /// The web as the seed of last resort.
    web: Option<Arc<HttpSource>>,
    /// What other commands have it do now.
    pub(super) clients: Clients,
    /// The mounts that it serves.
    pub(super) mounts: Mounts,
    /// The catalog, where it could be opened.
    pub(super) catalog: Option<Arc<NodeCatalog>>,
    pub(super) resolvings: Resolvings,
    pub(super) unresolved: Unresolved,
    pub(super) limited: Limited,
    pub(super) disputes: Disputes,
    pub(super) local: LocalModels,
    pub(super) places: Places,
    started: Instant,
    listening: watch::Receiver<Vec<SocketAddr>>,
    ending: watch::Sender<Option<Ending>>,
    stopping: AtomicBool,
    _peers: PeersGuard,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    server: Mutex<Option<control::Server>>,
    /// Whatever writes below the base directory has a share of it, and may outlive the node.
    pub(super) lock: Arc<NodeLock>,
}

impl Node {
    /// Takes the lock, starts the session and serves the control socket. Must run inside a tokio runtime. Returns
    /// once the session listens; where it cannot, that is the error.
    pub async fn start(config: Config, options: NodeOptions) -> Result<Arc<Self>, NodeError> {
        let (library, lock) = Library::open_locked(config)?;
        let network = &library.config.network;
        let mut session_settings = SessionSettings::from(network);
        if session_settings.network.dht_enabled {
            session_settings.dht_state = super::dht::load(&library.paths);
        }
        let http = Client::new(network)?.allowing_private(&library.config.hub.endpoint);
        let cache_size = library.store.cache().bound(&library.config.cache)?;
        let used = library.store.cache().usage()?;
        let rooms = Rooms::new(library.paths.cache(), cache_size, library.config.cache.min_free, used);
        let hub = &library.config.hub;
        let web = web(hub, &http);
        let settings = FetchSettings {
            read_timeout: library.config.mount.read_timeout,
            readahead_max: library.config.mount.readahead_max,
            window_bound: cache_size / WINDOWS_PER_CACHE,
            rooms,
            discovery: Discovery { dht: network.dht_enabled, lan: network.lan_discovery, pex: true },
            peers: GivenPeers::default(),
            web: web
                .as_ref()
                .map(|source| WebSettings { source: source.clone(), endpoint: hub.endpoint.clone() }),
        };
        let peers = settings.peers.add(&options.peers);
        let (events, queue) = mpsc::unbounded_channel();
        let start =
            move || tokio::task::block_in_place(|| Session::start(session_settings.clone(), events.clone()));
        let session = Arc::new(again_while_taken(start).await?);
        session.trust_hosts(&options.peers);
        let fetch = Fetch::new(session.clone(), library.paths.clone(), settings.clone());
        let metadata = Arc::new(MetadataWaiters::default());
        let catalog_settings = CatalogSettings { dht: settings.discovery.dht, peers: settings.peers.clone() };
        let catalog = NodeCatalog::start(&library, &session, &fetch, catalog_settings).await;
        let (told, mut listening) = watch::channel(Vec::new());
        let pump = Pump {
            fetch: fetch.clone(),
            metadata: metadata.clone(),
            catalog: catalog.clone(),
            listening: told,
        };
        let pump = tokio::spawn(pump.run(queue));
        if let Err(e) = listen(&mut listening).await {
            if let Some(part) = &catalog {
                part.catalog.stop();
            }
            return Err(e);
        }

        let node = Arc::new(Self {
            fetch,
            session,
            metadata,
            settings,
            hybrids: Mutex::default(),
            jobs: Jobs::default(),
            mirrors: Jobs::default(),
            http,
            web,
            clients: Clients::default(),
            mounts: Mounts::default(),
            catalog,
            resolvings: Resolvings::default(),
            unresolved: Unresolved::default(),
            limited: Limited::default(),
            disputes: Disputes::default(),
            local: LocalModels::default(),
            places: Places::default(),
            started: Instant::now(),
            listening,
            ending: watch::Sender::new(None),
            stopping: AtomicBool::new(false),
            _peers: peers,
            tasks: Mutex::new(vec![pump]),
            server: Mutex::default(),
            library,
            lock: Arc::new(lock),
        });
        node.apply_all_rules();
        let server = control::serve(Arc::downgrade(&node), &node.library.paths)?;
        *node.server.lock() = Some(server);
        // Whoever wrote to the registry after it was read, and before now, found nobody to tell.
        node.reload()?;
        let housekeeper = tokio::spawn(super::housekeeping::run(Arc::downgrade(&node), SYNC_EVERY));
        let attendants = node.catalog.iter().flat_map(|part| {
            let attendant = super::catalog::attend(Arc::downgrade(&node), part.clone());
            let searcher = super::starving::run(Arc::downgrade(&node), part.clone());
            [tokio::spawn(attendant), tokio::spawn(searcher)]
        });
        let keeper = tokio::spawn(super::space::run(Arc::downgrade(&node), node.settings.rooms.clone()));
        let looking = tokio::spawn(local_models::run(Arc::downgrade(&node)));
        let tending = tokio::spawn(super::places::run(Arc::downgrade(&node)));
        let scrubbing = tokio::spawn(super::scrub::run(Arc::downgrade(&node)));
        lock_tasks(&node.tasks)
            .extend([housekeeper, keeper, looking, tending, scrubbing].into_iter().chain(attendants));
        let reader = Arc::downgrade(&node);
        if let Some(part) = &node.catalog {
            part.catalog.report_news(move |news| {
                if let Some(node) = reader.upgrade() {
                    node.mounts.news(news);
                }
            });
        }
        tracing::info!("node started on {:?}", node.listening());
        Ok(node)
    }

    /// The addresses the session listens on.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.listening.borrow().clone()
    }

    /// Reads from the web in the surroundings of a command, until what is returned is dropped. None where the web is not
    /// read, or the command has no proxy and no token of its own.
    pub(super) fn lend(&self, surroundings: &Surroundings) -> Result<Option<Lent>, NodeError> {
        let Some(web) = self.web.as_ref().filter(|_| !surroundings.is_empty()) else { return Ok(None) };
        let client = self.client_in(surroundings)?;
        Ok(Some(web.lend(client, surroundings.token.as_ref())))
    }

    /// An HTTP client that uses the proxies of a command.
    pub(super) fn client_in(&self, surroundings: &Surroundings) -> Result<Client, NodeError> {
        if surroundings.proxies.is_empty() {
            return Ok(self.http.clone());
        }
        let config = &self.library.config;
        Ok(Client::for_process(&config.network, &surroundings.proxies)?
            .allowing_private(&config.hub.endpoint))
    }

    /// Has the node end: [`Self::stop_requested`] resolves. The first reason counts.
    pub(super) fn request_stop(&self, ending: Ending) {
        self.ending.send_if_modified(|asked| {
            let is_first = asked.is_none();
            asked.get_or_insert(ending);
            is_first
        });
    }

    /// Resolves when a client has asked the node to end. The process that runs the node then stops and drops it.
    pub async fn stop_requested(&self) -> Ending {
        let mut ending = self.ending.subscribe();
        // The sender lives as long as the node.
        match ending.wait_for(Option::is_some).await.map(|asked| *asked) {
            Ok(Some(ending)) => ending,
            Ok(None) | Err(_) => Ending::Stopped,
        }
    }

    /// Follows whether the node is to end.
    pub(super) fn endings(&self) -> watch::Receiver<Option<Ending>> {
        self.ending.subscribe()
    }

    /// Whether something keeps the node running: a mount, a command, or bytes that it shares.
    pub fn has_work(&self) -> bool {
        !self.mounts.is_empty() || !self.clients.is_empty() || self.fetch.has_work()
    }

    /// Where the mounts are that this process can unmount.
    pub fn mount_points(&self) -> Vec<PathBuf> {
        self.mounts.paths_here()
    }

    /// Whether the base directory is still there, with the lock that this node holds.
    pub fn has_base(&self) -> bool {
        self.lock.is_in_place()
    }

    /// Whether it has begun to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Joins the swarms of all models of which something is here, to upload it. One that cannot be joined is
    /// logged and left out; that none can because the node stops is an error.
    pub fn seed_local(&self) -> Result<Vec<Arc<StoredRevision>>, NodeError> {
        let mut seeded = Vec::new();
        for revision in self.library.revisions()? {
            let withheld = self.library.sharing.of(&revision.manifest.model_ref()).withheld.is_some();
            if withheld {
                continue;
            }
            let info_hash = revision.manifest.torrent.info_hash;
            if revision.held_bytes() == 0 {
                self.places.expect(info_hash);
                continue;
            }
            self.places.forget(&info_hash);
            match self.seed(&revision) {
                Ok(()) => seeded.push(revision),
                Err(e) if self.is_stopping() || e.kind() == ErrorKind::HostLost => {
                    return Err(NodeError::HostLost);
                }
                Err(e) => tracing::warn!("cannot seed {}: {e}", revision.manifest.model_ref()),
            }
        }
        Ok(seeded)
    }

    /// What this node does now.
    pub fn status(&self) -> Status {
        let transfers = self.fetch.status();
        let mut problems = self.places.problems();
        problems.extend(transfers.iter().filter_map(|transfer| self.damage_in_cache(transfer)));
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            namespaces: Namespaces::of_this_process().ok(),
            mounts: self.mounts.status(),
            uptime: self.started.elapsed().as_secs(),
            base_dir: self.library.paths.base.clone(),
            listening: self.listening(),
            transfers,
            dht: self.settings.discovery.dht,
            catalog: self.catalog.as_ref().map(|part| part.catalog.status()),
            jobs: self.clients.status(),
            unresolved: self.unresolved_names(),
            limited: self.limited.status(),
            disputed: self.disputed_names(),
            notes: self.notes(),
            space: self.lack_of_space(),
            problems,
        }
    }

    /// Reads the registry again, signs ours anew where the publisher's key was replaced, and tells whoever shows it.
    /// What is new in it is shared as the rules say.
    pub fn reload(&self) -> Result<(), NodeError> {
        self.library.registry.reload()?;
        self.library.beside.reload()?;
        self.apply_all_rules();
        self.finish_rotation();
        self.unresolved.clear();
        self.changed();
        Ok(())
    }

    /// Tells whoever shows or announces the models that they changed.
    pub(super) fn changed(&self) {
        if let Some(part) = &self.catalog {
            part.changed.notify_one();
        }
        self.local.records_changed();
        if let Err(error) = self.publish_in_mounts() {
            tracing::error!("the mounts still show the former models: {error}");
        }
    }

    /// Saves what is known of the DHT, where it is used.
    pub(super) async fn save_dht(&self) {
        if self.settings.discovery.dht {
            super::dht::save(&self.session, &self.library.paths).await;
        }
    }

    /// Writes resume data, block maps, the catalog and the state of the DHT, within a deadline.
    async fn save(&self) {
        self.fetch.flush(STOP_WITHIN / 2).await;
        let store = self.library.store.clone();
        let catalog = self.catalog.clone();
        let synced = tokio::task::spawn_blocking(move || {
            if let Some(Err(e)) = catalog.map(|part| part.store.flush()) {
                tracing::error!("{e}");
            }
            store.close()
        });
        match tokio::time::timeout(STOP_WITHIN / 2, synced).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(e))) => tracing::error!("the cache could not be synced: {e}"),
            Ok(Err(e)) => tracing::error!("the cache could not be synced: {e}"),
            Err(_) => tracing::error!("the cache could not be synced in time"),
        }
        self.save_dht().await;
    }

    /// Answers waiting reads, ends the other commands' jobs, writes resume data and ends the session, all within a
    /// deadline. The base directory is let go of when the node is dropped, and with it all that still writes there.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.fetch.stop();
        // The lock is held to the end, so this socket is this node's. A command that comes now waits for the lock.
        let _ = std::fs::remove_file(self.library.paths.socket());
        if let Some(part) = &self.catalog {
            part.catalog.stop();
        }
        // Parked reads have their answers, so that nothing holds the mounts.
        self.mounts.stop().await;
        let server = self.server.lock().take();
        if let Some(server) = server {
            server.end().await;
        }
        // What is written below a base directory that was deleted would make it again.
        if self.has_base() {
            self.save().await;
        }
        let session = self.session.clone();
        let ended = tokio::task::spawn_blocking(move || session.shutdown(STOP_WITHIN / 2));
        if !matches!(tokio::time::timeout(STOP_WITHIN, ended).await, Ok(Ok(true))) {
            tracing::error!("the session did not end in time");
            // It may still write: the base directory is this process's until it ends.
            std::mem::forget(self.lock.clone());
        }
        let tasks: Vec<_> = lock_tasks(&self.tasks).drain(..).collect();
        tasks.iter().for_each(JoinHandle::abort);
        for task in tasks {
            // What they hold is let go of with the node.
            let _ = task.await;
        }
    }
}

/// The web as the seed of last resort, unless it is not to be used. A token that cannot be used is logged: models that
/// everybody may read need none.
fn web(hub: &HubConfig, http: &Client) -> Option<Arc<HttpSource>> {
    if !hub.fallback {
        return None;
    }
    let token = token::find().inspect_err(|e| tracing::warn!("the hub is asked without a token: {e}"));
    Some(Arc::new(HttpSource::new(http.clone(), &hub.endpoint, token.ok().flatten().as_ref())))
}

fn lock_tasks(tasks: &Mutex<Vec<JoinHandle<()>>>) -> parking_lot::MutexGuard<'_, Vec<JoinHandle<()>>> {
    tasks.lock()
}

/// Starts something that listens, and tries again for a while where another has the port.
async fn again_while_taken<T>(mut start: impl FnMut() -> Result<T, EngineError>) -> Result<T, EngineError> {
    let until = tokio::time::Instant::now() + TAKEN_WITHIN;
    loop {
        match start() {
            Err(e @ EngineError::Listen { in_use: true, .. }) if tokio::time::Instant::now() < until => {
                tracing::info!("{e}; trying again");
            }
            started => return started,
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
}

/// Waits for the first address, and for the others: the session tells them one after another.
async fn listen(listening: &mut watch::Receiver<Vec<SocketAddr>>) -> Result<(), NodeError> {
    let known = listening.wait_for(|addresses| !addresses.is_empty());
    match tokio::time::timeout(LISTEN_WITHIN, known).await {
        Ok(Ok(_)) => {}
        _ => {
            return Err(NodeError::Internal(
                "the engine did not report an address that it listens on".to_owned(),
            ));
        }
    }
    while let Ok(Ok(())) = tokio::time::timeout(LISTEN_SETTLED, listening.changed()).await {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken() -> EngineError {
        EngineError::Listen {
            address: ([127, 0, 0, 1], 6881).into(),
            reason: "in use".to_owned(),
            in_use: true,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_is_taken_is_tried_again_but_not_for_long() {
        let mut left = 3;
        let start = || match left {
            0 => Ok(()),
            _ => {
                left -= 1;
                Err(taken())
            }
        };
        again_while_taken(start).await.unwrap();
        let before = tokio::time::Instant::now();
        assert!(matches!(again_while_taken(|| Err::<(), _>(taken())).await, Err(EngineError::Listen { .. })));
        assert!(before.elapsed() < 2 * TAKEN_WITHIN);
        let mut tries = 0;
        let start = || {
            tries += 1;
            Err::<(), _>(EngineError::UnknownTorrent)
        };
        again_while_taken(start).await.unwrap_err();
        assert_eq!(tries, 1);
    }
}
