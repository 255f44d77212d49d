//! The rig of the engine's tests: torrents of generated files, our engine with its events, and a stock libtorrent.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fixedbitset::FixedBitSet;
use sha2::{Digest, Sha256};
use silmaril::config::{Config, NetworkConfig};
use silmaril::model::files::TorrentFile;
use silmaril::model::{InfoHash, Layout, PieceIndex, PieceLayers, PiecesRoot, merkle, metainfo};
use silmaril::torrent::create::{self, NewFile};
use silmaril::torrent::{
    AddTorrent, Discovery, Event, Mode, Priority, Session, SessionSettings, Swarms, TorrentId,
};
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::support::host::Host;
use crate::support::private_net::in_namespace;

/// The limit for operations that should take a moment.
pub const SOON: Duration = Duration::from_secs(20);

/// Random bytes, equal for equal seeds.
pub fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A torrent whose files are below `dir/name`.
pub struct Sample {
    pub dir: TempDir,
    pub name: String,
    pub files: Vec<(String, Vec<u8>)>,
    pub metainfo: Vec<u8>,
    pub info_hash: InfoHash,
    pub layout: Layout,
}

/// The metainfo, with piece layers, of a v2 torrent.
fn v2(name: &str, files: &[(String, Vec<u8>)], piece_length: u32) -> Vec<u8> {
    let leaves = |bytes: &[u8]| bytes.chunks(16 * 1024).map(|block| Sha256::digest(block).into()).collect();
    let root = |bytes: &[u8]| PiecesRoot(merkle::root(leaves(bytes), 0, 0));
    let mut layers = PieceLayers::default();
    for (_, bytes) in files.iter().filter(|(_, bytes)| bytes.len() > piece_length as usize) {
        let pieces = bytes.chunks(piece_length as usize);
        let layer = pieces.map(|piece| merkle::piece_hash(leaves(piece), piece_length)).collect();
        layers.insert(root(bytes), bytes.len() as u64, piece_length, layer).unwrap();
    }
    let files = files.iter().map(|(path, bytes)| TorrentFile {
        path,
        size: bytes.len() as u64,
        pieces_root: (!bytes.is_empty()).then(|| root(bytes)),
    });
    metainfo::wrap(&metainfo::info_dict(name, piece_length, files), Some(&layers))
}

impl Sample {
    /// Files of the given lengths, as a v2 torrent, or a hybrid one. Paths must be in canonical order.
    pub fn new(files: &[(&str, usize)], piece_length: u32, hybrid: bool) -> Self {
        let files = files.iter().zip(1..).map(|((path, len), seed)| (path.to_string(), content(*len, seed)));
        Self::of(files.collect(), piece_length, hybrid)
    }

    /// A torrent of files with these bytes.
    pub fn of(files: Vec<(String, Vec<u8>)>, piece_length: u32, hybrid: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let name = "sample".to_owned();
        let new: Vec<NewFile> = files
            .iter()
            .map(|(path, bytes)| {
                let source = dir.path().join(&name).join(path);
                std::fs::create_dir_all(source.parent().unwrap()).unwrap();
                std::fs::write(&source, bytes).unwrap();
                NewFile { path: path.clone(), size: bytes.len() as u64, source }
            })
            .collect();
        let metainfo = match hybrid {
            true => create::hybrid(&name, &new, piece_length).unwrap(),
            false => v2(&name, &files, piece_length),
        };
        let parsed = metainfo::parse_metainfo(&metainfo).unwrap();
        std::fs::write(dir.path().join("sample.torrent"), &metainfo).unwrap();
        let layout = Layout::new(piece_length, files.iter().map(|(_, bytes)| bytes.len() as u64));
        Self { dir, name, files, metainfo, info_hash: parsed.info_hash, layout }
    }

    pub fn torrent_file(&self) -> PathBuf {
        self.dir.path().join("sample.torrent")
    }

