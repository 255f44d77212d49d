//! An engine in memory: its peers stall, send bad pieces, vanish and return as the test chooses.
//!
//! It keeps the promises of the real engine: a piece's bytes are in their file before the piece is reported as
//! verified, events of a torrent are in order, and only requested pieces arrive. It records all calls.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use silmaril::model::{BLOCK_LEN, InfoHash, Layout, PieceIndex};
use silmaril::torrent::{
    AddTorrent, DiskErrorKind, EngineError, Event, Priority, SwarmStats, Swarms, TorrentId,
};
use tokio::sync::mpsc;

/// A call of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Add(InfoHash),
    Remove(InfoHash),
    Request(InfoHash, u32, Duration),
    /// Blocks of a piece, by their numbers.
    Blocks(InfoHash, u32, Duration, Vec<Range<u32>>),
    Priority(InfoHash, u32, Priority),
    Connect(InfoHash, SocketAddr),
    Redial(InfoHash),
    Withdraw(InfoHash, Vec<u32>),
    SetWithheld(InfoHash, bool),
    Reannounce(InfoHash),
    SaveResume(InfoHash),
    Export(InfoHash),
    Give(InfoHash, u32),
}

/// A peer of a swarm.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub addr: SocketAddr,
    /// The pieces that it has; `None` means all.
    pub has: Option<BTreeSet<u32>>,
}

/// The time at which a requested piece arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As soon as it is requested and a peer has it.
    Immediate,
    /// This long after the request.
    After(Duration),
    /// When the test calls `deliver`.
    ByHand,
}

struct Torrent {
    add: AddTorrent,
    /// False until the test starts the torrent, if torrents do not start by themselves.
    started: bool,
    has: BTreeSet<u32>,
    wanted: BTreeMap<u32, WantedPiece>,
    /// Blocks of incomplete pieces that are present, and blocks that are requested.
    blocks: BTreeMap<u32, BTreeSet<u32>>,
    wanted_blocks: BTreeMap<u32, BTreeSet<u32>>,
    stats: SwarmStats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedPiece {
    Priority(Priority),
    Requested,
}

/// The files of a torrent and their bytes.
struct Published {
    layout: Layout,
    files: Vec<Arc<Vec<u8>>>,
}

struct Inner {
    events: mpsc::UnboundedSender<Event>,
    next_id: u64,
    torrents: BTreeMap<TorrentId, Torrent>,
    published: HashMap<InfoHash, Published>,
    peers: HashMap<InfoHash, Vec<Peer>>,
    calls: Vec<Call>,
    delivery: Delivery,
    /// The number of further pieces that are bad.
    lies: usize,
    /// The errors of the next calls of `add`.
    refusals: Vec<EngineError>,
    /// Whether `Added` follows immediately after `add`.
    starts: bool,
    /// Whether `Removed` follows immediately after `remove`.
    removes: bool,
    /// Whether `export_metainfo` has all piece layers.
    layers_known: bool,
    /// Whether `give_piece` has an effect.
    takes_pieces: bool,
    /// The number of further calls of `give_piece` that are refused.
    refuses: usize,
    /// Whether `give_piece` refuses pieces with wrong bytes.
    judges: bool,
    /// Whether peers supply the hashes of blocks.
    parts: bool,
}

/// The engine.
pub struct FakeSwarm {
    inner: Mutex<Inner>,
    myself: std::sync::Weak<FakeSwarm>,
}

impl FakeSwarm {
    /// An engine without torrents and peers, and its events.
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Event>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let inner = Inner {
            events,
            next_id: 0,
            torrents: BTreeMap::new(),
            published: HashMap::new(),
            peers: HashMap::new(),
            calls: Vec::new(),
            delivery: Delivery::Immediate,
            lies: 0,
            refusals: Vec::new(),
            starts: true,
            removes: true,
            layers_known: true,
            takes_pieces: true,
            refuses: 0,
            judges: false,
            parts: false,
        };
        let swarm = Arc::new_cyclic(|myself| Self { inner: Mutex::new(inner), myself: myself.clone() });
        (swarm, receiver)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Gives the bytes of a torrent to its peers.
    pub fn publish(&self, info_hash: InfoHash, layout: Layout, files: Vec<Arc<Vec<u8>>>) {
        self.inner().published.insert(info_hash, Published { layout, files });
    }

