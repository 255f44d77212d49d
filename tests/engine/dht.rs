//! Topics and items in a private DHT.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use silmaril::config::NetworkConfig;
use silmaril::model::InfoHash;
use silmaril::model::keys::PublisherKeypair;
use silmaril::torrent::{DhtItem, EngineError, Event, Meeting, Overlay, OverlayEvent, Topic};

use super::rig::{Client, SOON, network};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::private_net::in_namespace;

const SALT: [u8; 20] = [7; 20];

fn item(key: &PublisherKeypair, salt: [u8; 20], sequence: i64, value: &[u8]) -> DhtItem {
    let signature = key.sign(&DhtItem::to_sign(&salt, sequence, value));
    DhtItem { publisher: key.public(), salt, sequence, value: value.to_vec(), signature }
}

/// Hosts with a node of the DHT each; the first one is the bootstrap node of the rest.
struct Nodes {
    clients: Vec<Client>,
    net: Net,
    _hosts: Vec<Host>,
}

impl Nodes {
    fn new(count: usize) -> Self {
        let net = Net::new();
        let hosts: Vec<Host> = (0..count).map(|i| net.host(&format!("h{i}"))).collect();
        let first = hosts[0].peer();
        let client = |(i, host): (usize, &Host)| {
            Client::on(
                host,
                NetworkConfig {
                    dht_enabled: true,
                    dht_bootstrap_nodes: if i == 0 { vec![] } else { vec![first.parse().unwrap()] },
                    listen_port: 6881,
                    ..network()
                },
            )
        };
        Self { clients: hosts.iter().enumerate().map(client).collect(), net, _hosts: hosts }
    }

    /// [`Self::new`], after each node has another one in its routing table.
    fn met(count: usize) -> Self {
        let mut nodes = Self::new(count);
        let started = Instant::now();
        for client in &mut nodes.clients {
            client.wait_for("nodes in the routing table", SOON, |event| match event {
                Event::Overlay(OverlayEvent::DhtNodes(nodes)) => (*nodes > 0).then_some(()),
                _ => None,
            });
        }
        println!("{count} nodes of the DHT are in it after {:?}", started.elapsed());
        nodes
    }
}

impl Client {
    #[track_caller]
    fn put(&mut self, item: &DhtItem) -> u32 {
        self.session.put_item(item).unwrap();
        self.wait_for("item stored", SOON, |event| match event {
            Event::Overlay(OverlayEvent::DhtStored(publisher, salt, nodes)) => {
                assert_eq!((publisher, salt), (&item.publisher, &item.salt));
                Some(*nodes)
            }
            _ => None,
        })
    }

    #[track_caller]
    fn get(&mut self, key: &PublisherKeypair, salt: [u8; 20]) -> Option<DhtItem> {
        self.session.get_item(key.public(), salt).unwrap();
        self.wait_for("answer", SOON, |event| match event {
            Event::Overlay(OverlayEvent::DhtFound(publisher, found, item)) => {
                assert_eq!((*publisher, *found), (key.public(), salt));
                Some(item.clone())
            }
            _ => None,
        })
    }
}

#[test]
fn announced_hosts_are_found_at_a_topic() {
    let mut nodes = Nodes::met(3);
    let [_, a, b] = &mut nodes.clients[..] else { unreachable!() };
    let topic = Topic::of("silmaril:name:acme/model");
    let started = Instant::now();
    a.session.announce(topic).unwrap();
    let found = loop {
        // There is no event for a topic at which no host has announced.
        b.session.find(topic).unwrap();
        match b.next(Duration::from_millis(100)) {
            Some(Event::Overlay(OverlayEvent::DhtPeers(of, peers))) => break (of, peers),
            _ => assert!(started.elapsed() < SOON, "no host is found at the topic"),
        }
    };
    assert_eq!(found, (topic, vec![a.address]));
    println!("announced and found within {:?}", started.elapsed());
    // At a topic without announcements no host is found; a lookup that is answered follows.
    let other = Topic::of("other");
    b.session.find(other).unwrap();
    b.get(&PublisherKeypair::generate().unwrap(), SALT);
    b.session.find(topic).unwrap();
    let mut answers = 0;
    b.wait_for("answers", SOON, |event| {
        if let Event::Overlay(OverlayEvent::DhtPeers(of, _)) = event {
            assert_ne!(*of, other);
            answers += 1;
        }
        (answers > 0).then_some(())
    });
}

