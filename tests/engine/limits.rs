//! The limits of an address group, and which peers lose their slot, without connections.

use std::net::IpAddr;

use silmaril::torrent::{Trial, Visitor, try_group, try_slots};

use super::rig::Sample;
use crate::support::raw_peer_content::FileTree;
use crate::support::raw_peer_message::Message;

const PIECE: u32 = 64 * 1024;
const PIECES: u32 = 600;

/// Extension messages of one peer, and of its group; see cpp/gate.h and cpp/guard.h.
const MESSAGES: u32 = 4096;
const GROUP_MESSAGES: u32 = 8192;
/// Hash requests of one peer, and of its group.
const REQUESTS: u32 = 256;
const GROUP_REQUESTS: u32 = 512;

fn sample() -> Sample {
    Sample::new(&[("a", (PIECES * PIECE) as usize)], PIECE, false)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Messages to the catalog.
fn messages(from: &str, times: u32) -> Trial {
    let message = Message::Extended(20, b"hello".to_vec()).encode()[4..].to_vec();
    Trial { address: address(from), message, times, reads: true, answer: 0 }
}

fn asked(sample: &Sample, from: &str, times: u32, reads: bool) -> Trial {
    let tree = FileTree::new("a", sample.files[0].1.clone(), 0, PIECES);
    let range = tree.range(2, 0, 512);
    let message = Message::HashRequest(range).encode()[4..].to_vec();
    let answer = (512 + 1) * 32 + 53; // with one uncle
    Trial { address: address(from), message, times, reads, answer }
}

#[test]
fn messages_of_a_peer_and_its_group_are_bounded() {
    let sample = sample();
    let passed = |trials: &[Trial]| try_group(&sample.metainfo, trials).unwrap();
    // A peer that sends too many messages is disconnected.
    assert_eq!(passed(&[messages("198.51.100.1", 10_000)]), [MESSAGES]);
    // Several peers of one host share the bound of its group; another host is not affected.
    let trials = [
        messages("198.51.100.1", MESSAGES),
        messages("198.51.100.1", MESSAGES - 96),
        messages("198.51.100.1", MESSAGES),
        messages("198.51.100.2", MESSAGES),
    ];
    assert_eq!(passed(&trials), [MESSAGES, MESSAGES - 96, 96, MESSAGES]);
    assert_eq!(MESSAGES + MESSAGES - 96 + 96, GROUP_MESSAGES);
    // The hosts of one IPv6 network of 64 bits share a bound as well.
    let trials = ["2001:db8::1", "2001:db8::2:0:0:3", "2001:db8::4", "2001:db8:0:1::1"]
        .map(|from| messages(from, MESSAGES));
    assert_eq!(passed(&trials), [MESSAGES, MESSAGES, 0, MESSAGES]);
    // On the local network only the bound of a connection applies.
    let trials =
        ["192.168.1.2", "192.168.1.2", "192.168.1.2", "fd00::1"].map(|from| messages(from, MESSAGES));
    assert_eq!(passed(&trials), [MESSAGES; 4]);
}

#[test]
fn hash_requests_of_a_peer_and_its_group_are_bounded() {
    let sample = sample();
    let passed = |trials: &[Trial]| try_group(&sample.metainfo, trials).unwrap();
    // Rejected beyond the bound, not disconnected.
    let once = |from| asked(&sample, from, 1000, true);
    assert_eq!(
        passed(&[once("198.51.100.1"), once("198.51.100.1"), once("198.51.100.1")]),
        [REQUESTS, GROUP_REQUESTS - REQUESTS, 0]
    );
    assert_eq!(passed(&[once("10.0.0.1"), once("10.0.0.1"), once("10.0.0.1")]), [REQUESTS; 3]);
}

#[test]
fn answers_that_are_read_do_not_count() {
    let sample = sample();
    let passed = |trials: &[Trial]| try_group(&sample.metainfo, trials).unwrap();
    let unread = asked(&sample, "198.51.100.1", 1000, false);
    let fit = (1 << 20) / unread.answer;
    assert_eq!(passed(std::slice::from_ref(&unread)), [fit], "1 MiB of answers to one peer");
    // A group has 4 MiB, which four peers of one host share.
    let all = passed(&vec![unread; 6]);
    assert_eq!(all[..4], [fit; 4]);
    assert!(all[4] <= 4 && all[5] == 0, "{all:?}");
    assert_eq!(passed(&[asked(&sample, "198.51.100.1", REQUESTS, true)]), [REQUESTS]);
    // Answers that are shorter than expected count as sent when nothing is unsent.
    let shorter = Trial { answer: 0, ..asked(&sample, "198.51.100.1", REQUESTS, true) };
    assert_eq!(passed(&[shorter]), [REQUESTS]);
}

fn visitor(number: u8, transferred: bool, at: u32) -> Visitor {
    Visitor { address: IpAddr::from([198, 51, 100, number]), transferred, at }
}

#[test]
fn oldest_silent_peer_is_replaced() {
    let visitors = [visitor(1, true, 0), visitor(2, false, 0), visitor(3, false, 0), visitor(4, false, 1)];
    assert_eq!(try_slots(3, &visitors).unwrap(), [None, None, None, Some(1)]);
    // The host with the most connections first.
    let visitors = [
        visitor(2, false, 0),
        visitor(3, false, 0),
        visitor(3, false, 0),
        visitor(1, true, 0),
        visitor(4, false, 1),
    ];
    assert_eq!(try_slots(4, &visitors).unwrap(), [None, None, None, None, Some(1)]);
}

/// The disconnected host is recorded, not the one that got its slot: otherwise a reader that finds a slot once would find
/// none a moment later.
#[test]
fn replaced_silent_host_does_not_replace_another() {
    let visitors = [
        visitor(1, false, 0),
        visitor(2, false, 0),
        // Host 3 gets the slot of host 1.
        visitor(3, false, 1),
        // Host 1 has been replaced: it cannot replace host 2 in turn.
        visitor(1, false, 2),
        // Another host may.
        visitor(5, false, 3),
        // Host 1 may after a minute.
        visitor(1, false, 62),
    ];
    let ended = try_slots(2, &visitors).unwrap();
    assert_eq!(ended, [None, None, Some(0), Some(3), Some(1), Some(2)]);
}

#[test]
fn one_host_gets_half_of_the_slots() {
    let visitors: Vec<Visitor> = (0..4).map(|at| visitor(1, true, at)).collect();
    assert_eq!(try_slots(4, &visitors).unwrap(), [None, None, Some(2), Some(3)]);
    // Its own silent connections are replaced first.
    let silent = [visitor(1, false, 0), visitor(1, true, 1), visitor(1, true, 2)];
    assert_eq!(try_slots(4, &silent).unwrap(), [None, None, Some(0)]);
}