    /// Sets the time at which requested pieces arrive.
    pub fn delivery(&self, delivery: Delivery) {
        self.inner().delivery = delivery;
        self.pump();
    }

    /// Adds a peer to the swarm, with all pieces or these.
    pub fn peer(&self, info_hash: InfoHash, addr: &str, has: Option<&[u32]>) {
        let peer = Peer { addr: addr.parse().unwrap(), has: has.map(|h| h.iter().copied().collect()) };
        let mut inner = self.inner();
        let addr = peer.addr;
        inner.peers.entry(info_hash).or_default().push(peer);
        inner.send_to_all(info_hash, |id| Event::PeerConnected(id, addr));
        drop(inner);
        self.pump();
    }

    /// Removes a peer from the swarm.
    pub fn vanish(&self, info_hash: InfoHash, addr: &str) {
        let addr: SocketAddr = addr.parse().unwrap();
        let mut inner = self.inner();
        inner.peers.entry(info_hash).or_default().retain(|p| p.addr != addr);
        inner.send_to_all(info_hash, |id| Event::PeerDisconnected(id, addr, "gone".into()));
    }

    /// Makes the next `n` pieces bad.
    pub fn lie(&self, n: usize) {
        self.inner().lies = n;
    }

    /// Makes the next `add` fail.
    pub fn refuse(&self, error: EngineError) {
        self.inner().refusals.push(error);
    }

    /// Sets whether torrents start when they are added. Otherwise `start` starts them.
    pub fn starts(&self, yes: bool) {
        self.inner().starts = yes;
    }

    /// Sets whether torrents leave when they are removed. Otherwise `finish_removals` completes the removals.
    pub fn removes(&self, yes: bool) {
        self.inner().removes = yes;
    }

    /// Sets whether `export_metainfo` has an answer.
    pub fn layers_known(&self, yes: bool) {
        self.inner().layers_known = yes;
    }

    /// Sets whether `give_piece` has an effect.
    pub fn takes_pieces(&self, yes: bool) {
        self.inner().takes_pieces = yes;
    }

    /// Makes the next `n` calls of `give_piece` fail.
    pub fn refuse_pieces(&self, n: usize) {
        self.inner().refuses = n;
    }

    /// Makes `give_piece` refuse pieces with wrong bytes.
    pub fn judges_pieces(&self) {
        self.inner().judges = true;
    }

    /// Makes peers supply the hashes of blocks.
    pub fn sends_parts(&self) {
        self.inner().parts = true;
    }

    /// The requests for blocks since the last call of `calls`, in order.
    pub fn block_requests(&self, of: InfoHash) -> Vec<(u32, Vec<Range<u32>>)> {
        let blocks = |c: &Call| match c {
            Call::Blocks(info_hash, piece, _, blocks) if *info_hash == of => Some((*piece, blocks.clone())),
            _ => None,
        };
        self.inner().calls.iter().filter_map(blocks).collect()
    }

    /// Delivers the requested blocks of a piece.
    pub fn deliver_blocks(&self, info_hash: InfoHash, piece: u32) {
        self.inner().deliver_blocks(info_hash, piece);
    }

    /// The pieces that `give_piece` received since the last call of `calls`, in order.
    pub fn given(&self, of: InfoHash) -> Vec<u32> {
        let give = |c: &Call| match c {
            Call::Give(info_hash, piece) if *info_hash == of => Some(*piece),
            _ => None,
        };
        self.inner().calls.iter().filter_map(give).collect()
    }

    /// Starts a torrent that was added.
    pub fn start(&self, info_hash: InfoHash) {
        let mut inner = self.inner();
        inner.start(info_hash);
        drop(inner);
        self.pump();
    }

    /// Makes a torrent fail, started or not.
    pub fn fail(&self, info_hash: InfoHash, why: &str) {
        let mut inner = self.inner();
        let Some((&id, _)) = inner.find(info_hash) else { return };
        inner.torrents.remove(&id);
        inner.send(Event::Failed(id, why.into()));
    }

