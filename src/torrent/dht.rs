//! The DHT's part of [`Overlay`](super::Overlay): topics (BEP 5) and mutable items (BEP 44).
//!
//! An item becomes an event only if its publisher signed it. A query for an item is answered once: with the newest item when
//! the DHT has asked all nodes, or with the newest one found so far when that takes too long.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::overlay::FIRST_PORT;
use super::overlay::MAX_ITEM;
use super::session::{Session, SessionShared, internal};
use super::{DhtItem, EngineError, Event, OverlayEvent, Topic};
use crate::ffi::{RawEvent, RawItem};
use crate::model::PublisherKey;

/// How long a query waits for a newer item than the one that was found: nodes that do not answer cost 15 s.
const FOUND_WITHIN: Duration = Duration::from_secs(4);

/// How long a query waits for any item.
const NOTHING_WITHIN: Duration = Duration::from_secs(12);

/// The most queries, and the most puts, at a time.
const MAX_UNDER_WAY: usize = 1024;

type ItemKey = (PublisherKey, [u8; 20]);

/// A query for an item.
struct ItemQuery {
    asked: Instant,
    best: Option<DhtItem>,
}

/// Queries and puts under way.
#[derive(Default)]
pub(super) struct Dht {
    gets: HashMap<ItemKey, ItemQuery>,
    /// The sequence numbers that are being put.
    puts: HashMap<ItemKey, i64>,
    nodes: u32,
}

/// An item, if it is complete and signed by its publisher.
fn checked(raw: RawItem) -> Option<DhtItem> {
    let item = DhtItem {
        publisher: PublisherKey(raw.publisher),
        salt: raw.salt,
        sequence: raw.sequence,
        signature: raw.signature.try_into().ok()?,
        value: raw.value,
    };
    (!item.value.is_empty() && item.value.len() <= MAX_ITEM && item.is_signed()).then_some(item)
}

fn found(key: ItemKey, item: Option<DhtItem>) -> Event {
    Event::Overlay(OverlayEvent::DhtFound(key.0, key.1, item))
}

impl Dht {
    fn end_late(&mut self, now: Instant) -> Vec<Event> {
        let late = |get: &ItemQuery| {
            let limit = if get.best.is_some() { FOUND_WITHIN } else { NOTHING_WITHIN };
            now.duration_since(get.asked) >= limit
        };
        self.gets.extract_if(|_, get| late(get)).map(|(key, get)| found(key, get.best)).collect()
    }

    fn answer(&mut self, key: ItemKey, item: Option<DhtItem>, last: bool) -> Option<Event> {
        let get = self.gets.get_mut(&key)?;
        if let Some(item) = item
            && get.best.as_ref().is_none_or(|best| best.sequence < item.sequence)
        {
            get.best = Some(item);
        }
        if !last {
            return None;
        }
        self.gets.remove(&key).map(|get| found(key, get.best))
    }
}

impl SessionShared {
    /// Answers queries that took too long. Must be called about once a second.
    pub(super) fn end_late_queries(&self, now: Instant) -> Vec<Event> {
        self.dht.lock().end_late(now)
    }

    pub(super) fn dht_peers(&self, raw: RawEvent) -> Option<Event> {
        let topic = Topic(raw.data.try_into().ok()?);
        let address = |text: &str, port| {
            let of_system = port < FIRST_PORT;
            Some(SocketAddr::new(text.parse().ok()?, port)).filter(|_| !of_system)
        };
        let peers = raw.endpoints.iter().filter_map(|peer| address(&peer.address, peer.port)).collect();
        let event = OverlayEvent::DhtPeers(topic, peers);
        self.connect_found(&event);
        Some(Event::Overlay(event))
    }

    pub(super) fn dht_found(&self, raw: RawEvent) -> Option<Event> {
        let key = (PublisherKey(raw.item.publisher), raw.item.salt);
        // Checked before the lock is taken.
        let item = checked(raw.item);
        self.dht.lock().answer(key, item, raw.flag)
    }

    pub(super) fn dht_stored(&self, raw: RawEvent) -> Option<Event> {
        let key = (PublisherKey(raw.item.publisher), raw.item.salt);
        let sequence = self.dht.lock().puts.remove(&key)?;
        // With another sequence number, the DHT had a newer item and stored that one again.
        let nodes = if sequence == raw.item.sequence { raw.peers } else { 0 };
        Some(Event::Overlay(OverlayEvent::DhtStored(key.0, key.1, nodes)))
    }

    pub(super) fn dht_nodes(&self, nodes: u32) -> Option<Event> {
        let before = std::mem::replace(&mut self.dht.lock().nodes, nodes);
        if before == 0 && nodes > 0 {
            self.search_for_all();
        }
        (before != nodes).then_some(Event::Overlay(OverlayEvent::DhtNodes(nodes)))
    }
}

impl Session {
    /// The known nodes of the DHT, for [`SessionSettings::dht_state`](super::SessionSettings::dht_state) of the next start,
    /// which then needs no bootstrap node. Some kilobytes. Waits for the network thread. An error after the session ended.
    pub fn dht_state(&self) -> Result<Vec<u8>, EngineError> {
        self.shared.engine.dht_state().map_err(internal)
    }
}

fn is_on(session: &Session) -> bool {
    session.settings.network.dht_enabled
}

pub(super) fn announce(session: &Session, topic: Topic) -> Result<(), EngineError> {
    let port = session.shared.listen_port.load(Ordering::Relaxed);
    if !is_on(session) || !session.announces() || port == 0 {
        return Ok(());
    }
    session.shared.engine.dht_announce(&topic.0, port).map_err(internal)
}

