//! A real mount over the in-memory swarm, for the tests of the mount.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use sha2::{Digest, Sha256};
use silmaril::fetch::{Fetch, FetchSettings};
use silmaril::model::{FileEntry, InfoHash, Manifest, ModelRef, PiecesRoot, PublisherKey, Sha256Digest};
use silmaril::mount::{MountError, MountLayout, Mounted};
use silmaril::paths::Paths;
use silmaril::store::{Store, StoredRevision};
use silmaril::torrent::{Discovery, GivenPeers};
use tokio::runtime::{Handle, Runtime};

use crate::support::mounts::detach_below;
use crate::support::process::{PATIENCE, until_async};
use crate::support::swarm::FakeSwarm;

/// Bytes per piece of the models.
pub const PIECE: usize = 64 * 1024;

/// An address for a peer.
pub const PEER: &str = "192.0.2.1:6881";

/// A read timeout that is longer than any test.
pub const FOR_EVER: Duration = Duration::from_secs(3600);

/// A mount in a temporary directory, with all parts that serve it.
pub struct Rig {
    /// Some until the rig is dropped.
    mounted: Option<Mounted>,
    pub fetch: Arc<Fetch>,
    pub swarm: Arc<FakeSwarm>,
    pub store: Arc<Store>,
    pub runtime: Runtime,
    pub dir: tempfile::TempDir,
}

/// A revision, and the bytes of its files.
pub struct Model {
    pub info_hash: InfoHash,
    pub revision: Arc<StoredRevision>,
    /// Path and bytes of each file.
    pub files: Vec<(String, Arc<Vec<u8>>)>,
}

impl Model {
    /// The SHA-256 of each file, by path.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        self.files.iter().map(|(path, bytes)| (path.clone(), hex::encode(digest(bytes)))).collect()
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

impl Rig {
    /// A mount without models; reads wait for a minute.
    pub fn new() -> Self {
        Self::with_read_timeout(Duration::from_secs(60))
    }

    /// A mount without models, with a given read timeout.
    pub fn with_read_timeout(read_timeout: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = runtime();
        let paths = Paths::below(&dir.path().join("base"));
        let store = Store::open(&paths).unwrap();
        let (fetch, swarm) = fetch(&runtime, paths, read_timeout);
        let point = dir.path().join("mnt");
        std::fs::create_dir(&point).unwrap();
        let mounted = mount(&point, &fetch, &runtime).unwrap();
        Self { mounted: Some(mounted), fetch, swarm, store, runtime, dir }
    }

    /// Makes a revision, `org/name` or `org/name@revision`, of files with path and bytes. No peer has it.
    pub fn model(&self, model: &str, files: &[(&str, Vec<u8>)]) -> Model {
        let model: ModelRef = model.parse().unwrap();
        let bytes: BTreeMap<&str, Arc<Vec<u8>>> =
            files.iter().map(|(p, b)| (*p, Arc::new(b.clone()))).collect();
        let entries = bytes
            .iter()
            .map(|(path, bytes)| {
                // The in-memory engine does not hash, so any unique root is sufficient.
                let root =
                    (!bytes.is_empty()).then(|| PiecesRoot(digest(&[b"root", bytes.as_slice()].concat())));
                FileEntry::new(*path, bytes.len() as u64, Some(Sha256Digest(digest(bytes))), root)
            })
            .collect();
        let mut manifest = Manifest::new(model.name, model.revision, PIECE as u32, entries).unwrap();
        manifest.created_at = Some("2024-02-29T12:00:00Z".to_owned());
        manifest.publisher = Some(PublisherKey(digest(b"publisher")));
        let revision = self.store.revision(Arc::new(manifest)).unwrap();
        let info_hash = revision.manifest.torrent.info_hash;
        let files: Vec<_> = revision
            .manifest
            .files
            .iter()
            .map(|entry| (entry.path.clone(), bytes[entry.path.as_str()].clone()))
            .collect();
        self.swarm.publish(info_hash, revision.layout.clone(), files.iter().map(|f| f.1.clone()).collect());
        Model { info_hash, revision, files }
    }