#[test]
fn item_is_replaced_only_by_a_newer_one() {
    let mut nodes = Nodes::met(3);
    let key = PublisherKeypair::generate().unwrap();
    let [a, b, c] = &mut nodes.clients[..] else { unreachable!() };
    assert_eq!(c.get(&key, SALT), None);
    let value = |byte: u8| [b"996:".as_slice(), &[byte; 996]].concat();
    let versions: Vec<DhtItem> = (1..=3).map(|i| item(&key, SALT, i, &value(i as u8))).collect();
    assert_eq!(versions[0].value.len(), 1000, "the longest value");
    let started = Instant::now();
    assert!(a.put(&versions[0]) >= 1);
    println!("an item is stored within {:?}", started.elapsed());
    let started = Instant::now();
    assert_eq!(c.get(&key, SALT).as_ref(), Some(&versions[0]));
    println!("and found within {:?}", started.elapsed());
    // Any node may store a signed item.
    assert!(b.put(&versions[2]) >= 1);
    assert_eq!(c.get(&key, SALT).as_ref(), Some(&versions[2]));
    assert_eq!(a.put(&versions[1]), 0, "an older one");
    for client in [a, b, c] {
        assert_eq!(client.get(&key, SALT).as_ref(), Some(&versions[2]));
    }
}

#[test]
fn many_concurrent_items_and_names_are_stored() {
    let mut nodes = Nodes::met(4);
    let key = PublisherKeypair::generate().unwrap();
    let items: Vec<_> = (0..100).map(|i| item(&key, [i; 20], 1, b"5:hello")).collect();
    let client = &mut nodes.clients[1];
    let started = Instant::now();
    for (i, item) in items.iter().enumerate() {
        client.session.put_item(item).unwrap();
        client.session.announce(Topic::of(&format!("silmaril:name:acme/model-{i}"))).unwrap();
    }
    let mut stored = 0;
    client.wait_for("all stored", 3 * SOON, |event| {
        if let Event::Overlay(OverlayEvent::DhtStored(_, _, nodes)) = event {
            assert!(*nodes >= 1, "no node stored an item");
            stored += 1;
        }
        (stored == items.len()).then_some(())
    });
    println!("100 items and names stored within {:?}", started.elapsed());
    for item in &items {
        assert_eq!(nodes.clients[3].get(&key, item.salt).as_ref(), Some(item));
    }
}

#[test]
fn invalid_items_are_refused() {
    let net = Net::new();
    let client = Client::on(&net.host("a"), NetworkConfig { dht_enabled: true, ..network() });
    let key = PublisherKeypair::generate().unwrap();
    let long = [b"997:".as_slice(), &[0; 997]].concat();
    let huge = [b"99995:".as_slice(), &[0; 99995]].concat();
    let deep = "l".repeat(500) + &"e".repeat(500);
    for value in
        [b"".as_slice(), &long, &huge, b"1:", b"i01e", b"d1:b0:1:a0:e", b"3:abcx", b"abc", deep.as_bytes()]
    {
        let refused = client.session.put_item(&item(&key, SALT, 1, value));
        assert!(matches!(refused, Err(EngineError::BadItem(_))), "{:?}", String::from_utf8_lossy(value));
    }
    let mut unsigned = item(&key, SALT, 1, b"1:a");
    unsigned.sequence = 2;
    assert!(matches!(client.session.put_item(&unsigned), Err(EngineError::BadItem(_))));
}

