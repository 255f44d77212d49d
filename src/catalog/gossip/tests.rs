//! The limits of the state machine, with an empty catalog. Everything else is tested with a network, in `tests/catalog`.

use super::*;
use crate::catalog::message::{Have, HeldManifest, PeerAnswer, PeerQuestion};
use crate::catalog::query::Query;
use crate::catalog::store::Page;
use crate::model::{InfoHash, ModelRef, Sha256Digest};

/// A node with these records of any model, and these manifests.
#[derive(Default)]
struct Knows {
    records: Vec<SharedRecord>,
    held: Vec<HeldManifest>,
}

impl RecordSource for Knows {
    fn count(&self) -> usize {
        0
    }
    fn have(&self, _: &PublisherKey) -> Option<Have> {
        None
    }
    fn page(&self, _: Option<&PublisherKey>, _: usize) -> Vec<Have> {
        Vec::new()
    }
    fn after(&self, _: &PublisherKey, _: i64, _: usize) -> Vec<SharedRecord> {
        Vec::new()
    }
    fn search(&self, _: &Query, _: Option<&[u8]>, _: usize) -> Page {
        Page::default()
    }
    fn records_of(&self, _: &ModelRef) -> Vec<SharedRecord> {
        self.records.clone()
    }
    fn successor(&self, _: &PublisherKey) -> Option<SharedRecord> {
        None
    }
    fn held(&self, _: &ModelRef) -> Vec<HeldManifest> {
        self.held.clone()
    }
    fn is_complete(&self, _: &InfoHash) -> bool {
        false
    }
    fn manifest(&self, _: &Sha256Digest) -> Option<std::sync::Arc<[u8]>> {
        None
    }
}

const PEER: PeerId = PeerId(1);

/// A node that this many peers have greeted, each from its own address.
fn greeted_by_many(now: Instant, peers: u8) -> Gossip {
    let mut gossip = Gossip::new([1; 20], 1, now);
    let knows = Knows::default();
    for n in 1..=peers {
        let connection = GossipConnection { of_catalog: true, address: ([10, 0, 0, n], 1).into() };
        gossip.speaks(now, PeerId(n.into()), connection, &knows);
        let hello = Message::Hello { version: 1, node: [n + 1; 20], records: 0 };
        gossip.message(now, PeerId(n.into()), hello, &knows);
    }
    while gossip.next_action().is_some() {}
    gossip
}

/// A node that a peer has greeted.
fn greeted(now: Instant) -> Gossip {
    greeted_by_many(now, 1)
}

fn query(id: u32) -> Message {
    Message::Question(id, PeerQuestion::Query("llama".parse().unwrap(), None))
}

fn lookup(id: u32) -> Message {
    Message::Question(id, PeerQuestion::Lookup("org/model".parse().unwrap()))
}

/// Asks for pages of search results, each of which takes this long; returns how many are answered.
fn answered(gossip: &mut Gossip, now: Instant, pages: u32, each: Duration) -> u32 {
    answers(gossip, now, (1..=pages).map(|id| (PEER, query(id))), each)
}

/// Asks questions, each of which takes this long; returns how many are answered.
fn answers(
    gossip: &mut Gossip,
    now: Instant,
    questions: impl Iterator<Item = (PeerId, Message)>,
    each: Duration,
) -> u32 {
    let mut count = 0;
    for (peer, question) in questions {
        gossip.message(now, peer, question, &Knows::default());
        while let Some(action) = gossip.next_action() {
            let Action::Answer(peer, request) = action else { continue };
            let answer = request.answer(&Knows::default());
            gossip.answered(now, peer, &request, &answer, each);
            count += 1;
        }
    }
    count
}

#[test]
fn queries_are_charged_by_time() {
    let now = Instant::now();
    let cheap = answered(&mut greeted(now), now, 500, Duration::from_micros(10));
    let dear = answered(&mut greeted(now), now, 500, Duration::from_millis(500));
    // The bytes of answers are bounded as well.
    assert!(cheap > 80, "{cheap} cheap ones are answered");
    assert!((3..=5).contains(&dear), "{dear} dear ones are answered");
    // Waiting questions are answered later, when tokens are saved up.
    let mut gossip = greeted(now);
    answered(&mut gossip, now, 5, Duration::from_millis(500));
    let later = now + Duration::from_secs(30);
    assert_eq!(answered(&mut gossip, later, 1, Duration::from_millis(1)), 1 + 1);
}

