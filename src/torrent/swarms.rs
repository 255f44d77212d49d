//! The commands for torrents, as calls of the C++ engine.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::Duration;

use fixedbitset::FixedBitSet;

use super::quiet::{Quiet, topic_of};
use super::session::{Session, TorrentRecord, internal, raw_endpoint};
use super::{AddTorrent, EngineError, Event, FileStamp, Mode, Priority, Swarms, TorrentId};
use crate::ffi::{RawAdd, RawBlocks, RawPath, RawPriority};
use crate::model::PieceIndex;
use crate::model::magnet::Magnet;

/// The result of an engine call that returns false for an unknown torrent.
fn found(done: Result<bool, cxx::Exception>) -> Result<(), EngineError> {
    match done {
        Ok(true) => Ok(()),
        Ok(false) => Err(EngineError::UnknownTorrent),
        Err(error) => Err(internal(error)),
    }
}

fn raw_blocks(piece: PieceIndex, blocks: &Range<u32>) -> RawBlocks {
    RawBlocks { piece: piece.0, first: blocks.start, count: blocks.end.saturating_sub(blocks.start) }
}

/// Bit `i` of the set is bit `7 - i % 8` of byte `i / 8`.
fn packed(bits: &FixedBitSet) -> Vec<u8> {
    let mut bytes = vec![0u8; bits.len().div_ceil(8)];
    for i in bits.ones() {
        bytes[i / 8] |= 0x80 >> (i % 8);
    }
    bytes
}

impl Swarms for Session {
    fn add(&self, torrent: AddTorrent) -> Result<TorrentId, EngineError> {
        let id = self.new_id();
        let network = &self.settings.network;
        let dht = torrent.discovery.dht && network.dht_enabled;
        let mut trackers = self.trackers();
        let mut quiet = Quiet::default();
        if !self.announces() && !torrent.withheld {
            quiet = Quiet::torrent(dht.then(|| topic_of(&torrent.info_hash)), std::mem::take(&mut trackers));
        }
        let raw = RawAdd {
            torrent: id.0,
            info_hash: torrent.info_hash.0,
            metainfo: torrent.metainfo,
            paths: torrent
                .file_paths
                .iter()
                .enumerate()
                .map(|(file, path)| {
                    let stamp = torrent.file_stamps.get(file).copied().flatten();
                    let FileStamp { size, mtime_ns, inode, changed_ns } = stamp.unwrap_or_default();
                    let care = torrent.file_care.get(file).cloned().unwrap_or_default();
                    RawPath {
                        bytes: path.as_os_str().as_bytes().to_vec(),
                        fixed: stamp.is_some(),
                        size,
                        mtime_ns,
                        inode,
                        changed_ns: changed_ns.unwrap_or(0),
                        doubted: care.doubted,
                        granules: care
                            .granules
                            .map(|path| path.into_os_string().into_vec())
                            .unwrap_or_default(),
                    }
                })
                .collect(),
            have: packed(&torrent.have),
            kept: torrent.blocks.iter().map(|(piece, blocks)| raw_blocks(*piece, blocks)).collect(),
            resume: torrent.resume.unwrap_or_default(),
            lazy: torrent.mode == Mode::Lazy,
            withheld: torrent.withheld,
            peers: torrent.peers.iter().map(raw_endpoint).collect(),
            trackers,
            dht,
            lan: torrent.discovery.lan && network.lan_discovery,
            pex: torrent.discovery.pex,
            max_connections: self.max_connections(),
        };
        self.shared
            .torrents
            .lock()
            .insert(id, TorrentRecord { peers: torrent.peers, quiet, ..TorrentRecord::default() });
        match self.shared.engine.add(&raw) {
            Ok(all_layers) => {
                if all_layers && let Some(known) = self.shared.torrents.lock().get_mut(&id) {
                    known.complete_metainfo = Some(Arc::new(raw.metainfo));
                }
                Ok(id)
            }
            Err(error) => {
                self.shared.torrents.lock().remove(&id);
                Err(EngineError::BadTorrent(error.what().to_owned()))
            }
        }
    }

