//! Peers that share an address or a peer id with a hostile one.

use std::time::Duration;

use super::lab::{Lab, NAME, READ, door, public};
use crate::support::private_net::in_namespace;
use crate::support::process::{PATIENCE, Proc, until};
use crate::support::raw_peer::{FLAGS, RawPeer};
use crate::support::raw_peer_leech::leech;
use crate::support::raw_peer_message::Message;
use crate::support::raw_peer_seed::{Conduct, RawSeed, Seen};

/// Starts to read a file. The reader then waits in the swarm.
fn reading(lab: &Lab, mounted: &crate::support::host::Mounted) -> Proc {
    let mut read = lab.reader.command("sha256sum");
    Proc::spawn(read.arg(mounted.path(NAME).join("b.bin")))
}

#[track_caller]
fn assert_read(lab: &Lab, reading: Proc) {
    let sum = reading.finish(READ).ok();
    assert_eq!(sum.split(' ').next(), Some(&*lab.expected["b.bin"]));
}

/// Opens a connection with this peer id to the reader, which may not be in the swarm yet.
fn copied(lab: &Lab, id: [u8; 20]) -> RawPeer {
    let (to, swarm) = (door(&lab.reader), lab.content.info_hash);
    let mut peer = None;
    until("the reader accepts a connection", PATIENCE, || {
        peer = in_namespace(lab.evil.namespace(), move || RawPeer::dial_with_id(None, to, &swarm, &id)).ok();
        peer.is_some()
    });
    peer.unwrap()
}

/// The ids sort before and after those of silmaril (`-SM`).
#[test]
fn copied_peer_id_keeps_no_peer_out() {
    for id in [*b"-GT0003-honest-peer.", *b"-qB4500-honest-peer."] {
        let lab = Lab::new();
        let mounted = lab.mount(&[format!("{}:7001", public(&lab.honest))]);
        let reading = reading(&lab, &mounted);
        let _silent = copied(&lab, id);
        let seed = RawSeed::listen(&lab.honest, 7001, &lab.content, Conduct::honest().with_id(id));
        assert_read(&lab, reading);
        assert_eq!(Seen::count(&seed.seen().disconnections), 0, "the seed was disconnected");
    }
}

/// The offender copies the peer id of a seed behind the same address.
#[test]
fn offence_of_a_neighbour_with_the_same_id_keeps_no_seed_out() {
    let lab = Lab::new();
    let id = *b"-BI3500-honest-peer.";
    let mounted = lab.mount(&[format!("{}:7001", public(&lab.evil))]);
    let reading = reading(&lab, &mounted);
    let mut offender = copied(&lab, id);
    offender.send(&Message::Piece(0, 0, vec![1; 16384])).unwrap();
    until("the offender is disconnected", PATIENCE, || offender.is_closed());
    let _seed = RawSeed::listen(&lab.evil, 7001, &lab.content, Conduct::honest().with_id(id));
    assert_read(&lab, reading);
}

/// The number by which the reader wants catalog messages (BEP 10).
const CATALOG: u8 = 20;

/// Floods the reader with catalog messages until it closes the connection.
fn flood_catalog(lab: &Lab) {
    let (to, swarm) = (door(&lab.reader), lab.content.info_hash);
    let mut peer = in_namespace(lab.evil.namespace(), move || {
        RawPeer::dial_as(None, to, &swarm, FLAGS, b"d1:md16:silmaril_catalogi20eee")
    })
    .unwrap();
    peer.set_timeout(Duration::from_secs(5));
    let hello = b"d2:id20:01234567890123456789".as_slice();
    let hello = [hello, b"1:ni5e1:t5:hello1:vi1ee"].concat();
    let mut have = b"d1:k44000:".to_vec();
    have.extend((0..44_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8));
    have.extend(b"4:morei1e1:t4:havee");
    let have = Message::Extended(CATALOG, have).encode();
    let mut sent = peer.send(&Message::Extended(CATALOG, hello));
    while sent.is_ok() && !peer.is_closed() {
        sent = peer.send_bytes(&have);
    }
    until("the flooder is disconnected", PATIENCE, || peer.is_closed());
}

#[test]
fn catalog_flood_cuts_no_honest_seed_at_the_same_address() {
    let lab = Lab::new();
    let seed = RawSeed::listen(&lab.evil, 7001, &lab.content, Conduct::honest());
    let mounted = lab.mount(&[format!("{}:7001", public(&lab.evil))]);
    lab.join(&mounted);
    flood_catalog(&lab);
    flood_catalog(&lab);
    lab.assert_reads(&mounted);
    assert_eq!(Seen::count(&seed.seen().disconnections), 0, "the seed was disconnected");
    // A new connection of the address is served.
    leech(&mut lab.dial(&lab.evil, &lab.reader), &lab.content, 0..lab.content.pieces).unwrap();
}
