//! The transfer of one manifest, part by part, from peers of which some are silent, slow or lie.
//!
//! Peers are asked for the first part, a few more every moment until one has it. This peer becomes the source and is
//! asked for the remaining parts, several at a time. The order: peers that claim to hold the manifest, then all other
//! peers that can be asked, then hosts that announced the name in the DHT, then the model's own swarm.
//!
//! Invariants: a silent peer delays the question to the next peers by at most [`STALL`]; a source that sends
//! nothing for [`SOURCE_STALL`], or is slower than [`SLOWEST`], is replaced when another peer has sent the first part; a
//! peer that sent bytes of another manifest is not asked again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::announcers::Announcers;
use super::core::{CatalogEvent, Core};
use super::holders::Holders;
use super::inquiry::{self, AskedPeers, Inquiry};
use super::model_swarms::JoinedSwarm;
use crate::catalog::message::MANIFEST_PART;
use crate::catalog::message::{PeerAnswer, PeerQuestion};
use crate::model::{InfoHash, ModelRef, Sha256Digest};
use crate::torrent::{AddressGroup, PeerId};

/// How long one part may take.
pub const PART_WITHIN: Duration = Duration::from_secs(5);

/// Parts in flight from one peer: 128 KiB.
const IN_FLIGHT: usize = 8;

/// Peers that are asked for the first part in one step, and the time after which further peers are asked if these do not
/// answer.
const FANOUT: usize = 3;
const STALL: Duration = Duration::from_millis(300);

/// Open questions for the first part: 512 KiB if all are answered in the end.
const MAX_OPEN: usize = 32;

/// Open questions to one group of addresses. Hosts may share a group, but one host must not take all questions.
const MAX_OPEN_OF_GROUP: usize = 4;

/// After this time a silent or slow peer may be asked again, when all other peers were asked.
const AGAIN: Duration = Duration::from_secs(4);

/// How long a source may send nothing, and how long it is the only peer that is asked.
const SOURCE_STALL: Duration = Duration::from_secs(2);
const ALONE: Duration = Duration::from_secs(1);

/// A source that sends fewer bytes a second is replaced.
const SLOWEST: f64 = 128.0 * 1024.0;

/// Peers other than the source whose first part is kept.
const MAX_SPARE: usize = 2;

/// How long the connected peers are asked before further ones are searched for.
const WIDEN_AFTER: Duration = Duration::from_millis(500);

/// How often the DHT is asked again.
const LOOK_EVERY: Duration = Duration::from_secs(4);

/// A manifest of at most this many bytes takes no memory permit: nearly all manifests are smaller, and open questions are
/// bounded.
const SMALL: u32 = 128 * 1024;

/// A manifest that is fetched. Candidates with the same key share a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ManifestKey {
    pub digest: Sha256Digest,
    /// Bytes, as the record or the peer claims.
    pub len: u32,
    /// The model's swarm, where peers are searched for.
    pub info_hash: InfoHash,
    /// Whether a record announces the manifest; else a peer only claims to hold it.
    pub announced: bool,
}

/// The state of asking a peer for the first part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// The peer was asked at this time.
    Open(Instant, AddressGroup),
    /// The peer did not answer in time, or stalled as the source; noticed at this time.
    Silent(Instant),
    /// The peer has answered.
    Answered,
}

/// The peer that sends the manifest.
struct PartSource {
    peer: PeerId,
    parts: Vec<Option<Vec<u8>>>,
    /// The next part to ask for.
    next: u32,
    /// Parts asked for and not received.
    in_flight: usize,
    began: Instant,
    /// When a part was received last.
    latest: Instant,
}

impl PartSource {
    /// When the source is replaced, unless it sends a part before.
    fn stalled_at(&self) -> Instant {
        let parts = self.parts.iter().flatten().count() + IN_FLIGHT;
        let in_pace = Duration::from_secs_f64((parts * MANIFEST_PART) as f64 / SLOWEST);
        (self.latest + SOURCE_STALL).min(self.began + SOURCE_STALL + in_pace)
    }
}

