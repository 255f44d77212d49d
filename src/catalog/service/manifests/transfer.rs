//! One manifest, part by part, among peers of which some keep silent, stall or lie.
//!
//! Peers are asked for the first part, a few more every moment until somebody has it; that one is asked for the rest,
//! several parts at a time. Asked are those who said to hold it, then everybody else who can be asked, then those who
//! announced the name in the DHT, then the model's own swarm.
//!
//! What always holds: nobody's silence keeps others from being asked for longer than [`STALL`]; a source that sends
//! nothing for [`SOURCE_STALL`], or is slower than [`SLOWEST`], makes way as soon as another has sent the first part;
//! who sent what the manifest is not is not asked again.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::super::core::{Core, Heard, Listener};
use super::super::names::topic_of;
use super::{Key, Met};
use crate::catalog::gossip::asks::{Answer, Ask};
use crate::catalog::message::MANIFEST_PART;
use crate::model::ModelRef;
use crate::torrent::{AddressGroup, PeerId};

/// How long one part may take.
pub const PART_WITHIN: Duration = Duration::from_secs(5);

/// Parts in flight from one peer: 128 KiB.
const IN_FLIGHT: usize = 8;

/// Peers that are asked for the first part at once, and how soon others are asked although these have not answered.
const FANOUT: usize = 3;
const STALL: Duration = Duration::from_millis(300);

/// Questions for the first part that are open at once: 512 KiB if all answer after all.
const MAX_OPEN: usize = 32;

/// Those of one group of addresses: hosts may share one, but one host is not to take all places.
const MAX_OPEN_OF_GROUP: usize = 4;

/// When one that kept silent, or was too slow, may be asked again, once all others were asked.
const AGAIN: Duration = Duration::from_secs(4);

/// How long a source may send nothing, and how long it is the only one that is asked.
const SOURCE_STALL: Duration = Duration::from_secs(2);
const ALONE: Duration = Duration::from_secs(1);

/// Bytes a second below which a source makes way for others.
const SLOWEST: f64 = 128.0 * 1024.0;

/// Others than the source whose first part is kept.
const MAX_SPARE: usize = 2;

/// How long the peers we have are asked before others are looked for.
const WIDEN_AFTER: Duration = Duration::from_millis(500);

/// How often the DHT is asked again.
const LOOK_EVERY: Duration = Duration::from_secs(4);

/// Peers called because they announced the name.
const MAX_CALLED: usize = 24;

/// How far it is with asking a peer for the first part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// It was asked, then.
    Open(Instant, AddressGroup),
    /// It did not answer in time, or stalled as the source; so it was seen then.
    Silent(Instant),
    /// It has answered.
    Answered,
}

/// One peer that has the first part.
struct Source {
    peer: PeerId,
    parts: Vec<Option<Vec<u8>>>,
    /// The next part to ask for, and how many are asked for and have not come.
    next: u32,
    in_flight: usize,
    began: Instant,
    /// When a part came last.
    latest: Instant,
}

impl Source {
    /// When it makes way, unless something comes.
    fn makes_way_at(&self) -> Instant {
        let parts = self.parts.iter().flatten().count() + IN_FLIGHT;
        let in_pace = Duration::from_secs_f64((parts * MANIFEST_PART) as f64 / SLOWEST);
        (self.latest + SOURCE_STALL).min(self.began + SOURCE_STALL + in_pace)
    }
}

pub(super) struct Transfer<'a> {
    core: &'a Arc<Core>,
    model: &'a ModelRef,
    key: Key,
    listener: Listener,
    probes: HashMap<PeerId, Probe>,
    source: Option<Source>,
    /// Others who have sent the first part.
    spare: Vec<(PeerId, Vec<u8>)>,
    /// The memory for what the source sends.
    room: Option<OwnedSemaphorePermit>,
    called: HashSet<SocketAddr>,
    widen_at: Instant,
    met: Option<Met>,
}

