//! Peers that meet without data and exchange messages.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use silmaril::config::NetworkConfig;
use silmaril::model::PieceIndex;
use silmaril::torrent::overlay::MAX_MESSAGE;
use silmaril::torrent::{
    EngineError, Event, Meeting, Overlay, OverlayEvent, PeerId, Swarms, Topic, TorrentId,
};

use super::rig::{Client, SOON, Sample, content, network};
use crate::support::net::{Net, sh};
use crate::support::private_net::in_private_net;

/// A peer that speaks the extension, as its event reports it.
#[derive(Debug, Clone, Copy)]
pub struct Speaker {
    pub torrent: TorrentId,
    pub peer: PeerId,
    pub address: SocketAddr,
    pub outgoing: bool,
}

impl Client {
    /// Waits for the next peer that speaks.
    #[track_caller]
    pub fn speaker(&mut self) -> Speaker {
        self.wait_for("peer that speaks", SOON, |event| match *event {
            Event::Overlay(OverlayEvent::Speaks { torrent, peer, address, outgoing }) => {
                Some(Speaker { torrent, peer, address, outgoing })
            }
            _ => None,
        })
    }

    /// Waits for the next message of a peer; it must not leave.
    #[track_caller]
    pub fn hear(&mut self, peer: PeerId) -> Vec<u8> {
        self.wait_for("message", SOON, |event| match event {
            Event::Overlay(OverlayEvent::Received(from, message)) if *from == peer => Some(message.to_vec()),
            Event::Overlay(OverlayEvent::Left(who)) if *who == peer => panic!("the peer left"),
            _ => None,
        })
    }

    /// Waits until a peer leaves.
    #[track_caller]
    pub fn farewell(&mut self, peer: PeerId) {
        self.wait_for("farewell", SOON, |event| {
            matches!(event, Event::Overlay(OverlayEvent::Left(who)) if *who == peer).then_some(())
        });
    }
}

/// Two engines that have met at a topic, the first calling the second, as each sees the other.
fn pair() -> (Client, Speaker, Client, Speaker) {
    let (mut a, mut b) = (Client::new(), Client::new());
    let topic = Meeting::Topic(Topic::of("mellon"));
    b.session.meet(topic, &[]).unwrap();
    a.session.meet(topic, &[b.address]).unwrap();
    let (of_a, of_b) = (a.speaker(), b.speaker());
    (a, of_a, b, of_b)
}

#[test]
fn peers_meet_where_one_calls_the_other() {
    in_private_net(|| {
        let (mut a, mut b) = (Client::new(), Client::new());
        let topic = Meeting::Topic(Topic::of("mellon"));
        let at_b = b.session.meet(topic, &[]).unwrap();
        let at_a = a.session.meet(topic, &[]).unwrap();
        a.session.connect(at_a, b.address).unwrap();
        let (of_a, of_b) = (a.speaker(), b.speaker());
        assert_eq!((of_a.torrent, of_a.address, of_a.outgoing), (at_a, b.address, true));
        // The port on which A listens, not the one from which it calls.
        assert_eq!((of_b.torrent, of_b.address, of_b.outgoing), (at_b, a.address, false));

        let longest = content(MAX_MESSAGE, 1);
        for message in [&b"hello"[..], b"", &longest, b"after it"] {
            a.session.send(of_a.peer, message).unwrap();
            assert_eq!(b.hear(of_b.peer), message);
            b.session.send(of_b.peer, message).unwrap();
            assert_eq!(a.hear(of_a.peer), message);
        }
        // In order, also when many are sent together.
        for i in 0..1000u32 {
            a.session.send(of_a.peer, &i.to_be_bytes()).unwrap();
        }
        for i in 0..1000u32 {
            assert_eq!(b.hear(of_b.peer), i.to_be_bytes());
        }
        let too_long = vec![0; MAX_MESSAGE + 1];
        assert!(matches!(a.session.send(of_a.peer, &too_long), Err(EngineError::MessageTooLong(_))));

        a.session.leave(at_a).unwrap();
        let mut left = 0;
        a.wait_for("removal", SOON, |event| {
            left += u32::from(matches!(event, Event::Overlay(OverlayEvent::Left(p)) if *p == of_a.peer));
            matches!(event, Event::Removed(id) if *id == at_a).then_some(())
        });
        assert_eq!(left, 1, "reported once, before the removal");
        b.farewell(of_b.peer);
        // To a peer that has left.
        b.session.send(of_b.peer, b"still there?").unwrap();
    });
}

