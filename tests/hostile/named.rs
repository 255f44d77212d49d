//! Hosts that a peer names by peer exchange (BEP 11) and that have nothing to do with the torrent.

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::lab::{Lab, NAME, door, public};
use crate::support::private_net::in_namespace;
use crate::support::process::{PATIENCE, Proc, until};
use crate::support::raw_peer::{FLAGS, RawPeer};
use crate::support::raw_peer_message::Message;

/// Calls to wait for, and the least time from the first to the last: the waits are 2, 3, 4 and 5 seconds.
const CALLS: usize = 5;
const AT_LEAST: Duration = Duration::from_secs(9);

/// A program that accepts connections and closes them. Returns a message for each.
fn bystander(lab: &Lab) -> (SocketAddr, Receiver<Instant>) {
    let at = SocketAddr::new(public(&lab.evil).into(), 80);
    let listener = in_namespace(lab.evil.namespace(), move || TcpListener::bind(at).unwrap());
    let (called, calls) = channel();
    std::thread::spawn(move || {
        while let Ok((connection, _)) = listener.accept() {
            drop(connection);
            if called.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    (at, calls)
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
fn host_named_by_peer_exchange_is_called_less_and_less_often() {
    let lab = Lab::new();
    let (at, calls) = bystander(&lab);
    let mounted = lab.mount(&[]);
    let mut read = lab.reader.command("sha256sum");
    let _reading = Proc::spawn(read.arg(mounted.path(NAME).join("b.bin")));
    let (mut peer, number) = gossip(&lab);
    let SocketAddr::V4(v4) = at else { unreachable!() };
    let entry = [v4.ip().octets().as_slice(), &v4.port().to_be_bytes()].concat();
    let body = [b"d5:added6:".as_slice(), &entry, b"7:added.f1:\0e"].concat();
    peer.send(&Message::Extended(number, body)).unwrap();
    let call = |_| calls.recv_timeout(PATIENCE).expect("the named host is not called");
    let times: Vec<Instant> = (0..CALLS).map(call).collect();
    let took = times[CALLS - 1] - times[0];
    assert!(took >= AT_LEAST, "{CALLS} calls in {took:?}");
}
