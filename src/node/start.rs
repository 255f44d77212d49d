//! The start of a node: lock, session, parts, control socket, background tasks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::clients::Clients;
use super::directory_faults::DirectoryFaults;
use super::disputes::Disputes;
use super::endpoint::{self, Endpoints};
use super::hub::access::HubAccess;
use super::hub::{self, HubModels};
use super::jobs::Jobs;
use super::limited::Limited;
use super::local_models::LocalModels;
use super::lock::NodeLock;
use super::metadata::MetadataWaiters;
use super::mounts::Mounts;
use super::node_catalog::NodeCatalog;
use super::offline::NetworkReach;
use super::pump::Pump;
use super::seeds::Seeds;
use super::shared_lookups::NetworkLookups;
use super::unresolved::Unresolved;
use super::web::Web;
use super::witness::link::NodeWitness;
use super::witness::{self, Witness};
use super::{Library, Node, NodeError, control, rotation};
use crate::catalog::CatalogSettings;
use crate::config::Config;
use crate::fetch::{Fetch, FetchSettings};
use crate::store::{Rooms, Store};
use crate::torrent::{Discovery, EngineError, GivenPeers, Session, SessionSettings};

/// How long the session may take to report its first address.
const LISTEN_WITHIN: Duration = Duration::from_secs(10);
/// After this long without a further address, all are known. They are opened together, so this is short.
const LISTEN_SETTLED: Duration = Duration::from_millis(50);
/// How long a port in use is retried: the sockets of a killed process may exist for a moment after its lock. Short,
/// because another program may use the port.
const RETRY_WITHIN: Duration = Duration::from_secs(3);
/// How often it is retried: there is no event for a free port.
const RETRY_EVERY: Duration = Duration::from_millis(100);
/// How often verified blocks and piece layers are synced to the disk.
const SYNC_EVERY: Duration = Duration::from_secs(30);
/// One window of read-ahead uses at most this part of the cache.
const WINDOWS_PER_CACHE: u64 = 4;

/// How to run a node.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// Hosts with models; every torrent connects to them.
    pub peers: Vec<SocketAddr>,
}

/// Opens the base directory for writing. Takes the lock before it reads the store. Completes an interrupted
/// replacement of the publisher's key; a failure is logged.
pub fn open_locked(config: Config) -> Result<(Library, NodeLock), NodeError> {
    let paths = config.paths();
    paths.create()?;
    let lock = NodeLock::take(&paths)?;
    tracing::info!(%config, "opening the base directory");
    let library = Library::open_with(config, Store::open)?;
    rotation::finish_or_log(&library);
    Ok((library, lock))
}

