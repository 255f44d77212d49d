//! The state of the engine in memory: torrents, their peers, and the pieces that arrive.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use silmaril::model::{BLOCK_LEN, InfoHash, Layout, PieceIndex};
use silmaril::torrent::{AddTorrent, EngineError, Event, SwarmStats, TorrentId};
use tokio::sync::mpsc;

use super::{Call, Delivery, WantedPiece};

/// A peer of a swarm.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub addr: SocketAddr,
    /// The pieces that it has; `None` means all.
    pub has: Option<BTreeSet<u32>>,
}

pub(super) struct Torrent {
    pub(super) add: AddTorrent,
    /// False until the test starts the torrent, if torrents do not start by themselves.
    pub(super) started: bool,
    pub(super) has: BTreeSet<u32>,
    pub(super) wanted: BTreeMap<u32, WantedPiece>,
    /// Blocks of incomplete pieces that are present, and blocks that are requested.
    pub(super) blocks: BTreeMap<u32, BTreeSet<u32>>,
    pub(super) wanted_blocks: BTreeMap<u32, BTreeSet<u32>>,
    pub(super) stats: SwarmStats,
}

/// The files of a torrent and their bytes.
pub(super) struct Published {
    pub(super) layout: Layout,
    pub(super) files: Vec<Arc<Vec<u8>>>,
}

pub(super) struct Inner {
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) next_id: u64,
    pub(super) torrents: BTreeMap<TorrentId, Torrent>,
    pub(super) published: HashMap<InfoHash, Published>,
    pub(super) peers: HashMap<InfoHash, Vec<Peer>>,
    pub(super) calls: Vec<Call>,
    pub(super) delivery: Delivery,
    /// The number of further pieces that are bad.
    pub(super) lies: usize,
    /// The errors of the next calls of `add`.
    pub(super) refusals: Vec<EngineError>,
    /// Whether `Added` follows immediately after `add`.
    pub(super) starts: bool,
    /// Whether `Removed` follows immediately after `remove`.
    pub(super) removes: bool,
    /// Whether `export_metainfo` has all piece layers.
    pub(super) layers_known: bool,
    /// Whether `give_piece` has an effect.
    pub(super) takes_pieces: bool,
    /// The number of further calls of `give_piece` that are refused.
    pub(super) refuses: usize,
    /// Whether `give_piece` refuses pieces with wrong bytes.
    pub(super) judges: bool,
    /// Whether peers supply the hashes of blocks.
    pub(super) parts: bool,
}

impl Inner {
    pub(super) fn send(&mut self, event: Event) {
        // A closed receiver means that the test has ended.
        let _ = self.events.send(event);
    }

    pub(super) fn find(&self, info_hash: InfoHash) -> Option<(&TorrentId, &Torrent)> {
        self.torrents.iter().find(|(_, t)| t.add.info_hash == info_hash)
    }

    pub(super) fn send_to_all(&mut self, info_hash: InfoHash, event: impl Fn(TorrentId) -> Event) {
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

    pub(super) fn start(&mut self, info_hash: InfoHash) {
        let Some((&id, _)) = self.find(info_hash).filter(|(_, t)| !t.started) else { return };
        self.torrents.get_mut(&id).unwrap().started = true;
        self.send(Event::Added(id));
        for peer in self.peers.get(&info_hash).cloned().unwrap_or_default() {
            self.send(Event::PeerConnected(id, peer.addr));
        }
    }

    pub(super) fn deliverable(&self) -> Vec<(InfoHash, u32)> {
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

    pub(super) fn deliver(&mut self, info_hash: InfoHash, piece: u32) -> bool {
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
    pub(super) fn deliver_blocks(&mut self, info_hash: InfoHash, piece: u32) {
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
    pub(super) fn store(&mut self, id: TorrentId, piece: u32) -> u64 {
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

    pub(super) fn check(&self, id: TorrentId, piece: u32) -> Result<InfoHash, EngineError> {
        let torrent = self.torrents.get(&id).ok_or(EngineError::UnknownTorrent)?;
        let info_hash = torrent.add.info_hash;
        assert!(torrent.started, "reported something before it runs");
        assert!(piece < self.published[&info_hash].layout.piece_count(), "piece {piece} is none");
        Ok(info_hash)
    }

    pub(super) fn info_hash(&self, id: TorrentId) -> Result<InfoHash, EngineError> {
        self.torrents.get(&id).map(|t| t.add.info_hash).ok_or(EngineError::UnknownTorrent)
    }
}

/// Writes bytes to a file, which need not exist.
fn write(path: &std::path::Path, bytes: &[u8], at: u64) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let out = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
    out.write_all_at(bytes, at).unwrap();
}