    fn fetch_metadata(&self, magnet: &str, peers: &[SocketAddr]) -> Result<TorrentId, EngineError> {
        let id = self.new_id();
        let raw_peers: Vec<_> = peers.iter().map(raw_endpoint).collect();
        let mut quiet = Quiet::default();
        if !self.announces() && self.settings.network.dht_enabled {
            let magnet: Result<Magnet, _> = magnet.parse();
            quiet = Quiet::meeting(magnet.ok().map(|magnet| topic_of(&magnet.info_hash)));
        }
        self.shared
            .torrents
            .lock()
            .insert(id, TorrentRecord { peers: peers.to_vec(), quiet, ..TorrentRecord::default() });
        let trackers = self.trackers();
        match self.shared.engine.fetch_metadata(id.0, magnet, &raw_peers, &trackers, self.max_connections()) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.shared.torrents.lock().remove(&id);
                Err(EngineError::BadTorrent(error.what().to_owned()))
            }
        }
    }

    fn remove(&self, id: TorrentId) -> Result<(), EngineError> {
        // First, since the engine may have removed the torrent itself.
        self.shared.torrents.lock().remove(&id);
        found(self.shared.engine.remove(id.0))
    }

    fn request(&self, id: TorrentId, piece: PieceIndex, deadline: Duration) -> Result<(), EngineError> {
        let milliseconds = deadline.as_millis().min(i32::MAX as u128) as i32;
        found(self.shared.engine.request(id.0, piece.0, milliseconds))?;
        self.want_peers(id);
        Ok(())
    }

    fn request_blocks(
        &self,
        id: TorrentId,
        piece: PieceIndex,
        blocks: &[Range<u32>],
        deadline: Duration,
    ) -> Result<(), EngineError> {
        let milliseconds = deadline.as_millis().min(i32::MAX as u128) as i32;
        let raw: Vec<_> = blocks.iter().map(|blocks| raw_blocks(piece, blocks)).collect();
        found(self.shared.engine.request_blocks(id.0, piece.0, &raw, milliseconds))?;
        self.want_peers(id);
        Ok(())
    }

    fn set_priority(&self, id: TorrentId, pieces: &[(PieceIndex, Priority)]) -> Result<(), EngineError> {
        let raw: Vec<_> = pieces
            .iter()
            .map(|(piece, priority)| RawPriority {
                piece: piece.0,
                // Of libtorrent's 0 to 7; 7 is for pieces that readers wait for.
                priority: match priority {
                    Priority::None => 0,
                    Priority::Normal => 1,
                    Priority::Ahead => 4,
                },
            })
            .collect();
        found(self.shared.engine.set_priority(id.0, &raw))?;
        if raw.iter().any(|one| one.priority > 0) {
            self.want_peers(id);
        }
        Ok(())
    }

    fn connect_peer(&self, id: TorrentId, peer: SocketAddr) -> Result<(), EngineError> {
        found(self.shared.engine.connect_peer(id.0, &raw_endpoint(&peer)))?;
        if let Some(known) = self.shared.torrents.lock().get_mut(&id) {
            known.remember(peer);
        }
        Ok(())
    }

    fn redial(&self, id: TorrentId) -> Result<(), EngineError> {
        let earlier = match self.shared.torrents.lock().get(&id) {
            Some(known) if known.connected == 0 => known.peers.clone(),
            _ => Vec::new(),
        };
        // The engine forgets peers that failed when its list is full.
        for peer in &earlier {
            found(self.shared.engine.connect_peer(id.0, &raw_endpoint(peer)))?;
        }
        found(self.shared.engine.redial(id.0))
    }

    fn withdraw(&self, id: TorrentId, pieces: &[PieceIndex]) -> Result<(), EngineError> {
        let pieces: Vec<u32> = pieces.iter().map(|piece| piece.0).collect();
        found(self.shared.engine.withdraw(id.0, &pieces))
    }

    fn set_withheld(&self, id: TorrentId, withheld: bool) -> Result<(), EngineError> {
        found(self.shared.engine.set_withheld(id.0, withheld))
    }

    fn reannounce(&self, id: TorrentId) -> Result<(), EngineError> {
        found(self.shared.engine.reannounce(id.0))?;
        self.shared.look_up(id);
        Ok(())
    }

    fn give_piece(&self, id: TorrentId, piece: PieceIndex, bytes: Vec<u8>) -> Result<(), EngineError> {
        found(self.shared.engine.give_piece(id.0, piece.0, &bytes))
    }

    fn save_resume(&self, id: TorrentId) -> Result<(), EngineError> {
        let complete =
            self.shared.torrents.lock().get(&id).is_some_and(|known| known.complete_metainfo.is_some());
        if complete {
            // The metainfo has all piece layers.
            self.shared.send(Event::ResumeData(id, Vec::new()));
            return Ok(());
        }
        found(self.shared.engine.save_layers(id.0, false))
    }

    fn export_metainfo(&self, id: TorrentId) -> Result<(), EngineError> {
        let complete = self.shared.torrents.lock().get(&id).and_then(|known| known.complete_metainfo.clone());
        if let Some(metainfo) = complete {
            self.shared.send(Event::Metainfo(id, Some(metainfo.to_vec())));
            return Ok(());
        }
        found(self.shared.engine.save_layers(id.0, true))
    }
}
