//! Limits for the cost that one host causes at a node: memory, connections, and slots of other readers.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::lab::{Lab, door};
use super::memory::{Memory, digest};
use crate::support::fixtures::noise;
use crate::support::host::Host;
use crate::support::net::sh;
use crate::support::private_net::in_namespace;
use crate::support::process::{PATIENCE, until};
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_leech::{blocks_of, leech};
use crate::support::raw_peer_message::{HashRange, Message};

const MIB: u64 = 1 << 20;

/// The limit for the memory of unread answers, in bytes.
const BOUND: u64 = 64 * MIB;

/// The limit for the memory of blocks that peers have requested and do not read: 256 MiB, and what arrives until the engine
/// notices. Without a limit, each peer of the test has 8 MiB.
const STOPPED_BOUND: u64 = 400 * MIB;

/// The limit for the memory of 50 unfinished messages: 288 KiB each, and as much again for other parts of the node. Without a
/// limit, each peer of the test has 2 MiB.
const UNFINISHED_BOUND: u64 = 32 * MIB;

/// How long a write waits for a node that does not read.
const WRITE: Duration = Duration::from_secs(2);

/// Adds addresses outside local networks to a host, for many peers.
pub fn many_addresses(host: &Host, count: u8) -> Vec<Ipv4Addr> {
    let all: Vec<Ipv4Addr> = (1..=count).map(|number| Ipv4Addr::new(198, 18, 1, number)).collect();
    let lines: Vec<String> =
        all.iter().map(|ip| format!("ip -n {} addr add {ip}/32 dev eth0", host.namespace())).collect();
    sh(&lines.join("\n"));
    all
}

/// Sends requests and never reads. Stops when the node closes the connection or stops reading.
pub(super) fn send_all(peer: &mut RawPeer, messages: impl Iterator<Item = Message>) {
    peer.set_timeout(WRITE);
    let bytes: Vec<u8> = messages.flat_map(|message| message.encode()).collect();
    for part in bytes.chunks(4096) {
        if peer.send_bytes(part).is_err() {
            return;
        }
    }
}

/// A range whose answer is 64 KiB.
fn long_range(content: &Content) -> HashRange {
    content.files[0].range(0, 0, 2048)
}

#[test]
fn unread_hash_answers_cost_bounded_memory() {
    // With pieces of one block every node knows the leaves. An answer has 2048 of them.
    let lab = Lab::with(&[("w.bin", noise(5, 1 << 20).repeat(32))], "16KiB", "");
    lab.start_honest();
    let peers = [lab.honest_peer()];
    let mounted = lab.mount(&peers);
    let file = mounted.path(super::lab::NAME).join("w.bin");
    crate::support::fixtures::dd(&file, 16384, 0, 1, PATIENCE).ok();
    let _getting = lab.get(&peers, &["--seed"]);
    until("`get` has everything", PATIENCE, || getting_done(&lab));
    let mut costs = vec![];
    for (what, victim) in [("sharer", &lab.sharer), ("mount", &lab.reader), ("get", &lab.getter)] {
        let mut peer = lab.dial(&lab.evil, victim);
        // If the victim did not know these hashes, the test would prove nothing.
        peer.send(&Message::HashRequest(long_range(&lab.content))).unwrap();
        let answer = peer.receive_until(|message| match message {
            Message::Hashes(_, hashes) => Some(hashes.len()),
            Message::HashReject(_) => Some(0),
            _ => None,
        });
        assert_eq!(answer.unwrap(), 2048, "the {what} does not answer");
        let memory = Memory::of(victim);
        send_all(&mut peer, (0..8000).map(|_| Message::HashRequest(long_range(&lab.content))));
        digest(victim, &[peer.local_addr()]);
        // The network thread answers another peer only after it has handled the messages that it has read.
        assert!(
            lab.dial(&lab.honest, victim).is_answered(lab.content.any_range()),
            "the {what} disconnected another host"
        );
        costs.push((what, memory.growth() / MIB));
        // Another peer is served meanwhile.
        leech(&mut lab.dial(&lab.honest, victim), &lab.content, 0..1).unwrap();
    }
    println!("8000 hash requests cost so many MiB: {costs:?}");
    assert!(
        costs.iter().all(|(_, cost)| *cost < BOUND / MIB),
        "8000 hash requests cost so many MiB: {costs:?}"
    );
}

