//! Meetings and the messages of peers: [`Overlay`] for [`Session`].
//!
//! What always holds: a peer that was told to speak is told to have left exactly once, before its torrent is told to
//! be removed, and says nothing before or after. Messages that nobody has dealt with yet are bounded per peer and
//! altogether; who exceeds that is hung up on. The state here is behind one lock of its own, shared by the pump and
//! whoever makes requests, and never held while calling into the engine.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::overlay::{MAX_MESSAGE, MAX_UNREAD, MAX_UNREAD_OF_ALL, MessageBytes};
use super::quiet::{Quiet, topic_of};
use super::session::{Known, Session, Shared, internal, raw_endpoint};
use super::{
    AddressGroup, DhtItem, EngineError, Event, Meeting, Overlay, OverlayEvent, PeerId, Swarms, Topic,
    TorrentId, dht,
};
use crate::ffi::{RawMeeting, RawRange};
use crate::http::metadata_ranges;
use crate::model::PublisherKey;

/// How long the addresses of a host are not spoken to after a ban. Several nodes may share one, behind a NAT: not for ever.
pub(super) const BAN: Duration = Duration::from_secs(600);

/// The most groups of addresses that are banned at a time; beyond it the oldest ban ends.
const MAX_BANS: usize = 4096;

/// What a message counts on top of its length: many empty ones are not free.
const OVERHEAD: usize = 256;

/// What may wait of a peer while all together are over their bound: a few short messages, or one long.
const MODEST: usize = 2 * MAX_MESSAGE;

/// How often a meeting without peers looks for some. On the LAN nobody is told of those who come later.
const LONELY_INTERVAL: Duration = Duration::from_secs(10);

/// A meeting whose peers have not come.
pub(super) struct Lonely {
    due: Instant,
    attempts: u32,
}

impl Lonely {
    pub fn new() -> Self {
        Self { due: Instant::now() + LONELY_INTERVAL, attempts: 0 }
    }
}

struct Speaking {
    torrent: TorrentId,
    group: AddressGroup,
    unread: Arc<AtomicUsize>,
}

/// Who speaks, and with whom nobody does.
#[derive(Default)]
pub(super) struct Talk {
    speaking: HashMap<PeerId, Speaking>,
    unread: Arc<AtomicUsize>,
    /// Until when.
    bans: HashMap<AddressGroup, Instant>,
}

impl Talk {
    /// Takes a message of a peer; `None` when it does not speak, an error when too much of it waits already.
    fn hear(&self, peer: PeerId, bytes: Vec<u8>) -> Result<Option<MessageBytes>, ()> {
        let Some(speaking) = self.speaking.get(&peer) else { return Ok(None) };
        let of_peer = speaking.unread.load(Ordering::Relaxed) + bytes.len() + OVERHEAD;
        let of_all = self.unread.load(Ordering::Relaxed) + bytes.len() + OVERHEAD;
        if of_peer > MAX_UNREAD || (of_all > MAX_UNREAD_OF_ALL && of_peer > MODEST) {
            return Err(());
        }
        let counts = [speaking.unread.clone(), self.unread.clone()];
        Ok(Some(MessageBytes::counted(bytes, OVERHEAD, counts)))
    }

    /// The addresses that no connection is made to now: banned ones, and metadata services of clouds.
    pub(super) fn banned(&self) -> Vec<RawRange> {
        let ranges = self.bans.keys().map(|group| group.range()).chain(metadata_ranges());
        ranges.map(|(first, last)| RawRange { first: first.to_string(), last: last.to_string() }).collect()
    }

    /// Bans the addresses of a peer that speaks, unless they are loopback. Returns all that are banned.
    fn ban_peer(&mut self, peer: PeerId) -> Option<Vec<RawRange>> {
        let group = self.speaking.get(&peer)?.group;
        if group.is_loopback() {
            return None;
        }
        self.ban(group, Instant::now() + BAN);
        Some(self.banned())
    }

    fn ban(&mut self, group: AddressGroup, until: Instant) {
        if self.bans.len() >= MAX_BANS
            && let Some(oldest) = self.bans.iter().min_by_key(|(_, until)| **until).map(|(group, _)| *group)
        {
            self.bans.remove(&oldest);
        }
        self.bans.insert(group, until);
    }
}

