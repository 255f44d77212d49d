//! Floods of messages that are cheap to send.

use std::time::{Duration, Instant};

use super::costs::many_addresses;
use super::lab::{Lab, process_of};
use super::memory::{Memory, digest};
use super::siege::siege;
use super::strike::Strike;
use crate::support::fixtures::noise;
use crate::support::host::Host;
use crate::support::process::{PATIENCE, until};
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_leech::leech;
use crate::support::raw_peer_message::{Block, HashRange, Message};

/// The limit for the memory that a flood costs a node, in bytes.
const BOUND: u64 = 64 << 20;

pub(super) fn repeated(what: &str, times: usize, messages: &[Message]) -> Strike {
    let one = Strike::new(what, messages);
    Strike { bytes: one.bytes.repeat(times), ..one }
}

/// Many messages of each kind that libtorrent handles before or without the gate.
pub(super) fn floods(content: &Content) -> Vec<Strike> {
    let block = |piece, begin, length| Block { piece, begin, length };
    let mut strikes = vec![
        repeated("keep-alives", 20_000, &[Message::KeepAlive]),
        repeated("interested and not", 5_000, &[Message::Interested, Message::NotInterested]),
        repeated("choke and unchoke", 5_000, &[Message::Choke, Message::Unchoke]),
        repeated("have all and none", 1_000, &[Message::HaveAll, Message::HaveNone]),
        repeated("empty extension messages", 5_000, &[Message::Extended(1, vec![])]),
        repeated("unknown extension messages", 5_000, &[Message::Extended(200, vec![7; 100])]),
        repeated("extension handshakes", 3_000, &[Message::Extended(0, b"d1:md6:ut_pexi1eee".to_vec())]),
        repeated("bad extension handshakes", 1_000, &[Message::Extended(0, b"d1:md6:ut_pex".to_vec())]),
        repeated("metadata requests", 3_000, &[Message::Extended(2, b"d8:msg_typei0e5:piecei0ee".to_vec())]),
        repeated("rejects", 3_000, &[Message::Reject(block(0, 0, 16384))]),
        repeated("unrequested blocks", 50, &[Message::Piece(0, 0, vec![1; 16384])]),
        repeated("unknown messages", 2_000, &[Message::Other(99, vec![1; 50])]),
        repeated("cancels", 5_000, &[Message::Cancel(block(0, 0, 16384))]),
        repeated("ports", 3_000, &[Message::Other(9, vec![0x1a, 0xe1])]),
        repeated("suggestions", 3_000, &[Message::Other(13, vec![0, 0, 0, 1])]),
        repeated("allowed fast", 3_000, &[Message::Other(17, vec![0, 0, 0, 1])]),
        Strike::new("a long message that never ends", &[]).with_bytes(&[0x7f, 0xff, 0xff, 0xff, 22]),
        Strike::new("a HASHES message of 1 MiB", &[Message::Other(22, vec![0; 1 << 20])]),
        Strike::new("an extension message of 1 MiB", &[Message::Extended(1, vec![0; 1 << 20])]),
    ];
    for piece in [content.pieces, content.pieces + 1, i32::MAX as u32, 0x8000_0000, u32::MAX] {
        strikes.push(repeated(&format!("HAVE {piece}"), 100, &[Message::Have(piece)]));
        strikes.push(Strike::new(
            format!("suggest {piece}"),
            &[Message::Other(13, piece.to_be_bytes().to_vec())],
        ));
        strikes
            .push(Strike::new(format!("allow {piece}"), &[Message::Other(17, piece.to_be_bytes().to_vec())]));
        let request = Message::Request(block(piece, 0, 16384));
        strikes.push(repeated(&format!("REQUEST in piece {piece}"), 500, &[Message::Interested, request]));
    }
    for (begin, length) in [
        (65536, 16384),
        (0, 0),
        (0, 131_073),
        (0, u32::MAX),
        (u32::MAX, 1),
        (0x8000_0000, 16384),
        (49152, 16385),
    ] {
        let request = Message::Request(block(0, begin, length));
        strikes.push(repeated(
            &format!("REQUEST of {length} at {begin}"),
            500,
            &[Message::Interested, request],
        ));
    }
    let right = content.pieces.div_ceil(8) as usize;
    for length in [0, 1, right - 1, right + 1, 100_000] {
        strikes.push(Strike::new(
            format!("a bitfield of {length} bytes"),
            &[Message::Bitfield(vec![0xff; length])],
        ));
    }
    strikes.push(repeated("bitfields again and again", 500, &[Message::Bitfield(vec![0xff; right])]));
    for number in 0..=25 {
        strikes
            .push(Strike::new(format!("message {number} without a body"), &[Message::Other(number, vec![])]));
        strikes.push(Strike::new(
            format!("message {number} of 3 bytes"),
            &[Message::Other(number, vec![0xff; 3])],
        ));
    }
    strikes
}

