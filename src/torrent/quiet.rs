//! Finding peers without announcing this node: `network.announce: false`.
//!
//! libtorrent announces wherever it searches. So its own search in the DHT and on the local network is off, and this module
//! asks the DHT by lookups that store nothing there. A tracker answers announcements only: it receives a port on which no
//! program listens. Both are asked about a torrent when its first piece is wanted, not because the node has it.

use super::session::{Session, SessionShared, TorrentRecord, raw_endpoint};
use super::{Topic, TorrentId};
use crate::model::InfoHash;
use crate::torrent::OverlayEvent;

/// How a torrent finds peers instead of announcing.
#[derive(Default)]
pub(super) struct Quiet {
    /// The topic of the DHT where its peers are looked up; none where the DHT is not used.
    topic: Option<Topic>,
    /// The trackers that are asked when the first piece is wanted.
    trackers: Vec<String>,
    /// Whether peers are wanted.
    wanted: bool,
}

impl Quiet {
    /// The search of a torrent: peers are wanted when the first piece is.
    pub fn torrent(topic: Option<Topic>, trackers: Vec<String>) -> Self {
        Self { topic, trackers, wanted: false }
    }

    /// The search of a meeting, or for metadata: peers are wanted immediately.
    pub fn meeting(topic: Option<Topic>) -> Self {
        Self { topic, trackers: Vec::new(), wanted: true }
    }
}

/// The topic at which peers of a v2 torrent announce (BEP 52): the first 20 bytes of its info hash.
pub(super) fn topic_of(info_hash: &InfoHash) -> Topic {
    let mut topic = [0; 20];
    topic.copy_from_slice(&info_hash.0[..20]);
    Topic(topic)
}

impl SessionShared {
    fn wanted_topic(&self, id: TorrentId) -> Option<Topic> {
        let torrents = self.torrents.lock();
        let quiet = &torrents.get(&id)?.quiet;
        quiet.topic.filter(|_| quiet.wanted)
    }

    /// Asks the DHT for peers of a torrent that is not announced, if they are wanted.
    pub(super) fn look_up(&self, id: TorrentId) {
        let Some(topic) = self.wanted_topic(id) else { return };
        if let Err(error) = self.engine.dht_find(&topic.0) {
            tracing::debug!(torrent = id.0, %error, "could not look up peers");
        }
    }

    /// Connects to peers that a lookup in the DHT found.
    pub(super) fn connect_found(&self, event: &OverlayEvent) {
        let OverlayEvent::DhtPeers(topic, peers) = event else { return };
        let of_topic = |record: &TorrentRecord| record.quiet.topic == Some(*topic);
        let ids: Vec<TorrentId> =
            self.torrents.lock().iter().filter(|(_, record)| of_topic(record)).map(|(id, _)| *id).collect();
        for id in ids {
            for peer in peers {
                if let Err(error) = self.engine.connect_peer(id.0, &raw_endpoint(peer)) {
                    tracing::debug!(%peer, %error, "could not connect to a peer found in the DHT");
                }
            }
        }
    }
}

impl Session {
    /// Whether this node is announced.
    pub(super) fn announces(&self) -> bool {
        self.settings.network.announce
    }

    /// Asks the DHT and the trackers for peers of a torrent, when its first piece is wanted.
    pub(super) fn want_peers(&self, id: TorrentId) {
        let trackers = {
            let mut torrents = self.shared.torrents.lock();
            let Some(record) = torrents.get_mut(&id).filter(|record| !record.quiet.wanted) else { return };
            record.quiet.wanted = true;
            std::mem::take(&mut record.quiet.trackers)
        };
        self.shared.look_up(id);
        if !trackers.is_empty()
            && let Err(error) = self.shared.engine.add_trackers(id.0, &trackers)
        {
            tracing::debug!(torrent = id.0, %error, "could not ask the trackers");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_torrent_announces_at_its_truncated_hash() {
        let mut hash = [7; 32];
        hash[19] = 1;
        hash[20] = 2;
        let Topic(topic) = topic_of(&InfoHash(hash));
        assert_eq!((topic.len(), topic[18], topic[19]), (20, 7, 1));
    }
}
