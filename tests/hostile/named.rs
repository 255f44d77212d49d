//! Hosts that a peer names by peer exchange (BEP 11) and that have nothing to do with the torrent.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::lab::{Lab, NAME, READ, door, public};
use crate::support::capture::Capture;
use crate::support::host::Mounted;
use crate::support::net::sh;
use crate::support::private_net::in_namespace;
use crate::support::process::{Proc, until};
use crate::support::raw_peer_pex::Gossip;

/// Calls to a named host that never answers. The next one follows ten minutes later.
const CALLS: usize = 3;

/// Ports of one named host that are called. The next one follows ten minutes later.
const PORTS: usize = 16;

/// Calls to the host that the user has named. The reader calls it every second.
const CONTROL_CALLS: usize = 20;

/// The hosts that a peer may name at the same time (`max_pex_peers` of libtorrent).
const NAMED: u8 = 50;

/// Half of the connections of a torrent.
const HALF: usize = 25;

/// A host that no user has named. It is another address of the hostile host.
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);

/// A program that accepts connections and closes them, and their number.
struct Bystander {
    at: SocketAddr,
    calls: Arc<AtomicUsize>,
}

impl Bystander {
    fn on(lab: &Lab, address: Ipv4Addr, port: u16) -> Self {
        let at = SocketAddrV4::new(address, port).into();
        let listener = in_namespace(lab.evil.namespace(), move || TcpListener::bind(at).unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let count = calls.clone();
        std::thread::spawn(move || {
            // An error: the call ended before it was accepted.
            for connection in listener.incoming() {
                count.fetch_add(usize::from(connection.is_ok()), Ordering::Relaxed);
            }
        });
        Self { at, calls }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

/// A reader that waits for a file, a host that its user has named, and a peer that can name hosts.
struct Waiting<'a> {
    lab: &'a Lab,
    control: Bystander,
    gossip: Gossip,
    _reading: Proc,
    _mounted: Mounted<'a>,
}

impl<'a> Waiting<'a> {
    fn new(lab: &'a Lab) -> Self {
        lab.evil.add_public_addr(STRANGER);
        let control = Bystander::on(lab, public(&lab.evil), 8081);
        let mounted = lab.mount(&[control.at.to_string()]);
        let mut read = lab.reader.command("sha256sum");
        let reading = Proc::spawn(read.arg(mounted.path(NAME).join("b.bin")));
        let gossip = Gossip::with(&lab.honest, door(&lab.reader), lab.content.info_hash);
        Self { lab, control, gossip, _reading: reading, _mounted: mounted }
    }

    /// Waits until the reader has called the user's host often. Calls `watch` after each look.
    #[track_caller]
    fn control_is_called(&self, mut watch: impl FnMut()) {
        let before = self.control.calls();
        until("the user's host is called often", READ, || {
            watch();
            self.control.calls() >= before + CONTROL_CALLS
        });
    }

    /// Connections of the reader that are being made at the same moment. The system returns its table in
    /// parts. A connection that ended and the one that replaced it can both be in it, so only connections that
    /// are in two tables count.
    fn pending(&self) -> usize {
        self.connecting().intersection(&self.connecting()).count()
    }

    /// The local and remote addresses of connections that are being made.
    fn connecting(&self) -> BTreeSet<(String, String)> {
        const SYN_SENT: &str = "02";
        let table = in_namespace(self.lab.reader.namespace(), || {
            std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap()
        });
        let connections = table.lines().filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1).map(str::to_owned);
            let ends = (fields.next()?, fields.next()?);
            (fields.next()? == SYN_SENT).then_some(ends)
        });
        connections.collect()
    }
}

#[test]
fn host_named_by_peer_exchange_is_called_a_few_times() {
    let lab = Lab::new();
    let mut waiting = Waiting::new(&lab);
    let [web, named] = [80, 8080].map(|port| Bystander::on(&lab, STRANGER, port));
    waiting.gossip.name(&[web.at, named.at], 0);
    until("the named host is called", READ, || named.calls() >= CALLS);
    waiting.control_is_called(|| {});
    assert_eq!(named.calls(), CALLS, "calls to the named host");
    assert_eq!(web.calls(), 0, "calls to a port of a system service");
}

#[test]
fn ports_of_a_named_host_are_not_scanned() {
    let lab = Lab::new();
    let mut waiting = Waiting::new(&lab);
    let capture = Capture::on(&lab.reader);
    let ports: Vec<SocketAddr> = (1..=NAMED).map(|i| (STRANGER, 2000 + u16::from(i)).into()).collect();
    waiting.gossip.name(&ports, 0);
    let mut called = capture.destinations();
    waiting.control_is_called(|| called.extend(capture.destinations()));
    let called: Vec<_> = ports.iter().filter(|port| called.contains(port)).collect();
    assert_eq!(called.len(), PORTS, "ports of the named host that were called: {called:?}");
}

#[test]
fn named_hosts_that_never_answer_leave_half_of_the_slots() {
    let lab = Lab::new();
    // Their packets are lost.
    let absent: Vec<Ipv4Addr> = (1..=NAMED).map(|i| Ipv4Addr::new(198, 18, 2, i)).collect();
    for address in &absent {
        sh(&format!(
            "ip -n {} neigh add {address} lladdr 02:00:00:00:00:01 dev eth0 nud permanent",
            lab.reader.namespace()
        ));
    }
    let mut waiting = Waiting::new(&lab);
    waiting.gossip.name(&absent.iter().map(|address| (*address, 6881).into()).collect::<Vec<_>>(), 0);
    let mut most = 0;
    waiting.control_is_called(|| most = most.max(waiting.pending()));
    // One more to the user's host.
    assert!((HALF..=HALF + 1).contains(&most), "{most} connections are being made");
}