#[test]
fn lookups_are_charged_by_time() {
    let now = Instant::now();
    let asked = |each| answers(&mut greeted(now), now, (1..=200).map(|id| (PEER, lookup(id))), each);
    let (cheap, dear) = (asked(Duration::from_micros(10)), asked(Duration::from_millis(100)));
    assert!((40..=50).contains(&cheap), "{cheap} cheap ones are answered");
    assert!((2..=4).contains(&dear), "{dear} dear ones are answered");
    let mut gossip = greeted(now);
    answers(&mut gossip, now, (1..=5).map(|id| (PEER, lookup(id))), Duration::from_millis(100));
    let later = now + Duration::from_secs(10);
    let waiting = answers(&mut gossip, later, std::iter::once((PEER, lookup(6))), Duration::from_millis(1));
    assert_eq!(waiting, 2 + 1, "waiting questions are answered later");
}

#[test]
fn lookups_of_all_peers_are_bounded() {
    let now = Instant::now();
    let ask = |id: u32| (1..=100).map(move |peer| (PeerId(peer), lookup(id)));
    let answered =
        answers(&mut greeted_by_many(now, 100), now, (1..=10).flat_map(ask), Duration::from_millis(100));
    // A single peer would receive three answers.
    assert!((45..=55).contains(&answered), "{answered} are answered");
}

#[test]
fn held_manifests_are_not_hidden_by_false_records() {
    use crate::catalog::record::{ModelRecord, Record, RecordBody, SignedRecord};
    use crate::model::keys::PublisherKeypair;
    let record = |n: u8| {
        let body = RecordBody::Model(ModelRecord {
            name: "org/model".parse().unwrap(),
            version: Default::default(),
            info_hash: InfoHash([n; 32]),
            manifest: Sha256Digest([n; 32]),
            manifest_len: 1,
            size: 1,
            files: 1,
            license: None,
            tags: Vec::new(),
        });
        let key = PublisherKeypair::generate().unwrap();
        let record = Record { publisher: key.public(), sequence: 1, time: 1, body };
        SharedRecord::new(SignedRecord::sign(record, &key).unwrap())
    };
    let records: Vec<SharedRecord> = (0..100).map(record).collect();
    let held = |n: u8, complete| HeldManifest {
        publisher: records[n as usize].record().publisher,
        manifest: Sha256Digest([n; 32]),
        len: 1,
        info_hash: InfoHash([n; 32]),
        complete,
    };
    let knows = Knows { held: vec![held(98, false), held(99, true)], records: records.clone() };
    let lookup = PeerRequest::Question(1, PeerQuestion::Lookup("org/model".parse().unwrap()));
    let Message::Answer(1, PeerAnswer::Holds { records: sent, held }) = lookup.answer(&knows) else {
        panic!("another answer")
    };
    assert!(sent.len() < records.len());
    assert_eq!(sent[..2], [records[99].clone(), records[98].clone()]);
    assert_eq!(held[0].manifest, Sha256Digest([99; 32]));
}

/// Connects and greets from these addresses; returns how many are disconnected, and how many are partners.
fn greeted_by(addresses: impl Iterator<Item = std::net::IpAddr>) -> (usize, usize) {
    let (now, knows) = (Instant::now(), Knows::default());
    let mut gossip = Gossip::new([1; 20], 1, now);
    for (n, ip) in (1u8..).zip(addresses) {
        let (peer, connection) =
            (PeerId(n.into()), GossipConnection { of_catalog: true, address: (ip, 1).into() });
        gossip.speaks(now, peer, connection, &knows);
        let hello = Message::Hello { version: 1, node: [n.wrapping_add(1); 20], records: 0 };
        gossip.message(now, peer, hello, &knows);
    }
    let partners = gossip.peers.values().filter(|peer| peer.partner.is_some()).count();
    let actions = std::iter::from_fn(|| gossip.next_action());
    (actions.filter(|action| matches!(action, Action::Disconnect { .. })).count(), partners)
}

#[test]
fn ipv6_addresses_of_one_host_share_its_limits() {
    let at = |ip: String| ip.parse().unwrap();
    let one_host = greeted_by((1..=60).map(|n| at(format!("2001:db8::{n}"))));
    assert_eq!(one_host, (60 - MAX_OF_ADDRESS, MAX_PARTNERS_OF_ADDRESS));
    let many_hosts = greeted_by((1..=60).map(|n| at(format!("2001:db8:0:{n}::1"))));
    assert_eq!(many_hosts, (0, MAX_PARTNERS));
    let on_a_lan = greeted_by((1..=60).map(|n| at(format!("fe80::{n}"))));
    assert_eq!(on_a_lan, (0, MAX_PARTNERS));
}