    /// Makes the local disk fail under a torrent. The deadlines of pieces in flight are lost.
    pub fn disk_error(&self, info_hash: InfoHash, kind: DiskErrorKind) {
        let mut inner = self.inner();
        let path = inner.find(info_hash).map(|(_, t)| t.add.file_paths[0].clone()).unwrap();
        let torrents = inner.torrents.values_mut().filter(|t| t.add.info_hash == info_hash);
        for want in torrents.flat_map(|t| t.wanted.values_mut()) {
            *want = WantedPiece::Priority(Priority::Normal);
        }
        inner.send_to_all(info_hash, |id| Event::DiskError(id, path.clone(), kind, format!("{kind:?}")));
    }

    /// Reports received payload without a complete piece.
    pub fn trickle(&self, info_hash: InfoHash, bytes: u64) {
        let mut inner = self.inner();
        let Some(torrent) = inner.torrents.values_mut().find(|t| t.add.info_hash == info_hash) else {
            return;
        };
        torrent.stats.downloaded += bytes;
        let stats = torrent.stats;
        inner.send_to_all(info_hash, |id| Event::Stats(id, stats));
    }

    /// Drops all queued events, and reports the loss.
    pub fn lose_events(&self) {
        self.inner().send(Event::EventsLost);
    }

    /// Sends an event.
    pub fn send_event(&self, event: impl FnOnce(TorrentId) -> Event, info_hash: InfoHash) {
        let mut inner = self.inner();
        let id = *inner.find(info_hash).expect("the torrent is in the engine").0;
        inner.send(event(id));
    }

    /// Delivers one piece immediately if it is requested. Returns whether it was.
    pub fn deliver(&self, info_hash: InfoHash, piece: u32) -> bool {
        self.inner().deliver(info_hash, piece)
    }

    /// Delivers all pieces that are requested and that a peer has, the most urgent first.
    fn pump(&self) {
        let mut inner = self.inner();
        if inner.delivery == Delivery::Immediate {
            for (info_hash, piece) in inner.deliverable() {
                inner.deliver(info_hash, piece);
            }
        }
    }

    /// All calls since the last call of this.
    pub fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.inner().calls)
    }

    /// The pieces requested with a deadline since the last call of `calls`, in order.
    pub fn requests(&self, of: InfoHash) -> Vec<u32> {
        let calls = &self.inner().calls;
        let request = |c: &Call| match c {
            Call::Request(info_hash, piece, _) if *info_hash == of => Some(*piece),
            _ => None,
        };
        calls.iter().filter_map(request).collect()
    }

    /// The requested pieces of a torrent.
    pub fn wanted(&self, info_hash: InfoHash) -> BTreeMap<u32, WantedPiece> {
        self.inner().find(info_hash).map(|(_, t)| t.wanted.clone()).unwrap_or_default()
    }

    /// The pieces that the engine has of a torrent, if the torrent is in it.
    pub fn holds(&self, info_hash: InfoHash) -> Option<BTreeSet<u32>> {
        self.inner().find(info_hash).map(|(_, t)| t.has.clone())
    }

    /// The last `add` of a torrent.
    pub fn added(&self, info_hash: InfoHash) -> Option<AddTorrent> {
        self.inner().find(info_hash).map(|(_, t)| t.add.clone())
    }

    fn wanted_changed(&self, id: TorrentId, pieces: impl Iterator<Item = u32>) {
        let delivery = self.inner().delivery;
        match delivery {
            Delivery::ByHand => {}
            Delivery::Immediate => self.pump(),
            Delivery::After(latency) => {
                for piece in pieces {
                    let Some(myself) = self.myself.upgrade() else { return };
                    tokio::spawn(async move {
                        tokio::time::sleep(latency).await;
                        let mut inner = myself.inner();
                        let Some(info_hash) = inner.torrents.get(&id).map(|t| t.add.info_hash) else {
                            return;
                        };
                        if inner.deliverable().contains(&(info_hash, piece)) {
                            inner.deliver(info_hash, piece);
                        }
                    });
                }
            }
        }
    }
}

impl Inner {
    fn send(&mut self, event: Event) {
        // A closed receiver means that the test has ended.
        let _ = self.events.send(event);
    }

    fn find(&self, info_hash: InfoHash) -> Option<(&TorrentId, &Torrent)> {
        self.torrents.iter().find(|(_, t)| t.add.info_hash == info_hash)
    }

