//! Hosts that only strangers have named, and the limits for calls to them (`cpp/rumours.h`).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Instant;

use silmaril::config::NetworkConfig;
use silmaril::torrent::{AddTorrent, Discovery, Event, Rumour, Swarms as _, TorrentId, try_rumours};

use super::rig::{Client, SOON, Sample, network};
use crate::support::dht_node::{bind, gossip};
use crate::support::host::Host;
use crate::support::net::Net;
use crate::support::private_net::in_namespace;
use crate::support::raw_peer_pex::Gossip;

/// The port of every node.
const PORT: u16 = 6881;

/// Honest hosts that meet.
const CROWD: usize = 8;

const MINUTE: u32 = 60;
const DAY: u32 = 24 * 60 * MINUTE;

/// A call of the first torrent to a host that does not answer.
fn call(host: u32, port: u16, at: u32) -> Rumour {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + host);
    Rumour { torrent: TorrentId(1), to: SocketAddr::new(address.into(), port), at, answers: false }
}

/// The moments of the calls that are made.
fn made(calls: &[Rumour]) -> Vec<u32> {
    let made = try_rumours(calls).unwrap();
    assert_eq!(made.len(), calls.len());
    calls.iter().zip(made).filter(|(_, made)| *made).map(|(call, _)| call.at).collect()
}

#[test]
fn silent_rumour_is_called_less_and_less_often() {
    let calls: Vec<_> = (0..3 * DAY).step_by(10).map(|at| call(1, 6881, at)).collect();
    let mut expected = vec![0, 10, 20];
    let mut wait = 10 * MINUTE;
    while expected.last().unwrap() + wait < 3 * DAY {
        expected.push(expected.last().unwrap() + wait);
        wait = (2 * wait).min(DAY);
    }
    assert_eq!(made(&calls), expected);
    assert_eq!(expected.len(), 12);
}

#[test]
fn ports_of_one_rumour_share_a_limit() {
    // One port after another is named, a hundred in a second.
    let calls: Vec<_> = (0..60_000).map(|i| call(1, 1024 + i as u16, i / 100)).collect();
    assert_eq!(made(&calls).len(), 16);
    let later: Vec<_> = (0..40_000).map(|i| call(1, 1024 + i as u16, i)).collect();
    assert_eq!(made(&later).len(), 16 + 40_000 / 600);
}

#[test]
fn calls_to_all_rumours_together_are_limited() {
    let calls: Vec<_> = (0..10_000).map(|i| call(i, 6881, i / 1000)).collect();
    let made = made(&calls);
    assert_eq!(made.iter().filter(|at| **at == 0).count(), 128, "the first second");
    assert_eq!(made.len(), 128 + 9 * 16);
}

#[test]
fn refused_call_to_one_host_takes_no_turn_of_another() {
    // Many calls to a host that may not be called, then one to another host.
    let mut calls: Vec<_> = (0..10_000).map(|i| call(1, 1024 + i, 0)).collect();
    calls.push(call(2, 6881, 0));
    assert_eq!(try_rumours(&calls).unwrap().last(), Some(&true));
}

/// More hosts answer than are remembered: the ones that answered the longest time ago are forgotten, and a host that answers
/// again and again is not.
#[test]
fn host_that_answers_is_not_forgotten_for_many_hosts() {
    let answer = |host: u32, at: u32| Rumour { answers: true, ..call(host, 6881, at) };
    let mut calls: Vec<_> = (0..40_000).flat_map(|i| [answer(1, i / 16), answer(i + 3, i / 16)]).collect();
    let end = 40_000 / 16;
    // The tokens for all rumours are used up, so only a call to a host that is no rumour is made.
    calls.extend((0..200).map(|i| call(100_000 + i, 6881, end)));
    let before = calls.len();
    calls.extend([call(1, 6881, end), call(3, 6881, end), call(40_002, 6881, end)]);
    assert_eq!(try_rumours(&calls).unwrap()[before..], [true, false, true]);
}

#[test]
fn torrents_together_call_one_rumour_a_few_times() {
    let calls: Vec<_> = (0..100).map(|i| Rumour { torrent: TorrentId(i), ..call(1, 6881, 0) }).collect();
    assert_eq!(made(&calls).len(), 16);
}

