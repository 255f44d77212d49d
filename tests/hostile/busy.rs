//! Peers that keep the network thread busy, which serves all peers.

use std::time::{Duration, Instant};

use super::costs::many_addresses;
use super::lab::{Lab, NAME, READ, door, process_of};
use super::memory::digest;
use crate::support::fixtures::{dd, noise};
use crate::support::host::Host;
use crate::support::process::Proc;
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_message::Message;

const PIECES: u32 = 64;

/// How long the CPU time is measured.
const INTERVAL: Duration = Duration::from_secs(4);

/// The CPU time that a host's node has used.
fn cpu_time(host: &Host) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process_of(host))).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // User and system time, in hundredths of a second.
    let hundredths: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(hundredths * 10)
}

/// The engine looks at all wanted blocks and all peers each time that a peer can be asked again.
#[test]
fn peers_that_send_nothing_useful_cost_little_cpu_time() {
    let lab = Lab::with(&[("w.bin", noise(5, (PIECES as usize) << 20))], "1MiB", "");
    let mounted = lab.mount(&[door(&lab.sharer).to_string()]);
    let file = mounted.path(NAME).join("w.bin");
    dd(&file, 16384, 0, 1, READ).ok();
    lab.take_sources_away();
    let script = "for piece in $(seq 1 60); do \
                  dd if=\"$1\" bs=65536 skip=$((piece * 16 + 3)) count=1 of=/dev/null status=none & done; wait";
    let mut command = lab.reader.command("sh");
    let _reading = Proc::spawn(command.args(["-c", script, "sh"]).arg(file));
    let addresses = many_addresses(&lab.evil, 40);
    let mut peers: Vec<RawPeer> =
        addresses.iter().map(|from| lab.dial_from(&lab.evil, Some(*from), &lab.reader)).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        let pieces = if number % 2 == 0 { Message::HaveAll } else { Message::HaveNone };
        peer.send(&pieces).unwrap();
        peer.send(&Message::Unchoke).unwrap();
    }
    let ends: Vec<_> = peers.iter().map(RawPeer::local_addr).collect();
    let mut cost_of = |message: Option<&dyn Fn(u32) -> Message>| {
        digest(&lab.reader, &ends);
        let (before, started) = (cpu_time(&lab.reader), Instant::now());
        let mut sent = 0;
        while started.elapsed() < INTERVAL {
            let next = message.map(|message| message(sent));
            for peer in &mut peers {
                if let Some(message) = &next {
                    // An error: the reader has closed the connection.
                    let _ = peer.send(message);
                    sent += 1;
                }
                // One message after another, so that each one wakes the reader.
                std::thread::sleep(Duration::from_micros(300));
            }
        }
        let cost = cpu_time(&lab.reader) - before;
        println!("{sent} messages: {cost:?} in {:?}", started.elapsed());
        cost
    };
    // The reader notices that no peer sends what it requested.
    cost_of(None);
    let idle = cost_of(None);
    assert!(idle < INTERVAL / 5, "silent peers cost {idle:?} in {INTERVAL:?}");
    let offer = |number: u32| {
        let piece = number % PIECES;
        Message::Extended(24, [&piece.to_be_bytes()[..], &[0xff, 0xff]].concat())
    };
    let have = |number: u32| Message::Have(number % PIECES);
    let messages: [(&str, &dyn Fn(u32) -> Message); 3] =
        [("UNCHOKE", &|_| Message::Unchoke), ("offers", &offer), ("HAVE", &have)];
    for (what, message) in messages {
        let cost = cost_of(Some(message));
        assert!(cost < INTERVAL / 2, "{what} messages cost {cost:?} in {INTERVAL:?}");
    }
}
