//! Finding peers without announcing this node: `network.announce: false`.
//!
//! libtorrent announces wherever it searches. So its own search in the DHT and on the local network is off, and the DHT is
//! asked here, by lookups that leave nothing behind. A tracker answers an announcement only: it gets a port that no program
//! listens on. Both are asked about a torrent from the first wanted piece on, and not because the node holds it.

use super::session::{Known, Session, Shared, raw_endpoint};
use super::{Topic, TorrentId};
use crate::model::InfoHash;
use crate::torrent::OverlayEvent;

/// What a torrent does in place of announcing.
#[derive(Default)]
pub(super) struct Quiet {
    /// Where the DHT is asked for its peers; none where the DHT is not to be used.
    topic: Option<Topic>,
    /// The trackers that are asked when the first piece is wanted.
    trackers: Vec<String>,
    /// Whether peers are wanted.
    wanted: bool,
}

impl Quiet {
    /// For a torrent, whose peers are wanted when a piece is.
    pub fn torrent(topic: Option<Topic>, trackers: Vec<String>) -> Self {
        Self { topic, trackers, wanted: false }
    }

    /// For a meeting or for metadata, whose peers are wanted at once.
    pub fn meeting(topic: Option<Topic>) -> Self {
        Self { topic, trackers: Vec::new(), wanted: true }
    }
}

/// Where the peers of a v2 torrent announce (BEP 52): the first 20 bytes of its info hash.
pub(super) fn topic_of(info_hash: &InfoHash) -> Topic {
    let mut topic = [0; 20];
    topic.copy_from_slice(&info_hash.0[..20]);
    Topic(topic)
}

impl Shared {
    fn wanted_topic(&self, id: TorrentId) -> Option<Topic> {
        let torrents = self.torrents();
        let quiet = &torrents.get(&id)?.quiet;
        quiet.topic.filter(|_| quiet.wanted)
    }

    /// Asks the DHT for peers of a torrent that is not announced, if they are wanted.
    pub(super) fn look_up(&self, id: TorrentId) {
        let Some(topic) = self.wanted_topic(id) else { return };
        if let Err(error) = self.engine.dht_find(&topic.0) {
            tracing::debug!(torrent = id.0, %error, "Peers could not be looked up.");
        }
    }

    /// Connects to peers that the DHT named.
    pub(super) fn looked_up(&self, event: &OverlayEvent) {
        let OverlayEvent::DhtPeers(topic, peers) = event else { return };
        let of_topic = |known: &Known| known.quiet.topic == Some(*topic);
        let ids: Vec<TorrentId> =
            self.torrents().iter().filter(|(_, known)| of_topic(known)).map(|(id, _)| *id).collect();
        for id in ids {
            for peer in peers {
                if let Err(error) = self.engine.connect_peer(id.0, &raw_endpoint(peer)) {
                    tracing::debug!(%peer, %error, "A peer that the DHT named could not be called.");
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

    /// Pieces of a torrent are wanted: the DHT and its trackers are asked, the first time.
    pub(super) fn want_peers(&self, id: TorrentId) {
        let trackers = {
            let mut torrents = self.shared.torrents();
            let Some(known) = torrents.get_mut(&id).filter(|known| !known.quiet.wanted) else { return };
            known.quiet.wanted = true;
            std::mem::take(&mut known.quiet.trackers)
        };
        self.shared.look_up(id);
        if !trackers.is_empty()
            && let Err(error) = self.shared.engine.add_trackers(id.0, &trackers)
        {
            tracing::debug!(torrent = id.0, %error, "The trackers could not be asked.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v2_torrent_announces_at_its_truncated_hash() {
        let mut hash = [7; 32];
        hash[19] = 1;
        hash[20] = 2;
        let Topic(topic) = topic_of(&InfoHash(hash));
        assert_eq!((topic.len(), topic[18], topic[19]), (20, 7, 1));
    }
}
