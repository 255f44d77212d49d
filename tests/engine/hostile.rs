//! A hostile peer that violates the extension protocol (BEP 10), made by hand over a socket.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use silmaril::torrent::overlay::{MAX_MESSAGE, MAX_UNREAD};
use silmaril::torrent::{Event, Meeting, Overlay, OverlayEvent, Topic};

use super::rig::{Client, SOON, content};
use crate::support::private_net::in_private_net;

const PLACE: &str = "mellon";

/// The peer's number of the extension.
const THEIRS: u8 = 77;

/// A connection made by hand. Dropping it closes it.
struct Stranger {
    stream: TcpStream,
    /// The engine's number of the extension.
    ours: u8,
}

impl Stranger {
    /// Sends the handshakes (BEP 3, BEP 10) and reads the engine's extension handshake.
    fn at(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut hello = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\0".to_vec();
        hello.extend(Topic::of(PLACE).0);
        hello.extend(b"-XX0000-");
        hello.extend(content(12, stream.local_addr().unwrap().port().into()));
        stream.write_all(&hello).unwrap();
        stream.read_exact(&mut [0; 68]).unwrap();
        let mut stranger = Self { stream, ours: 0 };
        let handshake = stranger.message(0).expect("an extension handshake");
        let name = b"16:silmaril_catalogi";
        let at = handshake.windows(name.len()).position(|w| w == name).expect("the extension is offered");
        let number = &handshake[at + name.len()..];
        let number = &number[..number.iter().position(|&b| b == b'e').unwrap()];
        stranger.ours = std::str::from_utf8(number).unwrap().parse().unwrap();
        stranger
    }

    /// Connects, and announces the catalog's extension.
    fn that_speaks(address: SocketAddr) -> Self {
        let mut stranger = Self::at(address);
        stranger.extended(0, format!("d1:md16:silmaril_catalogi{THEIRS}eee").as_bytes());
        stranger
    }

    /// The next extension message with this id; `None` when the engine disconnects.
    fn message(&mut self, id: u8) -> Option<Vec<u8>> {
        loop {
            let mut length = [0; 4];
            if let Err(error) = self.stream.read_exact(&mut length) {
                let gone = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
                assert!(
                    gone.contains(&error.kind()),
                    "the engine neither sent a message nor disconnected: {error}"
                );
                return None;
            }
            let mut message = vec![0; u32::from_be_bytes(length) as usize];
            self.stream.read_exact(&mut message).ok()?;
            if message.len() >= 2 && message[..2] == [20, id] {
                message.drain(..2);
                return Some(message);
            }
        }
    }

    fn try_extended(&mut self, id: u8, body: &[u8]) -> std::io::Result<()> {
        let mut frame = (body.len() as u32 + 2).to_be_bytes().to_vec();
        frame.extend([20, id]);
        frame.extend(body);
        self.stream.write_all(&frame)
    }

    fn extended(&mut self, id: u8, body: &[u8]) {
        self.try_extended(id, body).unwrap();
    }

    fn send_message(&mut self, message: &[u8]) {
        self.extended(self.ours, message);
    }

    /// Waits until the engine disconnects.
    fn expect_disconnect(mut self) {
        while self.message(255).is_some() {}
    }
}

fn host() -> Client {
    let client = Client::new();
    client.session.meet(Meeting::Topic(Topic::of(PLACE)), &[]).unwrap();
    client
}

#[test]
fn fragmented_message_is_complete() {
    in_private_net(|| {
        let mut client = host();
        let mut stranger = Stranger::that_speaks(client.address);
        let speaker = client.speaker();
        assert!(!speaker.outgoing);
        let message = content(3000, 1);
        let mut frame = (message.len() as u32 + 2).to_be_bytes().to_vec();
        frame.extend([20, stranger.ours]);
        frame.extend(&message);
        // Nagle's algorithm is off: each fragment is a segment of its own.
        for fragment in frame.chunks(7) {
            stranger.stream.write_all(fragment).unwrap();
        }
        assert_eq!(client.hear(speaker.peer), message);
        let longest = content(MAX_MESSAGE, 2);
        stranger.send_message(&longest);
        assert_eq!(client.hear(speaker.peer), longest);
        client.session.send(speaker.peer, &longest).unwrap();
        assert_eq!(stranger.message(THEIRS).unwrap(), longest);
    });
}

