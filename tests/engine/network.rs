//! Every key of the network section has its effect.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use silmaril::config::{Encryption, NetworkConfig, Utp};
use silmaril::model::PieceIndex;
use silmaril::torrent::{EngineError, Event, Priority, Session, SessionSettings, Swarms};

use super::rig::{Client, SOON, Sample, Stock, network};
use crate::support::net::sh;
use crate::support::private_net::in_private_net;
use crate::support::process::until;

fn start(network: NetworkConfig) -> Result<Session, EngineError> {
    let (sender, _) = tokio::sync::mpsc::unbounded_channel();
    Session::start(SessionSettings::from(&network), sender)
}

/// How long a sample takes from one of our engines to another.
fn transfer(sample: &Sample, seed: NetworkConfig, leech: NetworkConfig) -> Duration {
    let here = tempfile::tempdir().unwrap();
    let (mut seed, mut leech) = (Client::with(seed), Client::with(leech));
    seed.add(sample.add_seed());
    let mut add = sample.add(here.path());
    add.peers = vec![seed.address];
    let started = Instant::now();
    let id = leech.add(add);
    leech.fetch_all(id, sample.pieces(), |_| {});
    started.elapsed()
}

#[test]
fn port_in_use_is_an_error_at_start() {
    in_private_net(|| {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut network = network();
        network.listen_port = taken.local_addr().unwrap().port();
        match start(network) {
            Err(EngineError::Listen { address, in_use: true, .. }) => {
                assert_eq!(address, taken.local_addr().unwrap());
            }
            other => panic!("{:?}", other.err()),
        }
    });
}

#[test]
fn foreign_address_is_an_error_at_start() {
    in_private_net(|| {
        let mut network = network();
        network.listen_address = Some("192.0.2.1".parse().unwrap());
        match start(network) {
            Err(EngineError::Listen { in_use: false, .. }) => {}
            other => panic!("{:?}", other.err()),
        }
    });
}

#[test]
fn session_listens_on_both_configured_ports() {
    in_private_net(|| {
        // The kernel's choice, free again immediately: no other program is in this namespace.
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut network = network();
        (network.listen_port, network.dht_port) = (free(), free());
        network.dht_enabled = true;
        let (first, second) = (network.listen_port, network.dht_port);
        let client = Client::with(network);
        assert_eq!(client.address, SocketAddr::from((Ipv4Addr::LOCALHOST, first)));
        let udp = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
        for port in [first, second] {
            assert!(udp.contains(&format!("0100007F:{port:04X}")), "nothing on UDP port {port}:\n{udp}");
        }
    });
}

#[test]
fn rate_limits_apply_on_private_networks() {
    in_private_net(|| {
        let sample = Sample::new(&[("a", 3_000_000)], 64 * 1024, false);
        let free = transfer(&sample, network(), network());
        assert!(free < Duration::from_secs(2), "without limits it took {free:?}");
        let slow = NetworkConfig { download_rate_limit: 1_000_000, ..network() };
        let took = transfer(&sample, network(), slow);
        assert!(took > Duration::from_secs(2), "at 1 MB/s down, 3 MB took {took:?}");
        let slow = NetworkConfig { upload_rate_limit: 1_000_000, ..network() };
        let took = transfer(&sample, slow, network());
        assert!(took > Duration::from_secs(2), "at 1 MB/s up, 3 MB took {took:?}");
    });
}

/// Of many engines that started at the same time, some had a limit of 1 MiB per second for good: the limit for peers that waste
/// upload was set before the class of these peers existed.
#[test]
fn engine_that_starts_slowly_keeps_its_upload_limit() {
    in_private_net(|| {
        for limit in [0, 1_000_000] {
            let started = || {
                let network = NetworkConfig { upload_rate_limit: limit.into(), ..network() };
                start(network).unwrap().upload_limit().unwrap()
            };
            let limits: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..16).map(|_| scope.spawn(started)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(limits, [limit; 16]);
        }
    });
}

#[test]
fn connections_of_a_torrent_are_limited() {
    in_private_net(|| {
        let sample = Sample::new(&[("a", 100_000)], 16 * 1024, false);
        let seeds: Vec<_> = (0..4).map(|_| sample.stock_seed()).collect();
        let here = tempfile::tempdir().unwrap();
        let mut client = Client::with(NetworkConfig { max_connections: 2, ..network() });
        let mut add = sample.add(here.path());
        add.peers = seeds.iter().map(Stock::address).collect();
        let id = client.add(add);
        let (mut connected, mut most) = (0i32, 0);
        let all: Vec<_> = (0..sample.pieces()).map(|p| (PieceIndex(p), Priority::Ahead)).collect();
        client.session.set_priority(id, &all).unwrap();
        let mut verified = 0;
        let mut figures = 0;
        client.wait_for("all pieces and two figures", SOON, |event| {
            match event {
                Event::PeerConnected(..) => connected += 1,
                Event::PeerDisconnected(..) => connected -= 1,
                Event::PieceVerified(..) => verified += 1,
                Event::Stats(_, stats) => {
                    figures += 1;
                    assert!(stats.peers <= 2, "{stats:?}");
                }
                _ => {}
            }
            most = most.max(connected);
            (verified == sample.pieces() && figures >= 2).then_some(())
        });
        assert!((1..=2).contains(&most), "{most} connections");
    });
}

