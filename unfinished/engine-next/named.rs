//! Hosts that a peer names by peer exchange (BEP 11) and that have nothing to do with the torrent.

use std::net::{SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::lab::{Lab, NAME, READ, door, public};
use crate::support::private_net::in_namespace;
use crate::support::process::{PATIENCE, Proc, until};
use crate::support::raw_peer::{FLAGS, RawPeer};
use crate::support::raw_peer_message::Message;

/// Calls to a named host that never answers. The next one follows ten minutes later.
const CALLS: usize = 3;

/// Calls to the host that the user has named. The reader calls it every second.
const CONTROL_CALLS: usize = 20;

/// A program that accepts connections and closes them, and their number.
struct Bystander {
    at: SocketAddrV4,
    calls: Arc<AtomicUsize>,
}

impl Bystander {
    fn on(lab: &Lab, port: u16) -> Self {
        let at = SocketAddrV4::new(public(&lab.evil), port);
        let listener = in_namespace(lab.evil.namespace(), move || TcpListener::bind(at).unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let count = calls.clone();
        std::thread::spawn(move || {
            while let Ok((connection, _)) = listener.accept() {
                drop(connection);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { at, calls }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// The bytes of the host in a message of peer exchange.
    fn entry(&self) -> Vec<u8> {
        [self.at.ip().octets().as_slice(), &self.at.port().to_be_bytes()].concat()
    }
}

/// A peer of the reader, which may not be in the swarm yet, and the number by which the reader wants peer exchange.
fn gossip(lab: &Lab) -> (RawPeer, u8) {
    let (to, swarm) = (door(&lab.reader), lab.content.info_hash);
    let mut peer = None;
    until("the reader accepts a connection", PATIENCE, || {
        let dial = move || RawPeer::dial_as(None, to, &swarm, FLAGS, b"d1:md6:ut_pexi1eee");
        peer = in_namespace(lab.honest.namespace(), dial).ok();
        peer.is_some()
    });
    let mut peer = peer.unwrap();
    let number = peer.receive_until(|message| {
        let Message::Extended(0, body) = message else { return None };
        let text = String::from_utf8_lossy(&body).into_owned();
        text.split_once("6:ut_pexi")?.1.split('e').next()?.parse().ok()
    });
    (peer, number.unwrap())
}

#[test]
fn host_named_by_peer_exchange_is_called_a_few_times() {
    let lab = Lab::new();
    let [web, named, control] = [80, 8080, 8081].map(|port| Bystander::on(&lab, port));
    let mounted = lab.mount(&[control.at.to_string()]);
    let mut read = lab.reader.command("sha256sum");
    let _reading = Proc::spawn(read.arg(mounted.path(NAME).join("b.bin")));
    let (mut peer, number) = gossip(&lab);
    let body = [b"d5:added12:".as_slice(), &web.entry(), &named.entry(), b"7:added.f2:\0\0e"].concat();
    peer.send(&Message::Extended(number, body)).unwrap();
    until("the named host is called", READ, || named.calls() >= CALLS);
    let before = control.calls();
    until("the user's host is called often", READ, || control.calls() >= before + CONTROL_CALLS);
    assert_eq!(named.calls(), CALLS, "calls to the named host");
    assert_eq!(web.calls(), 0, "calls to a port of a system service");
}