#[test]
fn too_long_message_ends_the_connection_early() {
    in_private_net(|| {
        let mut client = host();
        for length in [MAX_MESSAGE as u32 + 1, 1_000_000, u32::MAX - 2] {
            let mut stranger = Stranger::that_speaks(client.address);
            let speaker = client.speaker();
            // Its announced length, and only its first bytes.
            stranger.stream.write_all(&(length + 2).to_be_bytes()).unwrap();
            stranger.stream.write_all(&[20, stranger.ours, 1, 2, 3]).unwrap();
            stranger.expect_disconnect();
            client.farewell(speaker.peer);
        }
    });
}

#[test]
fn invalid_handshake_does_not_enable_the_extension() {
    in_private_net(|| {
        let mut client = host();
        let deep = "l".repeat(10_000);
        let garbage = [
            "",
            "d",
            "le",
            "i1e",
            "de",
            "d1:mi1ee",
            "d1:mlee",
            "d1:mdee",
            "d1:md16:silmaril_catalog1:xee",
            "d1:md16:silmaril_catalogi-1eee",
            "d1:md16:silmaril_catalogi0eee",
            "d1:md16:silmaril_catalogi256eee",
            "d1:md16:silmaril_catalogi99999999999999999999eee",
            "d1:md16:silmaril_catalogdeee",
            "d1:md16:silmaril_catalogi77e",
            "d1:md15:silmaril_catalogi77eee",
            deep.as_str(),
        ];
        for text in garbage {
            let mut stranger = Stranger::at(client.address);
            let _ = stranger.try_extended(0, text.as_bytes());
            // Its messages are ignored.
            let _ = stranger.try_extended(stranger.ours, b"listen!");
        }
        // Invalid ports.
        for port in ["0", "-5", "65536", "1:x"] {
            let mut stranger = Stranger::at(client.address);
            let port = if port.contains(':') { port.to_owned() } else { format!("i{port}e") };
            let text = format!("d1:md16:silmaril_catalogi{THEIRS}ee1:p{port}e");
            stranger.extended(0, text.as_bytes());
            let speaker = client.wait_for("peer that speaks", SOON, |event| match event {
                Event::Overlay(OverlayEvent::Speaks { address, .. }) => Some(*address),
                Event::Overlay(OverlayEvent::Received(_, message)) => panic!("heard {message:?}"),
                _ => None,
            });
            assert_eq!(speaker, stranger.stream.local_addr().unwrap());
        }
    });
}

#[test]
fn number_of_the_extension_may_change_and_end() {
    in_private_net(|| {
        let mut client = host();
        let mut stranger = Stranger::that_speaks(client.address);
        let speaker = client.speaker();
        client.session.send(speaker.peer, b"one").unwrap();
        assert_eq!(stranger.message(THEIRS).unwrap(), b"one");
        stranger.extended(0, b"d1:md16:silmaril_catalogi5eee");
        // A handshake that does not mention the extension changes nothing.
        stranger.extended(0, b"d1:md6:ut_pexi1eee");
        stranger.send_message(b"changed");
        assert_eq!(client.hear(speaker.peer), b"changed");
        client.session.send(speaker.peer, b"two").unwrap();
        assert_eq!(stranger.message(5).unwrap(), b"two");
        stranger.extended(0, b"d1:md16:silmaril_catalogi0eee");
        stranger.send_message(b"unheard");
        client.farewell(speaker.peer);
        client.session.send(speaker.peer, b"unsent").unwrap();
        stranger.extended(0, b"d1:md16:silmaril_catalogi6eee");
        let again = client.speaker();
        assert_ne!(again.peer, speaker.peer);
        stranger.send_message(b"heard");
        assert_eq!(client.hear(again.peer), b"heard");
        client.session.send(again.peer, b"three").unwrap();
        assert_eq!(stranger.message(6).unwrap(), b"three");
        // The number of changes is limited.
        for _ in 0..100 {
            let _ = stranger.try_extended(0, b"d1:md16:silmaril_catalogi0eee");
            let _ = stranger.try_extended(0, b"d1:md16:silmaril_catalogi6eee");
        }
        stranger.expect_disconnect();
    });
}

