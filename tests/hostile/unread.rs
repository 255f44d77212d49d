//! Peers that do not read the blocks that they requested.

use std::net::Ipv4Addr;

use super::costs::many_addresses;
use super::lab::Lab;
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_leech::{blocks_of, leech};
use crate::support::raw_peer_message::Message;

/// Slots of the sharer's torrent.
const SLOTS: u8 = 8;

/// Blocks in the kernel of the sharer are not blocks that a peer has fetched.
#[test]
fn peers_that_take_no_bytes_keep_no_reader_out() {
    let lab = Lab::with(&super::lab::model(), "64KiB", &format!("  max_connections: {SLOTS}\n"));
    let addresses = many_addresses(&lab.evil, 2 * SLOTS);
    let (silent, readers): (&[Ipv4Addr], &[Ipv4Addr]) = addresses.split_at(SLOTS.into());
    let connect = |from: &Ipv4Addr| lab.dial_from(&lab.evil, Some(*from), &lab.sharer);
    let silent: Vec<RawPeer> = silent
        .iter()
        .map(|from| {
            let mut peer = connect(from);
            // Less than a peer must take to count as one that fetches data. The system of the sharer keeps more.
            peer.keep_bytes(115 << 10);
            peer.send(&Message::Interested).unwrap();
            for block in blocks_of(&lab.content, 0..lab.content.pieces) {
                peer.send(&Message::Request(block)).unwrap();
            }
            peer
        })
        .collect();
    // Slow, so that the sharer counts what each of its peers has taken before the next reader connects.
    lab.sharer.limit_rate("8mbit");
    let readers: Vec<RawPeer> = readers
        .iter()
        .map(|from| {
            let mut reader = connect(from);
            leech(&mut reader, &lab.content, 0..16).expect("a reader got no slot");
            reader
        })
        .collect();
    assert!(readers.iter().all(|reader| !reader.is_closed()), "a reader was closed");
    // Their ends were open until now.
    drop(silent);
}