    fn send_to_all(&mut self, info_hash: InfoHash, event: impl Fn(TorrentId) -> Event) {
        let ids: Vec<TorrentId> = self
            .torrents
            .iter()
            .filter(|(_, t)| t.add.info_hash == info_hash && t.started)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.send(event(id));
        }
    }

    fn start(&mut self, info_hash: InfoHash) {
        let Some((&id, _)) = self.find(info_hash).filter(|(_, t)| !t.started) else { return };
        self.torrents.get_mut(&id).unwrap().started = true;
        self.send(Event::Added(id));
        for peer in self.peers.get(&info_hash).cloned().unwrap_or_default() {
            self.send(Event::PeerConnected(id, peer.addr));
        }
    }

    fn deliverable(&self) -> Vec<(InfoHash, u32)> {
        let mut all = Vec::new();
        for torrent in self.torrents.values().filter(|t| t.started) {
            let info_hash = torrent.add.info_hash;
            let peers = self.peers.get(&info_hash).map(Vec::as_slice).unwrap_or_default();
            let held = |piece: &u32| peers.iter().any(|p| p.has.as_ref().is_none_or(|h| h.contains(piece)));
            let mut wanted: Vec<(bool, u32)> = torrent
                .wanted
                .iter()
                .filter(|(p, _)| held(p))
                .map(|(p, w)| (*w != WantedPiece::Requested, *p))
                .collect();
            wanted.sort_unstable();
            all.extend(wanted.into_iter().map(|(_, p)| (info_hash, p)));
        }
        all
    }

    fn deliver(&mut self, info_hash: InfoHash, piece: u32) -> bool {
        let Some((&id, torrent)) = self.find(info_hash) else { return false };
        if !torrent.wanted.contains_key(&piece) {
            return false;
        }
        if self.lies > 0 {
            self.lies -= 1;
            self.send(Event::PieceRejected(id, PieceIndex(piece)));
            return true;
        }
        self.torrents.get_mut(&id).unwrap().wanted.remove(&piece);
        let len = self.store(id, piece);
        let torrent = self.torrents.get_mut(&id).unwrap();
        torrent.stats.downloaded += len;
        let stats = torrent.stats;
        self.send(Event::Stats(id, stats));
        true
    }

    /// Writes the requested blocks of a piece and reports that they are verified.
    fn deliver_blocks(&mut self, info_hash: InfoHash, piece: u32) {
        let Some((&id, _)) = self.find(info_hash) else { return };
        let torrent = self.torrents.get_mut(&id).unwrap();
        let Some(blocks) = torrent.wanted_blocks.remove(&piece) else { return };
        for block in blocks {
            if torrent.blocks.entry(piece).or_default().insert(block) {
                let published = &self.published[&info_hash];
                let (file, range) =
                    published.layout.owner(PieceIndex(piece)).expect("a piece of the torrent");
                let start = range.start + u64::from(block) * BLOCK_LEN;
                let end = (start + BLOCK_LEN).min(range.end);
                write(
                    &torrent.add.file_paths[file],
                    &published.files[file][start as usize..end as usize],
                    start,
                );
                torrent.stats.downloaded += end - start;
                let verified = Event::BlocksVerified(id, PieceIndex(piece), block..block + 1);
                let _ = self.events.send(verified);
            }
        }
    }

    /// Writes a piece and reports that it is verified. Returns its length.
    fn store(&mut self, id: TorrentId, piece: u32) -> u64 {
        let torrent = &self.torrents[&id];
        let published = &self.published[&torrent.add.info_hash];
        let (file, range) = published.layout.owner(PieceIndex(piece)).expect("a piece of the torrent");
        let bytes = &published.files[file][range.start as usize..range.end as usize];
        let len = bytes.len() as u64;
        write(&torrent.add.file_paths[file], bytes, range.start);
        let torrent = self.torrents.get_mut(&id).unwrap();
        assert!(torrent.has.insert(piece), "piece {piece} came twice");
        self.send(Event::PieceVerified(id, PieceIndex(piece)));
        len
    }

    fn check(&self, id: TorrentId, piece: u32) -> Result<InfoHash, EngineError> {
        let torrent = self.torrents.get(&id).ok_or(EngineError::UnknownTorrent)?;
        let info_hash = torrent.add.info_hash;
        assert!(torrent.started, "reported something before it runs");
        assert!(piece < self.published[&info_hash].layout.piece_count(), "piece {piece} is none");
        Ok(info_hash)
    }

    fn info_hash(&self, id: TorrentId) -> Result<InfoHash, EngineError> {
        self.torrents.get(&id).map(|t| t.add.info_hash).ok_or(EngineError::UnknownTorrent)
    }
}

