//! An engine in memory: peers that stall, lie, vanish and come back, as the test says.
//!
//! It does what the real engine promises: a piece's bytes are in their file before it is said to be verified,
//! events of a torrent are in order, and nothing happens that was not wanted. It keeps a record of all it is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use silmaril::model::{InfoHash, Layout, PieceIndex};
use silmaril::torrent::{
    AddTorrent, DiskErrorKind, EngineError, Event, Priority, SwarmStats, Swarms, TorrentId,
};
use tokio::sync::mpsc;

/// What the engine was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Add(InfoHash),
    Remove(InfoHash),
    Request(InfoHash, u32, Duration),
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

/// What a peer does.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub addr: SocketAddr,
    /// The pieces it has; none is all.
    pub has: Option<BTreeSet<u32>>,
}

/// How pieces come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As soon as they are wanted and a peer has them.
    AtOnce,
    /// So long after they are wanted.
    After(Duration),
    /// When the test calls `deliver`.
    ByHand,
}

struct Torrent {
    add: AddTorrent,
    /// `None` until started, when starting is by hand.
    started: bool,
    has: BTreeSet<u32>,
    wanted: BTreeMap<u32, Want>,
    stats: SwarmStats,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Priority(Priority),
    Requested,
}

/// What a torrent's files hold.
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
    /// The next so many pieces are bad.
    lies: usize,
    /// What the next `add`s answer.
    refusals: Vec<EngineError>,
    /// Whether `add` is followed by `Added` at once.
    starts: bool,
    /// Whether `remove` is followed by `Removed` at once.
    removes: bool,
    /// All layers are known to `export_metainfo`.
    layers_known: bool,
    /// Whether anything becomes of pieces that it is given.
    takes_pieces: bool,
    /// The next so many pieces that it is given are refused.
    refuses: usize,
    /// Whether pieces that it is given may be wrong; it refuses those that are.
    judges: bool,
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
            delivery: Delivery::AtOnce,
            lies: 0,
            refusals: Vec::new(),
            starts: true,
            removes: true,
            layers_known: true,
            takes_pieces: true,
            refuses: 0,
            judges: false,
        };
        let swarm = Arc::new_cyclic(|myself| Self { inner: Mutex::new(inner), myself: myself.clone() });
        (swarm, receiver)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Makes the bytes of a torrent known to its peers.
    pub fn publish(&self, ih: InfoHash, layout: Layout, files: Vec<Arc<Vec<u8>>>) {
        self.inner().published.insert(ih, Published { layout, files });
    }

    /// How pieces come from now on.
    pub fn delivery(&self, delivery: Delivery) {
        self.inner().delivery = delivery;
        self.pump();
    }

    /// A peer joins the swarm, with all pieces or some.
    pub fn peer(&self, ih: InfoHash, addr: &str, has: Option<&[u32]>) {
        let peer = Peer { addr: addr.parse().unwrap(), has: has.map(|h| h.iter().copied().collect()) };
        let mut inner = self.inner();
        let addr = peer.addr;
        inner.peers.entry(ih).or_default().push(peer);
        inner.tell_all(ih, |id| Event::PeerConnected(id, addr));
        drop(inner);
        self.pump();
    }

    /// A peer vanishes.
    pub fn vanish(&self, ih: InfoHash, addr: &str) {
        let addr: SocketAddr = addr.parse().unwrap();
        let mut inner = self.inner();
        inner.peers.entry(ih).or_default().retain(|p| p.addr != addr);
        inner.tell_all(ih, |id| Event::PeerDisconnected(id, addr, "gone".into()));
    }

    /// The next `n` pieces are bad.
    pub fn lie(&self, n: usize) {
        self.inner().lies = n;
    }

    /// The next `add` is refused.
    pub fn refuse(&self, error: EngineError) {
        self.inner().refusals.push(error);
    }

    /// Whether torrents start when they are added; otherwise `start` starts them.
    pub fn starts(&self, yes: bool) {
        self.inner().starts = yes;
    }

    /// Whether torrents are out as soon as they are removed; otherwise `finish_removals` says so.
    pub fn removes(&self, yes: bool) {
        self.inner().removes = yes;
    }

    /// Whether `export_metainfo` has an answer.
    pub fn layers_known(&self, yes: bool) {
        self.inner().layers_known = yes;
    }

    /// Whether anything becomes of pieces that it is given.
    pub fn takes_pieces(&self, yes: bool) {
        self.inner().takes_pieces = yes;
    }

    /// The next so many pieces that it is given are refused.
    pub fn refuse_pieces(&self, n: usize) {
        self.inner().refuses = n;
    }

    /// Pieces that it is given may be wrong: those that are it refuses.
    pub fn judges_pieces(&self) {
        self.inner().judges = true;
    }

    /// The pieces that it was given since `calls` was last taken, in order.
    pub fn given(&self, of: InfoHash) -> Vec<u32> {
        let give = |c: &Call| match c {
            Call::Give(ih, piece) if *ih == of => Some(*piece),
            _ => None,
        };
        self.inner().calls.iter().filter_map(give).collect()
    }

    /// Starts what was added.
    pub fn start(&self, ih: InfoHash) {
        let mut inner = self.inner();
        inner.start(ih);
        drop(inner);
        self.pump();
    }

    /// Gives up a torrent, started or not.
    pub fn fail(&self, ih: InfoHash, why: &str) {
        let mut inner = self.inner();
        let Some((&id, _)) = inner.find(ih) else { return };
        inner.torrents.remove(&id);
        inner.send(Event::Failed(id, why.into()));
    }

    /// The local disk fails under a torrent: deadlines are lost with the pieces in flight.
    pub fn disk_error(&self, ih: InfoHash, kind: DiskErrorKind) {
        let mut inner = self.inner();
        let path = inner.find(ih).map(|(_, t)| t.add.file_paths[0].clone()).unwrap();
        let torrents = inner.torrents.values_mut().filter(|t| t.add.info_hash == ih);
        for want in torrents.flat_map(|t| t.wanted.values_mut()) {
            *want = Want::Priority(Priority::Normal);
        }
        inner.tell_all(ih, |id| Event::DiskError(id, path.clone(), kind, format!("{kind:?}")));
    }

    /// Some payload came, though no whole piece.
    pub fn trickle(&self, ih: InfoHash, bytes: u64) {
        let mut inner = self.inner();
        let Some(torrent) = inner.torrents.values_mut().find(|t| t.add.info_hash == ih) else { return };
        torrent.stats.downloaded += bytes;
        let stats = torrent.stats;
        inner.tell_all(ih, |id| Event::Stats(id, stats));
    }

    /// Drops what the engine had to say and says that it did.
    pub fn lose_events(&self) {
        self.inner().send(Event::EventsLost);
    }

    /// Says an event as it is.
    pub fn say(&self, event: impl FnOnce(TorrentId) -> Event, ih: InfoHash) {
        let mut inner = self.inner();
        let id = *inner.find(ih).expect("the torrent is in the engine").0;
        inner.send(event(id));
    }

    /// Delivers one piece now if it is wanted. Returns whether it was.
    pub fn deliver(&self, ih: InfoHash, piece: u32) -> bool {
        self.inner().deliver(ih, piece)
    }

    /// Delivers whatever is wanted and held by a peer, the most urgent first.
    fn pump(&self) {
        let mut inner = self.inner();
        if inner.delivery == Delivery::AtOnce {
            for (ih, piece) in inner.deliverable() {
                inner.deliver(ih, piece);
            }
        }
    }

    /// All calls since the last time this was asked.
    pub fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.inner().calls)
    }

    /// The pieces asked for with a deadline since `calls` was last taken, in order.
    pub fn requests(&self, of: InfoHash) -> Vec<u32> {
        let calls = &self.inner().calls;
        let request = |c: &Call| match c {
            Call::Request(ih, piece, _) if *ih == of => Some(*piece),
            _ => None,
        };
        calls.iter().filter_map(request).collect()
    }

    /// What is wanted of a torrent now.
    pub fn wanted(&self, ih: InfoHash) -> BTreeMap<u32, Want> {
        self.inner().find(ih).map(|(_, t)| t.wanted.clone()).unwrap_or_default()
    }

    /// Pieces the engine holds of a torrent that is in it.
    pub fn holds(&self, ih: InfoHash) -> Option<BTreeSet<u32>> {
        self.inner().find(ih).map(|(_, t)| t.has.clone())
    }

    /// How the torrent was last added.
    pub fn added(&self, ih: InfoHash) -> Option<AddTorrent> {
        self.inner().find(ih).map(|(_, t)| t.add.clone())
    }

    fn wanted_changed(&self, id: TorrentId, pieces: impl Iterator<Item = u32>) {
        let delivery = self.inner().delivery;
        match delivery {
            Delivery::ByHand => {}
            Delivery::AtOnce => self.pump(),
            Delivery::After(latency) => {
                for piece in pieces {
                    let Some(myself) = self.myself.upgrade() else { return };
                    tokio::spawn(async move {
                        tokio::time::sleep(latency).await;
                        let mut inner = myself.inner();
                        let Some(ih) = inner.torrents.get(&id).map(|t| t.add.info_hash) else { return };
                        if inner.deliverable().contains(&(ih, piece)) {
                            inner.deliver(ih, piece);
                        }
                    });
                }
            }
        }
    }
}

