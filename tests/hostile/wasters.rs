//! Peers that take the upload of a sharer and use nothing of it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::costs::many_addresses;
use super::lab::{Lab, READ, door};
use crate::support::fixtures::noise;
use crate::support::private_net::in_namespace;
use crate::support::process::until;
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_leech::{blocks_of, leech_after};
use crate::support::raw_peer_message::{Block, Message};

const MIB: u64 = 1 << 20;

/// Bytes of the model.
const SIZE: u64 = 24 * MIB;

/// The requests of a waster that are outstanding at any time.
const PIPELINE: usize = 128;

/// The longest time in which a waster notices that it must end.
const NOTICE: Duration = Duration::from_secs(2);

/// Running wasters. Dropping them closes their connections.
pub(super) struct Wasters {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Wasters {
    /// Connects a waster from each address to the sharer. `messages` makes the messages for one block, of which the sharer
    /// answers one.
    pub(super) fn on(
        lab: &Lab,
        addresses: &[Ipv4Addr],
        blocks: &[Block],
        messages: fn(Block) -> Vec<Message>,
    ) -> Self {
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let one = |from: &Ipv4Addr| {
            let (namespace, to, swarm) =
                (lab.evil.namespace().to_owned(), door(&lab.sharer), lab.content.info_hash);
            let (from, blocks) = (*from, blocks.to_vec());
            let (stop, received) = (stop.clone(), received.clone());
            let waste = move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut peer) = RawPeer::dial(Some(from), to, &swarm) else { continue };
                    peer.set_timeout(NOTICE);
                    let mut cycle = blocks.iter().copied().cycle();
                    let mut outstanding = 0;
                    let mut step = || -> std::io::Result<()> {
                        while outstanding < PIPELINE {
                            let due = cycle.by_ref().take(PIPELINE / 2).flat_map(messages);
                            peer.send_bytes(&due.flat_map(|message| message.encode()).collect::<Vec<_>>())?;
                            outstanding += PIPELINE / 2;
                        }
                        match peer.receive()? {
                            Message::Piece(_, _, data) => {
                                received.fetch_add(data.len() as u64, Ordering::Relaxed);
                                outstanding -= 1;
                            }
                            Message::Reject(_) => outstanding -= 1,
                            _ => {}
                        }
                        Ok(())
                    };
                    // An error: the sharer has closed the connection, or sends hardly anything.
                    while !stop.load(Ordering::Relaxed) && step().is_ok() {}
                }
            };
            std::thread::spawn(move || in_namespace(&namespace, waste))
        };
        let threads = addresses.iter().map(one).collect();
        Self { stop, received, threads }
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Wasters {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Downloads the model next to eight wasters, and fails if these receive more than the reader while it downloads. If the sharer
/// divided its upload equally, they would receive eight times as much.
#[track_caller]
fn assert_reader_comes_first(blocks: impl Fn(Vec<Block>) -> Vec<Block>, messages: fn(Block) -> Vec<Message>) {
    let lab = Lab::with(&[("w.bin", noise(5, SIZE as usize))], "256KiB", "");
    lab.sharer.limit_rate("100mbit");
    let addresses = many_addresses(&lab.evil, 8);
    let blocks = blocks(blocks_of(&lab.content, 0..lab.content.pieces));
    let wasters = Wasters::on(&lab, &addresses, &blocks, messages);
    until("the wasters have their first blocks", READ, || wasters.received() > 16 * MIB);
    let mut reader = lab.dial(&lab.honest, &lab.sharer);
    // While no reader waits, the wasters get what the link carries.
    let mut before = 0;
    leech_after(&mut reader, &lab.content, 0..lab.content.pieces, || before = wasters.received()).unwrap();
    let received = wasters.received() - before;
    println!("the wasters received {} MiB while the reader received {} MiB", received / MIB, SIZE / MIB);
    assert!(received < SIZE, "the wasters received {} MiB", received / MIB);
}

#[test]
fn reader_is_served_before_peers_that_repeat_requests() {
    assert_reader_comes_first(|blocks| blocks[..16].to_vec(), |block| vec![Message::Request(block)]);
}

#[test]
fn reader_is_served_before_peers_that_cancel_requests() {
    // Each in an order that has no piece in it.
    let mixed = |blocks: Vec<Block>| (0..blocks.len()).map(|i| blocks[i * 997 % blocks.len()]).collect();
    assert_reader_comes_first(mixed, |block| vec![Message::Request(block), Message::Cancel(block)]);
}

/// Readers whose cache is smaller than the model fetch the same blocks again and again. At 1 MiB a second this would take
/// longer than the deadline.
#[test]
fn reader_with_a_small_cache_is_not_slowed_down() {
    let lab = Lab::with(&[("w.bin", noise(5, 4 << 20))], "256KiB", "");
    let addresses = many_addresses(&lab.evil, 1);
    let blocks = blocks_of(&lab.content, 0..1);
    let wasters = Wasters::on(&lab, &addresses, &blocks, |block| vec![Message::Request(block)]);
    until("the peer has received its blocks often", READ, || wasters.received() > 256 * MIB);
}