fn getting_done(lab: &Lab) -> bool {
    lab.getter.home().join("out/w.bin").exists()
}

#[test]
fn unread_blocks_cost_bounded_memory() {
    let lab = Lab::new();
    let addresses = many_addresses(&lab.evil, 10);
    let memory = Memory::of(&lab.sharer);
    let peers: Vec<RawPeer> = (0..50)
        .filter_map(|number| {
            let (to, swarm) = (door(&lab.sharer), lab.content.info_hash);
            let from = Some(addresses[number % addresses.len()]);
            let peer = in_namespace(lab.evil.namespace(), move || RawPeer::dial(from, to, &swarm));
            // A node may refuse so many connections.
            let mut peer = peer.ok()?;
            peer.send(&Message::Interested).ok()?;
            let blocks = blocks_of(&lab.content, 0..lab.content.pieces);
            send_all(&mut peer, blocks.into_iter().cycle().take(2000).map(Message::Request));
            Some(peer)
        })
        .collect();
    assert!(!peers.is_empty());
    let ends: Vec<_> = peers.iter().map(RawPeer::local_addr).collect();
    digest(&lab.sharer, &ends);
    // An honest peer is served although none of these peers reads.
    leech(&mut lab.dial(&lab.honest, &lab.sharer), &lab.content, 0..lab.content.pieces).unwrap();
    let growth = memory.growth();
    println!("{} connections that read nothing cost {} MiB", peers.len(), growth / MIB);
    assert!(growth < BOUND, "{} connections that read nothing cost {} MiB", peers.len(), growth / MIB);
}

/// Half of the peers send messages that are longer than any that a node accepts.
#[test]
fn unfinished_messages_cost_bounded_memory() {
    let lab = Lab::new();
    let addresses = many_addresses(&lab.evil, 10);
    let memory = Memory::of(&lab.sharer);
    // libtorrent ignores an `lt_donthave` of a wrong length.
    let messages = [287 << 10, 1 << 20].map(|length| Message::Extended(7, vec![1; length - 2]).encode());
    let peers: Vec<RawPeer> = (0..50)
        .map(|number| {
            let from = addresses[number % addresses.len()];
            let mut peer = lab.dial_from(&lab.evil, Some(from), &lab.sharer);
            let message = &messages[number % 2];
            let all = [message.repeat(4), message[..message.len() - 10].to_vec()].concat();
            // An error: the sharer has closed the connection.
            let _ = peer.send_bytes(&all);
            peer
        })
        .collect();
    let ends: Vec<_> = peers.iter().map(RawPeer::local_addr).collect();
    digest(&lab.sharer, &ends);
    let growth = memory.growth();
    println!("{} unfinished messages cost {} MiB", peers.len(), growth / MIB);
    assert!(growth < UNFINISHED_BOUND, "{} unfinished messages cost {} MiB", peers.len(), growth / MIB);
}

/// Blocks that a fast peer takes before it stops, and those that it requests ahead.
const TAKEN: usize = 1536;
const AHEAD: usize = 1024;

