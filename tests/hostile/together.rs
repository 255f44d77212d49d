//! Peers that pretend to read or to seed, while honest hosts read one model together and pass pieces on.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::costs::many_addresses;
use super::lab::{Lab, NAME, READ, door};
use crate::support::fixtures::noise;
use crate::support::host::Host;
use crate::support::private_net::in_namespace;
use crate::support::process::Proc;
use crate::support::raw_peer::{FLAGS, RawPeer};
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_message::Message;

/// Bytes of the model. At the rate of the sharer, one reader needs four seconds.
const SIZE: usize = 20 << 20;
const RATE: &str = "40mbit";

/// Hostile peers of each reader.
const PEERS: u8 = 8;

/// The pause between two messages, or parts of a block.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest time for which a hostile peer waits for a request.
const NOTICE: Duration = Duration::from_secs(2);

/// The handshake of a peer that understands claims.
const CLAIMS: &[u8] = b"d1:md15:silmaril_claimsi23eee";

/// What a hostile peer does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Attack {
    /// Has every piece and sends nothing.
    SilentSeed,
    /// Has every piece and sends 1 KiB a second.
    SlowSeed,
    /// Announces pieces, claims the rest, and sends nothing.
    Claims,
    /// Has every piece but one, and sends 160 KiB a second.
    SlowReader,
}

/// Running hostile peers. Dropping them closes their connections.
pub(super) struct Pretenders {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pretenders {
    pub(super) fn on(lab: &Lab, victims: &[&Host], addresses: &[Ipv4Addr], attack: Attack) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let one = |(victim, from): (&Host, Ipv4Addr)| {
            let (namespace, to) = (lab.evil.namespace().to_owned(), door(victim));
            let (content, stop) = (lab.content.clone(), stop.clone());
            let connect = move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(peer) = RawPeer::dial_as(Some(from), to, &content.info_hash, FLAGS, CLAIMS) else {
                        std::thread::sleep(PAUSE);
                        continue;
                    };
                    // An error: the victim has closed the connection.
                    let _ = pretend(peer, attack, &content, &stop);
                }
            };
            std::thread::spawn(move || in_namespace(&namespace, connect))
        };
        let each = victims.iter().flat_map(|victim| addresses.iter().map(move |from| (*victim, *from)));
        let threads = each.map(one).collect();
        Self { stop, threads }
    }
}

impl Drop for Pretenders {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn pretend(mut peer: RawPeer, attack: Attack, content: &Content, stop: &AtomicBool) -> std::io::Result<()> {
    let pieces = content.pieces;
    peer.set_timeout(NOTICE);
    let is_seed = matches!(attack, Attack::SilentSeed | Attack::SlowSeed);
    peer.send(if is_seed { &Message::HaveAll } else { &Message::HaveNone })?;
    if matches!(attack, Attack::SlowReader) {
        (1..pieces).try_for_each(|piece| peer.send(&Message::Have(piece)))?;
    }
    peer.send(&Message::Unchoke)?;
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        match attack {
            Attack::SilentSeed => {}
            // The head of a requested block, then its bytes.
            Attack::SlowSeed if next == 0 => {
                let block = peer.receive_until(|message| match message {
                    Message::Request(block) => Some(block),
                    _ => None,
                })?;
                let data = vec![0; block.length as usize];
                let whole = Message::Piece(block.piece, block.begin, data).encode();
                peer.send_bytes(&whole[..whole.len() - block.length as usize])?;
            }
            Attack::SlowSeed => peer.send_bytes(&[0; 100])?,
            Attack::SlowReader => {
                let block = peer.receive_until(|message| match message {
                    Message::Request(block) => Some(block),
                    _ => None,
                })?;
                peer.send(&Message::Piece(block.piece, block.begin, content.block(block, 0).unwrap()))?;
            }
            Attack::Claims => {
                peer.send(&Message::Have(next % pieces))?;
                let claimed = (1..=4).map(|ahead| (next + ahead) % pieces);
                let number = u64::from(u32::MAX).to_be_bytes();
                let body = number.into_iter().chain(claimed.flat_map(u32::to_be_bytes)).collect();
                peer.send(&Message::Extended(23, body))?;
            }
        }
        next += 1;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// How long a mount and `get` take together until both have the model.
fn time_of_two_readers(attack: Option<Attack>) -> Duration {
    let lab = Lab::with(&[("w.bin", noise(5, SIZE))], "1MiB", "");
    lab.sharer.limit_rate(RATE);
    let sharer = [door(&lab.sharer).to_string()];
    let mounted = lab.mount(&sharer);
    let getting = lab.get(&sharer, &[]);
    let started = Instant::now();
    let addresses = many_addresses(&lab.evil, PEERS);
    let victims = [&lab.reader, &lab.getter];
    let _pretenders = attack.map(|attack| Pretenders::on(&lab, &victims, &addresses, attack));
    let mut cat = lab.reader.command("sha256sum");
    let reading = Proc::spawn(cat.arg(mounted.path(NAME).join("w.bin")));
    let sum = reading.finish(READ).ok();
    lab.assert_got(getting);
    let took = started.elapsed();
    assert_eq!(sum.split(' ').next(), Some(lab.expected["w.bin"].as_str()), "the mount returned wrong bytes");
    took
}

/// Fails if the readers need more than twice the time that they need without the attack.
#[track_caller]
fn assert_bearable(attack: Attack) {
    let honest = time_of_two_readers(None);
    let attacked = time_of_two_readers(Some(attack));
    println!("without the attack {honest:?}, with it {attacked:?}");
    assert!(attacked <= 2 * honest, "without the attack {honest:?}, with it {attacked:?}");
}

#[test]
fn silent_seeds_do_not_double_the_time_of_readers() {
    assert_bearable(Attack::SilentSeed);
}

#[test]
fn slow_seeds_do_not_double_the_time_of_readers() {
    assert_bearable(Attack::SlowSeed);
}

#[test]
fn false_claims_do_not_double_the_time_of_readers() {
    assert_bearable(Attack::Claims);
}

#[test]
fn slow_readers_that_have_most_pieces_do_not_slow_readers_down() {
    assert_bearable(Attack::SlowReader);
}