#[test]
fn answer_takes_a_moment() {
    in_private_net(|| {
        let (mut a, of_a, mut b, of_b) = pair();
        for (len, bound) in [(100, 50), (MAX_MESSAGE, 100)] {
            let message = content(len, 1);
            let mut took: Vec<Duration> = (0..50)
                .map(|_| {
                    let started = Instant::now();
                    a.session.send(of_a.peer, &message).unwrap();
                    let heard = b.hear(of_b.peer);
                    b.session.send(of_b.peer, &heard).unwrap();
                    a.hear(of_a.peer);
                    started.elapsed()
                })
                .collect();
            took.sort_unstable();
            let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
            println!("{len} bytes and back: median {median:?}, worst {worst:?}");
            // With the engine's tick it would take 100 ms, with Nagle's algorithm 40 ms.
            assert!(median < Duration::from_millis(bound), "{len} bytes and back take {median:?}");
        }
    });
}

#[test]
fn peers_meet_through_lan_discovery_only() {
    in_private_net(|| {
        sh("ip link set lo multicast on; ip route add 224.0.0.0/4 dev lo");
        let lan = || NetworkConfig { lan_discovery: true, ..network() };
        let (mut a, mut b) = (Client::with(lan()), Client::with(lan()));
        let started = Instant::now();
        for client in [&a, &b] {
            client.session.meet(Meeting::Topic(Topic::of("mellon")), &[]).unwrap();
        }
        // Each calls the other at the same time, and one of the two connections ends again.
        let (mut last, deadline) = (None, started + SOON);
        let received = |event| matches!(event, Event::Overlay(OverlayEvent::Received(_, message)) if *message == *b"hello");
        while !b.next(Duration::from_millis(10)).is_some_and(received) {
            assert!(Instant::now() < deadline, "no message came");
            if let Some(Event::Overlay(OverlayEvent::Speaks { peer, .. })) = a.next(Duration::from_millis(10))
            {
                last = Some(peer);
                println!("met by LAN discovery within {:?}", started.elapsed());
            }
            if let Some(peer) = last {
                a.session.send(peer, b"hello").unwrap();
            }
        }
    });
}

#[test]
fn meeting_without_peers_searches_again() {
    let net = Net::new();
    let (here, there) = (net.host("here"), net.host("there"));
    let lan = || NetworkConfig { lan_discovery: true, ..network() };
    let (mut a, mut b) = (Client::on(&here, lan()), Client::on(&there, lan()));
    there.disconnect();
    for client in [&a, &b] {
        client.session.meet(Meeting::Topic(Topic::of("mellon")), &[]).unwrap();
    }
    // The first announcements, three within 6 s, reach no host.
    let deadline = Instant::now() + Duration::from_secs(15);
    while let Some(event) = b.next(deadline.saturating_duration_since(Instant::now())) {
        assert!(!matches!(event, Event::Overlay(_)), "{event:?}");
    }
    there.reconnect();
    let started = Instant::now();
    a.speaker();
    println!("met {:?} after the plug was back", started.elapsed());
}

#[test]
fn peers_of_a_model_exchange_messages() {
    in_private_net(|| {
        let sample = Sample::new(&[("a", 100_000)], 16 * 1024, false);
        let here = tempfile::tempdir().unwrap();
        let (mut seed, mut leech) = (Client::new(), Client::new());
        seed.add(sample.add_seed());
        let mut add = sample.add(here.path());
        add.peers = vec![seed.address];
        let id = leech.add(add);
        let (of_seed, of_leech) = (seed.speaker(), leech.speaker());
        seed.session.send(of_seed.peer, b"a model").unwrap();
        assert_eq!(leech.hear(of_leech.peer), b"a model");
        leech.fetch_all(id, sample.pieces(), |_| {});
    });
}

