//! Meetings and the messages of peers: [`Overlay`] for [`Session`].
//!
//! Invariants: for each peer, [`OverlayEvent::Speaks`] comes first, then its messages, then exactly one
//! [`OverlayEvent::Left`], before its torrent is reported as removed. The bytes of messages that are not processed are
//! bounded per peer and in total; a peer that exceeds a bound is disconnected. [`Talk`] is behind a lock of its own, shared
//! by the pump and the threads that make requests, and never held while calling into the engine.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::overlay::{MAX_MESSAGE, MAX_UNREAD, MAX_UNREAD_OF_ALL, MessageBytes};
use super::quiet::{Quiet, topic_of};
use super::session::{Session, SessionShared, TorrentRecord, internal, raw_endpoint};
use super::{
    AddressGroup, DhtItem, EngineError, Event, Meeting, Overlay, OverlayEvent, PeerId, Swarms, Topic,
    TorrentId, dht,
};
use crate::ffi::{RawMeeting, RawRange};
use crate::http::metadata_ranges;
use crate::model::PublisherKey;

/// How long messages on new connections of an address group are ignored after an offence. Short: several nodes may share one
/// address, behind a NAT. Connections that exist are not affected, nor is data.
const MUTE: Duration = Duration::from_secs(60);

/// The most address groups that are muted at a time. Beyond it, the oldest group is no longer muted.
const MAX_MUTED: usize = 4096;

/// Messages of a muted peer after which it is disconnected. An honest node sends one, and waits for the answer.
const MAX_IGNORED: u32 = 64;

/// Bytes that each message counts in addition to its length, for its memory.
const OVERHEAD: usize = 256;

/// Unread bytes that a peer may have while the total exceeds its bound: a few short messages, or one long one.
const MODEST: usize = 2 * MAX_MESSAGE;

/// How often a meeting without peers searches for some. On the LAN, a host does not learn of hosts that start later.
const SEARCH_INTERVAL: Duration = Duration::from_secs(10);

/// The searches of a meeting that has no peers.
pub(super) struct MeetingSearch {
    due: Instant,
    attempts: u32,
}

impl MeetingSearch {
    pub fn new() -> Self {
        Self { due: Instant::now() + SEARCH_INTERVAL, attempts: 0 }
    }
}

struct SpeakingPeer {
    torrent: TorrentId,
    group: AddressGroup,
    unread: Arc<AtomicUsize>,
    /// For a muted peer, of which no event is reported: its messages so far.
    ignored: Option<u32>,
}

impl SpeakingPeer {
    fn new(torrent: TorrentId, group: AddressGroup, muted: bool) -> Self {
        Self { torrent, group, unread: Arc::default(), ignored: muted.then_some(0) }
    }
}

/// The reason why a message disconnects its sender.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// Too many of its bytes are unread.
    TooFast,
    /// It is muted and continues to send.
    Muted,
}

/// The peers that speak the extension, and the muted address groups.
#[derive(Default)]
pub(super) struct Talk {
    speaking: HashMap<PeerId, SpeakingPeer>,
    unread: Arc<AtomicUsize>,
    /// Until when each group is muted.
    muted: HashMap<AddressGroup, Instant>,
}

impl Talk {
    /// Counts a message of a peer. `None` if the peer does not speak or is muted, an error if too many of its bytes are unread
    /// or too many of its messages were ignored.
    fn receive(&mut self, peer: PeerId, bytes: Vec<u8>) -> Result<Option<MessageBytes>, Refusal> {
        let Some(speaking) = self.speaking.get_mut(&peer) else { return Ok(None) };
        if let Some(ignored) = &mut speaking.ignored {
            *ignored += 1;
            return if *ignored > MAX_IGNORED { Err(Refusal::Muted) } else { Ok(None) };
        }
        let of_peer = speaking.unread.load(Ordering::Relaxed) + bytes.len() + OVERHEAD;
        let of_all = self.unread.load(Ordering::Relaxed) + bytes.len() + OVERHEAD;
        if of_peer > MAX_UNREAD || (of_all > MAX_UNREAD_OF_ALL && of_peer > MODEST) {
            return Err(Refusal::TooFast);
        }
        let counts = [speaking.unread.clone(), self.unread.clone()];
        Ok(Some(MessageBytes::counted(bytes, OVERHEAD, counts)))
    }

