//! The limits for strangers do not harm honest peers.

use std::io::{Error, ErrorKind};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Instant;

use super::lab::{Lab, NAME, READ, door};
use crate::support::fixtures::noise;
use crate::support::private_net::in_namespace;
use crate::support::process::{PATIENCE, Proc, until};
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_leech::leech;
use crate::support::raw_peer_seed::{Conduct, RawSeed, Seen};

const LAB: usize = 100;

fn small() -> Vec<(&'static str, Vec<u8>)> {
    vec![("w.bin", noise(6, 1 << 20)), ("c.json", noise(7, 500))]
}

/// Each peer behind one public address loads the whole model, and connects again as often as necessary.
#[test]
fn a_hundred_peers_behind_one_address_load_a_model() {
    let lab = Lab::with(&small(), "64KiB", "");
    let threads: Vec<_> = (0..LAB)
        .map(|_| {
            let (namespace, content) = (lab.evil.namespace().to_owned(), lab.content.clone());
            let to = door(&lab.sharer);
            let load = move || {
                let since = Instant::now();
                loop {
                    let loaded = RawPeer::dial(None, to, &content.info_hash)
                        .and_then(|mut peer| leech(&mut peer, &content, 0..content.pieces));
                    match loaded {
                        Ok(()) => return Ok(()),
                        Err(error) if error.kind() == ErrorKind::InvalidData => return Err(error),
                        // If all slots are in use, a client tries again.
                        Err(error) if since.elapsed() > PATIENCE => return Err(error),
                        Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
                    }
                }
            };
            std::thread::spawn(move || in_namespace(&namespace, load))
        })
        .collect();
    let failed: Vec<Error> = threads.into_iter().filter_map(|thread| thread.join().unwrap().err()).collect();
    assert!(failed.is_empty(), "{} of {LAB} peers did not load the model: {:?}", failed.len(), failed[0]);
}

/// With slots for all of them, no peer is disconnected.
#[test]
fn a_hundred_peers_behind_one_address_stay_connected() {
    let lab = Lab::with(&small(), "64KiB", "  max_connections: 200\n");
    let turn = Arc::new(Mutex::new(()));
    let all_connected = Arc::new(Barrier::new(LAB));
    let all_loaded = Arc::new(Barrier::new(LAB));
    let threads: Vec<_> = (0..LAB)
        .map(|number| {
            let (namespace, content) = (lab.evil.namespace().to_owned(), lab.content.clone());
            let (to, all_connected, all_loaded) =
                (door(&lab.sharer), all_connected.clone(), all_loaded.clone());
            let (range, turn) = (content.any_range(), turn.clone());
            let load = move || {
                // One after another, because the system drops connection attempts that a node does not accept in time.
                let turn = turn.lock().unwrap();
                let peer = RawPeer::dial(None, to, &content.info_hash);
                drop(turn);
                let first = number as u32 % content.pieces;
                let mut loaded =
                    peer.and_then(|mut peer| leech(&mut peer, &content, first..first + 1).map(|()| peer));
                all_connected.wait();
                if let Ok(peer) = &mut loaded
                    && let Err(error) = leech(peer, &content, 0..content.pieces)
                {
                    loaded = Err(error);
                }
                all_loaded.wait();
                loaded.and_then(|mut peer| peer.wait_for_answer(range))
            };
            std::thread::spawn(move || in_namespace(&namespace, load))
        })
        .collect();
    let failed: Vec<Error> = threads.into_iter().filter_map(|thread| thread.join().unwrap().err()).collect();
    assert!(failed.is_empty(), "{} of {LAB} peers were dropped: {:?}", failed.len(), failed[0]);
}

#[test]
fn an_honest_seed_is_never_disconnected() {
    let lab = Lab::new();
    let seed = RawSeed::listen(&lab.evil, 7001, &lab.content, Conduct::honest());
    let peers = [seed.peer()];
    let mounted = lab.mount(&peers);
    lab.assert_reads(&mounted);
    let seen = seed.seen();
    assert!(Seen::count(&seen.blocks) > 0);
    assert_eq!(Seen::count(&seen.disconnections), 0, "the mount closed the connection");
    lab.assert_got(lab.get(&peers, &[]));
    // The connection of `get` ends with it; the connection of the mount does not.
    until("`get` has closed its connection", READ, || Seen::count(&seen.disconnections) == 1);
}

/// The seed has opened the connection, and the victim does not trust it yet.
#[test]
fn a_seed_that_connects_is_never_disconnected() {
    let lab = Lab::new();
    let mounted = lab.mount(&[]);
    let mut read = lab.reader.command("sha256sum");
    let reading = Proc::spawn(read.arg(mounted.path(NAME).join("b.bin")));
    let seed = RawSeed::over(lab.dial(&lab.evil, &lab.reader), &lab.content, Conduct::honest());
    let sum = reading.finish(READ).ok();
    assert_eq!(sum.split(' ').next(), Some(&*lab.expected["b.bin"]));
    lab.assert_reads(&mounted);
    assert_eq!(Seen::count(&seed.seen().disconnections), 0, "the mount closed the connection");
}