pub(super) struct ManifestTransfer {
    core: Arc<Core>,
    holders: Arc<Holders>,
    memory: Arc<Semaphore>,
    key: ManifestKey,
    deadline: Instant,
    probes: HashMap<PeerId, Probe>,
    source: Option<PartSource>,
    /// First parts of peers other than the source.
    spare: Vec<(PeerId, Vec<u8>)>,
    /// The memory for the parts of the source.
    permit: Option<OwnedSemaphorePermit>,
    announcers: Announcers,
    widen_at: Instant,
    swarm: Option<JoinedSwarm>,
    /// The result.
    manifest: Option<Vec<u8>>,
}

impl Inquiry for ManifestTransfer {
    fn ask(&mut self, peers: &mut AskedPeers, now: Instant) -> Option<Instant> {
        self.replace_stalled_source(now);
        self.use_spare(now);
        if self.manifest.is_some() || self.lacks_memory() || now >= self.deadline {
            return None;
        }
        self.ask_source(peers);
        let ask_at = self.probe(peers, now);
        if self.source.is_none() && (now >= self.widen_at || self.has_nothing()) {
            self.widen(now);
        }
        let stalled_at = self.source.as_ref().filter(|_| !self.spare.is_empty()).map(PartSource::stalled_at);
        let widen_at = self.source.is_none().then_some(self.widen_at);
        Some([stalled_at, widen_at, ask_at].into_iter().flatten().fold(self.deadline, Instant::min))
    }

    fn on_event(&mut self, _: &mut AskedPeers, event: CatalogEvent) {
        match event {
            CatalogEvent::Answered(peer, answer) => self.answered(peer, answer),
            event => self.announcers.on_event(&event),
        }
    }
}

impl ManifestTransfer {
    pub fn new(
        core: Arc<Core>,
        holders: Arc<Holders>,
        memory: Arc<Semaphore>,
        model: &ModelRef,
        key: ManifestKey,
        deadline: Instant,
    ) -> Self {
        Self {
            announcers: Announcers::new(&core, &model.name, None),
            core,
            holders,
            memory,
            key,
            deadline,
            probes: HashMap::new(),
            source: None,
            spare: Vec::new(),
            permit: None,
            widen_at: Instant::now() + WIDEN_AFTER,
            swarm: None,
            manifest: None,
        }
    }

    /// Returns the manifest, if it arrives before the deadline.
    pub async fn run(mut self) -> Option<Vec<u8>> {
        let mut peers = AskedPeers::new(&self.core);
        let kib = if self.key.len <= SMALL { 0 } else { self.key.len.div_ceil(1024) };
        while inquiry::run(&mut peers, &mut self).await.is_ok() && self.lacks_memory() {
            // Transfers are served in turn, and hold no memory while they wait.
            let permit = Arc::clone(&self.memory).acquire_many_owned(kib);
            self.permit = Some(tokio::time::timeout_at(self.deadline, permit).await.ok()?.ok()?);
        }
        self.manifest
    }

    /// Whether a peer has sent the first part, and there is no memory for the rest yet.
    fn lacks_memory(&self) -> bool {
        self.permit.is_none() && !self.spare.is_empty()
    }

    /// Whether no peer was found that may answer, and the model's swarm was not joined yet.
    fn has_nothing(&self) -> bool {
        let open = self.probes.values().any(|probe| matches!(probe, Probe::Open(..)));
        self.swarm.is_none() && self.source.is_none() && self.spare.is_empty() && !open
    }

    fn parts(&self) -> usize {
        (self.key.len as usize).div_ceil(MANIFEST_PART)
    }

    fn part_len(&self, part: usize) -> usize {
        (self.key.len as usize - part * MANIFEST_PART).min(MANIFEST_PART)
    }