#[test]
fn tcp_nodelay_is_set_on_both_ends() {
    in_private_net(|| {
        let sample = Sample::new(&[("a", 100_000)], 16 * 1024, false);
        let mut seed = Client::new();
        seed.add(sample.add_seed());
        let here = tempfile::tempdir().unwrap();
        let mut client = Client::new();
        let mut add = sample.add(here.path());
        add.peers = vec![seed.address];
        client.add(add);
        let greeted = |event: &Event| match event {
            Event::PeerConnected(_, peer) => Some(*peer),
            _ => None,
        };
        let theirs = client.wait_for("peer", SOON, greeted);
        let ours = seed.wait_for("peer", SOON, greeted);
        for (socket, peer) in
            sockets_of_this_process().iter().filter(|(_, peer)| [theirs, ours].contains(peer))
        {
            assert!(rustix::net::sockopt::tcp_nodelay(socket).unwrap(), "Nagle is on towards {peer}");
        }
        let ends = sockets_of_this_process().iter().filter(|(_, peer)| [theirs, ours].contains(peer)).count();
        assert_eq!(ends, 2, "both ends of the connection are in this process");
    });
}

/// Copies of all connected sockets of this process, with their peers.
fn sockets_of_this_process() -> Vec<(std::os::fd::OwnedFd, SocketAddr)> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let me = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let numbers = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    numbers
        .filter_map(|fd: i32| {
            let socket = pidfd_getfd(&me, fd, PidfdGetfdFlags::empty()).ok()?;
            let peer = SocketAddr::try_from(rustix::net::getpeername(&socket).ok()??).ok()?;
            Some((socket, peer))
        })
        .collect()
}

#[test]
fn encryption_is_required_or_refused() {
    in_private_net(|| {
        let sample = Sample::new(&[("a", 100_000)], 16 * 1024, false);
        let with = |encryption| NetworkConfig { encryption, ..network() };
        transfer(&sample, with(Encryption::Require), with(Encryption::Require));
        transfer(&sample, with(Encryption::Require), with(Encryption::Prefer));
        transfer(&sample, with(Encryption::Prefer), with(Encryption::Prefer));
        transfer(&sample, with(Encryption::Off), with(Encryption::Off));

        // A peer that requires it does not connect to a peer that refuses it.
        let here = tempfile::tempdir().unwrap();
        let (mut seed, mut leech) =
            (Client::with(with(Encryption::Require)), Client::with(with(Encryption::Off)));
        seed.add(sample.add_seed());
        let mut add = sample.add(here.path());
        add.peers = vec![seed.address];
        let id = leech.add(add);
        leech.session.request(id, PieceIndex(0), Duration::ZERO).unwrap();
        // Afterwards a peer with a matching policy is served.
        let mut fitting = Client::with(with(Encryption::Require));
        let there = tempfile::tempdir().unwrap();
        let mut add = sample.add(there.path());
        add.peers = vec![seed.address];
        let fitting_id = fitting.add(add);
        fitting.fetch_all(fitting_id, sample.pieces(), |_| {});
        let figures = |event: &Event| matches!(event, Event::Stats(..)).then_some(());
        leech.wait_for("figures after that", SOON, |event| {
            assert!(!matches!(event, Event::PeerConnected(..) | Event::PieceVerified(..)), "{event:?}");
            figures(event)
        });
    });
}

#[test]
fn utp_is_used_if_configured() {
    in_private_net(|| {
        let sample = Sample::new(&[("a", 100_000)], 16 * 1024, false);
        for utp in [Utp::Auto, Utp::On, Utp::Off] {
            transfer(&sample, NetworkConfig { utp, ..network() }, NetworkConfig { utp, ..network() });
        }
    });
}

#[test]
fn utp_packets_are_answered_only_when_turned_on() {
    in_private_net(|| {
        for (utp, answered) in [(Utp::On, true), (Utp::Auto, false), (Utp::Off, false)] {
            let client = Client::with(NetworkConfig { utp, ..network() });
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            // ST_SYN of version 1 (BEP 29): type and version, extension, connection id, two times, window, numbers.
            let mut syn = [0u8; 20];
            syn[..4].copy_from_slice(&[0x41, 0, 0x12, 0x34]);
            syn[12..16].copy_from_slice(&(1u32 << 20).to_be_bytes());
            syn[17] = 1;
            socket.send_to(&syn, client.address).unwrap();
            let within = if answered { SOON } else { Duration::from_secs(2) };
            socket.set_read_timeout(Some(within)).unwrap();
            assert_eq!(socket.recv(&mut [0; 1500]).is_ok(), answered, "{utp:?}");
        }
    });
}