#[test]
fn unknown_messages_and_numbers_are_harmless() {
    in_private_net(|| {
        let mut client = host();
        let mut bystander = Stranger::that_speaks(client.address);
        let speaker = client.speaker();
        for id in [1, 2, 3, 4, 7, 8, 9, 21, 99, 255] {
            let mut stranger = Stranger::that_speaks(client.address);
            for body in [&b""[..], b"\0", b"de", b"d8:msg_typei0e5:piecei99999ee", &[0xff; 300]] {
                let _ = stranger.try_extended(id, body);
            }
            // Messages without an id, and empty ones, are harmless as well.
            let _ = stranger.stream.write_all(b"\0\0\0\x01\x14\0\0\0\0");
        }
        bystander.send_message(b"still here");
        assert_eq!(client.hear(speaker.peer), b"still here");
    });
}

#[test]
fn peer_that_does_not_read_is_disconnected() {
    in_private_net(|| {
        let mut client = host();
        let _stranger = Stranger::that_speaks(client.address);
        let speaker = client.speaker();
        // This fills the kernel's buffers on both sides, and then the engine's up to its bound.
        for _ in 0..64 * 1024 * 1024 / MAX_MESSAGE {
            client.session.send(speaker.peer, &[0; MAX_MESSAGE]).unwrap();
        }
        client.farewell(speaker.peer);
        // A peer that reads may be sent any amount.
        let mut reader = Stranger::that_speaks(client.address);
        let speaker = client.speaker();
        for _ in 0..16 * 1024 * 1024 / MAX_MESSAGE {
            client.session.send(speaker.peer, &[1; MAX_MESSAGE]).unwrap();
            assert_eq!(reader.message(THEIRS).map(|message| message.len()), Some(MAX_MESSAGE));
        }
    });
}

#[test]
fn peer_that_sends_too_fast_is_disconnected() {
    in_private_net(|| {
        let mut client = host();
        let mut bystander = Stranger::that_speaks(client.address);
        let of_bystander = client.speaker();
        for len in [MAX_MESSAGE, 0] {
            let mut stranger = Stranger::that_speaks(client.address);
            let speaker = client.speaker();
            // The test does not read the client's events meanwhile.
            let message = vec![7; len];
            let mut sent = 0usize;
            while stranger.try_extended(stranger.ours, &message).is_ok() {
                sent += 1;
                assert!(sent * (len + 6) < 100 * 1024 * 1024, "100 MB were accepted");
            }
            let mut heard = 0;
            client.wait_for("farewell", SOON, |event| match event {
                Event::Overlay(OverlayEvent::Received(from, message)) if *from == speaker.peer => {
                    heard += message.len() + 6;
                    None
                }
                Event::Overlay(OverlayEvent::Left(who)) => (*who == speaker.peer).then_some(()),
                _ => None,
            });
            assert!(heard > 0 && heard <= MAX_UNREAD, "{heard} bytes waited");
        }
        bystander.send_message(b"still here");
        assert_eq!(client.hear(of_bystander.peer), b"still here");
        // A peer whose messages are processed may send any amount.
        let mut talker = Stranger::that_speaks(client.address);
        let speaker = client.speaker();
        let message = content(MAX_MESSAGE, 3);
        for _ in 0..3 * MAX_UNREAD / MAX_MESSAGE {
            talker.send_message(&message);
            assert_eq!(client.hear(speaker.peer), message);
        }
    });
}
