//! The peers that the user named for all torrents, with `--peer`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// Peers of every torrent. A peer is listed while a [`PeersGuard`] that holds it lives. Clones share the list.
#[derive(Debug, Clone, Default)]
pub struct GivenPeers(Arc<Mutex<BTreeMap<SocketAddr, usize>>>);

impl GivenPeers {
    /// Peers that are always listed.
    pub fn of(peers: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self(Arc::new(Mutex::new(peers.into_iter().map(|peer| (peer, 1)).collect())))
    }

    /// Adds peers until the guard is dropped.
    #[must_use]
    pub fn add(&self, peers: &[SocketAddr]) -> PeersGuard {
        for peer in peers {
            *self.lock().entry(*peer).or_default() += 1;
        }
        PeersGuard { of: self.clone(), peers: peers.to_vec() }
    }

    /// The listed peers, in order.
    pub fn list(&self) -> Vec<SocketAddr> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, usize>> {
        self.0.lock()
    }
}

/// Keeps peers in [`GivenPeers`] while it lives.
#[derive(Debug)]
pub struct PeersGuard {
    of: GivenPeers,
    peers: Vec<SocketAddr>,
}

impl Drop for PeersGuard {
    fn drop(&mut self) {
        let mut all = self.of.lock();
        for peer in &self.peers {
            if let Some(holders) = all.get_mut(peer) {
                *holders -= 1;
                if *holders == 0 {
                    all.remove(peer);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_is_listed_while_one_of_its_guards_lives() {
        let given = GivenPeers::default();
        let [a, b] = ["10.0.0.1:1", "10.0.0.2:2"].map(|text| text.parse::<SocketAddr>().unwrap());
        let both = given.add(&[a, b]);
        let one = given.clone().add(&[a]);
        assert_eq!(given.list(), [a, b]);
        drop(both);
        assert_eq!(given.list(), [a]);
        drop(one);
        assert!(given.list().is_empty());
    }
}
