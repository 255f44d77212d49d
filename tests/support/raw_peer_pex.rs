//! Peer exchange (BEP 11) of a [`RawPeer`].

use std::net::SocketAddr;

use silmaril::model::InfoHash;

use super::host::Host;
use super::private_net::in_namespace;
use super::process::{PATIENCE, until};
use super::raw_peer::{FLAGS, RawPeer};
use super::raw_peer_message::Message;

/// The flag of a peer that accepts uTP connections.
pub const UTP: u8 = 0x04;

/// A peer that names other peers.
pub struct Gossip {
    peer: RawPeer,
    number: u8,
}

impl Gossip {
    /// Connects from a host to a daemon, which may not be in the swarm yet.
    #[track_caller]
    pub fn with(from: &Host, to: SocketAddr, swarm: InfoHash) -> Self {
        let mut peer = None;
        until("the daemon accepts a connection", PATIENCE, || {
            let dial = move || RawPeer::dial_as(None, to, &swarm, FLAGS, b"d1:md6:ut_pexi1eee");
            peer = in_namespace(from.namespace(), dial).ok();
            peer.is_some()
        });
        let mut peer = peer.unwrap();
        let number = peer.receive_until(|message| {
            let Message::Extended(0, body) = message else { return None };
            let text = String::from_utf8_lossy(&body).into_owned();
            text.split_once("6:ut_pexi")?.1.split('e').next()?.parse().ok()
        });
        Self { peer, number: number.unwrap() }
    }

    /// Names peers, with the same flags for all of them.
    pub fn name(&mut self, peers: &[SocketAddr], flags: u8) {
        let entries = |v6: bool| {
            let of_family = peers.iter().filter(|peer| peer.is_ipv6() == v6);
            let entries: Vec<Vec<u8>> = of_family.map(compact).collect();
            (vec![flags; entries.len()], entries.concat())
        };
        let mut body = b"d".to_vec();
        for (key, (flags, entries)) in [("added", entries(false)), ("added6", entries(true))] {
            let flags_key = format!("{key}.f");
            for (key, value) in [(key, entries), (&*flags_key, flags)] {
                body.extend(format!("{}:{key}{}:", key.len(), value.len()).bytes());
                body.extend(value);
            }
        }
        // Keys are sorted: `added`, `added.f`, `added6`, `added6.f`.
        body.push(b'e');
        self.peer.send(&Message::Extended(self.number, body)).unwrap();
    }
}

/// The compact form of an address and a port (BEP 5, BEP 7).
pub fn compact(at: &SocketAddr) -> Vec<u8> {
    let mut bytes = match at {
        SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
        SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
    };
    bytes.extend(at.port().to_be_bytes());
    bytes
}