impl Shared {
    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock()
    }

    /// A peer speaks from now on.
    pub(super) fn speaks(
        &self,
        torrent: TorrentId,
        peer: PeerId,
        address: SocketAddr,
        outgoing: bool,
    ) -> Event {
        let ip = address.ip().to_canonical();
        self.talk()
            .speaking
            .insert(peer, Speaking { torrent, group: AddressGroup::of(ip), unread: Arc::default() });
        let address = SocketAddr::new(ip, address.port());
        Event::Overlay(OverlayEvent::Speaks { torrent, peer, address, outgoing })
    }

    /// A peer said something.
    pub(super) fn said(&self, peer: PeerId, bytes: Vec<u8>) -> Option<Event> {
        let heard = self.talk().hear(peer, bytes);
        match heard {
            Ok(message) => Some(Event::Overlay(OverlayEvent::Said(peer, message?))),
            Err(()) => {
                tracing::debug!(peer = peer.0, "A peer speaks faster than it is listened to: hung up.");
                if let Err(error) = self.engine.hang_up(peer.0) {
                    tracing::debug!(%error, "A peer could not be hung up on.");
                }
                // It has said its last: what follows would come with a gap.
                self.left(peer)
            }
        }
    }

    /// A peer is gone.
    pub(super) fn left(&self, peer: PeerId) -> Option<Event> {
        self.talk().speaking.remove(&peer).map(|_| Event::Overlay(OverlayEvent::Left(peer)))
    }

    /// All peers of a torrent, or of all torrents, are gone.
    pub(super) fn all_left(&self, torrent: Option<TorrentId>) -> Vec<Event> {
        let gone = |speaking: &Speaking| torrent.is_none_or(|torrent| speaking.torrent == torrent);
        let gone =
            self.talk().speaking.extract_if(|_, speaking| gone(speaking)).map(|(peer, _)| peer).collect();
        let mut gone: Vec<PeerId> = gone;
        gone.sort_unstable();
        gone.into_iter().map(|peer| Event::Overlay(OverlayEvent::Left(peer))).collect()
    }

    /// Ends bans that are over. To be called every now and then.
    pub(super) fn end_bans(&self, now: Instant) {
        let banned = {
            let mut talk = self.talk();
            let before = talk.bans.len();
            talk.bans.retain(|_, until| *until > now);
            (talk.bans.len() < before).then(|| talk.banned())
        };
        if let Some(banned) = banned
            && let Err(error) = self.engine.set_bans(&banned)
        {
            tracing::debug!(%error, "Bans could not be ended.");
        }
    }

    /// Looks for peers of meetings that have none. To be called every now and then.
    pub(super) fn comfort_lonely(&self, now: Instant) {
        let mut due = Vec::new();
        for (id, known) in self.torrents().iter_mut() {
            let Some(lonely) = &mut known.meeting else { continue };
            if known.connected > 0 {
                *lonely = Lonely::new();
            } else if lonely.due <= now {
                lonely.due = now + LONELY_INTERVAL;
                lonely.attempts = lonely.attempts.saturating_add(1);
                // The LAN is asked each time, by one packet; the DHT, by a hundred, ever more rarely.
                due.push((*id, lonely.attempts.is_power_of_two(), known.peers.clone()));
            }
        }
        for (id, dht, peers) in due {
            self.look_around(id, dht);
            for peer in &peers {
                if let Err(error) = self.engine.connect_peer(id.0, &raw_endpoint(peer)) {
                    tracing::debug!(%peer, %error, "A known peer could not be called.");
                }
            }
        }
    }

    fn look_around(&self, id: TorrentId, dht: bool) {
        if let Err(error) = self.engine.announce_now(id.0, dht) {
            tracing::debug!(torrent = id.0, %error, "Peers could not be looked for.");
        }
        if dht {
            self.look_up(id);
        }
    }

    /// Looks for peers of all torrents: what was announced while the DHT knew nobody went nowhere.
    pub(super) fn look_around_for_all(&self) {
        let all: Vec<TorrentId> = self.torrents().keys().copied().collect();
        for id in all {
            self.look_around(id, true);
        }
    }
}

