//! A store and `Fetch` over the engine in memory, with a paused clock.
//!
//! tokio advances a paused clock only when no task can run. So `idle` waits for all consequences of an event, without
//! a guess how long they take.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use silmaril::fetch::{Fetch, FetchSettings, FileRef, ReadError, TransferStatus};
use silmaril::model::files::TorrentFile;
use silmaril::model::metainfo::{info_dict, info_hash};
use silmaril::model::{FileEntry, InfoHash, Manifest, PieceLayers, PiecesRoot, merkle};
use silmaril::paths::Paths;
use silmaril::store::{Store, StoredRevision};
use silmaril::torrent::{Discovery, GivenPeers};
use tokio::task::JoinHandle;

use super::clock::pass;
use super::swarm::FakeSwarm;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// The timeout of reads in the rig.
pub const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The address given by `--peer` in the rig.
pub const GIVEN_PEER: &str = "10.0.0.1:1111";

pub struct Rig {
    pub store: Arc<Store>,
    pub swarm: Arc<FakeSwarm>,
    pub fetch: Arc<Fetch>,
    pub paths: Paths,
    _dir: tempfile::TempDir,
}

/// A revision and the true bytes of its files.
#[derive(Clone)]
pub struct TestModel {
    pub revision: Arc<StoredRevision>,
    pub files: Vec<Arc<Vec<u8>>>,
    pub info_hash: InfoHash,
}

impl TestModel {
    pub fn file(&self, file: usize) -> FileRef {
        FileRef { revision: self.revision.clone(), file }
    }

    pub fn bytes(&self, file: usize, offset: u64, len: u64) -> &[u8] {
        let all = &self.files[file];
        let end = offset.saturating_add(len).min(all.len() as u64) as usize;
        &all[(offset as usize).min(end)..end]
    }
}

/// Pseudo-random bytes. The same seed gives the same bytes.
pub fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len as usize + 8);
    while (out.len() as u64) < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len as usize);
    out
}

impl Rig {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut FetchSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let store = Store::open(&paths).unwrap();
        let (swarm, mut events) = FakeSwarm::new();
        let mut settings = FetchSettings {
            read_timeout: READ_TIMEOUT,
            readahead_max: 32 * MIB,
            window_bound: u64::MAX,
            rooms: silmaril::store::Rooms::unlimited(),
            discovery: Discovery { dht: false, lan: false, pex: false },
            peers: GivenPeers::of([GIVEN_PEER.parse::<SocketAddr>().unwrap()]),
            web: None,
            hub_budget: Arc::new(tokio::sync::Semaphore::new(silmaril::fetch::hub::REQUESTS)),
        };
        change(&mut settings);
        let fetch = Fetch::new(swarm.clone(), paths.clone(), settings);
        let weak = Arc::downgrade(&fetch);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let Some(fetch) = weak.upgrade() else { return };
                fetch.handle(event);
            }
        });
        Self { store, swarm, fetch, paths, _dir: dir }
    }

    /// A model whose bytes peers can supply and this node does not have.
    pub fn model(&self, name: &str, piece_length: u64, files: &[(&str, Vec<u8>)]) -> TestModel {
        self.model_of(manifest(name, piece_length, files), files)
    }

    /// A model that also has web seeds at these addresses.
    pub fn web_model(&self, piece_length: u64, files: &[(&str, Vec<u8>)], seeds: &[&str]) -> TestModel {
        let mut manifest = hashed_manifest("o/m", piece_length, files);
        manifest.web_seeds = seeds.iter().map(|&seed| seed.to_owned()).collect();
        self.model_of(manifest, files)
    }

    /// The model of a manifest.
    pub fn model_of(&self, manifest: Manifest, files: &[(&str, Vec<u8>)]) -> TestModel {
        let manifest = Arc::new(manifest);
        let revision = self.store.revision(manifest.clone()).unwrap();
        let info_hash = manifest.torrent.info_hash;
        let files: Vec<Arc<Vec<u8>>> = files.iter().map(|(_, bytes)| Arc::new(bytes.clone())).collect();
        self.swarm.publish(info_hash, revision.layout.clone(), files.clone());
        TestModel { revision, files, info_hash }
    }

    /// Reads in a task of its own.
    pub fn read(
        &self,
        model: &TestModel,
        file: usize,
        offset: u64,
        len: u64,
    ) -> JoinHandle<Result<Vec<u8>, ReadError>> {
        let (fetch, file) = (self.fetch.clone(), model.file(file));
        tokio::spawn(async move { fetch.read(&file, offset, len).await })
    }

    /// Reads as the mount does: immediately if all bytes are cached, otherwise by waiting.
    pub async fn serve(
        &self,
        model: &TestModel,
        file: usize,
        offset: u64,
        len: u64,
    ) -> Result<Vec<u8>, ReadError> {
        match self.fetch.try_read(&model.file(file), offset, len) {
            Some(bytes) => Ok(bytes),
            None => self.fetch.read(&model.file(file), offset, len).await,
        }
    }

    /// Fetches whole files in a task of its own.
    pub fn get(
        &self,
        model: &TestModel,
        files: &[usize],
        stall: Duration,
    ) -> JoinHandle<Result<(), ReadError>> {
        let (fetch, revision, files) = (self.fetch.clone(), model.revision.clone(), files.to_vec());
        tokio::spawn(async move { fetch.fetch_files(&revision, &files, stall).await })
    }

    pub fn status(&self, model: &TestModel) -> TransferStatus {
        self.fetch.progress(&model.info_hash).expect("the model was joined")
    }

    /// Returns when no task can do more by itself.
    pub async fn idle(&self) {
        pass(Duration::from_millis(1)).await;
    }

    pub fn saved_metainfo(&self, model: &TestModel) -> Option<Vec<u8>> {
        read(self.paths.metainfo(&model.info_hash))
    }

    pub fn saved_resume(&self, model: &TestModel) -> Option<Vec<u8>> {
        read(self.paths.resume(&model.info_hash))
    }
}