    /// Mutes the address group of a peer that speaks, unless it is loopback.
    fn mute(&mut self, peer: PeerId, now: Instant) {
        let Some(group) = self.speaking.get(&peer).map(|speaking| speaking.group) else { return };
        if group.is_loopback() {
            return;
        }
        if self.muted.len() >= MAX_MUTED {
            self.muted.retain(|_, until| *until > now);
        }
        if self.muted.len() >= MAX_MUTED
            && let Some(oldest) = self.muted.iter().min_by_key(|(_, until)| **until).map(|(group, _)| *group)
        {
            self.muted.remove(&oldest);
        }
        self.muted.insert(group, now + MUTE);
    }

    fn is_muted(&self, group: AddressGroup, now: Instant) -> bool {
        self.muted.get(&group).is_some_and(|until| *until > now)
    }
}

/// The addresses to which no connection is made: metadata services of clouds.
pub(super) fn blocked_addresses() -> Vec<RawRange> {
    let ranges = metadata_ranges().into_iter();
    ranges.map(|(first, last)| RawRange { first: first.to_string(), last: last.to_string() }).collect()
}

impl SessionShared {
    /// A peer has finished its handshakes. `None` if its messages are ignored: a connection for messages alone is closed, and
    /// one of a model's torrent continues to carry data.
    pub(super) fn peer_speaks(
        &self,
        torrent: TorrentId,
        peer: PeerId,
        address: SocketAddr,
        outgoing: bool,
    ) -> Option<Event> {
        let ip = address.ip().to_canonical();
        let group = AddressGroup::of(ip);
        let muted = {
            let mut talk = self.talk.lock();
            let muted = talk.is_muted(group, Instant::now());
            talk.speaking.insert(peer, SpeakingPeer::new(torrent, group, muted));
            muted
        };
        if muted {
            let is_meeting =
                self.torrents.lock().get(&torrent).is_some_and(|record| record.meeting.is_some());
            tracing::debug!(peer = peer.0, %address, is_meeting, "ignoring a peer of a muted address");
            if is_meeting && let Err(error) = self.engine.disconnect(peer.0, false) {
                tracing::debug!(%error, "could not disconnect a peer");
            }
            return None;
        }
        let address = SocketAddr::new(ip, address.port());
        Some(Event::Overlay(OverlayEvent::Speaks { torrent, peer, address, outgoing }))
    }

    /// A peer sent a message.
    pub(super) fn message_came(&self, peer: PeerId, bytes: Vec<u8>) -> Option<Event> {
        let received = self.talk.lock().receive(peer, bytes);
        match received {
            Ok(message) => Some(Event::Overlay(OverlayEvent::Received(peer, message?))),
            Err(refusal) => {
                tracing::debug!(peer = peer.0, ?refusal, "disconnecting a peer that sends too many messages");
                if refusal == Refusal::Muted {
                    self.talk.lock().mute(peer, Instant::now());
                }
                if let Err(error) = self.engine.disconnect(peer.0, refusal == Refusal::Muted) {
                    tracing::debug!(%error, "could not disconnect a peer");
                }
                // Later messages of the peer are ignored, because this one is missing.
                self.peer_left(peer)
            }
        }
    }

    /// A peer has disconnected.
    pub(super) fn peer_left(&self, peer: PeerId) -> Option<Event> {
        let gone = self.talk.lock().speaking.remove(&peer)?;
        gone.ignored.is_none().then_some(Event::Overlay(OverlayEvent::Left(peer)))
    }

    /// All peers of a torrent, or of all torrents, have left.
    pub(super) fn all_left(&self, torrent: Option<TorrentId>) -> Vec<Event> {
        let gone = |speaking: &SpeakingPeer| torrent.is_none_or(|torrent| speaking.torrent == torrent);
        let mut talk = self.talk.lock();
        let gone = talk.speaking.extract_if(|_, speaking| gone(speaking));
        let mut gone: Vec<PeerId> =
            gone.filter(|(_, speaking)| speaking.ignored.is_none()).map(|(peer, _)| peer).collect();
        drop(talk);
        gone.sort_unstable();
        gone.into_iter().map(|peer| Event::Overlay(OverlayEvent::Left(peer))).collect()
    }

