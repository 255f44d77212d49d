//! Addresses that cannot be those of one host, named by nodes of the DHT and by peers. No packet goes to them.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

use silmaril::config::{NetworkConfig, Utp};
use silmaril::model::keys::PublisherKeypair;
use silmaril::torrent::{AddTorrent, Discovery, Event, Overlay as _, OverlayEvent, Swarms as _, Topic};

use super::rig::{Client, SOON, Sample, network};
use crate::support::capture::Capture;
use crate::support::dht_node::{after, bind, gossip};
use crate::support::host::Host;
use crate::support::net::{Net, sh};
use crate::support::private_net::in_namespace;
use crate::support::raw_peer_pex::{Gossip, UTP};

/// The port of the node that names addresses, and of the client.
const PORT: u16 = 6881;

/// The port of the host that is named with its own address.
const CONTROL: u16 = 6882;

/// The first port of the other addresses; each has its own. Nothing listens there.
const IMPOSSIBLE: u16 = 7000;

/// Groups, broadcasts, no host at all, and the loopback, which only this host itself can know.
fn impossible(family: IpAddr) -> Vec<SocketAddr> {
    let v4 = [
        "239.77.7.7",
        "224.0.0.1",
        "255.255.255.255",
        "10.77.0.255",
        "0.0.0.0",
        "0.1.2.3",
        "240.0.0.1",
        "127.0.0.1",
    ];
    let v6 = ["ff02::1", "ff15::77", "ff0e::77", "::", "::1", "::ffff:239.77.7.7", "::ffff:127.0.0.1"];
    let all: &[&str] = if family.is_ipv4() { &v4 } else { &v6 };
    (IMPOSSIBLE..).zip(all).map(|(port, text)| SocketAddr::new(text.parse().unwrap(), port)).collect()
}

/// The host's address of the family.
fn address(host: &Host, v6: bool) -> IpAddr {
    if !v6 {
        return host.addr().into();
    }
    let address = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host.addr().octets()[3].into());
    sh(&format!(
        "ip netns exec {0} sysctl -qw net.ipv6.conf.all.disable_ipv6=0
         ip -n {0} addr replace {address}/64 dev eth0 nodad",
        host.namespace()
    ));
    address.into()
}

/// A client, and a host that names [`impossible`] addresses to it, and last its own one.
struct Lab {
    client: Client,
    /// What the client sends.
    capture: Capture,
    impossible: Vec<SocketAddr>,
    /// The address that is named last, and its socket.
    control: (SocketAddr, UdpSocket),
    host: Host,
    _own: Host,
}

impl Lab {
    /// With `dht`, the host is the client's only node of the DHT.
    fn new(v6: bool, dht: bool, more: NetworkConfig) -> Self {
        let net = Net::new();
        let (host, own) = (net.host("gossip"), net.host("client"));
        let [node, control] = [PORT, CONTROL].map(|port| SocketAddr::new(address(&host, v6), port));
        let impossible = impossible(node.ip());
        gossip(bind(&host, node), impossible.iter().copied().chain([control]).collect());
        let capture = Capture::on(&own);
        let network = NetworkConfig {
            dht_enabled: dht,
            dht_bootstrap_nodes: if dht { vec![node.into()] } else { vec![] },
            listen_address: Some(address(&own, v6)),
            listen_port: PORT,
            ..more
        };
        let client = in_namespace(own.namespace(), || Client::with(network));
        Self { client, capture, impossible, control: (control, bind(&host, control)), host, _own: own }
    }

    /// Waits for a packet to the control with these bytes.
    #[track_caller]
    fn expect(&self, what: &str, bytes: impl Fn(&[u8]) -> bool) {
        let mut packet = [0; 2000];
        loop {
            match self.control.1.recv(&mut packet) {
                Ok(len) if bytes(&packet[..len]) => return,
                Ok(_) => {}
                // A child process of another test has ended.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("no {what}: {error}"),
            }
        }
    }

    /// Fails if a packet went to an impossible address.
    #[track_caller]
    fn assert_sent_to_none(&self) {
        let ports: BTreeSet<u16> = self.impossible.iter().map(SocketAddr::port).collect();
        let sent = self.capture.destinations();
        assert!(sent.contains(&self.control.0), "the capture is not complete: {sent:?}");
        let wrong: Vec<_> = sent.iter().filter(|to| ports.contains(&to.port())).collect();
        assert!(wrong.is_empty(), "packets went to {wrong:?}");
    }
}

