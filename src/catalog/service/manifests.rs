//! Fetching a manifest from whoever hands it out.
//!
//! A few peers at once are asked for the first part; the first who has it is asked for the rest, several parts at a
//! time. When it stalls, or what it sent is not the manifest, another takes over from the beginning. Asked are those
//! who said to hold it, then everybody else who can be asked, then those who announced the name in the DHT, then the
//! model's own swarm.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::core::{Core, Heard, Listener};
use super::flights::{End, Flights, Report};
use super::names::topic_of;
use super::{Candidate, CatalogError};
use crate::catalog::gossip::asks::{Answer, Ask};
use crate::catalog::message::MANIFEST_PART;
use crate::model::codec::MAX_MANIFEST;
use crate::model::{InfoHash, ModelRef, Sha256Digest};
use crate::torrent::{Meeting, PeerId, TorrentId};

/// How long one part may take.
pub const PART_WITHIN: Duration = Duration::from_secs(5);

/// Parts in flight from one peer: 128 KiB.
const IN_FLIGHT: usize = 8;

/// Peers that are asked for the first part at once.
const FANOUT: usize = 3;

/// How long the peers we have are asked before others are looked for.
const WIDEN_AFTER: Duration = Duration::from_millis(500);

/// How often the DHT is asked again.
const LOOK_EVERY: Duration = Duration::from_secs(4);

/// Peers called because they announced the name.
const MAX_CALLED: usize = 24;

/// Memory of all manifests being fetched, in KiB: twice the largest.
const MEMORY: usize = 2 * MAX_MANIFEST / 1024;

/// Which manifest: by its digest, its length as it is said, and the swarm it is looked for in.
type Key = (Sha256Digest, u32, InfoHash);

/// The manifests being fetched.
pub(super) struct Transfers {
    running: Flights<Key, Option<Arc<Vec<u8>>>>,
    memory: Arc<Semaphore>,
    /// Models' swarms that are met, and for how many transfers.
    meetings: Mutex<HashMap<InfoHash, (TorrentId, usize)>>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            running: Flights::default(),
            memory: Arc::new(Semaphore::new(MEMORY)),
            meetings: Mutex::default(),
        }
    }
}

/// The manifest of a candidate; its digest is checked.
pub(super) async fn fetch(
    core: &Arc<Core>,
    model: &ModelRef,
    candidate: &Candidate,
    within: Duration,
) -> Result<Vec<u8>, CatalogError> {
    if let Some(held) = core.known.holdings.by_manifest(&candidate.manifest) {
        return Ok(held.manifest.to_vec());
    }
    let deadline = Instant::now() + within;
    let none = || CatalogError::NoManifest { model: model.clone() };
    if !(1..=MAX_MANIFEST).contains(&(candidate.manifest_len as usize)) {
        return Err(none());
    }
    let key = (candidate.manifest, candidate.manifest_len, candidate.info_hash);
    let begin = |report: Arc<Report<_>>| {
        let (core, model) = (Arc::clone(core), model.clone());
        async move { transfer(&core, &model, key, deadline, &report).await }
    };
    let running = &core.transfers.running;
    let found = running.wait(&key, deadline, &core.stopped, Option::is_none, begin).await?;
    found.map(Arc::unwrap_or_clone).ok_or_else(none)
}

async fn transfer(
    core: &Arc<Core>,
    model: &ModelRef,
    key: Key,
    deadline: Instant,
    report: &Report<Option<Arc<Vec<u8>>>>,
) {
    let memory = Arc::clone(&core.transfers.memory);
    let room = memory.acquire_many_owned(key.1.div_ceil(1024));
    let found = match tokio::time::timeout_at(deadline, room).await {
        Ok(Ok(_room)) => Transfer::new(core, model, key).run(deadline).await,
        _ => None,
    };
    let end = if found.is_none() { End::Time } else { End::Certain };
    report.send_modify(|p| (p.found, p.over) = (found.map(Arc::new), Some(end)));
}

/// One peer that has the first part.
struct Source {
    peer: PeerId,
    parts: Vec<Option<Vec<u8>>>,
    /// The next part to ask for, and how many are asked for and have not come.
    next: u32,
    in_flight: usize,
}

