//! The limits of an address group, and which peers lose their slot, without connections.

use std::net::IpAddr;

use silmaril::torrent::Worth::{self, Active, Idle, Sends, Served, Silent, Verified};
use silmaril::torrent::{Trial, TriedSlots, Visitor, try_group, try_slots};

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

fn room(limit: u16) -> TriedSlots {
    TriedSlots { limit, incomplete: false, offences: 0, ends_late: false }
}

/// A stranger that connects in a second.
fn visitor(number: u8, worth: Worth, at: u32) -> Visitor {
    let address = IpAddr::from([198, 51, 100, number]);
    Visitor { address, worth, exempt: false, named: false, called: false, at }
}

fn named(number: u8, worth: Worth) -> Visitor {
    Visitor { named: true, ..visitor(number, worth, 1) }
}

/// A peer of the local network.
fn local(number: u8, worth: Worth) -> Visitor {
    Visitor { exempt: true, ..visitor(number, worth, 1) }
}

/// A peer that this node has called.
fn called(number: u8, worth: Worth) -> Visitor {
    Visitor { called: true, ..visitor(number, worth, 1) }
}

/// Connects peers that fill all slots, then one more. Returns the index of the peer that is disconnected.
#[track_caller]
fn last(room: TriedSlots, visitors: &[Visitor]) -> Option<usize> {
    let mut ended = try_slots(room, visitors).unwrap();
    let last = ended.pop().unwrap();
    assert_eq!(ended, vec![None; visitors.len() - 1]);
    last
}

#[test]
fn oldest_silent_peer_is_replaced() {
    let visitors =
        [visitor(1, Served, 0), visitor(2, Silent, 0), visitor(3, Silent, 0), visitor(4, Silent, 1)];
    assert_eq!(last(room(3), &visitors), Some(1));
    // The host with the most connections first.
    let visitors = [
        visitor(2, Silent, 0),
        visitor(3, Silent, 0),
        visitor(3, Silent, 0),
        visitor(1, Served, 0),
        visitor(4, Silent, 1),
    ];
    assert_eq!(last(room(4), &visitors), Some(1));
}

/// The disconnected host is recorded, not the one that got its slot: otherwise a reader that finds a slot once would find
/// none a moment later.
#[test]
fn replaced_silent_host_does_not_replace_another() {
    let visitors = [
        visitor(1, Silent, 0),
        visitor(2, Silent, 0),
        // Host 3 gets the slot of host 1.
        visitor(3, Silent, 1),
        // Host 1 has been replaced: it cannot replace host 2 in turn.
        visitor(1, Silent, 2),
        // Another host may.
        visitor(5, Silent, 3),
        // Host 1 may after a minute.
        visitor(1, Silent, 62),
    ];
    let ended = try_slots(room(2), &visitors).unwrap();
    assert_eq!(ended, [None, None, Some(0), Some(3), Some(1), Some(2)]);
}

#[test]
fn one_host_gets_half_of_the_slots() {
    let visitors: Vec<Visitor> = (0..4).map(|at| visitor(1, Served, at)).collect();
    assert_eq!(try_slots(room(4), &visitors).unwrap(), [None, None, Some(2), Some(3)]);
    // Its own silent and idle connections are replaced first.
    let silent = [visitor(1, Idle, 0), visitor(1, Served, 1), visitor(1, Served, 2)];
    assert_eq!(last(room(4), &silent), Some(0));
    // Peers that have sent verified data do not count.
    let verified = [visitor(1, Verified, 0), visitor(1, Active, 1), visitor(1, Served, 2)];
    assert_eq!(last(room(4), &verified), None);
}

/// A connection is closed by a posted task, so several newcomers may arrive before.
#[test]
fn newcomers_at_the_same_time_replace_different_peers() {
    let visitors: Vec<Visitor> = (0..12).map(|_| visitor(1, Silent, 0)).collect();
    let late = TriedSlots { ends_late: true, ..room(16) };
    assert_eq!(try_slots(late, &visitors).unwrap()[8..], [Some(0), Some(1), Some(2), Some(3)]);
}