impl Node {
    /// Takes the lock, starts the session and serves the control socket. Must run inside a tokio runtime. Returns when
    /// the session listens, and fails if it cannot.
    pub async fn start(config: Config, options: NodeOptions) -> Result<Arc<Self>, NodeError> {
        let (library, lock) = open_locked(config)?;
        let mut session_settings = SessionSettings::from(&library.config.network);
        if session_settings.network.dht_enabled {
            session_settings.dht_state = super::dht::load(&library.paths);
        }
        let library = Arc::new(library);
        let network = &library.config.network;
        let web = Web::new(library.clone())?;
        let cache_size = library.store.cache().bound(&library.config.cache)?;
        let used = library.store.cache().usage()?;
        let rooms = Rooms::new(library.paths.cache(), cache_size, library.config.cache.min_free, used);
        let settings = FetchSettings {
            read_timeout: library.config.mount.read_timeout,
            readahead_max: library.config.mount.readahead_max,
            window_bound: cache_size / WINDOWS_PER_CACHE,
            rooms,
            discovery: Discovery { dht: network.dht_enabled, lan: network.lan_discovery, pex: true },
            peers: GivenPeers::default(),
            web: web.settings(),
            hub_budget: web.hub_limits.budget.clone(),
        };
        let peers = settings.peers.add(&options.peers);
        let (events, queue) = mpsc::unbounded_channel();
        let start =
            move || tokio::task::block_in_place(|| Session::start(session_settings.clone(), events.clone()));
        let session = Arc::new(retry_while_in_use(start).await?);
        session.trust_hosts(&options.peers);
        let fetch = Fetch::new(session.clone(), library.paths.clone(), settings.clone());
        let metadata = Arc::new(MetadataWaiters::default());
        let catalog_settings = CatalogSettings { dht: settings.discovery.dht, peers: settings.peers.clone() };
        let catalog = NodeCatalog::start(&library, &session, &fetch, catalog_settings).await;
        let (addresses, mut listening) = watch::channel(Vec::new());
        let pump = Pump {
            fetch: fetch.clone(),
            metadata: metadata.clone(),
            catalog: catalog.clone(),
            listening: addresses,
        };
        let pump = tokio::spawn(pump.run(queue));
        if let Err(e) = listen(&mut listening).await {
            if let Some(part) = &catalog {
                part.catalog.stop();
            }
            return Err(e);
        }

        let local = Arc::new(LocalModels::new(library.clone()));
        let config = &library.config.hub;
        let own = HubAccess::of_node(&web, &config.endpoint, config.lazy);
        let (contradictions, contradicted) = mpsc::unbounded_channel();
        let (hub_models, completed) = HubModels::open(&library, &fetch, own);
        let disputes = Arc::new(Disputes::new(library.clone(), catalog.clone(), local.clone()));
        let node = Arc::new(Self {
            seeds: Seeds::new(library.clone(), fetch.clone(), session.clone(), settings.clone()),
            reach: NetworkReach {
                library: library.clone(),
                catalog: catalog.clone(),
                peers: settings.peers.clone(),
            },
            fetch,
            session,
            metadata,
            settings,
            jobs: Jobs::default(),
            mirrors: Jobs::default(),
            web,
            clients: Clients::default(),
            mounts: Mounts::new(disputes.clone(), hub_models.clone()),
            endpoints: Endpoints::default(),
            catalog,
            lookups: NetworkLookups::default(),
            unresolved: Unresolved::default(),
            limited: Limited::default(),
            disputes,
            local,
            hub: hub_models,
            witness: Witness::new(&library)?,
            places: DirectoryFaults::default(),
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
        node.fetch.set_witness(Arc::new(NodeWitness {
            node: Arc::downgrade(&node),
            contradictions,
            completed: node.witness.completed.clone(),
        }));
        node.seeds.apply_all_rules();
        let server = control::serve(Arc::downgrade(&node), &node.library.paths)?;
        *node.server.lock() = Some(server);
        // A command may have changed the registry after it was read and before the socket was served.
        node.reload()?;
        let housekeeper = tokio::spawn(super::housekeeping::run(Arc::downgrade(&node), SYNC_EVERY));
        let attendants = node.catalog.iter().flat_map(|part| {
            let attendant = super::announce::run(Arc::downgrade(&node.library), part.clone());
            let searcher = super::starving::run(Arc::downgrade(&node), part.clone());
            [tokio::spawn(attendant), tokio::spawn(searcher)]
        });
        let keeper =
            tokio::spawn(super::space_keeper::run(Arc::downgrade(&node), node.settings.rooms.clone()));
        let looking = tokio::spawn(super::local_scans::run(Arc::downgrade(&node)));
        let tending = tokio::spawn(super::directory_checks::run(Arc::downgrade(&node)));
        let completing = tokio::spawn(hub::complete::run(Arc::downgrade(&node), completed));
        let handing = tokio::spawn(hub::hand_over::run(Arc::downgrade(&node)));
        let comparing = tokio::spawn(hub::twins::run(Arc::downgrade(&node)));
        let refusing = tokio::spawn(witness::contents::run(Arc::downgrade(&node), contradicted));
        let confirming = tokio::spawn(witness::complete::run(Arc::downgrade(&node)));
        node.hub.refresh();
        let scrubbing = tokio::spawn(super::scrub::run(Arc::downgrade(&node)));
        node.tasks.lock().extend(
            [
                housekeeper,
                keeper,
                looking,
                tending,
                scrubbing,
                completing,
                handing,
                comparing,
                refusing,
                confirming,
            ]
            .into_iter()
            .chain(attendants),
        );
        let reader = Arc::downgrade(&node);
        if let Some(part) = &node.catalog {
            part.catalog.report_news(move |news| {
                if let Some(node) = reader.upgrade() {
                    node.mounts.news(news);
                }
            });
        }
        endpoint::serve_configured(&node).await;
        endpoint::serve_metrics(&node).await;
        tracing::info!(listening = ?node.listening(), "node started");
        Ok(node)
    }
}

/// Calls `start` again for [`RETRY_WITHIN`] while its port is in use.
async fn retry_while_in_use<T>(mut start: impl FnMut() -> Result<T, EngineError>) -> Result<T, EngineError> {
    let until = tokio::time::Instant::now() + RETRY_WITHIN;
    loop {
        match start() {
            Err(e @ EngineError::Listen { in_use: true, .. }) if tokio::time::Instant::now() < until => {
                tracing::info!(error = %e, "retrying to listen");
            }
            started => return started,
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

/// Waits for the first address and the further ones: the session reports them one after another.
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

    fn in_use() -> EngineError {
        EngineError::Listen {
            address: ([127, 0, 0, 1], 6881).into(),
            reason: "in use".to_owned(),
            in_use: true,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_in_use_is_retried_for_a_bounded_time() {
        let mut left = 3;
        let start = || match left {
            0 => Ok(()),
            _ => {
                left -= 1;
                Err(in_use())
            }
        };
        retry_while_in_use(start).await.unwrap();
        let before = tokio::time::Instant::now();
        assert!(matches!(
            retry_while_in_use(|| Err::<(), _>(in_use())).await,
            Err(EngineError::Listen { .. })
        ));
        assert!(before.elapsed() < 2 * RETRY_WITHIN);
        let mut tries = 0;
        let start = || {
            tries += 1;
            Err::<(), _>(EngineError::UnknownTorrent)
        };
        retry_while_in_use(start).await.unwrap_err();
        assert_eq!(tries, 1);
    }
}
