//! The hosts that may learn of a torrent.

use crate::torrent::Discovery;

/// The hosts that may learn of a torrent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exposure {
    /// None: the torrent is in the engine for this node's readers alone. Peers named by the user are called; no peer is
    /// accepted, and nothing is sent to any.
    Hidden,
    /// Peers named by the user, trackers, and peers received from these by peer exchange; not the DHT, not the local network.
    Unannounced,
    /// All except the DHT.
    WithoutDht,
    /// All.
    #[default]
    Public,
}

impl Exposure {
    /// The ways to find peers that the exposure permits.
    pub(crate) fn restrict(self, discovery: Discovery) -> Discovery {
        match self {
            Self::Public => discovery,
            Self::Unannounced => Discovery { dht: false, lan: false, ..discovery },
            Self::WithoutDht => Discovery { dht: false, ..discovery },
            Self::Hidden => Discovery { dht: false, lan: false, pex: false },
        }
    }
}
