//! The commands of the engine in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use silmaril::model::PieceIndex;
use silmaril::torrent::{AddTorrent, EngineError, Event, Priority, SwarmStats, Swarms, TorrentId};

use super::state::Torrent;
use super::{Call, Delivery, FakeSwarm, WantedPiece};

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