fn read(path: PathBuf) -> Option<Vec<u8>> {
    std::fs::read(path).ok()
}

/// A manifest with the roots of BEP 52 and the hashes of all pieces.
pub fn hashed_manifest(name: &str, piece_length: u64, files: &[(&str, Vec<u8>)]) -> Manifest {
    let piece_length = piece_length as u32;
    let leaves = |piece: &[u8]| piece.chunks(16 * 1024).map(|b| Sha256::digest(b).into()).collect();
    let root = |bytes: &[u8]| PiecesRoot(merkle::root(leaves(bytes), 0, 0));
    let entry = |(path, bytes): &(&str, Vec<u8>)| {
        FileEntry::new(*path, bytes.len() as u64, None, (!bytes.is_empty()).then(|| root(bytes)))
    };
    let entries = files.iter().map(entry).collect();
    let mut manifest =
        Manifest::new(name.parse().unwrap(), Default::default(), piece_length, entries).unwrap();
    let mut layers = PieceLayers::default();
    for (_, bytes) in files.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let pieces = bytes.chunks(piece_length as usize);
        let layer = pieces.map(|piece| merkle::piece_hash(leaves(piece), piece_length)).collect();
        layers.insert(root(bytes), bytes.len() as u64, piece_length, layer).unwrap();
    }
    assert!(manifest.carry_piece_layers(&layers));
    manifest
}

/// A manifest whose roots are not those of BEP 52, but differ when the bytes differ: no code under test checks
/// hashes.
fn manifest(name: &str, piece_length: u64, files: &[(&str, Vec<u8>)]) -> Manifest {
    let (name, version) = name.split_once('@').unwrap_or((name, "main"));
    let torrent = name.rsplit('/').next().unwrap();
    let roots: Vec<Option<PiecesRoot>> = files
        .iter()
        .map(|(_, bytes)| (!bytes.is_empty()).then(|| PiecesRoot(Sha256::digest(bytes).into())))
        .collect();
    let torrent_files = files.iter().zip(&roots).map(|((path, bytes), root)| TorrentFile {
        path,
        size: bytes.len() as u64,
        pieces_root: *root,
    });
    let info_hash = info_hash(&info_dict(torrent, piece_length as u32, torrent_files));
    let entries = files.iter().zip(&roots).map(|((path, bytes), root)| match root {
        Some(root) => serde_json::json!({"path": path, "size": bytes.len(), "pieces_root": root}),
        None => serde_json::json!({"path": path, "size": 0}),
    });
    serde_json::from_value(serde_json::json!({
        "schema": 1,
        "kind": "model",
        "name": name,
        "version": version,
        "total_size": files.iter().map(|(_, b)| b.len()).sum::<usize>(),
        "files": entries.collect::<Vec<_>>(),
        "torrent": {"name": torrent, "info_hash": info_hash, "piece_length": piece_length},
        "magnet_uri": format!("magnet:?xt=urn:btmh:1220{info_hash}"),
    }))
    .unwrap()
}