impl Inner {
    fn send(&mut self, event: Event) {
        // The test may be over.
        let _ = self.events.send(event);
    }

    fn find(&self, ih: InfoHash) -> Option<(&TorrentId, &Torrent)> {
        self.torrents.iter().find(|(_, t)| t.add.info_hash == ih)
    }

    fn tell_all(&mut self, ih: InfoHash, event: impl Fn(TorrentId) -> Event) {
        let ids: Vec<TorrentId> = self
            .torrents
            .iter()
            .filter(|(_, t)| t.add.info_hash == ih && t.started)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.send(event(id));
        }
    }

    fn start(&mut self, ih: InfoHash) {
        let Some((&id, _)) = self.find(ih).filter(|(_, t)| !t.started) else { return };
        self.torrents.get_mut(&id).unwrap().started = true;
        self.send(Event::Added(id));
        for peer in self.peers.get(&ih).cloned().unwrap_or_default() {
            self.send(Event::PeerConnected(id, peer.addr));
        }
    }

    fn deliverable(&self) -> Vec<(InfoHash, u32)> {
        let mut all = Vec::new();
        for torrent in self.torrents.values().filter(|t| t.started) {
            let ih = torrent.add.info_hash;
            let peers = self.peers.get(&ih).map(Vec::as_slice).unwrap_or_default();
            let held = |piece: &u32| peers.iter().any(|p| p.has.as_ref().is_none_or(|h| h.contains(piece)));
            let mut wanted: Vec<(bool, u32)> = torrent
                .wanted
                .iter()
                .filter(|(p, _)| held(p))
                .map(|(p, w)| (*w != Want::Requested, *p))
                .collect();
            wanted.sort_unstable();
            all.extend(wanted.into_iter().map(|(_, p)| (ih, p)));
        }
        all
    }

    fn deliver(&mut self, ih: InfoHash, piece: u32) -> bool {
        let Some((&id, torrent)) = self.find(ih) else { return false };
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

    /// Writes a piece and says that it is verified. Returns its length.
    fn store(&mut self, id: TorrentId, piece: u32) -> u64 {
        let torrent = &self.torrents[&id];
        let published = &self.published[&torrent.add.info_hash];
        let (file, range) = published.layout.owner(PieceIndex(piece)).expect("a piece of the torrent");
        let bytes = &published.files[file][range.start as usize..range.end as usize];
        let len = bytes.len() as u64;
        let path = &torrent.add.file_paths[file];
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let out = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
        out.write_all_at(bytes, range.start).unwrap();
        let torrent = self.torrents.get_mut(&id).unwrap();
        assert!(torrent.has.insert(piece), "piece {piece} came twice");
        self.send(Event::PieceVerified(id, PieceIndex(piece)));
        len
    }

    fn check(&self, id: TorrentId, piece: u32) -> Result<InfoHash, EngineError> {
        let torrent = self.torrents.get(&id).ok_or(EngineError::UnknownTorrent)?;
        let ih = torrent.add.info_hash;
        assert!(torrent.started, "told something before it runs");
        assert!(piece < self.published[&ih].layout.piece_count(), "piece {piece} is none");
        Ok(ih)
    }

    fn info_hash(&self, id: TorrentId) -> Result<InfoHash, EngineError> {
        self.torrents.get(&id).map(|t| t.add.info_hash).ok_or(EngineError::UnknownTorrent)
    }
}

