//! How a node starts: lock, session, parts, control socket, background tasks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::catalog::NodeCatalog;
use super::clients::Clients;
use super::disputes::Disputes;
use super::jobs::Jobs;
use super::limited::Limited;
use super::local_models::{self, LocalModels};
use super::metadata::MetadataWaiters;
use super::mounts::Mounts;
use super::offline::Reach;
use super::places::Places;
use super::pump::Pump;
use super::resolve::Resolvings;
use super::seeds::Seeds;
use super::unresolved::Unresolved;
use super::web::Web;
use super::{Library, Node, NodeError, control};
use crate::catalog::CatalogSettings;
use crate::config::Config;
use crate::fetch::{Fetch, FetchSettings};
use crate::store::Rooms;
use crate::torrent::{Discovery, EngineError, GivenPeers, Session, SessionSettings};

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
/// One window of read-ahead takes at most this part of the cache.
const WINDOWS_PER_CACHE: u64 = 4;

/// How to run a node.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// Hosts that have models, called for every torrent.
    pub peers: Vec<SocketAddr>,
}

impl Node {
    /// Takes the lock, starts the session and serves the control socket. Must run inside a tokio runtime. Returns
    /// once the session listens; where it cannot, that is the error.
    pub async fn start(config: Config, options: NodeOptions) -> Result<Arc<Self>, NodeError> {
        let (library, lock) = Library::open_locked(config)?;
        let mut session_settings = SessionSettings::from(&library.config.network);
        if session_settings.network.dht_enabled {
            session_settings.dht_state = super::dht::load(&library.paths);
        }
        let library = Arc::new(library);
        let network = &library.config.network;
        let web = Web::new(library.clone())?;
        let cache_size = library.store.cache_bound(&library.config.cache)?;
        let used = library.store.cache_usage()?;
        let rooms = Rooms::new(library.paths.cache(), cache_size, library.config.cache.min_free, used);
        let settings = FetchSettings {
            read_timeout: library.config.mount.read_timeout,
            readahead_max: library.config.mount.readahead_max,
            window_bound: cache_size / WINDOWS_PER_CACHE,
            rooms,
            discovery: Discovery { dht: network.dht_enabled, lan: network.lan_discovery, pex: true },
            peers: GivenPeers::default(),
            web: web.settings(),
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

        let local = Arc::new(LocalModels::new(library.clone()));
        let disputes = Arc::new(Disputes::new(library.clone(), catalog.clone(), local.clone()));
        let node = Arc::new(Self {
            seeds: Seeds::new(library.clone(), fetch.clone(), session.clone(), settings.clone()),
            reach: Reach {
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
            mounts: Mounts::new(disputes.clone()),
            catalog,
            resolvings: Resolvings::default(),
            unresolved: Unresolved::default(),
            limited: Limited::default(),
            disputes,
            local,
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
        node.seeds.apply_all_rules();
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
        node.tasks
            .lock()
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