#[test]
fn query_without_the_dht_is_answered_immediately() {
    let net = Net::new();
    let mut client = Client::on(&net.host("a"), network());
    let key = PublisherKeypair::generate().unwrap();
    client.session.put_item(&item(&key, SALT, 1, b"1:a")).unwrap();
    client.session.announce(Topic::of("x")).unwrap();
    client.session.find(Topic::of("x")).unwrap();
    let started = Instant::now();
    assert_eq!(client.get(&key, SALT), None);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn peers_meet_through_the_dht_only() {
    let mut nodes = Nodes::new(3);
    // Joined before the routing tables have nodes: announcing has no effect yet.
    let started = Instant::now();
    for client in &nodes.clients {
        client.session.meet(Meeting::Model(InfoHash([7; 32])), &[]).unwrap();
    }
    for client in &mut nodes.clients {
        client.wait_for("peer that speaks", 2 * SOON, |event| {
            matches!(event, Event::Overlay(OverlayEvent::Speaks { .. })).then_some(())
        });
        println!("met by the DHT alone within {:?}", started.elapsed());
    }
}

#[test]
fn two_nodes_of_a_private_dht_meet_at_a_topic() {
    let mut nodes = Nodes::new(2);
    for client in &nodes.clients {
        client.session.meet(Meeting::Topic(Topic::of("mellon")), &[]).unwrap();
    }
    let (first, second) = (nodes.clients[0].address, nodes.clients[1].speaker());
    assert_eq!(second.address, first);
    nodes.clients[0].speaker();
}

#[test]
fn saved_dht_state_replaces_bootstrap_nodes() {
    let mut nodes = Nodes::met(3);
    let key = PublisherKeypair::generate().unwrap();
    let known = item(&key, SALT, 1, b"5:hello");
    assert!(nodes.clients[1].put(&known) >= 1);
    let state = nodes.clients[2].session.dht_state().unwrap();
    let start = |name: &str, state: &[u8]| {
        let host = nodes.net.host(name);
        let network = NetworkConfig { dht_enabled: true, listen_port: 6881, ..network() };
        let client = Client::on_with(&host, network, state.to_vec());
        (host, client)
    };
    // On new hosts: known addresses would be contacted by other nodes.
    let (_without, mut without) = start("without", &[]);
    let (_damaged, mut damaged) = start("damaged", &state[..state.len() / 2]);
    let (_with, mut with) = start("with", &state);
    let started = Instant::now();
    while with.get(&key, SALT).is_none() {
        assert!(started.elapsed() < SOON, "the saved nodes are unknown");
    }
    println!("back in the DHT within {:?}", started.elapsed());
    for client in [&mut without, &mut damaged] {
        assert_eq!(client.get(&key, SALT), None);
    }
    assert!(with.session.shutdown(SOON));
    assert!(with.session.dht_state().is_err());
}

/// A node of the DHT that answers every query with the same item.
struct Liar {
    address: SocketAddr,
    answer: Arc<Mutex<DhtItem>>,
    _host: Host,
}

impl Liar {
    fn on(host: Host, answer: DhtItem) -> Self {
        let at = SocketAddr::from((host.addr(), 6881));
        let socket = in_namespace(host.namespace(), move || UdpSocket::bind(at).unwrap());
        let answer = Arc::new(Mutex::new(answer));
        let weak = Arc::downgrade(&answer);
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        std::thread::spawn(move || {
            let mut packet = [0; 2000];
            while let Some(answer) = weak.upgrade() {
                let Ok((len, from)) = socket.recv_from(&mut packet) else { continue };
                let packet = &packet[..len];
                let after = |key: &[u8]| {
                    packet.windows(key.len()).position(|w| w == key).map(|at| &packet[at + key.len()..])
                };
                // The transaction id: length and bytes.
                let (Some(transaction), Some(_)) = (after(b"1:t"), after(b"1:y1:q")) else { continue };
                let transaction = &transaction[..transaction.len().min(4)];
                let item = answer.lock().unwrap().clone();
                let mut reply = b"d1:rd2:id20:".to_vec();
                reply.extend([0x5a; 20]);
                if after(b"3:get1:t").is_some() || after(b"1:q3:get").is_some() {
                    reply.extend(b"1:k32:");
                    reply.extend(item.publisher.as_bytes());
                    reply.extend(b"5:nodes0:3:seqi");
                    reply.extend(format!("{}e3:sig64:", item.sequence).bytes());
                    reply.extend(item.signature);
                    reply.extend(b"5:token4:abcd1:v");
                    reply.extend(&item.value);
                } else {
                    reply.extend(b"5:nodes0:");
                }
                reply.extend(b"e1:t");
                reply.extend(transaction);
                reply.extend(b"1:y1:re");
                socket.send_to(&reply, from).unwrap();
            }
        });
        Self { address: at, answer, _host: host }
    }
}

#[test]
fn forged_item_is_ignored() {
    let net = Net::new();
    let key = PublisherKeypair::generate().unwrap();
    let genuine = item(&key, SALT, 5, b"5:hello");
    let liar = Liar::on(net.host("liar"), genuine.clone());
    let mut client = Client::on(
        &net.host("client"),
        NetworkConfig { dht_enabled: true, dht_bootstrap_nodes: vec![liar.address.into()], ..network() },
    );
    let started = Instant::now();
    while client.get(&key, SALT).is_none() {
        assert!(started.elapsed() < SOON, "the node receives no query");
    }
    for forge in [
        |item: &mut DhtItem| item.sequence += 1,
        |item: &mut DhtItem| item.value = b"5:hallo".to_vec(),
        |item: &mut DhtItem| item.signature[10] ^= 1,
        |item: &mut DhtItem| item.sequence = -5,
        |item: &mut DhtItem| item.publisher = PublisherKeypair::generate().unwrap().public(),
    ] {
        let mut forged = genuine.clone();
        forge(&mut forged);
        *liar.answer.lock().unwrap() = forged;
        assert_eq!(client.get(&key, SALT), None);
    }
    let newer = item(&key, SALT, 6, b"5:hello");
    *liar.answer.lock().unwrap() = newer.clone();
    assert_eq!(client.get(&key, SALT), Some(newer));
}