pub(super) fn find(session: &Session, topic: Topic) -> Result<(), EngineError> {
    if !is_on(session) {
        return Ok(());
    }
    session.shared.engine.dht_find(&topic.0).map_err(internal)
}

pub(super) fn put_item(session: &Session, item: &DhtItem) -> Result<(), EngineError> {
    if item.value.is_empty() || item.value.len() > MAX_ITEM {
        return Err(EngineError::BadItem(format!("its value has {} bytes", item.value.len())));
    }
    if !item.is_signed() {
        return Err(EngineError::BadItem("its signature is not its publisher's".into()));
    }
    if !is_on(session) || !session.announces() {
        return Ok(());
    }
    let raw = RawItem {
        publisher: item.publisher.0,
        salt: item.salt,
        sequence: item.sequence,
        value: item.value.clone(),
        signature: item.signature.to_vec(),
    };
    let key = (item.publisher, item.salt);
    {
        let mut dht = session.shared.dht.lock();
        if dht.puts.len() >= MAX_UNDER_WAY && !dht.puts.contains_key(&key) {
            return Err(EngineError::Busy);
        }
        dht.puts.insert(key, item.sequence);
    }
    session.shared.engine.dht_put(&raw).map_err(|error| {
        session.shared.dht.lock().puts.remove(&key);
        EngineError::BadItem(error.what().to_owned())
    })
}

pub(super) fn get_item(
    session: &Session,
    publisher: PublisherKey,
    salt: [u8; 20],
) -> Result<(), EngineError> {
    let key = (publisher, salt);
    if !is_on(session) {
        session.shared.send(found(key, None));
        return Ok(());
    }
    {
        let mut dht = session.shared.dht.lock();
        if dht.gets.contains_key(&key) {
            return Ok(());
        }
        if dht.gets.len() >= MAX_UNDER_WAY {
            return Err(EngineError::Busy);
        }
        dht.gets.insert(key, ItemQuery { asked: Instant::now(), best: None });
    }
    session.shared.engine.dht_get(&publisher.0, &salt).map_err(|error| {
        session.shared.dht.lock().gets.remove(&key);
        internal(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::keys::PublisherKeypair;

    fn item(key: &PublisherKeypair, sequence: i64, value: &[u8]) -> DhtItem {
        let salt = [7; 20];
        let signature = key.sign(&DhtItem::to_sign(&salt, sequence, value));
        DhtItem { publisher: key.public(), salt, sequence, value: value.to_vec(), signature }
    }

    fn asked(key: ItemKey) -> Dht {
        let mut dht = Dht::default();
        dht.gets.insert(key, ItemQuery { asked: Instant::now(), best: None });
        dht
    }

    fn raw(item: &DhtItem) -> RawItem {
        RawItem {
            publisher: item.publisher.0,
            salt: item.salt,
            sequence: item.sequence,
            value: item.value.clone(),
            signature: item.signature.to_vec(),
        }
    }

    #[test]
    fn query_is_answered_once_with_the_newest_item() {
        let key = PublisherKeypair::generate().unwrap();
        let (old, new) = (item(&key, 1, b"1:a"), item(&key, 2, b"1:b"));
        let of = (key.public(), old.salt);
        let mut dht = asked(of);
        assert_eq!(dht.answer(of, Some(new.clone()), false).map(|_| ()), None);
        let Some(Event::Overlay(OverlayEvent::DhtFound(.., answer))) = dht.answer(of, Some(old), true) else {
            panic!("no answer")
        };
        assert_eq!(answer, Some(new));
        assert!(dht.answer(of, None, true).is_none());
        assert!(dht.end_late(Instant::now() + NOTHING_WITHIN).is_empty());
    }

    #[test]
    fn query_does_not_wait_forever() {
        let key = PublisherKeypair::generate().unwrap();
        let seen = item(&key, 1, b"1:a");
        let of = (key.public(), seen.salt);
        let mut dht = asked(of);
        let asked_at = dht.gets[&of].asked;
        assert!(dht.end_late(asked_at + FOUND_WITHIN).is_empty(), "no item was found");
        dht.answer(of, Some(seen.clone()), false);
        let answers = dht.end_late(asked_at + FOUND_WITHIN);
        assert!(
            matches!(&answers[..], [Event::Overlay(OverlayEvent::DhtFound(_, _, Some(item)))] if *item == seen)
        );
        let mut dht = asked(of);
        let asked_at = dht.gets[&of].asked;
        let answers = dht.end_late(asked_at + NOTHING_WITHIN);
        assert!(matches!(&answers[..], [Event::Overlay(OverlayEvent::DhtFound(_, _, None))]));
    }

    #[test]
    fn forged_items_are_ignored() {
        let key = PublisherKeypair::generate().unwrap();
        let good = item(&key, 1, b"1:a");
        assert_eq!(checked(raw(&good)), Some(good.clone()));
        let mut forged = [good.clone(), good.clone(), good.clone(), good.clone(), good.clone()];
        forged[0].sequence += 1;
        forged[1].value = b"1:b".to_vec();
        forged[2].salt[0] ^= 1;
        forged[3].signature[0] ^= 1;
        forged[4].publisher = PublisherKeypair::generate().unwrap().public();
        for item in &forged {
            assert_eq!(checked(raw(item)), None);
        }
        let mut short = raw(&good);
        short.signature.pop();
        assert_eq!(checked(short), None);
    }

    /// The test vector of BEP 44 with a salt has another key and salt length; this is its layout with ours.
    #[test]
    fn signed_text_is_that_of_bep_44() {
        let mut expected = b"4:salt20:".to_vec();
        expected.extend([b's'; 20]);
        expected.extend(b"3:seqi42e1:v12:Hello World!");
        assert_eq!(DhtItem::to_sign(&[b's'; 20], 42, b"12:Hello World!"), expected);
    }
}