    /// [`Self::model`], with a peer that has all of its bytes.
    pub fn shared_model(&self, model: &str, files: &[(&str, Vec<u8>)]) -> Model {
        let model = self.model(model, files);
        self.swarm.peer(model.info_hash, PEER, None);
        model
    }

    /// Shows exactly these models.
    pub fn publish(&self, models: &[&Model]) {
        self.mounted().names().publish(models.iter().map(|m| m.revision.clone()).collect::<Vec<_>>());
    }

    pub fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().unwrap()
    }

    /// The mount point.
    pub fn point(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// A path in the mount.
    pub fn path(&self, rest: &str) -> PathBuf {
        self.point().join(rest)
    }

    /// Whether the mount is gone within 20 s.
    pub fn is_gone(&self) -> bool {
        self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), self.mounted().gone()).await.is_ok()
        })
    }

    /// Stops as the program does: ends all waits, then unmounts.
    pub fn stop(&self) {
        self.fetch.stop();
        self.runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(20), self.mounted().stop()).await })
            .expect("stopping hangs");
    }

    /// Waits until at least `count` reads are parked.
    pub fn wait_for_parked(&self, count: u64) {
        let parked = || self.mounted().counters().parked();
        self.runtime.block_on(until_async("the reads are parked", PATIENCE, || parked() >= count));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.fetch.stop();
        drop(self.mounted.take());
        detach_below(self.dir.path());
    }
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A scheduler over the in-memory engine.
pub fn fetch(runtime: &Runtime, paths: Paths, read_timeout: Duration) -> (Arc<Fetch>, Arc<FakeSwarm>) {
    let _inside = runtime.enter();
    let (swarm, mut events) = FakeSwarm::new();
    let settings = FetchSettings {
        read_timeout,
        readahead_max: 1024 * 1024,
        window_bound: u64::MAX,
        rooms: silmaril::store::Rooms::unlimited(),
        discovery: Discovery { dht: false, lan: false, pex: false },
        peers: GivenPeers::default(),
        web: None,
        hub_budget: std::sync::Arc::new(tokio::sync::Semaphore::new(silmaril::fetch::hub::REQUESTS)),
    };
    let fetch = Fetch::new(swarm.clone(), paths, settings);
    let handler = fetch.clone();
    runtime.spawn(async move {
        while let Some(event) = events.recv().await {
            handler.handle(event);
        }
    });
    (fetch, swarm)
}

/// Mounts on an existing directory.
pub fn mount(point: &Path, fetch: &Arc<Fetch>, runtime: &Runtime) -> Result<Mounted, MountError> {
    mount_for(point, false, fetch, runtime)
}

/// Mounts on an existing directory; also for other users if `allow_other`.
pub fn mount_for(
    point: &Path,
    allow_other: bool,
    fetch: &Arc<Fetch>,
    runtime: &Runtime,
) -> Result<Mounted, MountError> {
    serve(point, allow_other, fetch.clone(), runtime.handle().clone())
}

/// Mounts and serves in this process, as the command and the daemon do together.
pub fn serve(
    point: &Path,
    allow_other: bool,
    fetch: Arc<Fetch>,
    runtime: Handle,
) -> Result<Mounted, MountError> {
    let point = silmaril::mount::prepare(point)?;
    let connection = silmaril::mount::attach(&point, allow_other)?;
    Mounted::serve(connection, MountLayout::Plain, fetch, runtime, true)
        .inspect_err(|_| drop(silmaril::mount::unmount(&point, true)))
}

/// Runs work that may hang in its own thread. After the deadline the thread is abandoned and the test fails.
#[track_caller]
pub fn within<T: Send + 'static>(deadline: Duration, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || sender.send(work()));
    match receiver.recv_timeout(deadline) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("it ended without a result"))
        }
    }
}