    /// Seeds the original files with a stock libtorrent.
    pub fn stock_seed(&self) -> Stock {
        self.stock_seed_on(0)
    }

    /// Seeds the original files with a stock libtorrent on a given port.
    pub fn stock_seed_on(&self, port: u16) -> Stock {
        // For libtorrent, a v2 torrent with one file at the top has no directory.
        let dir = match &self.files[..] {
            [(path, _)] if !path.contains('/') => self.dir.path().join(&self.name),
            _ => self.dir.path().to_owned(),
        };
        Stock::seed_on(&self.torrent_file(), &dir, port)
    }

    /// Absolute paths of the files below a directory.
    pub fn paths_in(&self, dir: &Path) -> Vec<PathBuf> {
        self.files.iter().map(|(path, _)| dir.join(&self.name).join(path)).collect()
    }

    pub fn pieces(&self) -> u32 {
        self.layout.piece_count()
    }

    /// The bytes that a piece must have.
    pub fn piece(&self, piece: u32) -> &[u8] {
        let (file, range) = self.layout.owner(PieceIndex(piece)).unwrap();
        &self.files[file].1[range.start as usize..range.end as usize]
    }

    /// The bytes at the position of a piece, in the files below a directory.
    pub fn piece_in(&self, dir: &Path, piece: u32) -> std::io::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let (file, range) = self.layout.owner(PieceIndex(piece)).unwrap();
        let mut bytes = vec![0; (range.end - range.start) as usize];
        std::fs::File::open(&self.paths_in(dir)[file])?.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    /// A torrent without pieces, that requests none and searches for no peers.
    pub fn add(&self, dir: &Path) -> AddTorrent {
        AddTorrent {
            info_hash: self.info_hash,
            metainfo: self.metainfo.clone(),
            file_paths: self.paths_in(dir),
            file_stamps: vec![],
            file_care: vec![],
            have: FixedBitSet::with_capacity(self.pieces() as usize),
            blocks: vec![],
            resume: None,
            mode: Mode::Lazy,
            peers: vec![],
            discovery: Discovery { dht: false, lan: false, pex: false },
            withheld: false,
        }
    }

    /// Seeds the original files in place.
    pub fn add_seed(&self) -> AddTorrent {
        let mut add = self.add(self.dir.path());
        add.have.insert_range(..);
        add.mode = Mode::Seed;
        add
    }
}

/// Settings for loopback only.
pub fn network() -> NetworkConfig {
    let mut network = Config::defaults(Path::new("/nonexistent")).network;
    network.listen_address = Some(Ipv4Addr::LOCALHOST.into());
    network.dht_bootstrap_nodes.clear();
    network.dht_enabled = false;
    network.lan_discovery = false;
    network.port_mapping = false;
    network
}

/// Our engine and its events.
pub struct Client {
    pub session: Session,
    pub address: SocketAddr,
    events: UnboundedReceiver<Event>,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    pub fn new() -> Self {
        Self::with(network())
    }

    pub fn with(network: NetworkConfig) -> Self {
        Self::start(SessionSettings::from(&network))
    }

    /// An engine that listens nowhere: one behind a proxy.
    pub fn unheard(network: NetworkConfig) -> Self {
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let session = Session::start(SessionSettings::from(&network), sender).unwrap();
        Self::of(session, events)
    }

    fn of(session: Session, events: UnboundedReceiver<Event>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { session, address: ([0, 0, 0, 0], 0).into(), events, runtime }
    }

    pub fn start(settings: SessionSettings) -> Self {
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let mut client = Self::of(Session::start(settings, sender).unwrap(), events);
        client.address = client.wait_for("listening", SOON, |event| match event {
            Event::Listening(address) => Some(*address),
            _ => None,
        });
        client
    }

    /// An engine on a host of a private network, at its address.
    pub fn on(host: &Host, network: NetworkConfig) -> Self {
        Self::on_with(host, network, Vec::new())
    }

