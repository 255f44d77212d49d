//! The exposure of each torrent, and the hosts that are named for it.

use std::net::SocketAddr;

use super::Exposure;
use super::effects::EngineCommand;
use super::transfer::Transfer;
use super::transfers::AllTransfers;
use crate::model::InfoHash;

impl AllTransfers {
    /// Stores peers of a torrent, and connects to them if it runs.
    pub(super) fn introduce(&mut self, info_hash: InfoHash, peers: &[SocketAddr]) {
        if peers.is_empty() {
            return;
        }
        let known = self.introduced.entry(info_hash).or_default();
        known.extend(peers);
        known.sort_unstable();
        known.dedup();
        if let Some(id) = self.all.get(&info_hash).and_then(Transfer::running) {
            peers.iter().for_each(|&peer| self.effects.send(EngineCommand::Connect(id, peer)));
        }
    }

    /// All peers that the user named for a torrent.
    pub(super) fn named_peers(&self, info_hash: &InfoHash) -> Vec<SocketAddr> {
        let own = self.introduced.get(info_hash).into_iter().flatten();
        self.given_peers.list().into_iter().chain(own.copied()).collect()
    }

    pub(super) fn exposure(&self, info_hash: &InfoHash) -> Exposure {
        self.exposures.get(info_hash).copied().unwrap_or_default()
    }

    /// Sets the exposure of a torrent. Returns whether it changed.
    pub(super) fn expose(&mut self, info_hash: InfoHash, exposure: Exposure) -> bool {
        let former = match exposure {
            Exposure::Public => self.exposures.remove(&info_hash),
            _ => self.exposures.insert(info_hash, exposure),
        };
        let changes = former.unwrap_or_default() != exposure;
        if changes {
            if exposure == Exposure::Hidden {
                self.withhold(&info_hash);
            }
            self.add_again(info_hash);
        }
        changes
    }

    /// Adds the torrents again that offer pieces which are reserved now.
    pub(super) fn withdraw_reserved(&mut self) {
        let offers = |(info_hash, transfer): &(&InfoHash, &Transfer)| {
            transfer.offers_reserved(self.exposure(info_hash))
        };
        let offering: Vec<InfoHash> = self.all.iter().filter(offers).map(|(hash, _)| *hash).collect();
        for info_hash in offering {
            self.withhold(&info_hash);
            self.add_again(info_hash);
        }
    }

    /// Ends uploads before the torrent is out of the engine, which takes a moment.
    fn withhold(&mut self, info_hash: &InfoHash) {
        if let Some(id) = self.all.get(info_hash).and_then(Transfer::id) {
            self.effects.send(EngineCommand::Withhold(id));
        }
    }
}