#[test]
fn floods_and_malformed_messages_are_harmless() {
    siege(floods);
}

#[test]
fn floods_cost_bounded_memory() {
    let lab = Lab::new();
    let memory = Memory::of(&lab.sharer);
    lab.strike(&lab.sharer, &floods(&lab.content));
    let growth = memory.growth();
    println!("floods cost {} MiB", growth >> 20);
    assert!(growth < BOUND, "floods cost {} MiB", growth >> 20);
}

/// More than the gate accepts of any message that costs its sender a few bytes.
const MANY: usize = 60_000;

#[test]
fn floods_of_small_messages_end_the_connection() {
    let lab = Lab::new();
    let block = Block { piece: 0, begin: 0, length: 16384 };
    let unknown = HashRange { root: [7; 32], base: 0, index: 0, length: 4, proofs: 3 };
    for (what, message) in [
        ("keep-alives", Message::KeepAlive),
        ("HAVE of one piece", Message::Have(0)),
        ("INTERESTED", Message::Interested),
        ("CHOKE", Message::Choke),
        ("suggestions", Message::Other(13, vec![0, 0, 0, 1])),
        ("ALLOWED_FAST", Message::Other(17, vec![0, 0, 0, 1])),
        ("rejects without a request", Message::Reject(block)),
        ("cancels", Message::Cancel(block)),
        ("requests for unknown hashes", Message::HashRequest(unknown)),
    ] {
        let mut peer = lab.dial(&lab.evil, &lab.sharer);
        // An error: the sharer has closed the connection already.
        let _ = peer.send_bytes(&message.encode().repeat(MANY));
        until(&format!("the peer that floods with {what} is disconnected"), PATIENCE, || peer.is_closed());
    }
    leech(&mut lab.dial(&lab.honest, &lab.sharer), &lab.content, 0..1).unwrap();
}

/// Bytes that a node has read from files, and from sockets.
fn bytes_read(host: &Host) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", process_of(host))).unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

/// The blocks of a request are read and hashed, up to 1 MiB for a message of 53 bytes. Here all requests together ask for 4 GiB.
#[test]
fn hash_requests_of_peers_that_left_cost_nothing() {
    let lab = Lab::with(&[("w.bin", noise(5, 16 << 20))], "1MiB", "");
    let before = bytes_read(&lab.sharer);
    let addresses = many_addresses(&lab.evil, 16);
    let ranges = (0..16).cycle().map(|piece| lab.content.files[0].range(0, 64 * piece, 64));
    let requests: Vec<u8> = ranges.take(256).flat_map(|range| Message::HashRequest(range).encode()).collect();
    let mut peers = vec![];
    for address in addresses {
        let mut peer = lab.dial_from(&lab.evil, Some(address), &lab.sharer);
        // An error: the sharer has closed the connection.
        let _ = peer.send_bytes(&requests);
        peers.push(peer);
    }
    let ends: Vec<_> = peers.iter().map(RawPeer::local_addr).collect();
    digest(&lab.sharer, &ends);
    drop(peers);
    leech(&mut lab.dial(&lab.honest, &lab.sharer), &lab.content, 0..lab.content.pieces).unwrap();
    let read = bytes_read(&lab.sharer) - before;
    println!("the sharer read {} MiB", read >> 20);
    assert!(read < 1 << 30, "the sharer read {} MiB", read >> 20);
}

#[test]
fn rejected_hash_request_that_is_repeated_costs_little() {
    let lab = Lab::new();
    let mut peer = lab.dial(&lab.evil, &lab.sharer);
    let unknown = HashRange { root: [7; 32], base: 0, index: 0, length: 4, proofs: 3 };
    let started = Instant::now();
    let mut rejects = 0;
    while started.elapsed() < Duration::from_secs(3) {
        peer.send(&Message::HashRequest(unknown)).unwrap();
        peer.receive_until(|message| matches!(message, Message::HashReject(_)).then_some(())).unwrap();
        rejects += 1;
    }
    // Those that are answered immediately, 64 a second in addition, and one in each further second.
    println!("{rejects} rejects in {:?}", started.elapsed());
    assert!(f64::from(rejects) < 256.0 + 66.0 * (started.elapsed().as_secs_f64() + 1.0), "{rejects} rejects");
}
