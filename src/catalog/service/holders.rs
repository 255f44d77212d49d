//! Who holds a model, as peers say: whom to ask for its manifest, and where its torrent is to be had.
//!
//! That a peer says so is no proof; whoever has handed out the right manifest comes first.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::core::{Core, Heard};
use crate::catalog::gossip::NodeId;
use crate::catalog::gossip::asks::{Answer, Ask};
use crate::catalog::message::HeldManifest;
use crate::model::{InfoHash, ModelRef, Sha256Digest};
use crate::torrent::PeerId;

/// Manifests and torrents of which it is remembered who said to hold them, and how many of these.
const MAX_KEYS: NonZeroUsize = NonZeroUsize::new(512).expect("it is not 0");
const MAX_HOLDERS: usize = 16;

/// How long a peer may take to say what it holds.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How often it is looked whether there is somebody new to ask, though nothing is heard.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Nodes that are asked who holds a model, and holders that are told.
const MAX_ASKED: usize = 100;
const MAX_TOLD: usize = 32;

/// Who holds what, by their own words.
#[derive(Debug)]
pub(super) struct Holders(Mutex<Claims>);

#[derive(Debug)]
struct Claims {
    manifests: LruCache<Sha256Digest, Vec<PeerId>>,
    /// Addresses, since a connection to the model's swarm ends when its manifest has come.
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
    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.0.lock()
    }

    /// A peer says what it holds.
    pub fn claims_to_hold(&self, peer: PeerId, address: SocketAddr, held: &[HeldManifest]) {
        let mut claims = self.claims();
        for held in held.iter().take(MAX_HOLDERS) {
            add(&mut claims.manifests, held.manifest, peer);
            add(&mut claims.torrents, held.info_hash, address);
        }
    }

    /// A peer has handed out the manifest of a torrent.
    pub fn has_handed_out(
        &self,
        peer: PeerId,
        address: SocketAddr,
        manifest: Sha256Digest,
        info_hash: InfoHash,
    ) {
        let mut claims = self.claims();
        put_first(&mut claims.manifests, manifest, peer);
        put_first(&mut claims.torrents, info_hash, address);
    }

    /// Who is said to hold a manifest.
    pub fn of_manifest(&self, manifest: &Sha256Digest) -> Vec<PeerId> {
        self.claims().manifests.get(manifest).cloned().unwrap_or_default()
    }

    /// The addresses of those who are said to hold a manifest of a torrent, also of some with whom we no longer speak.
    pub fn of_torrent(&self, info_hash: &InfoHash) -> Vec<SocketAddr> {
        self.claims().torrents.get(info_hash).cloned().unwrap_or_default()
    }

    /// A peer is gone.
    pub fn left(&self, peer: PeerId) {
        let mut claims = self.claims();
        claims.manifests.iter_mut().for_each(|(_, peers)| peers.retain(|known| *known != peer));
    }
}

/// Asks everybody who can be asked, and those who come later, who holds a model, and tells the address of each who
/// holds it with this torrent. Ends when the catalog stops, or is dropped by who no longer needs it.
pub(super) async fn look_for(
    core: &Arc<Core>,
    model: &ModelRef,
    info_hash: &InfoHash,
    mut found: impl FnMut(SocketAddr) + Send,
) {
    let mut listener = core.listen();
    let mut asked: HashSet<(NodeId, IpAddr)> = HashSet::new();
    let mut told: HashSet<SocketAddr> = HashSet::new();
    while !core.has_stopped() && told.len() < MAX_TOLD {
        for address in core.holders.of_torrent(info_hash) {
            if told.len() < MAX_TOLD && told.insert(address) {
                found(address);
            }
        }
        for speaker in core.speakers() {
            let node = (speaker.node, speaker.connection.address.ip());
            if asked.len() < MAX_ASKED
                && !asked.contains(&node)
                && listener.ask(speaker.peer, Ask::Lookup(model.clone()), ANSWER_WITHIN)
            {
                asked.insert(node);
            }
        }
        // What is answered has been noted among the claims by whoever told it.
        while let Some(heard) = listener.until(Instant::now() + LOOK_EVERY).await {
            if matches!(heard, Heard::Ready | Heard::Answered(_, Answer::Holds { .. })) {
                break;
            }
        }
    }
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
    fn who_has_handed_out_a_manifest_comes_before_those_who_say_they_could() {
        let (holders, of) = (Holders::default(), held(1));
        let address = |n: u16| SocketAddr::from(([10, 0, 0, 1], n));
        for n in 0..40 {
            holders.claims_to_hold(PeerId(n.into()), address(n), &[of]);
        }
        assert_eq!(holders.of_torrent(&of.info_hash).len(), MAX_HOLDERS);
        holders.has_handed_out(PeerId(99), address(99), of.manifest, of.info_hash);
        assert_eq!(holders.of_torrent(&of.info_hash)[0], address(99));
        assert_eq!(holders.of_manifest(&of.manifest)[0], PeerId(99));
        assert_eq!(holders.of_torrent(&of.info_hash).len(), MAX_HOLDERS);
        holders.left(PeerId(99));
        assert!(!holders.of_manifest(&of.manifest).contains(&PeerId(99)));
        assert_eq!(holders.of_torrent(&of.info_hash)[0], address(99), "it can be called again");
    }

    #[test]
    fn a_peer_that_claims_to_hold_all_there_is_is_noted_for_little_of_it() {
        let holders = Holders::default();
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        holders.claims_to_hold(PeerId(1), address, &(0..100).map(held).collect::<Vec<_>>());
        assert!(holders.of_manifest(&Sha256Digest([99; 32])).is_empty());
    }
}