    fn replace_stalled_source(&mut self, now: Instant) {
        let has_spare = !self.spare.is_empty();
        if let Some(late) = self.source.take_if(|source| has_spare && source.stalled_at() <= now) {
            tracing::debug!(peer = late.peer.0, "a peer stalls with a manifest");
            self.give_up(late.peer);
        }
    }

    /// Gives up a source: other peers are asked first.
    fn give_up(&mut self, peer: PeerId) {
        self.probes.insert(peer, Probe::Silent(Instant::now()));
        self.release_unused_memory();
    }

    fn release_unused_memory(&mut self) {
        if self.spare.is_empty() {
            self.permit = None;
        }
    }

    /// Makes a peer that has sent the first part the source.
    fn use_spare(&mut self, now: Instant) {
        while self.source.is_none() && self.permit.is_some() && self.manifest.is_none() {
            let Some((peer, first)) = self.spare.pop() else { return };
            let mut parts = vec![None; self.parts()];
            parts[0] = Some(first);
            self.source = Some(PartSource { peer, parts, next: 1, in_flight: 0, began: now, latest: now });
            self.complete();
        }
    }

    fn ask_source(&mut self, peers: &mut AskedPeers) {
        let Some(source) = &mut self.source else { return };
        while source.in_flight < IN_FLIGHT && (source.next as usize) < source.parts.len() {
            if !peers.ask(source.peer, PeerQuestion::Part(self.key.digest, source.next), PART_WITHIN) {
                // The peer has left or has too many questions.
                if source.in_flight == 0 {
                    let peer = source.peer;
                    self.source = None;
                    self.give_up(peer);
                }
                return;
            }
            source.next += 1;
            source.in_flight += 1;
        }
    }

    /// Asks the next peers for the first part, unless the source is enough. Returns when to ask further peers.
    fn probe(&mut self, peers: &mut AskedPeers, now: Instant) -> Option<Instant> {
        let wants = self.spare.len() < MAX_SPARE && !self.spare_is_enough();
        let alone_until = self.source.as_ref().map(|source| source.began + ALONE);
        if !wants || alone_until.is_some_and(|until| now < until) {
            return alone_until.filter(|until| wants && now < *until);
        }
        let mut open: HashMap<AddressGroup, usize> = HashMap::new();
        let (mut fresh, mut all, mut next_at) = (0, 0, None);
        for probe in self.probes.values() {
            if let Probe::Open(since, group) = probe {
                *open.entry(*group).or_default() += 1;
                all += 1;
                if now < *since + STALL {
                    fresh += 1;
                    next_at = Some(next_at.map_or(*since + STALL, |at: Instant| at.min(*since + STALL)));
                }
            }
        }
        for (peer, group) in self.next_peers(now) {
            if fresh >= FANOUT || all >= MAX_OPEN {
                return next_at;
            }
            let of_group = open.entry(group).or_default();
            if *of_group >= MAX_OPEN_OF_GROUP && !group.is_loopback() {
                continue;
            }
            // A peer that has too many questions now is asked later.
            if peers.ask(peer, PeerQuestion::Part(self.key.digest, 0), PART_WITHIN) {
                self.probes.insert(peer, Probe::Open(now, group));
                *of_group += 1;
                (fresh, all) = (fresh + 1, all + 1);
                next_at.get_or_insert(now + STALL);
            }
        }
        next_at.or_else(|| self.again_at())
    }

    fn spare_is_enough(&self) -> bool {
        self.source.is_none() && !self.spare.is_empty()
    }

