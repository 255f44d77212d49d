//! Hosts that occupy the slots of a torrent do not keep its readers from a seed.

use std::net::Ipv4Addr;

use super::costs::many_addresses;
use super::crowd::Crowd;
use super::lab::{Lab, NAME, NETWORK, READ, door, public};
use crate::support::fixtures::hashes;
use crate::support::process::until;
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_leech::leech;
use crate::support::raw_peer_message::Message;

/// Slots of a torrent (`network.max_connections`).
const SLOTS: usize = 50;

/// The seed loses its connection, the crowd takes the slots, and the seed comes back.
#[track_caller]
fn assert_seed_returns(addresses: impl Fn(&Lab) -> Vec<Ipv4Addr>, connections: usize) {
    let lab = Lab::new();
    // Reads must not depend on a long deadline.
    lab.reader.configure(&format!("{NETWORK}mount:\n  read_timeout: 12s\n"));
    lab.start_honest();
    let mounted = lab.mount(&[lab.honest_peer()]);
    lab.join(&mounted);
    lab.take_sources_away();
    let addresses = addresses(&lab);
    let crowd = Crowd::on(&lab, &lab.reader, &addresses, connections);
    let bound = (SLOTS / 2).min(connections) * addresses.len();
    let held = bound.min(SLOTS - SLOTS / 8) as u64;
    until("the crowd holds its slots", READ, || crowd.fetched() >= held);
    lab.start_honest();
    assert_eq!(hashes(&mounted.path(NAME), READ), lab.expected);
}

#[test]
fn one_address_that_reconnects_keeps_no_seed_away() {
    assert_seed_returns(|lab| vec![public(&lab.evil)], 60);
}

#[test]
fn two_addresses_that_fetch_a_piece_keep_no_seed_away() {
    assert_seed_returns(|lab| many_addresses(&lab.evil, 2), 25);
}

#[test]
fn many_addresses_that_fetch_a_piece_keep_no_seed_away() {
    assert_seed_returns(|lab| many_addresses(&lab.evil, 60), 1);
}

/// Each offence has another peer id.
#[test]
fn offender_gets_fewer_connections_and_neighbours_keep_theirs() {
    let lab = Lab::new();
    let range = lab.content.any_range();
    // It shares the address of the offender.
    let mut neighbour = lab.dial(&lab.evil, &lab.sharer);
    leech(&mut neighbour, &lab.content, 0..1).unwrap();
    for _ in 0..6 {
        let Ok(mut offender) = RawPeer::connect(&lab.evil, door(&lab.sharer), &lab.content.info_hash) else {
            continue;
        };
        // An error: after some offences no further connection of this address is accepted.
        let _ = offender.send(&Message::Piece(0, 0, vec![1; 16384]));
        assert!(!offender.is_answered(range));
    }
    let dial = |_| RawPeer::connect(&lab.evil, door(&lab.sharer), &lab.content.info_hash).ok();
    let mut peers: Vec<RawPeer> = (0..10).filter_map(dial).collect();
    let answered = peers.iter_mut().map(|peer| peer.is_answered(range)).filter(|answered| *answered).count();
    assert!(answered <= 1, "the address of an offender holds {answered} more connections");
    leech(&mut neighbour, &lab.content, 0..lab.content.pieces).expect("the neighbour was disconnected");
    // Other addresses are not affected.
    let mut more: Vec<_> = (0..10).map(|_| lab.dial(&lab.honest, &lab.sharer)).collect();
    assert!(more.iter_mut().all(|peer| peer.is_answered(range)));
}