    /// Searches for peers of meetings that have none. Must be called about once a second.
    pub(super) fn search_for_meetings(&self, now: Instant) {
        let mut due = Vec::new();
        for (id, record) in self.torrents.lock().iter_mut() {
            let Some(search) = &mut record.meeting else { continue };
            if record.connected > 0 {
                *search = MeetingSearch::new();
            } else if search.due <= now {
                search.due = now + SEARCH_INTERVAL;
                search.attempts = search.attempts.saturating_add(1);
                // The LAN is asked each time, by one packet; the DHT, by a hundred packets, with growing pauses.
                due.push((*id, search.attempts.is_power_of_two(), record.peers.clone()));
            }
        }
        for (id, dht, peers) in due {
            self.search_peers(id, dht);
            for peer in &peers {
                if let Err(error) = self.engine.connect_peer(id.0, &raw_endpoint(peer)) {
                    tracing::debug!(%peer, %error, "could not connect to a known peer");
                }
            }
        }
    }

    fn search_peers(&self, id: TorrentId, dht: bool) {
        if let Err(error) = self.engine.announce_now(id.0, dht) {
            tracing::debug!(torrent = id.0, %error, "could not search for peers");
        }
        if dht {
            self.look_up(id);
        }
    }

    /// Searches for peers of all torrents: announcements made while the DHT had no nodes were lost.
    pub(super) fn search_for_all(&self) {
        let all: Vec<TorrentId> = self.torrents.lock().keys().copied().collect();
        for id in all {
            self.search_peers(id, true);
        }
    }
}