struct Transfer<'a> {
    core: &'a Arc<Core>,
    model: &'a ModelRef,
    digest: Sha256Digest,
    len: usize,
    info_hash: InfoHash,
    listener: Listener,
    /// Who has been asked, and of whom the first part is awaited.
    tried: HashSet<PeerId>,
    probed: HashSet<PeerId>,
    /// Of those tried, who has said nothing: they may be busy, and are asked again.
    silent: HashSet<PeerId>,
    source: Option<Source>,
    /// Others who have sent the first part.
    spare: Vec<(PeerId, Vec<u8>)>,
    called: HashSet<SocketAddr>,
    widen_at: Instant,
    met: Option<Met>,
}

impl<'a> Transfer<'a> {
    fn new(core: &'a Arc<Core>, model: &'a ModelRef, (digest, len, info_hash): Key) -> Self {
        Self {
            core,
            model,
            digest,
            len: len as usize,
            info_hash,
            listener: core.listen(),
            tried: HashSet::new(),
            probed: HashSet::new(),
            silent: HashSet::new(),
            source: None,
            spare: Vec::new(),
            called: HashSet::new(),
            widen_at: Instant::now() + WIDEN_AFTER,
            met: None,
        }
    }

    async fn run(mut self, deadline: Instant) -> Option<Vec<u8>> {
        loop {
            self.ask_next();
            if self.nothing_at_hand() {
                self.widen_at = self.widen_at.min(Instant::now());
            }
            let wake = if self.source.is_none() { self.widen_at.min(deadline) } else { deadline };
            match self.listener.until(wake).await {
                Some(Heard::Answered(peer, answer)) => {
                    if let Some(manifest) = self.answered(peer, answer) {
                        return Some(manifest);
                    }
                }
                Some(Heard::DhtPeers(topic, peers)) if topic == topic_of(&self.model.name) => {
                    self.call(&peers)
                }
                Some(_) => {}
                None if Instant::now() >= deadline => return None,
                None => self.widen(),
            }
        }
    }

    fn nothing_at_hand(&self) -> bool {
        self.met.is_none() && self.source.is_none() && self.probed.is_empty()
    }

    fn parts(&self) -> usize {
        self.len.div_ceil(MANIFEST_PART)
    }

    fn part_len(&self, part: usize) -> usize {
        (self.len - part * MANIFEST_PART).min(MANIFEST_PART)
    }

    /// Asks for what is to be asked for next.
    fn ask_next(&mut self) {
        if self.source.is_none()
            && let Some((peer, first)) = self.spare.pop()
        {
            self.begin(peer, first);
        }
        if let Some(source) = &mut self.source {
            while source.in_flight < IN_FLIGHT && (source.next as usize) < source.parts.len() {
                if !self.listener.ask(source.peer, Ask::Part(self.digest, source.next), PART_WITHIN) {
                    // It is gone or has too many questions.
                    if source.in_flight == 0 {
                        self.source = None;
                    }
                    return;
                }
                source.next += 1;
                source.in_flight += 1;
            }
            return;
        }
        let claimants = self.core.holders.of_manifest(&self.digest);
        let others = self.core.speakers().into_iter().map(|speaker| speaker.peer);
        for peer in claimants.into_iter().chain(others) {
            if self.probed.len() >= FANOUT {
                return;
            }
            // One that has too many questions now is asked later.
            if !self.tried.contains(&peer) && self.listener.ask(peer, Ask::Part(self.digest, 0), PART_WITHIN)
            {
                self.tried.insert(peer);
                self.probed.insert(peer);
            }
        }
    }

    fn begin(&mut self, peer: PeerId, first: Vec<u8>) {
        let mut parts = vec![None; self.parts()];
        parts[0] = Some(first);
        self.source = Some(Source { peer, parts, next: 1, in_flight: 0 });
    }