impl Swarms for FakeSwarm {
    fn add(&self, torrent: AddTorrent) -> Result<TorrentId, EngineError> {
        let mut inner = self.inner();
        let ih = torrent.info_hash;
        inner.calls.push(Call::Add(ih));
        if let Some(error) = inner.refusals.pop() {
            return Err(error);
        }
        assert!(inner.find(ih).is_none(), "the torrent is already in the engine");
        let published = inner.published.get(&ih).expect("a published torrent");
        assert_eq!(torrent.have.len(), published.layout.piece_count() as usize);
        assert_eq!(torrent.file_paths.len(), published.files.len());
        let has = torrent.have.ones().map(|p| p as u32).collect();
        inner.next_id += 1;
        let id = TorrentId(inner.next_id);
        let stats = SwarmStats::default();
        inner
            .torrents
            .insert(id, Torrent { add: torrent, started: false, has, wanted: BTreeMap::new(), stats });
        if inner.starts {
            inner.start(ih);
        }
        Ok(id)
    }

    fn fetch_metadata(&self, _magnet: &str, _peers: &[SocketAddr]) -> Result<TorrentId, EngineError> {
        Err(EngineError::Internal("magnets are not part of this engine".into()))
    }

    fn remove(&self, id: TorrentId) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let ih = inner.info_hash(id)?;
        inner.calls.push(Call::Remove(ih));
        inner.torrents.remove(&id);
        if inner.removes {
            inner.send(Event::Removed(id));
        }
        Ok(())
    }

    fn request(&self, id: TorrentId, piece: PieceIndex, deadline: Duration) -> Result<(), EngineError> {
        {
            let mut inner = self.inner();
            let ih = inner.check(id, piece.0)?;
            inner.calls.push(Call::Request(ih, piece.0, deadline));
            let torrent = inner.torrents.get_mut(&id).unwrap();
            // It may have come a moment ago, with the event still under way.
            if !torrent.has.contains(&piece.0) {
                let before = torrent.wanted.insert(piece.0, Want::Requested);
                assert_ne!(before, Some(Want::Requested), "piece {} was asked for twice", piece.0);
            }
        }
        self.wanted_changed(id, std::iter::once(piece.0));
        Ok(())
    }

    fn set_priority(&self, id: TorrentId, pieces: &[(PieceIndex, Priority)]) -> Result<(), EngineError> {
        for &(piece, priority) in pieces {
            let mut inner = self.inner();
            let ih = inner.check(id, piece.0)?;
            inner.calls.push(Call::Priority(ih, piece.0, priority));
            let torrent = inner.torrents.get_mut(&id).unwrap();
            match priority {
                Priority::None => {
                    torrent.wanted.remove(&piece.0);
                }
                _ if torrent.has.contains(&piece.0) => {}
                _ => {
                    torrent.wanted.insert(piece.0, Want::Priority(priority));
                }
            }
        }
        self.wanted_changed(id, pieces.iter().map(|(p, _)| p.0));
        Ok(())
    }

    fn connect_peer(&self, id: TorrentId, peer: SocketAddr) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let ih = inner.info_hash(id)?;
        inner.calls.push(Call::Connect(ih, peer));
        Ok(())
    }

    fn redial(&self, id: TorrentId) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let ih = inner.info_hash(id)?;
        inner.calls.push(Call::Redial(ih));
        Ok(())
    }

    fn withdraw(&self, id: TorrentId, pieces: &[PieceIndex]) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let ih = inner.info_hash(id)?;
        let pieces: Vec<u32> = pieces.iter().map(|piece| piece.0).collect();
        let torrent = inner.torrents.get_mut(&id).unwrap();
        for piece in &pieces {
            torrent.has.remove(piece);
        }
        inner.calls.push(Call::Withdraw(ih, pieces));
        Ok(())
    }

    fn set_withheld(&self, id: TorrentId, withheld: bool) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let ih = inner.info_hash(id)?;
        inner.calls.push(Call::SetWithheld(ih, withheld));
        Ok(())
    }

    fn reannounce(&self, id: TorrentId) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let ih = inner.info_hash(id)?;
        inner.calls.push(Call::Reannounce(ih));
        Ok(())
    }

    fn give_piece(&self, id: TorrentId, piece: PieceIndex, bytes: Vec<u8>) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let ih = inner.check(id, piece.0)?;
        inner.calls.push(Call::Give(ih, piece.0));
        if !inner.takes_pieces || inner.torrents[&id].has.contains(&piece.0) {
            return Ok(());
        }
        if inner.refuses > 0 {
            inner.refuses -= 1;
            inner.send(Event::PieceRejected(id, piece));
            return Ok(());
        }
        let published = &inner.published[&ih];
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
        let ih = inner.info_hash(id)?;
        inner.calls.push(Call::SaveResume(ih));
        inner.send(Event::ResumeData(id, format!("resume of {ih}").into_bytes()));
        Ok(())
    }

    fn export_metainfo(&self, id: TorrentId) -> Result<(), EngineError> {
        let mut inner = self.inner();
        let ih = inner.info_hash(id)?;
        inner.calls.push(Call::Export(ih));
        let metainfo = inner.layers_known.then(|| format!("metainfo of {ih}").into_bytes());
        inner.send(Event::Metainfo(id, metainfo));
        Ok(())
    }
}