impl Overlay for Session {
    fn meet(&self, place: Meeting, peers: &[SocketAddr]) -> Result<TorrentId, EngineError> {
        let id = self.new_id();
        let network = &self.settings.network;
        let mut peers = peers.to_vec();
        if let (Meeting::Topic(_), true) = (place, network.dht_enabled) {
            // In a DHT of two nodes, no node learns which peers announced to the other one. So this node connects to the
            // configured nodes of a private DHT directly.
            peers.extend(self.settings.private_dht_nodes().unwrap_or_default());
        }
        let mut quiet = Quiet::default();
        if !self.announces() && network.dht_enabled {
            let topic = match place {
                Meeting::Topic(topic) => topic,
                Meeting::Model(info_hash) => topic_of(&info_hash),
            };
            quiet = Quiet::meeting(Some(topic));
        }
        let raw = RawMeeting {
            torrent: id.0,
            place: match place {
                Meeting::Topic(topic) => topic.0.to_vec(),
                Meeting::Model(info_hash) => info_hash.0.to_vec(),
            },
            peers: peers.iter().map(raw_endpoint).collect(),
            trackers: self.trackers(),
            dht: network.dht_enabled,
            lan: network.lan_discovery,
            max_connections: self.max_connections(),
        };
        let meeting = Some(MeetingSearch::new());
        let record = TorrentRecord { peers, meeting, quiet, ..TorrentRecord::default() };
        self.shared.torrents.lock().insert(id, record);
        match self.shared.engine.meet(&raw) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.shared.torrents.lock().remove(&id);
                Err(EngineError::BadTorrent(error.what().to_owned()))
            }
        }
    }

    fn leave(&self, id: TorrentId) -> Result<(), EngineError> {
        self.remove(id)
    }

    fn connect(&self, id: TorrentId, peer: SocketAddr) -> Result<(), EngineError> {
        self.connect_peer(id, peer)
    }

    fn search_again(&self, id: TorrentId) -> Result<(), EngineError> {
        self.reannounce(id)
    }

    fn send(&self, peer: PeerId, message: &[u8]) -> Result<(), EngineError> {
        if message.len() > MAX_MESSAGE {
            return Err(EngineError::MessageTooLong(message.len()));
        }
        let queued = self.shared.engine.send_message(peer.0, message).map_err(internal)?;
        if queued { Ok(()) } else { Err(EngineError::Busy) }
    }

    fn disconnect(&self, peer: PeerId, misbehaved: bool) -> Result<(), EngineError> {
        if misbehaved {
            // Before the peer is disconnected, because its address is forgotten then.
            self.shared.talk.lock().mute(peer, Instant::now());
        }
        self.shared.engine.disconnect(peer.0, misbehaved).map_err(internal)
    }

    fn announce(&self, topic: Topic) -> Result<(), EngineError> {
        dht::announce(self, topic)
    }

    fn find(&self, topic: Topic) -> Result<(), EngineError> {
        dht::find(self, topic)
    }

    fn put_item(&self, item: &DhtItem) -> Result<(), EngineError> {
        dht::put_item(self, item)
    }

    fn get_item(&self, publisher: PublisherKey, salt: [u8; 20]) -> Result<(), EngineError> {
        dht::get_item(self, publisher, salt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(peers: u64) -> Talk {
        let mut talk = Talk::default();
        for peer in 0..peers {
            let group = AddressGroup::of([10, 0, 0, peer as u8].into());
            talk.speaking.insert(PeerId(peer), SpeakingPeer::new(TorrentId(1), group, false));
        }
        talk
    }

    #[test]
    fn unread_bytes_of_a_peer_are_bounded() {
        let mut talk = talk(2);
        let mut waiting = Vec::new();
        while let Ok(message) = talk.receive(PeerId(0), vec![0; MAX_MESSAGE]) {
            waiting.push(message.unwrap());
            assert!(waiting.len() * MAX_MESSAGE <= MAX_UNREAD);
        }
        assert!(waiting.len() > 8, "{}", waiting.len());
        assert!(talk.receive(PeerId(1), vec![0; MAX_MESSAGE]).is_ok(), "the bound is per peer");
        drop(waiting);
        assert!(talk.receive(PeerId(0), vec![0; MAX_MESSAGE]).is_ok());
        assert_eq!(talk.unread.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn empty_messages_are_bounded_too() {
        let mut talk = talk(1);
        let waiting: Vec<_> = std::iter::from_fn(|| talk.receive(PeerId(0), vec![]).ok()).collect();
        assert!(waiting.len() <= MAX_UNREAD / OVERHEAD);
    }

    #[test]
    fn unread_bytes_of_all_peers_are_bounded() {
        let mut talk = talk(100);
        let mut waiting = Vec::new();
        for peer in 0..99 {
            while let Ok(message) = talk.receive(PeerId(peer), vec![0; MAX_MESSAGE]) {
                waiting.push(message.unwrap());
            }
        }
        let bytes: usize = waiting.iter().map(|message| message.len()).sum();
        assert!(bytes <= MAX_UNREAD_OF_ALL + 99 * MODEST, "{bytes} bytes");
        assert!(
            talk.receive(PeerId(99), vec![0; 1000]).is_ok(),
            "a peer with few unread bytes is still read"
        );
    }

    /// Makes a group the address of a peer, and mutes it.
    fn mute(talk: &mut Talk, address: [u8; 4], now: Instant) -> AddressGroup {
        let group = AddressGroup::of(address.into());
        talk.speaking.insert(PeerId(0), SpeakingPeer::new(TorrentId(1), group, false));
        talk.mute(PeerId(0), now);
        group
    }

    #[test]
    fn oldest_group_is_heard_again_when_too_many_are_muted() {
        let (mut talk, now) = (talk(0), Instant::now());
        let first = mute(&mut talk, [1, 0, 0, 0], now);
        for i in 1..=MAX_MUTED as u32 {
            let last = mute(&mut talk, (i + (1 << 25)).to_be_bytes(), now + Duration::from_millis(i.into()));
            assert!(talk.is_muted(last, now));
        }
        assert_eq!(talk.muted.len(), MAX_MUTED);
        assert!(!talk.is_muted(first, now));
    }

    #[test]
    fn muted_peer_is_disconnected_when_it_sends_on() {
        let mut talk = talk(0);
        let group = AddressGroup::of([1, 0, 0, 0].into());
        talk.speaking.insert(PeerId(0), SpeakingPeer::new(TorrentId(1), group, true));
        for _ in 0..MAX_IGNORED {
            assert!(matches!(talk.receive(PeerId(0), vec![0; 10]), Ok(None)));
        }
        assert_eq!(talk.receive(PeerId(0), vec![0; 10]).unwrap_err(), Refusal::Muted);
    }

    #[test]
    fn muted_group_is_heard_again_after_a_minute() {
        let (mut talk, now) = (talk(0), Instant::now());
        let group = mute(&mut talk, [1, 0, 0, 0], now);
        assert!(talk.is_muted(group, now + MUTE / 2));
        assert!(!talk.is_muted(group, now + MUTE));
        let loopback = mute(&mut talk, [127, 0, 0, 1], now);
        assert!(!talk.is_muted(loopback, now), "many nodes may run on one host");
    }
}