#[test]
fn offences_reduce_the_connections_of_a_host() {
    let allowed = |offences| {
        let visitors: Vec<Visitor> = (0..40).map(|_| visitor(1, Silent, 0)).collect();
        let ended = try_slots(TriedSlots { offences, ..room(40) }, &visitors).unwrap();
        let refused = ended.iter().enumerate().filter(|(i, ended)| **ended == Some(*i)).count();
        let kept = ended.iter().filter(|ended| ended.is_none()).count();
        if offences > 0 {
            assert_eq!(refused + kept, 40, "hosts that behave are not disconnected");
        }
        kept
    };
    assert_eq!([0, 1, 2, 3, 4, 5, 16].map(allowed), [20, 10, 5, 2, 1, 1, 1]);
}

#[test]
fn strangers_do_not_replace_peers_that_are_of_use() {
    for worth in [Served, Sends, Verified, Active] {
        let visitors = [visitor(1, worth, 0), visitor(2, worth, 0), visitor(3, Silent, 1)];
        assert_eq!(last(room(2), &visitors), Some(2), "{worth:?}");
    }
    let idle = [visitor(1, Served, 0), visitor(2, Idle, 0), visitor(3, Silent, 1)];
    assert_eq!(last(room(2), &idle), Some(1));
}

/// Each of the connections fetches just enough to count.
#[test]
fn hosts_with_many_connections_make_room_for_a_new_host() {
    let visitors: Vec<Visitor> = [1, 1, 1, 2, 2, 2, 3].map(|host| visitor(host, Served, 0)).to_vec();
    assert_eq!(last(room(6), &visitors), Some(0));
    let verified: Vec<Visitor> = [1, 1, 1, 2, 2, 2, 3].map(|host| visitor(host, Verified, 0)).to_vec();
    assert_eq!(last(room(6), &verified), Some(6));
}

#[test]
fn named_host_replaces_any_stranger() {
    for worth in [Silent, Idle, Served, Sends, Verified, Active] {
        let visitors = [visitor(1, worth, 0), visitor(2, Active, 0), named(3, Silent)];
        assert_eq!(last(room(2), &visitors), Some(0), "{worth:?}");
        // It is not replaced in turn.
        let visitors = [named(1, worth), visitor(2, Active, 0), visitor(3, Silent, 1)];
        assert_eq!(last(room(2), &visitors), Some(2), "{worth:?}");
    }
    // Of several named hosts, an idle one makes room.
    assert_eq!(last(room(2), &[named(1, Active), named(2, Idle), named(3, Silent)]), Some(1));
}

#[test]
fn local_hosts_push_out_no_peer_that_is_of_use() {
    for worth in [Served, Sends, Verified, Active] {
        let visitors = [visitor(1, worth, 0), called(2, worth), local(3, Silent)];
        assert_eq!(last(room(2), &visitors), Some(2), "{worth:?}");
    }
    assert_eq!(last(room(2), &[visitor(1, Active, 0), visitor(2, Idle, 0), local(3, Silent)]), Some(1));
    // Neither a peer that this node has just called.
    assert_eq!(last(room(2), &[called(1, Silent), visitor(2, Silent, 0), local(3, Silent)]), Some(1));
    // They keep their slots against strangers, and leave them to peers that this node calls.
    assert_eq!(last(room(2), &[local(1, Silent), local(2, Silent), visitor(3, Silent, 1)]), Some(2));
    assert_eq!(last(room(2), &[local(1, Silent), local(2, Sends), called(3, Silent)]), Some(0));
}

