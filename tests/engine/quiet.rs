//! `network.announce: false`: peers are found, and this node is not announced.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use silmaril::config::NetworkConfig;
use silmaril::model::{InfoHash, PieceIndex};
use silmaril::torrent::{Event, Meeting, Overlay, OverlayEvent, Priority, Swarms, Topic};

use super::rig::{Client, SOON, Sample, network};
use crate::support::private_net::in_private_net;

/// The topic at which the peers of a torrent announce.
fn place(info_hash: &InfoHash) -> Topic {
    Topic(info_hash.0[..20].try_into().unwrap())
}

/// Ports that the DHT returns for a topic, in several answers that contain `expected`.
fn named(client: &mut Client, topic: Topic, expected: u16) -> HashSet<u16> {
    let deadline = Instant::now() + 3 * SOON;
    let (mut ports, mut answers) = (HashSet::new(), 0);
    while answers < 4 {
        assert!(Instant::now() < deadline, "the DHT returns {ports:?} without {expected}");
        client.session.find(topic).unwrap();
        while let Some(event) = client.next(Duration::from_secs(1)) {
            if let Event::Overlay(OverlayEvent::DhtPeers(of, peers)) = event
                && of == topic
            {
                let named: Vec<u16> = peers.iter().map(SocketAddr::port).collect();
                answers += usize::from(named.contains(&expected));
                ports.extend(named);
            }
        }
    }
    ports
}

#[test]
fn quiet_reader_finds_peers_in_the_dht_and_is_not_announced() {
    in_private_net(|| {
        // libtorrent runs no DHT node on loopback.
        crate::support::net::sh("ip addr add 10.77.1.1/24 dev br0");
        let host = Ipv4Addr::new(10, 77, 1, 1);
        let port = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port();
        // The first node is the bootstrap node of all.
        let bootstrap = SocketAddr::new(host.into(), port);
        let with = |listen_port, announce| NetworkConfig {
            listen_port,
            listen_address: Some(host.into()),
            dht_enabled: true,
            dht_bootstrap_nodes: vec![bootstrap.into()],
            announce,
            ..network()
        };
        let mut first = Client::with(with(port, true));
        let (mut seed, mut quiet) = (Client::with(with(0, true)), Client::with(with(0, false)));
        let sample = Sample::new(&[("a", 200_000)], 16 * 1024, false);
        let dir = tempfile::tempdir().unwrap();
        let mut add = sample.add_seed();
        add.discovery.dht = true;
        let seeded = seed.add(add);
        let mut add = sample.add(dir.path());
        add.discovery.dht = true;
        let id = quiet.add(add);
        let all: Vec<_> = (0..sample.pieces()).map(|p| (PieceIndex(p), Priority::Ahead)).collect();
        quiet.session.set_priority(id, &all).unwrap();
        let names = Topic::of("silmaril:name:acme/quiet");
        quiet.session.meet(Meeting::Topic(names), &[]).unwrap();
        let deadline = Instant::now() + 3 * SOON;
        let mut verified = 0;
        while verified < sample.pieces() {
            assert!(Instant::now() < deadline, "the reader found no peer");
            match quiet.next(Duration::from_secs(1)) {
                Some(Event::PieceVerified(..)) => verified += 1,
                Some(Event::Stats(..)) | None => {
                    seed.session.reannounce(seeded).unwrap();
                    quiet.session.reannounce(id).unwrap();
                }
                Some(_) => {}
            }
        }
        quiet.session.announce(names).unwrap();
        quiet.session.reannounce(id).unwrap();
        // The seed announces after the reader has searched.
        seed.session.reannounce(seeded).unwrap();
        seed.session.announce(names).unwrap();
        let seed_port = seed.address.port();
        for topic in [place(&sample.info_hash), names] {
            assert_eq!(named(&mut first, topic, seed_port), HashSet::from([seed_port]), "{topic:?}");
        }
    });
}

/// Receives announcements of BEP 14.
fn lan_listener() -> UdpSocket {
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).unwrap();
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    let address: SocketAddr = (Ipv4Addr::UNSPECIFIED, 6771).into();
    rustix::net::bind(&socket, &address).unwrap();
    let socket = UdpSocket::from(socket);
    socket.join_multicast_v4(&Ipv4Addr::new(239, 192, 152, 143), &Ipv4Addr::LOCALHOST).unwrap();
    socket.set_read_timeout(Some(3 * SOON)).unwrap();
    socket
}

#[test]
fn quiet_reader_is_silent_on_the_lan() {
    in_private_net(|| {
        crate::support::net::sh("ip link set lo multicast on; ip route add 224.0.0.0/4 dev lo");
        let listener = lan_listener();
        let lan = |announce| NetworkConfig { lan_discovery: true, announce, ..network() };
        let sample = |seed: usize| Sample::new(&[("a", 100_000 + seed)], 16 * 1024, false);
        let (hidden, shown) = (sample(1), sample(2));
        let (mut quiet, mut open) = (Client::with(lan(false)), Client::with(lan(true)));
        let dir = tempfile::tempdir().unwrap();
        let mut add = hidden.add(dir.path());
        add.discovery.lan = true;
        let id = quiet.add(add);
        quiet.session.reannounce(id).unwrap();
        quiet.session.meet(Meeting::Topic(Topic::of("mellon")), &[]).unwrap();
        let mut add = shown.add_seed();
        add.discovery.lan = true;
        open.add(add);
        let heard_of = |text: &str, info_hash: &[u8]| text.to_lowercase().contains(&hex::encode(info_hash));
        loop {
            let mut packet = [0; 2000];
            let length = listener.recv(&mut packet).expect("the open node announces itself");
            let text = String::from_utf8_lossy(&packet[..length]);
            let port = format!("port: {}\r\n", quiet.address.port());
            assert!(!text.to_lowercase().contains(&port), "the quiet node announces: {text}");
            if heard_of(&text, &shown.info_hash.0[..20]) {
                break;
            }
        }
    });
}

#[test]
fn quiet_reader_asks_trackers_only_when_it_reads() {
    in_private_net(|| {
        let tracker = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}/announce", tracker.local_addr().unwrap());
        let sample = |seed: usize| Sample::new(&[("a", 100_000 + seed)], 16 * 1024, false);
        let (read, other) = (sample(1), sample(2));
        let network =
            |announce| NetworkConfig { trackers: vec![url.parse().unwrap()], announce, ..network() };
        let (mut quiet, mut open) = (Client::with(network(false)), Client::with(network(true)));
        let dir = tempfile::tempdir().unwrap();
        let id = quiet.add(read.add(dir.path()));
        quiet.session.reannounce(id).unwrap();
        open.add(other.add_seed());
        let asked = || {
            let (mut stream, _) = tracker.accept().unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            let body = b"d8:intervali1800e5:peers0:e";
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        };
        let port = |client: &Client| format!("&port={}&", client.address.port());
        let first = asked();
        assert!(first.contains(&port(&open)), "the quiet node asked before it read: {first}");
        quiet.session.request(id, PieceIndex(0), Duration::ZERO).unwrap();
        let is_quiet = |request: &str| request.contains("event=started") && !request.contains(&port(&open));
        let of_quiet = std::iter::repeat_with(asked).find(|request| is_quiet(request)).unwrap();
        assert!(of_quiet.contains("&port=1&"), "the tracker learns a port: {of_quiet}");
    });
}
