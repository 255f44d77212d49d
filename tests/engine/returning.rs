//! Peers that are unreachable for a while.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use silmaril::config::{Encryption, NetworkConfig};

use super::rig::{Client, SOON, Sample, network};
use crate::support::private_net::in_private_net;

/// Failed connects before the peer is back. libtorrent's own limit is 3.
const FAILURES: usize = 4;

/// Another program answers at the address of a peer, `times` times: each handshake is for another torrent, which is a failed
/// connect. Returns the address, and a message for each connect.
fn stranger(times: usize) -> (SocketAddr, Receiver<()>) {
    let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = stranger.local_addr().unwrap();
    let (failed, failures) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for _ in 0..times {
            let (mut peer, _) = stranger.accept().unwrap();
            let mut handshake = [0; 68];
            peer.read_exact(&mut handshake).unwrap();
            handshake[28..].fill(0xff);
            peer.write_all(&handshake).unwrap();
            failed.send(()).unwrap();
            // Until the other side disconnects.
            let _ = peer.read_to_end(&mut Vec::new());
        }
    });
    (address, failures)
}

fn wait_for(failures: &Receiver<()>, count: usize) {
    for attempt in 1..=count {
        failures.recv_timeout(SOON).unwrap_or_else(|_| panic!("no attempt {attempt} to connect"));
    }
}

#[test]
fn often_failed_peer_is_used_when_it_is_back() {
    in_private_net(|| {
        let sample = Sample::new(&[("weights", 64 * 1024)], 16 * 1024, false);
        let here = tempfile::tempdir().unwrap();
        let (address, failures) = stranger(FAILURES);
        // Plain handshakes, which the stranger can read.
        let plain = || {
            let mut network = network();
            network.encryption = Encryption::Off;
            network
        };
        let mut client = Client::with(plain());
        let mut add = sample.add(here.path());
        add.peers = vec![address];
        let id = client.add(add);
        wait_for(&failures, FAILURES);
        let mut back = plain();
        back.listen_port = address.port();
        let mut seed = Client::with(back);
        assert_eq!(seed.address, address);
        seed.add(sample.add_seed());
        client.read(id, 0);
    });
}

#[test]
fn returning_host_is_called_when_it_announces_on_the_lan() {
    // After so many failures the next attempt is at least so many seconds away.
    const AWAY: usize = 8;
    in_private_net(|| {
        crate::support::net::sh("ip link set lo multicast on; ip route add 224.0.0.0/4 dev lo");
        let sample = Sample::new(&[("weights", 64 * 1024)], 16 * 1024, false);
        let here = tempfile::tempdir().unwrap();
        let (address, failures) = stranger(AWAY + 1);
        let mut client =
            Client::with(NetworkConfig { lan_discovery: true, encryption: Encryption::Off, ..network() });
        let mut add = sample.add(here.path());
        add.peers = vec![address];
        add.discovery.lan = true;
        client.add(add);
        wait_for(&failures, AWAY);
        // BEP 14.
        let announcement = format!(
            "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: {}\r\nInfohash: {}\r\n\r\n\r\n",
            address.port(),
            hex::encode(&sample.info_hash.0[..20])
        );
        let host = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // The engine calls a peer at most once a second, so the first announcement may come too early.
        let called = (0..AWAY / 2).any(|_| {
            host.send_to(announcement.as_bytes(), "239.192.152.143:6771").unwrap();
            failures.recv_timeout(Duration::from_secs(1)).is_ok()
        });
        assert!(called, "the host is not called although it announces itself");
    });
}