/// Lookups query the nodes that they find, and the routing table queries one of its nodes every five seconds.
fn node_is_not_queried(v6: bool) {
    let mut lab = Lab::new(v6, true, network());
    for _ in ["the first lookup", "the routing table"] {
        lab.expect("query to the node with an address of a host", |packet| {
            after(packet, b"9:get_peers").is_some()
        });
    }
    // The answer comes when the nodes that do not answer are given up.
    let key = PublisherKeypair::generate().unwrap().public();
    lab.client.session.get_item(key, [7; 20]).unwrap();
    lab.client.wait_for("answer", SOON, |event| {
        matches!(event, Event::Overlay(OverlayEvent::DhtFound(..))).then_some(())
    });
    lab.assert_sent_to_none();
}

#[test]
fn node_with_the_address_of_no_single_host_is_not_queried() {
    node_is_not_queried(false);
}

#[test]
fn node_with_the_ipv6_address_of_no_single_host_is_not_queried() {
    node_is_not_queried(true);
}

/// The first packet of a uTP connection (BEP 29).
fn is_syn(packet: &[u8]) -> bool {
    packet.len() >= 20 && packet[0] == 0x41
}

fn utp() -> NetworkConfig {
    NetworkConfig { utp: Utp::On, ..network() }
}

#[test]
fn peer_that_the_dht_names_is_called_only_at_an_address_of_a_host() {
    for v6 in [false, true] {
        let sample = Sample::new(&[("a", 100_000)], 16 * 1024, false);
        let mut lab = Lab::new(v6, true, utp());
        let dir = tempfile::tempdir().unwrap();
        let discovery = Discovery { dht: true, lan: false, pex: false };
        lab.client.add(AddTorrent { discovery, ..sample.add(dir.path()) });
        lab.expect("call to the peer with an address of a host", is_syn);
        lab.client.session.find(Topic::of("name")).unwrap();
        let found = lab.client.wait_for("peers", SOON, |event| match event {
            Event::Overlay(OverlayEvent::DhtPeers(_, peers)) => Some(peers.clone()),
            _ => None,
        });
        // No host knows the broadcast address of another network. Only the kernel sends nothing there.
        let broadcast: IpAddr = [10, 77, 0, 255].into();
        let callable: Vec<_> = found.into_iter().filter(|peer| peer.ip() != broadcast).collect();
        assert_eq!(callable, [lab.control.0]);
        lab.assert_sent_to_none();
    }
}

#[test]
fn peer_that_a_peer_names_is_called_only_at_an_address_of_a_host() {
    for v6 in [false, true] {
        let sample = Sample::new(&[("a", 100_000)], 16 * 1024, false);
        let mut lab = Lab::new(v6, false, utp());
        let dir = tempfile::tempdir().unwrap();
        let discovery = Discovery { dht: false, lan: false, pex: true };
        lab.client.add(AddTorrent { discovery, ..sample.add(dir.path()) });
        let mut gossip = Gossip::with(&lab.host, lab.client.address, sample.info_hash);
        // In two messages: the impossible addresses would be called first.
        gossip.name(&lab.impossible, UTP);
        gossip.name(&[lab.control.0], UTP);
        lab.expect("call to the peer with an address of a host", is_syn);
        lab.assert_sent_to_none();
    }
}

/// As after the answer of a tracker: the address comes from no peer and no node.
#[test]
fn named_peer_is_called_only_at_an_address_of_a_host() {
    for v6 in [false, true] {
        let sample = Sample::new(&[("a", 100_000)], 16 * 1024, false);
        let mut lab = Lab::new(v6, false, utp());
        let dir = tempfile::tempdir().unwrap();
        let id = lab.client.add(sample.add(dir.path()));
        // An address of the loopback may be named by the user.
        lab.impossible.retain(|at| !at.ip().to_canonical().is_loopback());
        for at in &lab.impossible {
            lab.client.session.connect_peer(id, *at).unwrap();
        }
        lab.client.session.connect_peer(id, lab.control.0).unwrap();
        lab.expect("call to the peer with an address of a host", is_syn);
        lab.assert_sent_to_none();
    }
}