/// Writes bytes to a file, which need not exist.
fn write(path: &std::path::Path, bytes: &[u8], at: u64) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let out = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
    out.write_all_at(bytes, at).unwrap();
}

impl Swarms for FakeSwarm {
    fn add(&self, torrent: AddTorrent) -> Result<TorrentId, EngineError> {
        let mut inner = self.inner();
        let info_hash = torrent.info_hash;
        inner.calls.push(Call::Add(info_hash));
        if let Some(error) = inner.refusals.pop() {
            return Err(error);
        }
        assert!(inner.find(info_hash).is_none(), "the torrent is already in the engine");
        let published = inner.published.get(&info_hash).expect("a published torrent");
        assert_eq!(torrent.have.len(), published.layout.piece_count() as usize);
        assert_eq!(torrent.file_paths.len(), published.files.len());
        let has = torrent.have.ones().map(|p| p as u32).collect();
        inner.next_id += 1;
        let id = TorrentId(inner.next_id);
        let stats = SwarmStats::default();
        let mut blocks: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for (piece, range) in &torrent.blocks {
            blocks.entry(piece.0).or_default().extend(range.clone());
        }
        let (wanted, wanted_blocks) = (BTreeMap::new(), BTreeMap::new());
        let torrent = Torrent { add: torrent, started: false, has, wanted, blocks, wanted_blocks, stats };
        inner.torrents.insert(id, torrent);
        if inner.starts {
            inner.start(info_hash);
        }
        Ok(id)
    }

    fn fetch_metadata(&self, _magnet: &str, _peers: &[SocketAddr]) -> Result<TorrentId, EngineError> {
        Err(EngineError::Internal("magnets are not part of this engine".into()))
    }