/// Fetches blocks as fast as possible, then stops to read while many requests are pending. Fails after [`PATIENCE`].
fn fetch_and_stop(peer: &mut RawPeer, content: &Content) -> std::io::Result<()> {
    let started = Instant::now();
    peer.send(&Message::HaveNone)?;
    peer.send(&Message::Interested)?;
    peer.receive_until(|message| (message == Message::Unchoke).then_some(()))?;
    let mut blocks = blocks_of(content, 0..content.pieces).into_iter().cycle().map(Message::Request);
    let mut request = |count: usize| -> Vec<u8> {
        blocks.by_ref().take(count).flat_map(|message| message.encode()).collect()
    };
    peer.send_bytes(&request(AHEAD))?;
    for _ in 0..TAKEN {
        peer.receive_until(|message| matches!(message, Message::Piece(..)).then_some(()))?;
        peer.send_bytes(&request(1))?;
        if started.elapsed() > PATIENCE {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

#[test]
fn peers_that_stop_to_read_after_a_fast_start_cost_bounded_memory() {
    let lab = Lab::with(&[("w.bin", noise(5, 32 << 20))], "1MiB", "  max_connections: 120\n");
    let addresses = many_addresses(&lab.evil, 96);
    let memory = Memory::of(&lab.sharer);
    let mut peers = vec![];
    let started = Instant::now();
    // On a busy machine each peer takes long. Without a limit, 64 peers cost 512 MiB.
    for address in addresses {
        if peers.len() >= 64 && started.elapsed() > PATIENCE {
            break;
        }
        assert!(started.elapsed() < 3 * PATIENCE, "only {} peers were served", peers.len());
        let mut peer = lab.dial_from(&lab.evil, Some(address), &lab.sharer);
        match fetch_and_stop(&mut peer, &lab.content) {
            Ok(()) => peers.push(peer),
            Err(error) => println!("{address}: {error}"),
        }
    }
    assert!(peers.len() >= 64, "only {} peers were served", peers.len());
    let growth = memory.growth();
    println!("{} peers that stopped to read cost {} MiB", peers.len(), growth / MIB);
    assert!(growth < STOPPED_BOUND, "{} peers that stopped to read cost {} MiB", peers.len(), growth / MIB);
    // Another peer is served.
    leech(&mut lab.dial(&lab.honest, &lab.sharer), &lab.content, 0..4).unwrap();
}

/// Holds silent connections from many addresses open. When the node closes one, opens it again.
pub(super) struct Silent {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Silent {
    pub(super) fn hosts(lab: &Lab, addresses: Vec<Ipv4Addr>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (namespace, stopping) = (lab.evil.namespace().to_owned(), stop.clone());
        let (to, swarm) = (door(&lab.sharer), lab.content.info_hash);
        let work = move || {
            let mut peers: Vec<Option<RawPeer>> = addresses.iter().map(|_| None).collect();
            while !stopping.load(Ordering::Relaxed) {
                for (peer, address) in peers.iter_mut().zip(&addresses) {
                    if peer.as_ref().is_none_or(RawPeer::is_closed) {
                        *peer = RawPeer::dial(Some(*address), to, &swarm).ok();
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let thread = std::thread::spawn(move || in_namespace(&namespace, work));
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

#[test]
fn silent_hosts_do_not_shut_out_readers() {
    let lab = Lab::new();
    // More hosts than the 50 slots of a torrent, each with one connection.
    let silent = Silent::hosts(&lab, many_addresses(&lab.evil, 80));
    until("the slots are full", PATIENCE, || connections(&lab) >= 50);
    for number in 0..24 {
        // A reader that connects once, as if it knew only this peer.
        let from = Ipv4Addr::new(198, 18, 2, number);
        sh(&format!("ip -n {} addr add {from}/32 dev eth0", lab.honest.namespace()));
        let (to, swarm, content) = (door(&lab.sharer), lab.content.info_hash, lab.content.clone());
        let read = in_namespace(lab.honest.namespace(), move || {
            leech(&mut RawPeer::dial(Some(from), to, &swarm)?, &content, 0..4)
        });
        assert!(read.is_ok(), "reader {number} was shut out: {read:?}");
    }
    lab.assert_got(lab.get(&[door(&lab.sharer).to_string()], &[]));
    drop(silent);
}

/// Number of open connections of the sharer.
pub fn connections(lab: &Lab) -> usize {
    let table = in_namespace(lab.sharer.namespace(), || {
        std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap()
    });
    table.lines().filter(|line| line.split_whitespace().nth(3) == Some("01")).count()
}

#[test]
fn one_host_cannot_occupy_all_slots() {
    let lab = Lab::new();
    let range = lab.content.any_range();
    let mut peers: Vec<RawPeer> = (0..80)
        .filter_map(|_| RawPeer::connect(&lab.evil, door(&lab.sharer), &lab.content.info_hash).ok())
        .collect();
    let held = peers.iter_mut().filter_map(|peer| peer.wait_for_answer(range).ok()).count();
    println!("one host holds {held} connections");
    assert!(held > 0, "no connection was accepted");
    assert!(held < 50, "one silent host holds all {held} slots");
    leech(
        &mut RawPeer::connect(&lab.honest, door(&lab.sharer), &lab.content.info_hash).unwrap(),
        &lab.content,
        0..4,
    )
    .expect("another host is shut out");
}