#[test]
fn peers_meet_through_a_private_dht() {
    in_private_net(|| {
        // libtorrent runs no DHT node on loopback.
        crate::support::net::sh("ip addr add 10.77.1.1/24 dev br0");
        let host = Ipv4Addr::new(10, 77, 1, 1);
        let port = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port();
        let with = |listen_port| NetworkConfig {
            listen_port,
            listen_address: Some(host.into()),
            dht_enabled: true,
            dht_bootstrap_nodes: vec![SocketAddr::new(host.into(), port).into()],
            ..network()
        };
        // A node's searches ask other nodes, never itself: with only two nodes, neither would find announcements made to it.
        let _meeting_place = Client::with(with(port));
        let (mut seed, mut leech) = (Client::with(with(0)), Client::with(with(0)));
        let sample = Sample::new(&[("a", 100_000)], 16 * 1024, false);
        let here = tempfile::tempdir().unwrap();
        let mut add = sample.add_seed();
        add.discovery.dht = true;
        let seeded = seed.add(add);
        let mut add = sample.add(here.path());
        add.discovery.dht = true;
        let id = leech.add(add);
        let all: Vec<_> = (0..sample.pieces()).map(|p| (PieceIndex(p), Priority::Ahead)).collect();
        leech.session.set_priority(id, &all).unwrap();
        // A peer that joins before its node has other nodes has to announce again.
        let deadline = Instant::now() + 3 * SOON;
        let mut verified = 0;
        while verified < sample.pieces() {
            assert!(Instant::now() < deadline, "the nodes did not meet");
            match leech.next(Duration::from_secs(1)) {
                Some(Event::PieceVerified(..)) => verified += 1,
                Some(Event::Stats(..)) | None => {
                    seed.session.reannounce(seeded).unwrap();
                    leech.session.reannounce(id).unwrap();
                }
                Some(_) => {}
            }
        }
    });
}

#[test]
fn lan_discovery_finds_a_neighbour() {
    in_private_net(|| {
        crate::support::net::sh("ip link set lo multicast on; ip route add 224.0.0.0/4 dev lo");
        let sample = Sample::new(&[("a", 100_000)], 16 * 1024, false);
        let lan = || NetworkConfig { lan_discovery: true, ..network() };
        let (mut seed, mut leech) = (Client::with(lan()), Client::with(lan()));
        let here = tempfile::tempdir().unwrap();
        let mut add = sample.add_seed();
        add.discovery.lan = true;
        seed.add(add);
        let mut add = sample.add(here.path());
        add.discovery.lan = true;
        let id = leech.add(add);
        leech.fetch_all(id, sample.pieces(), |_| {});
    });
}

#[test]
fn shutdown_ends_in_time() {
    in_private_net(|| {
        let sample = Sample::new(&[("a", 3_000_000)], 64 * 1024, false);
        // No server answers at this address.
        let trackers = vec!["http://127.0.0.1:9/announce".parse().unwrap()];
        let mut client = Client::with(NetworkConfig { trackers, ..network() });
        let id = client.add(sample.add_seed());
        let started = Instant::now();
        assert!(client.session.shutdown(Duration::from_secs(5)));
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(client.session.reannounce(id).is_err());
    });
}

#[test]
fn metadata_services_are_not_contacted_as_peers() {
    in_private_net(|| {
        let here = tempfile::tempdir().unwrap();
        let refused = ["169.254.169.254", "100.100.100.200"];
        let good = "169.254.7.7";
        let listeners = refused.iter().chain([&good]).map(|address| {
            sh(&format!("ip addr add {address}/32 dev lo"));
            let listener = TcpListener::bind((*address, 0)).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let listeners: Vec<_> = listeners.collect();
        let sample = Sample::new(&[("a", 100_000)], 16384, false);
        let mut client = Client::with(NetworkConfig { listen_address: None, ..network() });
        let mut add = sample.add(here.path());
        add.peers = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let peers = add.peers.clone();
        let id = client.add(add);
        client.session.set_priority(id, &[(PieceIndex(0), Priority::Normal)]).unwrap();
        for peer in peers {
            client.session.connect_peer(id, peer).unwrap();
        }
        until("the link-local peer is called", SOON, || listeners[2].accept().is_ok());
        // The pause between two attempts is a second.
        std::thread::sleep(Duration::from_secs(2));
        for (address, listener) in refused.iter().zip(&listeners) {
            assert!(listener.accept().is_err(), "{address} was contacted");
        }
    });
}
