//! A node of the DHT (BEP 5) written byte by byte.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use super::host::Host;
use super::private_net::in_namespace;
use super::process::PATIENCE;
use super::raw_peer_pex::compact;

/// A socket on a host, which waits a limited time for packets.
pub fn bind(host: &Host, at: SocketAddr) -> UdpSocket {
    let socket = in_namespace(host.namespace(), move || UdpSocket::bind(at).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The bytes after the first `key`.
pub fn after<'a>(packet: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    packet.windows(key.len()).position(|window| window == key).map(|at| &packet[at + key.len()..])
}

/// Answers queries on a socket until none arrives for [`PATIENCE`]. Names these addresses as nodes, and as peers of every torrent.
pub fn gossip(socket: UdpSocket, named: Vec<SocketAddr>) {
    let v6 = named[0].is_ipv6();
    let answer = move |packet: &[u8]| {
        let transaction = after(packet, b"1:t2:").filter(|_| after(packet, b"1:y1:q").is_some())?.get(..2)?;
        let target = after(packet, b"6:target20:").or(after(packet, b"9:info_hash20:"))?.get(..20)?;
        let mut nodes = vec![];
        let mut peers = vec![];
        for (number, at) in (0_u8..).zip(&named) {
            // Close to the target, in this order.
            nodes.extend(&target[..19]);
            nodes.push(target[19] ^ number);
            nodes.extend(compact(at));
            peers.extend(format!("{}:", compact(at).len()).bytes());
            peers.extend(compact(at));
        }
        let mut reply = b"d1:rd2:id20:".to_vec();
        reply.extend([0x5a; 20]);
        reply.extend(if v6 { b"6:nodes6".as_slice() } else { b"5:nodes" });
        reply.extend(format!("{}:", nodes.len()).bytes());
        reply.extend(nodes);
        reply.extend(b"5:token4:abcd6:valuesl");
        reply.extend(peers);
        reply.extend(b"ee1:t2:");
        reply.extend(transaction);
        reply.extend(b"1:y1:re");
        Some(reply)
    };
    std::thread::spawn(move || {
        let mut packet = [0; 2000];
        loop {
            match socket.recv_from(&mut packet) {
                Ok((len, from)) => {
                    if let Some(reply) = answer(&packet[..len]) {
                        socket.send_to(&reply, from).unwrap();
                    }
                }
                // A child process of another test has ended.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
}