#[test]
fn torrent_replaces_its_meeting_immediately() {
    in_private_net(|| {
        let sample = Sample::new(&[("a", 100_000)], 16 * 1024, false);
        let mut seed = Client::new();
        seed.add(sample.add_seed());
        let mut client = Client::new();
        let here = tempfile::tempdir().unwrap();
        for met in [true, false] {
            let meeting = client.session.meet(Meeting::Model(sample.info_hash), &[seed.address]).unwrap();
            if met {
                let speaker = client.speaker();
                assert_eq!(speaker.torrent, meeting);
                client.session.send(speaker.peer, b"have you its manifest?").unwrap();
                let of_seed = seed.speaker();
                assert_eq!(seed.hear(of_seed.peer), b"have you its manifest?");
            }
            // Without waiting, even for the start of the meeting.
            client.session.leave(meeting).unwrap();
            let dir = here.path().join(met.to_string());
            let mut add = sample.add(&dir);
            add.peers = vec![seed.address];
            let id = client.session.add(add).unwrap();
            client.wait_for("added", SOON, |event| match event {
                Event::Failed(_, reason) => panic!("{reason}"),
                Event::Added(added) => (*added == id).then_some(()),
                _ => None,
            });
            client.read(id, 1);
            assert_eq!(sample.piece_in(&dir, 1).unwrap(), sample.piece(1));
            client.session.remove(id).unwrap();
            client.wait_for("removed", SOON, |event| {
                matches!(event, Event::Removed(removed) if *removed == id).then_some(())
            });
        }
    });
}

#[test]
fn meeting_of_a_model_stores_nothing() {
    in_private_net(|| {
        let sample = Sample::new(&[("a", 100_000)], 16 * 1024, false);
        // A stock program, which would disconnect a peer that neither has nor wants pieces.
        let seed = sample.stock_seed();
        let mut client = Client::new();
        let meeting = client.session.meet(Meeting::Model(sample.info_hash), &[seed.address()]).unwrap();
        let mut figures = 0;
        client.wait_for("ten seconds with a peer", SOON, |event| {
            match event {
                Event::Stats(id, stats) if *id == meeting && stats.peers == 1 => figures += 1,
                Event::PeerDisconnected(_, _, reason) => panic!("disconnected: {reason}"),
                Event::PieceVerified(..) | Event::DiskError(..) => panic!("{event:?}"),
                _ => {}
            }
            (figures >= 10).then_some(())
        });
        assert!(client.session.request(meeting, PieceIndex(0), Duration::ZERO).is_err());
    });
}

#[test]
fn second_meeting_of_a_swarm_is_an_error() {
    in_private_net(|| {
        let mut client = Client::new();
        let place = Meeting::Topic(Topic::of("mellon"));
        let first = client.session.meet(place, &[]).unwrap();
        let second = client.session.meet(place, &[]).unwrap();
        let failed = client.wait_for("failure", SOON, |event| match event {
            Event::Failed(id, _) => Some(*id),
            _ => None,
        });
        assert_eq!(failed, second);
        client.session.search_again(first).unwrap();
    });
}

#[test]
fn all_peers_have_left_when_the_engine_ends() {
    in_private_net(|| {
        let (mut a, of_a, mut b, of_b) = pair();
        assert!(a.session.shutdown(SOON));
        a.farewell(of_a.peer);
        b.farewell(of_b.peer);
        assert!(a.session.meet(Meeting::Topic(Topic::of("mellon")), &[]).is_err());
    });
}

#[test]
fn disconnected_peer_may_connect_again() {
    in_private_net(|| {
        let (mut a, of_a, mut b, of_b) = pair();
        // On loopback all peers have the same address, which is never muted.
        b.session.disconnect(of_b.peer, true).unwrap();
        b.farewell(of_b.peer);
        a.farewell(of_a.peer);
        let again = a.speaker();
        assert_eq!(again.address, of_a.address);
        assert_ne!(again.peer, of_a.peer);
    });
}

#[test]
fn banned_peer_does_not_connect_again() {
    let net = Net::new();
    let hosts = [net.host("judge"), net.host("liar"), net.host("honest")];
    let [mut judge, mut liar, honest] = hosts.each_ref().map(|host| Client::on(host, network()));
    let place = Meeting::Topic(Topic::of("mellon"));
    let court = judge.session.meet(place, &[]).unwrap();
    liar.session.meet(place, &[judge.address]).unwrap();
    let speaker = judge.speaker();
    assert_eq!(speaker.address, liar.address);
    judge.session.disconnect(speaker.peer, true).unwrap();
    judge.farewell(speaker.peer);
    let of_judge = liar.speaker();
    liar.farewell(of_judge.peer);
    // It calls again every second or two. This node does not call it either.
    judge.session.connect(court, liar.address).unwrap();
    honest.session.meet(place, &[judge.address]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut heard = Vec::new();
    while let Some(event) = judge.next(deadline.saturating_duration_since(Instant::now())) {
        if let Event::Overlay(OverlayEvent::Speaks { address, .. }) = event {
            heard.push(address);
        }
    }
    assert_eq!(heard, [honest.address]);
    assert!(liar.session.connect(of_judge.torrent, judge.address).is_ok());
}