#[test]
fn peer_that_answers_a_call_finds_a_slot() {
    for worth in [Silent, Idle, Served, Sends, Verified] {
        let visitors = [visitor(1, worth, 0), visitor(2, Active, 0), called(3, Silent)];
        assert_eq!(last(room(2), &visitors), Some(0), "{worth:?}");
    }
    let active = [visitor(1, Active, 0), visitor(2, Active, 0), called(3, Silent)];
    assert_eq!(last(room(2), &active), Some(2));
    // Only for as many as there are reserved slots.
    let more = [called(1, Served), visitor(2, Served, 0), called(3, Silent)];
    assert_eq!(last(room(2), &more), Some(2));
    // A stranger that connects does not replace it.
    let visitors = [called(1, Silent), visitor(2, Served, 0), visitor(3, Silent, 1)];
    assert_eq!(last(room(2), &visitors), Some(2));
}

#[test]
fn slots_are_reserved_while_pieces_are_missing() {
    let visitors: Vec<Visitor> = (0..15).map(|host| visitor(host, Served, 0)).collect();
    let incomplete = TriedSlots { incomplete: true, ..room(16) };
    assert_eq!(last(incomplete, &visitors), Some(14));
    assert_eq!(last(room(16), &visitors), None);
    let mut with_called = visitors[..14].to_vec();
    with_called.push(called(20, Silent));
    assert_eq!(last(incomplete, &with_called), None);
}

/// Each of the hosts fetches all the time, so none is idle.
#[test]
fn hosts_that_fetch_take_turns_on_a_full_torrent() {
    let busy = |worth| [0, 1, 2].map(|number| visitor(number + 1, worth, u32::from(number)));
    for worth in [Served, Sends, Verified] {
        let mut visitors = busy(worth).to_vec();
        visitors.push(visitor(4, worth, 29));
        assert_eq!(last(room(3), &visitors), Some(3), "{worth:?}: no turn has ended");
        let mut ended = try_slots(room(3), &[&visitors[..], &[visitor(4, worth, 30)]].concat()).unwrap();
        assert_eq!(ended.pop(), Some(Some(0)), "{worth:?}: the first turn has ended");
    }
    // The host that lost its slot waits a minute, and a second connection of a host takes no turn.
    let visitors = [&busy(Served)[..], &[4, 1, 4, 5].map(|number| visitor(number, Served, 40))].concat();
    let ended = try_slots(room(3), &visitors).unwrap();
    assert_eq!(ended[3..], [Some(0), Some(4), Some(5), Some(1)]);
    // Peers that send verified data keep their slots, and so do those that an incomplete torrent may need.
    let visitors = [&busy(Active)[..], &[visitor(4, Served, 100)]].concat();
    assert_eq!(last(room(3), &visitors), Some(3));
    for (worth, ended) in [(Served, Some(0)), (Sends, Some(3)), (Verified, Some(3))] {
        let incomplete = TriedSlots { incomplete: true, ..room(4) };
        let visitors = [&busy(worth)[..], &[visitor(4, Served, 100)]].concat();
        assert_eq!(last(incomplete, &visitors), ended, "{worth:?}");
    }
}

/// The hosts 4 and 5 come before host 6, also if host 6 tries more often.
#[test]
fn hosts_get_their_turn_in_the_order_of_their_attempts() {
    let attempts =
        [(1, 0), (2, 0), (4, 1), (5, 2), (6, 3), (6, 29), (6, 30), (4, 31), (6, 32), (5, 33), (6, 34)];
    let visitors = attempts.map(|(number, at)| visitor(number, Served, at));
    let ended = try_slots(room(2), &visitors).unwrap();
    assert_eq!(ended[2..7], [2, 3, 4, 5, 6].map(Some), "refused");
    assert_eq!(ended[7..], [Some(0), Some(8), Some(1), Some(10)]);
    // A host that has not tried for a long time does not keep its place.
    let attempts = [(1, 0), (2, 0), (4, 1), (5, 2), (6, 80), (6, 100)];
    let visitors = attempts.map(|(number, at)| visitor(number, Served, at));
    let ended = try_slots(room(2), &visitors).unwrap();
    assert_eq!(ended[2..], [Some(2), Some(3), Some(4), Some(0)]);
}