    fn remove(&self, id: TorrentId) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let info_hash = inner.info_hash(id)?;
        inner.calls.push(Call::Remove(info_hash));
        inner.torrents.remove(&id);
        if inner.removes {
            inner.send(Event::Removed(id));
        }
        Ok(())
    }

    fn request(&self, id: TorrentId, piece: PieceIndex, deadline: Duration) -> Result<(), EngineError> {
        {
            let mut inner = self.inner();
            let info_hash = inner.check(id, piece.0)?;
            inner.calls.push(Call::Request(info_hash, piece.0, deadline));
            let torrent = inner.torrents.get_mut(&id).unwrap();
            // The piece may have arrived a moment ago, while its event is still queued.
            if !torrent.has.contains(&piece.0) {
                let before = torrent.wanted.insert(piece.0, WantedPiece::Requested);
                torrent.wanted_blocks.remove(&piece.0);
                assert_ne!(before, Some(WantedPiece::Requested), "piece {} was asked for twice", piece.0);
            }
        }
        self.wanted_changed(id, std::iter::once(piece.0));
        Ok(())
    }

    fn request_blocks(
        &self,
        id: TorrentId,
        piece: PieceIndex,
        blocks: &[Range<u32>],
        deadline: Duration,
    ) -> Result<(), EngineError> {
        {
            let mut inner = self.inner();
            let info_hash = inner.check(id, piece.0)?;
            let (parts, immediate) = (inner.parts, inner.delivery == Delivery::Immediate);
            let torrent = inner.torrents.get_mut(&id).unwrap();
            if torrent.has.contains(&piece.0) {
                return Ok(());
            }
            if !parts {
                inner.send(Event::BlocksRefused(id, piece));
                return Ok(());
            }
            torrent.wanted_blocks.entry(piece.0).or_default().extend(blocks.iter().flat_map(Clone::clone));
            inner.calls.push(Call::Blocks(info_hash, piece.0, deadline, blocks.to_vec()));
            let peers = inner.peers.get(&info_hash).map(Vec::as_slice).unwrap_or_default();
            if immediate && peers.iter().any(|p| p.has.as_ref().is_none_or(|h| h.contains(&piece.0))) {
                inner.deliver_blocks(info_hash, piece.0);
            }
        }
        Ok(())
    }

    fn set_priority(&self, id: TorrentId, pieces: &[(PieceIndex, Priority)]) -> Result<(), EngineError> {
        for &(piece, priority) in pieces {
            let mut inner = self.inner();
            let info_hash = inner.check(id, piece.0)?;
            inner.calls.push(Call::Priority(info_hash, piece.0, priority));
            let torrent = inner.torrents.get_mut(&id).unwrap();
            torrent.wanted_blocks.remove(&piece.0);
            match priority {
                Priority::None => {
                    torrent.wanted.remove(&piece.0);
                }
                _ if torrent.has.contains(&piece.0) => {}
                _ => {
                    torrent.wanted.insert(piece.0, WantedPiece::Priority(priority));
                }
            }
        }
        self.wanted_changed(id, pieces.iter().map(|(p, _)| p.0));
        Ok(())
    }

    fn connect_peer(&self, id: TorrentId, peer: SocketAddr) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let info_hash = inner.info_hash(id)?;
        inner.calls.push(Call::Connect(info_hash, peer));
        Ok(())
    }

    fn redial(&self, id: TorrentId) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let info_hash = inner.info_hash(id)?;
        inner.calls.push(Call::Redial(info_hash));
        Ok(())
    }

    fn withdraw(&self, id: TorrentId, pieces: &[PieceIndex]) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let info_hash = inner.info_hash(id)?;
        let pieces: Vec<u32> = pieces.iter().map(|piece| piece.0).collect();
        let torrent = inner.torrents.get_mut(&id).unwrap();
        for piece in &pieces {
            torrent.has.remove(piece);
            torrent.blocks.remove(piece);
            torrent.wanted.remove(piece);
            torrent.wanted_blocks.remove(piece);
        }
        for piece in &pieces {
            inner.send(Event::Withdrawn(id, PieceIndex(*piece)));
        }
        inner.calls.push(Call::Withdraw(info_hash, pieces));
        Ok(())
    }

    fn set_withheld(&self, id: TorrentId, withheld: bool) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let info_hash = inner.info_hash(id)?;
        inner.calls.push(Call::SetWithheld(info_hash, withheld));
        Ok(())
    }

    fn reannounce(&self, id: TorrentId) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let info_hash = inner.info_hash(id)?;
        inner.calls.push(Call::Reannounce(info_hash));
        Ok(())
    }

    fn give_piece(&self, id: TorrentId, piece: PieceIndex, bytes: Vec<u8>) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let info_hash = inner.check(id, piece.0)?;
        inner.calls.push(Call::Give(info_hash, piece.0));
        if !inner.takes_pieces || inner.torrents[&id].has.contains(&piece.0) {
            return Ok(());
        }
        if inner.refuses > 0 {
            inner.refuses -= 1;
            inner.send(Event::PieceRejected(id, piece));
            return Ok(());
        }
        let published = &inner.published[&info_hash];
        let (file, range) = published.layout.owner(piece).expect("a piece of the torrent");
        let is_right = bytes == published.files[file][range.start as usize..range.end as usize];
        if inner.judges && !is_right {
            inner.send(Event::PieceRejected(id, piece));
            return Ok(());
        }
        assert!(is_right, "it was verified");
        inner.torrents.get_mut(&id).unwrap().wanted.remove(&piece.0);
        inner.store(id, piece.0);
        Ok(())
    }

    fn save_resume(&self, id: TorrentId) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let info_hash = inner.info_hash(id)?;
        inner.calls.push(Call::SaveResume(info_hash));
        inner.send(Event::ResumeData(id, format!("resume of {info_hash}").into_bytes()));
        Ok(())
    }

    fn export_metainfo(&self, id: TorrentId) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let info_hash = inner.info_hash(id)?;
        inner.calls.push(Call::Export(info_hash));
        let metainfo = inner.layers_known.then(|| format!("metainfo of {info_hash}").into_bytes());
        inner.send(Event::Metainfo(id, metainfo));
        Ok(())
    }
}