impl<'a> Transfer<'a> {
    pub fn new(core: &'a Arc<Core>, model: &'a ModelRef, key: Key) -> Self {
        Self {
            core,
            model,
            key,
            listener: core.listen(),
            probes: HashMap::new(),
            source: None,
            spare: Vec::new(),
            room: None,
            called: HashSet::new(),
            widen_at: Instant::now() + WIDEN_AFTER,
            met: None,
        }
    }

    /// The manifest, if it comes before the deadline.
    pub async fn run(mut self, deadline: Instant) -> Option<Vec<u8>> {
        loop {
            if let Some(manifest) = self.use_spare() {
                return Some(manifest);
            }
            self.ask_source();
            let ask_at = self.probe();
            if self.nothing_at_hand() {
                self.widen_at = self.widen_at.min(Instant::now());
            }
            let way = self.source.as_ref().filter(|_| !self.spare.is_empty()).map(Source::makes_way_at);
            let widen = self.source.is_none().then_some(self.widen_at);
            let wake = [way, widen, ask_at].into_iter().flatten().fold(deadline, Instant::min);
            let wants_room = self.room.is_none() && !self.spare.is_empty();
            let transfers = &self.core.transfers;
            let heard = tokio::select! {
                heard = self.listener.until(wake) => heard,
                room = transfers.room(&self.key), if wants_room => {
                    self.room = room;
                    continue;
                }
            };
            match heard {
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
                None => self.time_has_passed(),
            }
        }
    }

    fn nothing_at_hand(&self) -> bool {
        let open = self.probes.values().any(|probe| matches!(probe, Probe::Open(..)));
        self.met.is_none() && self.source.is_none() && self.spare.is_empty() && !open
    }

    fn parts(&self) -> usize {
        (self.key.1 as usize).div_ceil(MANIFEST_PART)
    }

    fn part_len(&self, part: usize) -> usize {
        (self.key.1 as usize - part * MANIFEST_PART).min(MANIFEST_PART)
    }

    fn time_has_passed(&mut self) {
        let now = Instant::now();
        let others = !self.spare.is_empty();
        if let Some(late) = self.source.take_if(|source| others && source.makes_way_at() <= now) {
            tracing::debug!(peer = late.peer.0, "a peer stalls with a manifest");
            self.give_up(late.peer);
        }
        if self.source.is_none() && now >= self.widen_at {
            self.widen();
        }
    }

    /// A source is given up: others come first.
    fn give_up(&mut self, peer: PeerId) {
        self.probes.insert(peer, Probe::Silent(Instant::now()));
        if self.spare.is_empty() {
            self.room = None;
        }
    }

    /// Makes the next source of one who has sent the first part. Gives the manifest if that was all of it.
    fn use_spare(&mut self) -> Option<Vec<u8>> {
        while self.source.is_none() && self.room.is_some() {
            let (peer, first) = self.spare.pop()?;
            let (mut parts, now) = (vec![None; self.parts()], Instant::now());
            parts[0] = Some(first);
            self.source = Some(Source { peer, parts, next: 1, in_flight: 0, began: now, latest: now });
            if let Some(manifest) = self.whole() {
                return Some(manifest);
            }
        }
        None
    }

