//! The peers that claim to hold a manifest or a torrent.
//!
//! A claim is no proof. Peers that have sent the right manifest come first.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::core::{CatalogEvent, Core, Subscriber};
use super::inquiry::{self, AskedPeers, Inquiry};
use crate::catalog::message::HeldManifest;
use crate::catalog::message::{PeerAnswer, PeerQuestion};
use crate::model::{InfoHash, ModelRef, Sha256Digest};
use crate::torrent::PeerId;

/// Manifests and torrents whose holders are remembered, and holders for each.
const MAX_KEYS: NonZeroUsize = NonZeroUsize::new(512).expect("it is not 0");
const MAX_HOLDERS: usize = 16;

/// How long a peer may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How often new peers are looked for without an event.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// Peers that are asked, and holders that are reported.
const MAX_ASKED: usize = 100;
const MAX_REPORTED: usize = 32;

/// The claims of peers.
#[derive(Debug)]
pub(super) struct Holders(Mutex<Claims>);

#[derive(Debug)]
struct Claims {
    manifests: LruCache<Sha256Digest, Vec<PeerId>>,
    /// Addresses, since a connection to the model's swarm ends when the manifest has arrived.
    torrents: LruCache<InfoHash, Vec<SocketAddr>>,
}

impl Default for Holders {
    fn default() -> Self {
        let (manifests, torrents) = (LruCache::new(MAX_KEYS), LruCache::new(MAX_KEYS));
        Self(Mutex::new(Claims { manifests, torrents }))
    }
}

fn add<K: Hash + Eq, V: PartialEq>(claims: &mut LruCache<K, Vec<V>>, key: K, holder: V) {
    let holders = claims.get_or_insert_mut(key, Vec::new);
    if !holders.contains(&holder) && holders.len() < MAX_HOLDERS {
        holders.push(holder);
    }
}

fn put_first<K: Hash + Eq, V: PartialEq>(claims: &mut LruCache<K, Vec<V>>, key: K, holder: V) {
    let holders = claims.get_or_insert_mut(key, Vec::new);
    holders.retain(|known| *known != holder);
    holders.insert(0, holder);
    holders.truncate(MAX_HOLDERS);
}

impl Holders {
    /// A peer claims to hold manifests.
    fn claims_to_hold(&self, peer: PeerId, address: SocketAddr, held: &[HeldManifest]) {
        let mut claims = self.0.lock();
        for held in held.iter().take(MAX_HOLDERS) {
            add(&mut claims.manifests, held.manifest, peer);
            add(&mut claims.torrents, held.info_hash, address);
        }
    }

    /// A peer has sent the right manifest of a torrent.
    pub fn has_sent(&self, peer: PeerId, address: SocketAddr, manifest: Sha256Digest, info_hash: InfoHash) {
        let mut claims = self.0.lock();
        put_first(&mut claims.manifests, manifest, peer);
        put_first(&mut claims.torrents, info_hash, address);
    }

    /// The peers that claim to hold a manifest.
    pub fn of_manifest(&self, manifest: &Sha256Digest) -> Vec<PeerId> {
        self.0.lock().manifests.get(manifest).cloned().unwrap_or_default()
    }

    /// The addresses of peers that claim to hold a manifest of a torrent, including some that have left.
    pub fn of_torrent(&self, info_hash: &InfoHash) -> Vec<SocketAddr> {
        self.0.lock().torrents.get(info_hash).cloned().unwrap_or_default()
    }

    fn forget_peer(&self, peer: PeerId) {
        let mut claims = self.0.lock();
        claims.manifests.iter_mut().for_each(|(_, peers)| peers.retain(|known| *known != peer));
    }
}

impl Subscriber for Holders {
    fn on_event(&self, core: &Core, event: &CatalogEvent) {
        match event {
            CatalogEvent::Answered(peer, Some(PeerAnswer::Holds { held, .. })) => {
                if let Some(address) = core.address(*peer) {
                    self.claims_to_hold(*peer, address, held);
                }
            }
            CatalogEvent::PeerLeft(peer) => self.forget_peer(*peer),
            _ => {}
        }
    }
}

/// Asks all peers, also later ones, which of them holds a model, and reports the address of each holder of this torrent.
/// Ends when the catalog stops.
pub(super) async fn look_for(
    core: &Arc<Core>,
    holders: &Holders,
    model: &ModelRef,
    info_hash: &InfoHash,
    found: impl FnMut(SocketAddr) + Send,
) {
    let question = PeerQuestion::Lookup(model.clone());
    let mut search = HolderSearch { holders, info_hash, question, asked: 0, reported: HashSet::new(), found };
    // The end of the catalog is the end of the search.
    let _ = inquiry::run(&mut AskedPeers::new(core), &mut search).await;
}

struct HolderSearch<'a, F> {
    holders: &'a Holders,
    info_hash: &'a InfoHash,
    question: PeerQuestion,
    /// How many peers were asked.
    asked: usize,
    reported: HashSet<SocketAddr>,
    found: F,
}

impl<F: FnMut(SocketAddr)> Inquiry for HolderSearch<'_, F> {
    fn ask(&mut self, peers: &mut AskedPeers, now: Instant) -> Option<Instant> {
        for address in self.holders.of_torrent(self.info_hash) {
            if self.reported.len() < MAX_REPORTED && self.reported.insert(address) {
                (self.found)(address);
            }
        }
        self.asked += peers.ask_new(MAX_ASKED - self.asked, &self.question, ANSWER_WITHIN, |_| true).len();
        (self.reported.len() < MAX_REPORTED).then(|| now + CHECK_EVERY)
    }

    // The claims were noted before, by `Holders` as a subscriber.
    fn on_event(&mut self, _: &mut AskedPeers, _: CatalogEvent) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PublisherKey;

    fn held(n: u8) -> HeldManifest {
        HeldManifest {
            publisher: PublisherKey([n; 32]),
            manifest: Sha256Digest([n; 32]),
            len: 1,
            info_hash: InfoHash([n; 32]),
            complete: true,
        }
    }

    #[test]
    fn peers_that_sent_a_manifest_come_first() {
        let (holders, of) = (Holders::default(), held(1));
        let address = |n: u16| SocketAddr::from(([10, 0, 0, 1], n));
        for n in 0..40 {
            holders.claims_to_hold(PeerId(n.into()), address(n), &[of]);
        }
        assert_eq!(holders.of_torrent(&of.info_hash).len(), MAX_HOLDERS);
        holders.has_sent(PeerId(99), address(99), of.manifest, of.info_hash);
        assert_eq!(holders.of_torrent(&of.info_hash)[0], address(99));
        assert_eq!(holders.of_manifest(&of.manifest)[0], PeerId(99));
        assert_eq!(holders.of_torrent(&of.info_hash).len(), MAX_HOLDERS);
        holders.forget_peer(PeerId(99));
        assert!(!holders.of_manifest(&of.manifest).contains(&PeerId(99)));
        assert_eq!(holders.of_torrent(&of.info_hash)[0], address(99), "it can be called again");
    }

    #[test]
    fn claims_of_one_answer_are_bounded() {
        let holders = Holders::default();
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        holders.claims_to_hold(PeerId(1), address, &(0..100).map(held).collect::<Vec<_>>());
        assert!(holders.of_manifest(&Sha256Digest([99; 32])).is_empty());
    }
}