#[test]
fn host_that_answers_is_no_rumour() {
    let hour = 60 * MINUTE;
    // A router with many peers behind it.
    let calls: Vec<_> = (0..100).map(|i| Rumour { answers: true, ..call(1, 6881 + i, 0) }).collect();
    assert_eq!(made(&calls).len(), 100);
    // Networks of 64 bits count as one host. After the answer of one, 16 more may be called.
    let in_network = |i: u32| Rumour {
        to: format!("[2001:db8::{i:x}]:6881").parse().unwrap(),
        answers: i == 16,
        ..call(0, 0, 0)
    };
    let calls: Vec<_> = (1..=40).map(in_network).collect();
    assert_eq!(made(&calls).len(), 32);
    // It has left other torrents for which strangers name it.
    let left = |i: u32, at| Rumour { torrent: TorrentId(i.into()), ..call(1, 6881, at) };
    let first = Rumour { answers: true, ..call(1, 6881, 0) };
    let calls: Vec<_> = [first].into_iter().chain((2..100).map(|i| left(i, hour - 1))).collect();
    assert_eq!(made(&calls).len(), 99);
    let calls: Vec<_> = [first].into_iter().chain((2..100).map(|i| left(i, hour))).collect();
    assert_eq!(made(&calls).len(), 1 + 16);
}

/// A host's address outside local networks, in a network of its own: the DHT admits one node of each.
fn public(host: &Host) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, host.addr().octets()[3], 1)
}

/// Hosts in whose engines the same torrent runs without pieces.
struct Crowd {
    clients: Vec<Client>,
    _hosts: Vec<Host>,
}

impl Crowd {
    /// All hosts except the first one know the first one, if `hub`.
    fn new(net: &Net, sample: &Sample, discovery: Discovery, network: &NetworkConfig, hub: bool) -> Self {
        let hosts: Vec<Host> = (0..CROWD).map(|i| net.host(&format!("h{i}"))).collect();
        let first = SocketAddr::from((public(&hosts[0]), PORT));
        let client = |(i, host): (usize, &Host)| {
            let address = public(host);
            host.add_public_addr(address);
            let network =
                NetworkConfig { listen_address: Some(address.into()), listen_port: PORT, ..network.clone() };
            let client = in_namespace(host.namespace(), || Client::with(network));
            let peers = if hub && i > 0 { vec![first] } else { vec![] };
            client.session.add(AddTorrent { discovery, peers, ..sample.add(sample.dir.path()) }).unwrap();
            client
        };
        Self { clients: hosts.iter().enumerate().map(client).collect(), _hosts: hosts }
    }

    /// Waits until each host has met all other hosts.
    #[track_caller]
    fn all_meet(&mut self) {
        for client in &mut self.clients {
            let mut met = BTreeSet::new();
            client.wait_for("all other hosts", 3 * SOON, |event| {
                if let Event::PeerConnected(_, peer) = event {
                    met.insert(peer.ip());
                }
                (met.len() == CROWD - 1).then_some(())
            });
        }
    }
}

#[test]
fn hosts_that_know_each_other_by_peer_exchange_meet() {
    let (net, sample) = (Net::new(), Sample::new(&[("a", 100_000)], 16 * 1024, false));
    let discovery = Discovery { dht: false, lan: false, pex: true };
    let started = Instant::now();
    let mut crowd = Crowd::new(&net, &sample, discovery, &network(), true);
    crowd.all_meet();
    println!("{CROWD} hosts started and met by peer exchange within {:?}", started.elapsed());
}

#[test]
fn hosts_that_know_each_other_by_the_dht_meet() {
    let (net, sample) = (Net::new(), Sample::new(&[("a", 100_000)], 16 * 1024, false));
    let host = net.host("gossip");
    host.add_public_addr(public(&host));
    let node = SocketAddr::from((public(&host), PORT));
    // The hosts of the crowd get the next numbers.
    let number = host.addr().octets()[3];
    let crowd = (1..=CROWD as u8).map(|i| (Ipv4Addr::new(198, 18, number + i, 1), PORT).into());
    gossip(bind(&host, node), crowd.collect());
    let network = NetworkConfig { dht_enabled: true, dht_bootstrap_nodes: vec![node.into()], ..network() };
    let discovery = Discovery { dht: true, lan: false, pex: false };
    let started = Instant::now();
    let mut crowd = Crowd::new(&net, &sample, discovery, &network, false);
    crowd.all_meet();
    println!("{CROWD} hosts started and met by the DHT within {:?}", started.elapsed());
}

#[test]
fn peer_that_a_peer_names_gets_no_query_of_the_dht() {
    let (net, sample) = (Net::new(), Sample::new(&[("a", 100_000)], 16 * 1024, false));
    let [own, host] = ["client", "gossip"].map(|name| net.host(name));
    let named = SocketAddr::from((host.addr(), PORT));
    let network = NetworkConfig { dht_enabled: true, ..network() };
    let mut client = Client::on(&own, network);
    let discovery = Discovery { dht: true, lan: false, pex: true };
    client.add(AddTorrent { discovery, ..sample.add(sample.dir.path()) });
    let udp = bind(&host, named);
    udp.set_nonblocking(true).unwrap();
    let calls = in_namespace(host.namespace(), move || TcpListener::bind(named).unwrap());
    Gossip::with(&host, client.address, sample.info_hash).name(&[named], 0);
    // The query would be sent before the call.
    calls.accept().unwrap();
    assert_eq!(udp.recv(&mut [0; 2000]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
}
