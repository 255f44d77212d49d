//! Peers that are away for a while.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};

use silmaril::config::Encryption;

use super::rig::{Client, SOON, Sample, network};
use crate::support::private_net::in_private_net;

/// Connects that fail before the peer is itself again. libtorrent's own limit is 3.
const FAILURES: usize = 4;

#[test]
fn a_peer_that_failed_often_is_tried_again_and_used_when_it_is_back() {
    in_private_net(|| {
        let sample = Sample::new(&[("weights", 64 * 1024)], 16 * 1024, false);
        let here = tempfile::tempdir().unwrap();
        let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = stranger.local_addr().unwrap();
        let (failed, failures) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // Somebody else answers at the address: the handshake is of another torrent, which is a failed connect.
            for _ in 0..FAILURES {
                let (mut peer, _) = stranger.accept().unwrap();
                let mut handshake = [0; 68];
                peer.read_exact(&mut handshake).unwrap();
                handshake[28..].fill(0xff);
                peer.write_all(&handshake).unwrap();
                failed.send(()).unwrap();
                // Until the other side hangs up.
                let _ = peer.read_to_end(&mut Vec::new());
            }
        });
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
        for attempt in 1..=FAILURES {
            failures.recv_timeout(SOON).unwrap_or_else(|_| panic!("no attempt {attempt} to connect"));
        }
        let mut back = plain();
        back.listen_port = address.port();
        let mut seed = Client::with(back);
        assert_eq!(seed.address, address);
        seed.add(sample.add_seed());
        client.read(id, 0);
    });
}