    fn ask_source(&mut self) {
        let Some(source) = &mut self.source else { return };
        while source.in_flight < IN_FLIGHT && (source.next as usize) < source.parts.len() {
            if !self.listener.ask(source.peer, Ask::Part(self.key.0, source.next), PART_WITHIN) {
                // It is gone or has too many questions.
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

    /// Asks the next peers for the first part, while there is no source that does without. Tells when it goes on
    /// although nobody says anything.
    fn probe(&mut self) -> Option<Instant> {
        let now = Instant::now();
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
            // One that has too many questions now is asked later.
            if self.listener.ask(peer, Ask::Part(self.key.0, 0), PART_WITHIN) {
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

    /// Whom to ask next, in this order: who says to hold it, others, and who was silent when asked before.
    fn next_peers(&self, now: Instant) -> Vec<(PeerId, AddressGroup)> {
        let claimants = self.core.holders.of_manifest(&self.key.0).into_iter();
        let claimants = claimants.filter_map(|peer| Some((peer, self.core.address(peer)?)));
        let others = self.core.speakers().into_iter();
        let others = others.map(|speaker| (speaker.peer, speaker.connection.address));
        let mut seen = HashSet::new();
        let (mut next, mut again) = (Vec::new(), Vec::new());
        for (peer, address) in claimants.chain(others).filter(|(peer, _)| seen.insert(*peer)) {
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

    /// When one who was silent may be asked again.
    fn again_at(&self) -> Option<Instant> {
        let silent = self.probes.values().filter_map(|probe| match probe {
            Probe::Silent(since) => Some(*since + AGAIN),
            _ => None,
        });
        silent.filter(|at| *at > Instant::now()).min()
    }

    /// A peer has answered. Gives the manifest when it is whole.
    fn answered(&mut self, peer: PeerId, answer: Answer) -> Option<Vec<u8>> {
        let of_source = self.source.as_ref().is_some_and(|source| source.peer == peer);
        let (part, bytes) = match answer {
            Answer::Part { manifest, part, bytes } if manifest == self.key.0 => (part as usize, bytes),
            answer => {
                let silent = answer == Answer::Silence;
                if of_source {
                    self.source = None;
                    self.give_up(peer);
                } else if matches!(self.probes.get(&peer), Some(Probe::Open(..))) {
                    let seen = if silent { Probe::Silent(Instant::now()) } else { Probe::Answered };
                    self.probes.insert(peer, seen);
                }
                return None;
            }
        };
        let fits = part < self.parts() && bytes.len() == self.part_len(part);
        if let Some(source) = self.source.as_mut().filter(|_| of_source) {
            if !fits {
                self.source = None;
                self.give_up(peer);
                self.probes.insert(peer, Probe::Answered);
                return None;
            }
            source.in_flight = source.in_flight.saturating_sub(1);
            source.latest = Instant::now();
            source.parts[part] = Some(bytes);
            return self.whole();
        }
        if matches!(self.probes.get(&peer), Some(Probe::Open(..))) {
            self.probes.insert(peer, Probe::Answered);
            if fits && part == 0 && self.spare.len() < MAX_SPARE {
                self.spare.push((peer, bytes));
            }
        }
        None
    }

    /// The manifest, if all parts are there and are it.
    fn whole(&mut self) -> Option<Vec<u8>> {
        let source = self.source.take_if(|source| source.parts.iter().all(Option::is_some))?;
        let json: Vec<u8> = source.parts.into_iter().flatten().flatten().collect();
        let (digest, len, info_hash, _) = self.key;
        if Sha256::digest(&json)[..] == digest.0 {
            if let Some(address) = self.core.address(source.peer) {
                self.core.holders.has_handed_out(source.peer, address, digest, info_hash);
            }
            return Some(json);
        }
        if self.spare.is_empty() {
            self.room = None;
        }
        // An honest peer's manifest may be longer than a false record says, if that ends with a part: no liar then.
        if (len as usize).is_multiple_of(MANIFEST_PART) {
            tracing::debug!(peer = source.peer.0, "a manifest is not what its digest says");
        } else {
            self.core.accuse(source.peer, "its manifest is not the one asked for");
        }
        None
    }

    /// Looks for others who may have it.
    fn widen(&mut self) {
        self.widen_at = Instant::now() + LOOK_EVERY;
        if self.core.settings.dht
            && let Err(error) = self.core.overlay.find(topic_of(&self.model.name))
        {
            tracing::debug!(%error, "the DHT is not asked");
        }
        if self.met.is_none() {
            self.met = Some(Met::new(self.core, self.key.2));
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