    /// The peers to ask next: those that claim to hold the manifest, other peers, and peers that were silent before.
    fn next_peers(&self, now: Instant) -> Vec<(PeerId, AddressGroup)> {
        let claimants = self.holders.of_manifest(&self.key.digest).into_iter();
        let claimants = claimants.filter_map(|peer| Some((peer, self.core.address(peer)?)));
        let speakers = self.core.speakers().into_iter();
        let speakers = speakers.map(|speaker| (speaker.peer, speaker.connection.address));
        let mut seen = HashSet::new();
        let (mut next, mut again) = (Vec::new(), Vec::new());
        for (peer, address) in claimants.chain(speakers).filter(|(peer, _)| seen.insert(*peer)) {
            let group = AddressGroup::of(address.ip());
            match self.probes.get(&peer) {
                None => next.push((peer, group)),
                Some(Probe::Silent(since)) if now >= *since + AGAIN => again.push((*since, peer, group)),
                Some(_) => {}
            }
        }
        again.sort_unstable();
        next.extend(again.into_iter().map(|(_, peer, group)| (peer, group)));
        next
    }

    /// When the next silent peer may be asked again.
    fn again_at(&self) -> Option<Instant> {
        let silent = self.probes.values().filter_map(|probe| match probe {
            Probe::Silent(since) => Some(*since + AGAIN),
            _ => None,
        });
        silent.filter(|at| *at > Instant::now()).min()
    }

    fn answered(&mut self, peer: PeerId, answer: Option<PeerAnswer>) {
        let of_source = self.source.as_ref().is_some_and(|source| source.peer == peer);
        let (part, bytes) = match answer {
            Some(PeerAnswer::Part { manifest, part, bytes }) if manifest == self.key.digest => {
                (part as usize, bytes)
            }
            answer => {
                let silent = answer.is_none();
                if of_source {
                    self.source = None;
                    self.give_up(peer);
                } else if matches!(self.probes.get(&peer), Some(Probe::Open(..))) {
                    let seen = if silent { Probe::Silent(Instant::now()) } else { Probe::Answered };
                    self.probes.insert(peer, seen);
                }
                return;
            }
        };
        let fits = part < self.parts() && bytes.len() == self.part_len(part);
        if let Some(source) = self.source.as_mut().filter(|_| of_source) {
            if fits {
                source.in_flight = source.in_flight.saturating_sub(1);
                source.latest = Instant::now();
                source.parts[part] = Some(bytes);
                self.complete();
            } else {
                self.source = None;
                self.give_up(peer);
                self.probes.insert(peer, Probe::Answered);
            }
        } else if matches!(self.probes.get(&peer), Some(Probe::Open(..))) {
            self.probes.insert(peer, Probe::Answered);
            if fits && part == 0 && self.spare.len() < MAX_SPARE {
                self.spare.push((peer, bytes));
            }
        }
    }

    /// Checks the manifest if all parts have arrived.
    fn complete(&mut self) {
        let all_parts = |source: &mut PartSource| source.parts.iter().all(Option::is_some);
        let Some(source) = self.source.take_if(all_parts) else { return };
        let json: Vec<u8> = source.parts.into_iter().flatten().flatten().collect();
        let ManifestKey { digest, len, info_hash, .. } = self.key;
        if Sha256::digest(&json)[..] == digest.0 {
            if let Some(address) = self.core.address(source.peer) {
                self.holders.has_sent(source.peer, address, digest, info_hash);
            }
            self.manifest = Some(json);
            return;
        }
        self.release_unused_memory();
        // A false record may claim a shorter length. If that is a multiple of the part length, an honest peer of the
        // longer manifest cannot be distinguished from a liar.
        if (len as usize).is_multiple_of(MANIFEST_PART) {
            tracing::debug!(peer = source.peer.0, "a manifest does not match its digest");
        } else {
            self.core.accuse(source.peer, "its manifest is not the one asked for");
        }
    }

    /// Searches for further peers: hosts that announced the name, and the model's own swarm.
    fn widen(&mut self, now: Instant) {
        self.widen_at = now + LOOK_EVERY;
        self.announcers.look_up();
        self.swarm.get_or_insert_with(|| JoinedSwarm::join(&self.core, self.key.info_hash));
    }
}
