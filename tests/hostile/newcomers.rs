//! TCP connections that never begin a handshake.

use std::net::TcpStream;

use super::costs::connections;
use super::lab::{Lab, door};
use crate::support::private_net::in_namespace;
use crate::support::process::{PATIENCE, until};
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_leech::leech;

/// Most connections without a handshake that a node keeps, and those that the kernel has not passed to it yet.
const BOUND: usize = 256 + 16;

#[test]
fn connections_without_a_handshake_are_bounded() {
    let lab = Lab::new();
    let to = door(&lab.sharer);
    let open = || in_namespace(lab.evil.namespace(), move || TcpStream::connect(to));
    let mut silent = vec![];
    let mut most = 0;
    for _ in 0..12 {
        // At the same time, because the kernel delays connections that the node does not accept immediately.
        std::thread::scope(|scope| {
            let opening: Vec<_> = (0..50).map(|_| scope.spawn(open)).collect();
            // An error: the node has closed the connection.
            silent.extend(opening.into_iter().filter_map(|one| one.join().unwrap().ok()));
        });
        let now = connections(&lab);
        assert!(now <= BOUND, "{now} connections without a handshake are open");
        most = most.max(now);
    }
    println!("up to {most} of {} silent connections were open", silent.len());
    assert!(most > BOUND / 2, "only {most} connections were open at the same time");
    // Another host is served while they are open.
    let mut peer = RawPeer::connect(&lab.honest, to, &lab.content.info_hash).unwrap();
    leech(&mut peer, &lab.content, 0..4).unwrap();
    drop(peer);
    until("the silent connections have timed out", PATIENCE, || connections(&lab) == 0);
}