    /// [`Self::on`] with the DHT state of another engine.
    pub fn on_with(host: &Host, network: NetworkConfig, dht_state: Vec<u8>) -> Self {
        let network = NetworkConfig { listen_address: Some(host.addr().into()), ..network };
        in_namespace(host.namespace(), || Self::start(SessionSettings { network, dht_state }))
    }

    /// The next event, if it comes in time.
    pub fn next(&mut self, within: Duration) -> Option<Event> {
        let next = async { tokio::time::timeout(within, self.events.recv()).await };
        self.runtime.block_on(next).ok().map(|event| event.expect("the engine is gone"))
    }

    /// The first value that `pick` returns for an event; fails the test when none comes.
    #[track_caller]
    pub fn wait_for<R>(
        &mut self,
        what: &str,
        within: Duration,
        mut pick: impl FnMut(&Event) -> Option<R>,
    ) -> R {
        let deadline = Instant::now() + within;
        let mut seen = vec![];
        while let Some(event) = self.next(deadline.saturating_duration_since(Instant::now())) {
            if let Some(found) = pick(&event) {
                return found;
            }
            seen.push(event);
        }
        panic!("no {what} within {within:?}; only {seen:?}");
    }

    #[track_caller]
    pub fn add(&mut self, torrent: AddTorrent) -> TorrentId {
        let id = self.session.add(torrent).unwrap();
        self.wait_for("torrent added", SOON, |event| {
            matches!(event, Event::Added(i) if *i == id).then_some(())
        });
        id
    }

    #[track_caller]
    pub fn wait_verified(&mut self, id: TorrentId, piece: u32) {
        self.wait_for("verified piece", SOON, |event| match event {
            Event::PieceVerified(i, p) if (*i, p.0) == (id, piece) => Some(()),
            Event::Failed(i, reason) if *i == id => panic!("{reason}"),
            _ => None,
        });
    }

    /// Requests a piece and waits until it is verified.
    #[track_caller]
    pub fn read(&mut self, id: TorrentId, piece: u32) {
        self.session.request(id, PieceIndex(piece), Duration::ZERO).unwrap();
        self.wait_verified(id, piece);
    }

    /// Requests all pieces and waits until all are verified; `check` is called at each event.
    #[track_caller]
    pub fn fetch_all(&mut self, id: TorrentId, pieces: u32, mut check: impl FnMut(u32)) {
        let all: Vec<_> = (0..pieces).map(|i| (PieceIndex(i), Priority::Normal)).collect();
        self.session.set_priority(id, &all).unwrap();
        let mut left: FixedBitSet = (0..pieces as usize).collect();
        self.wait_for("all pieces", 3 * SOON, |event| {
            if let Event::PieceVerified(i, piece) = event
                && *i == id
            {
                check(piece.0);
                left.set(piece.0 as usize, false);
            }
            if let Event::DiskError(i, path, _, text) = event
                && *i == id
            {
                panic!("{}: {text}", path.display());
            }
            left.is_clear().then_some(())
        });
    }
}

/// A stock libtorrent with default settings.
pub struct Stock {
    child: Child,
    pub port: u16,
}

impl Stock {
    fn spawn(args: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
        let mut child = Command::new("/usr/bin/python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engine/seed.py"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        (child, output)
    }

    /// Seeds a torrent whose files are below `dir`; port 0 is random.
    fn seed_on(torrent: &Path, dir: &Path, port: u16) -> Self {
        let (torrent, dir, port) = (torrent.to_str().unwrap(), dir.to_str().unwrap(), port.to_string());
        let (child, mut output) = Self::spawn(&["seed", torrent, dir, &port]);
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().expect("python3-libtorrent is installed") }
    }

    /// Fetches everything from one peer.
    pub fn leech(torrent: &Path, dir: &Path, port: u16) -> String {
        let port = port.to_string();
        let (mut child, mut output) =
            Self::spawn(&["leech", torrent.to_str().unwrap(), dir.to_str().unwrap(), &port]);
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        line.trim().to_owned()
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
