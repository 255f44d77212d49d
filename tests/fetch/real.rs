//! `Fetch` with the real engine, in a private network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use silmaril::fetch::{Fetch, FetchSettings};
use silmaril::model::{Manifest, metainfo};
use silmaril::paths::Paths;
use silmaril::store::{Store, StoredRevision};
use silmaril::torrent::{Discovery, Event, GivenPeers, Session, SessionSettings};

use crate::engine::rig::{SOON, Sample, network};
use crate::support::rig::MIB;

/// The parts of a node that fetch one sample.
pub struct Node {
    pub fetch: Arc<Fetch>,
    pub revision: Arc<StoredRevision>,
    pub paths: Paths,
    pub runtime: tokio::runtime::Runtime,
    session: Arc<Session>,
    listening: std::sync::mpsc::Receiver<SocketAddr>,
    _dir: tempfile::TempDir,
}

impl Node {
    pub fn new(sample: &Sample, peers: Vec<SocketAddr>) -> Self {
        Self::with_cache(sample, peers, |_| ())
    }

    /// [`Self::new`] with a cache that `plant` fills before the node opens it.
    pub fn with_cache(sample: &Sample, peers: Vec<SocketAddr>, plant: impl FnOnce(&StoredRevision)) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let inside = runtime.enter();
        let parsed = metainfo::parse_metainfo(&sample.metainfo).unwrap();
        let (name, version) = ("o/sample".parse().unwrap(), "main".parse().unwrap());
        let manifest = Manifest::from_metainfo(name, version, &parsed).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let manifest = Arc::new(manifest);
        plant(&Store::open(&paths).unwrap().revision(manifest.clone()).unwrap());
        let revision = Store::open(&paths).unwrap().revision(manifest).unwrap();
        let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
        let session = Arc::new(Session::start(SessionSettings::from(&network()), sender).unwrap());
        let settings = FetchSettings {
            read_timeout: SOON,
            readahead_max: 32 * MIB,
            window_bound: u64::MAX,
            rooms: silmaril::store::Rooms::unlimited(),
            discovery: Discovery { dht: false, lan: false, pex: false },
            peers: GivenPeers::of(peers),
            web: None,
            hub_budget: std::sync::Arc::new(tokio::sync::Semaphore::new(silmaril::fetch::hub::REQUESTS)),
        };
        let fetch = Fetch::new(session.clone(), paths.clone(), settings);
        let (sender, listening) = std::sync::mpsc::channel();
        let handler = fetch.clone();
        runtime.spawn(async move {
            while let Some(event) = events.recv().await {
                if let Event::Listening(address) = event {
                    // The test may not use the address.
                    let _ = sender.send(address);
                }
                handler.handle(event);
            }
        });
        drop(inside);
        Self { fetch, revision, paths, runtime, session, listening, _dir: dir }
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.listening.recv_timeout(SOON).expect("the engine listens")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.fetch.stop();
        self.session.shutdown(Duration::from_secs(5));
    }
}