impl Overlay for Session {
    fn meet(&self, place: Meeting, peers: &[SocketAddr]) -> Result<TorrentId, EngineError> {
        let id = self.new_id();
        let network = &self.settings.network;
        let mut peers = peers.to_vec();
        if let (Meeting::Topic(_), true) = (place, network.dht_enabled) {
            // In a DHT of two nodes nobody learns who announced to the other: the hosts that all others name are
            // called themselves.
            peers.extend(self.settings.own_dht_nodes().unwrap_or_default());
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
        let known = Known { peers, meeting: Some(Lonely::new()), quiet, ..Known::default() };
        self.shared.torrents().insert(id, known);
        match self.shared.engine.meet(&raw) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.shared.torrents().remove(&id);
                Err(EngineError::BadTorrent(error.what().to_owned()))
            }
        }
    }

    fn leave(&self, id: TorrentId) -> Result<(), EngineError> {
        self.remove(id)
    }

    fn call(&self, id: TorrentId, peer: SocketAddr) -> Result<(), EngineError> {
        self.connect_peer(id, peer)
    }

    fn look_again(&self, id: TorrentId) -> Result<(), EngineError> {
        self.reannounce(id)
    }

    fn send(&self, peer: PeerId, message: &[u8]) -> Result<(), EngineError> {
        if message.len() > MAX_MESSAGE {
            return Err(EngineError::MessageTooLong(message.len()));
        }
        match self.shared.engine.send_message(peer.0, message).map_err(internal)? {
            true => Ok(()),
            false => Err(EngineError::Busy),
        }
    }

    fn hang_up(&self, peer: PeerId, ban: bool) -> Result<(), EngineError> {
        // Before it has left and its address is forgotten.
        let banned = ban.then(|| self.shared.talk().ban_peer(peer)).flatten();
        self.shared.engine.hang_up(peer.0).map_err(internal)?;
        match banned {
            Some(banned) => self.shared.engine.set_bans(&banned).map_err(internal),
            None => Ok(()),
        }
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
            talk.speaking
                .insert(PeerId(peer), Speaking { torrent: TorrentId(1), group, unread: Arc::default() });
        }
        talk
    }

    #[test]
    fn what_waits_of_one_peer_is_bounded_until_it_is_dropped() {
        let talk = talk(2);
        let mut waiting = Vec::new();
        while let Ok(message) = talk.hear(PeerId(0), vec![0; MAX_MESSAGE]) {
            waiting.push(message.unwrap());
            assert!(waiting.len() * MAX_MESSAGE <= MAX_UNREAD);
        }
        assert!(waiting.len() > 8, "{}", waiting.len());
        assert!(talk.hear(PeerId(1), vec![0; MAX_MESSAGE]).is_ok(), "another is not held responsible");
        drop(waiting);
        assert!(talk.hear(PeerId(0), vec![0; MAX_MESSAGE]).is_ok());
        assert_eq!(talk.unread.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn empty_messages_are_bounded_too() {
        let talk = talk(1);
        let waiting: Vec<_> = std::iter::from_fn(|| talk.hear(PeerId(0), vec![]).ok()).collect();
        assert!(waiting.len() <= MAX_UNREAD / OVERHEAD);
    }

    #[test]
    fn what_waits_of_all_is_bounded_and_the_modest_are_spared() {
        let talk = talk(100);
        let mut waiting = Vec::new();
        for peer in 0..99 {
            while let Ok(message) = talk.hear(PeerId(peer), vec![0; MAX_MESSAGE]) {
                waiting.push(message.unwrap());
            }
        }
        let bytes: usize = waiting.iter().map(|message| message.len()).sum();
        assert!(bytes <= MAX_UNREAD_OF_ALL + 99 * MODEST, "{bytes} bytes");
        assert!(talk.hear(PeerId(99), vec![0; 1000]).is_ok(), "who said little is still heard");
    }

    #[test]
    fn the_oldest_ban_makes_room() {
        let mut talk = Talk::default();
        let now = Instant::now();
        for i in 0..=MAX_BANS as u32 {
            talk.ban(AddressGroup::of(i.to_be_bytes().into()), now + Duration::from_secs(i.into()));
        }
        assert_eq!(talk.bans.len(), MAX_BANS);
        assert!(!talk.bans.contains_key(&AddressGroup::of([0; 4].into())));
    }

    #[test]
    fn who_is_banned_over_ipv6_does_not_come_back_from_the_next_address() {
        let mut talk = talk(1);
        let group = AddressGroup::of("2001:db8::1".parse().unwrap());
        talk.speaking.insert(PeerId(9), Speaking { torrent: TorrentId(1), group, unread: Arc::default() });
        let banned = talk.ban_peer(PeerId(9)).unwrap();
        let range = &banned[0];
        let range = (range.first.as_str(), range.last.as_str());
        assert_eq!(range, ("2001:db8::", "2001:db8::ffff:ffff:ffff:ffff"));
    }
}