    /// A peer has answered. Gives the manifest when it is whole.
    fn answered(&mut self, peer: PeerId, answer: Answer) -> Option<Vec<u8>> {
        let of_source = self.source.as_ref().is_some_and(|source| source.peer == peer);
        let (part, bytes) = match answer {
            Answer::Part { manifest, part, bytes } if manifest == self.digest => (part as usize, bytes),
            other => {
                // One that stalls in the middle is not asked again.
                if self.probed.remove(&peer) && other == Answer::Silence {
                    self.silent.insert(peer);
                }
                if of_source {
                    tracing::debug!(peer = peer.0, "a peer stalls with a manifest");
                    self.source = None;
                }
                return None;
            }
        };
        let fits = part < self.parts() && bytes.len() == self.part_len(part);
        if self.probed.remove(&peer) {
            if fits && part == 0 {
                if self.source.is_none() {
                    self.begin(peer, bytes);
                    return self.whole();
                }
                self.spare.push((peer, bytes));
            }
            return None;
        }
        let source = self.source.as_mut().filter(|source| source.peer == peer)?;
        if !fits {
            self.source = None;
            return None;
        }
        source.in_flight -= 1;
        source.parts[part] = Some(bytes);
        self.whole()
    }

    /// The manifest, if all parts are there and are it.
    fn whole(&mut self) -> Option<Vec<u8>> {
        let source = self.source.take_if(|source| source.parts.iter().all(Option::is_some))?;
        let json: Vec<u8> = source.parts.into_iter().flatten().flatten().collect();
        if Sha256::digest(&json)[..] == self.digest.0 {
            self.core.holders.has_handed_out(source.peer, self.digest, self.info_hash);
            return Some(json);
        }
        // An honest peer's manifest may be longer than a false record says, if that ends with a part: no liar then.
        if self.len.is_multiple_of(MANIFEST_PART) {
            tracing::debug!(peer = source.peer.0, "a manifest is not what its digest says");
        } else {
            self.core.accuse(source.peer, "its manifest is not the one asked for");
        }
        None
    }

    /// Looks for others who may have it.
    fn widen(&mut self) {
        self.widen_at = Instant::now() + LOOK_EVERY;
        for peer in self.silent.drain() {
            self.tried.remove(&peer);
        }
        if self.core.settings.dht
            && let Err(error) = self.core.overlay.find(topic_of(&self.model.name))
        {
            tracing::debug!(%error, "the DHT is not asked");
        }
        if self.met.is_none() {
            self.met = Some(Met::new(self.core, self.info_hash));
        }
    }

    fn call(&mut self, peers: &[SocketAddr]) {
        let Some(swarm) = self.core.swarm() else { return };
        for peer in peers {
            if self.called.len() < MAX_CALLED
                && self.called.insert(*peer)
                && let Err(error) = self.core.overlay.call(swarm, *peer)
            {
                tracing::debug!(%peer, %error, "who announced a name is not called");
            }
        }
    }
}

/// A meeting in a model's swarm; left when the last who needs it is gone. None where the torrent is in the engine:
/// its peers speak already.
struct Met {
    core: Arc<Core>,
    info_hash: InfoHash,
    joined: bool,
}

impl Met {
    fn new(core: &Arc<Core>, info_hash: InfoHash) -> Self {
        let mut meetings = meetings(core);
        let joined = match meetings.get_mut(&info_hash) {
            Some((_, users)) => {
                *users += 1;
                true
            }
            None => match core.overlay.meet(Meeting::Model(info_hash), &core.settings.peers) {
                Ok(id) => {
                    meetings.insert(info_hash, (id, 1));
                    true
                }
                Err(error) => {
                    tracing::debug!(%info_hash, %error, "the model's swarm is not met");
                    false
                }
            },
        };
        drop(meetings);
        Self { core: Arc::clone(core), info_hash, joined }
    }
}

fn meetings(core: &Core) -> MutexGuard<'_, HashMap<InfoHash, (TorrentId, usize)>> {
    core.transfers.meetings.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Met {
    fn drop(&mut self) {
        let mut meetings = meetings(&self.core);
        let Some((id, users)) = meetings.get_mut(&self.info_hash).filter(|_| self.joined) else { return };
        *users -= 1;
        if *users == 0 {
            if let Err(error) = self.core.overlay.leave(*id) {
                tracing::debug!(%error, "a model's swarm is not left");
            }
            meetings.remove(&self.info_hash);
        }
    }
}
