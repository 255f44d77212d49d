//! Several peers that send wrong blocks, together with an honest one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use silmaril::config::{Encryption, NetworkConfig};
use silmaril::model::{BLOCK_LEN, PieceIndex};
use silmaril::torrent::{Event, Priority, Swarms, TorrentId};

use crate::engine::rig::{Client, SOON, Sample, network};
use crate::support::private_net::in_private_net;
use crate::support::process::{PATIENCE, until};
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_message::Message;
use crate::support::raw_peer_seed::{Conduct, RawSeed, Seen};

const LIARS: usize = 6;

/// Sends wrong blocks: all blocks, or every second one.
pub(super) fn liar(number: usize) -> Conduct {
    Conduct::honest().with_blocks(move |content, block| {
        let Some(mut data) = content.block(block, 0) else { return vec![Message::Reject(block)] };
        if number.is_multiple_of(2) || (block.begin / 16384).is_multiple_of(2) {
            data[number] ^= 1;
        }
        vec![Message::Piece(block.piece, block.begin, data)]
    })
}

/// Sends a few wrong blocks and then nothing.
pub(super) fn liar_that_falls_silent(number: usize) -> Conduct {
    let sent = AtomicUsize::new(0);
    Conduct::honest().with_blocks(move |content, block| {
        if sent.fetch_add(1, Ordering::Relaxed) > 4 + number {
            return vec![];
        }
        let mut data = content.block(block, 0).unwrap();
        data[number] ^= 1;
        vec![Message::Piece(block.piece, block.begin, data)]
    })
}

/// Events that a reader received.
#[derive(Debug, Default)]
struct Events {
    verified: u32,
    rejected: u32,
    /// Statistics of the engine, sent once a second while blocks arrive.
    stats: u32,
    /// Longest time between two verified pieces.
    longest: Duration,
}

struct Scene {
    sample: Sample,
    liars: Vec<RawSeed>,
    honest: RawSeed,
    client: Client,
    id: TorrentId,
    here: tempfile::TempDir,
}

impl Scene {
    /// Connects the liars, and with `honest_first` also the honest peer.
    fn new(piece_length: u32, pieces: u32, honest_first: bool, liar: impl Fn(usize) -> Conduct) -> Self {
        let files = [("model.bin", (pieces * piece_length) as usize)];
        Self::of(&files, piece_length, honest_first, liar)
    }

    /// The same with these files.
    fn of(
        files: &[(&str, usize)],
        piece_length: u32,
        honest_first: bool,
        liar: impl Fn(usize) -> Conduct,
    ) -> Self {
        let sample = Sample::new(files, piece_length, false);
        let content = Arc::new(Content::new(sample.info_hash, piece_length, &sample.files));
        let liars: Vec<RawSeed> =
            (0..LIARS).map(|number| RawSeed::listen_here(&content, liar(number))).collect();
        let honest = RawSeed::listen_here(&content, Conduct::honest());
        let mut client = Client::with(NetworkConfig { encryption: Encryption::Off, ..network() });
        let here = tempfile::tempdir().unwrap();
        let mut add = sample.add(here.path());
        add.peers = liars.iter().map(RawSeed::address).collect();
        if honest_first {
            add.peers.push(honest.address());
        }
        let id = client.add(add);
        let connected = |seed: &RawSeed| Seen::count(&seed.seen().connections) > 0;
        until("the peers are connected", PATIENCE, || {
            liars.iter().all(connected) && (!honest_first || connected(&honest))
        });
        Self { sample, liars, honest, client, id, here }
    }

    fn request(&self, pieces: std::ops::Range<u32>) {
        for piece in pieces {
            self.client.session.request(self.id, PieceIndex(piece), Duration::ZERO).unwrap();
        }
    }

    /// Waits until this many pieces are verified.
    fn wait_until(&mut self, verified: u32, events: &mut Events) {
        let (id, mut last) = (self.id, Instant::now());
        self.client.wait_for("verified pieces", 3 * SOON, |event| {
            match event {
                Event::PieceVerified(of, _) if *of == id => {
                    events.verified += 1;
                    events.longest = events.longest.max(last.elapsed());
                    last = Instant::now();
                }
                Event::PieceRejected(of, _) if *of == id => events.rejected += 1,
                Event::Stats(of, _) if *of == id => events.stats += 1,
                _ => {}
            }
            (events.verified == verified).then_some(())
        });
    }

    /// Each liar is identified by the first piece that it has sent alone. Only the pieces requested from it until then
    /// may be rejected.
    fn assert_harmless(&self, events: &Events, piece_length: u32) {
        println!("{events:?}");
        let blocks = |seed: &RawSeed| Seen::count(&seed.seen().blocks);
        println!("requested from the liars: {:?}", self.liars.iter().map(blocks).collect::<Vec<_>>());
        println!("requested from the honest peer: {}", blocks(&self.honest));
        assert_eq!(Seen::count(&self.honest.seen().disconnections), 0, "the honest peer was disconnected");
        // 64 requests at a time, and as many again before the liar is suspected.
        let per_piece = piece_length / BLOCK_LEN as u32;
        let per_liar = 2 * (64 / per_piece).max(1) + 1;
        let most = per_liar * LIARS as u32;
        assert!(
            events.rejected <= most,
            "{} pieces were rejected, at most {most} should be",
            events.rejected
        );
        for piece in 0..self.sample.pieces() {
            assert!(self.sample.piece_in(self.here.path(), piece).unwrap() == self.sample.piece(piece));
        }
    }
}

/// The reader already waits for all pieces when the honest peer connects.
#[test]
fn several_liars_delay_no_reader() {
    in_private_net(|| {
        let (length, pieces) = (256 * 1024, 24);
        let mut scene = Scene::new(length, pieces, false, liar);
        scene.request(0..pieces);
        scene.client.session.connect_peer(scene.id, scene.honest.address()).unwrap();
        let mut events = Events::default();
        scene.wait_until(pieces, &mut events);
        scene.assert_harmless(&events, length);
    });
}

/// The honest peer is connected from the beginning, and contributes to the wrong pieces. The reader waits for one piece
/// after another, like a program that reads a file without read-ahead.
#[test]
fn several_liars_delay_no_reader_of_single_pieces() {
    in_private_net(|| {
        let (length, pieces) = (2 << 20, 8);
        let mut scene = Scene::new(length, pieces, true, liar);
        let mut events = Events::default();
        for piece in 0..pieces {
            scene.request(piece..piece + 1);
            scene.wait_until(piece + 1, &mut events);
        }
        scene.assert_harmless(&events, length);
        // Another peer gets the request immediately, not in the next second.
        assert!(events.stats <= 2 + events.rejected / 2, "the reader waited after wrong pieces: {events:?}");
    });
}

/// The liars do not answer their requests, and so prevent that the other liars are identified.
#[test]
fn liars_that_fall_silent_block_no_piece() {
    in_private_net(|| {
        let (length, pieces) = (256 * 1024, 8);
        let mut scene = Scene::new(length, pieces, true, liar_that_falls_silent);
        let mut events = Events::default();
        for piece in 0..pieces {
            scene.request(piece..piece + 1);
            scene.wait_until(piece + 1, &mut events);
        }
        scene.assert_harmless(&events, length);
    });
}

/// The files are shorter than a piece, so that padding follows them. Each peer, the honest one too, contributes to a wrong
/// piece and is suspected.
#[test]
fn suspects_finish_the_last_piece_of_a_file() {
    in_private_net(|| {
        let (length, file) = (2 << 20, (1 << 20) + 20_000);
        let files = ["a.bin", "b.bin", "c.bin", "d.bin"].map(|name| (name, file));
        let mut scene = Scene::of(&files, length, true, liar);
        let mut events = Events::default();
        for piece in 0..files.len() as u32 {
            scene.request(piece..piece + 1);
            scene.wait_until(piece + 1, &mut events);
        }
        scene.assert_harmless(&events, length);
    });
}

/// Sends the first blocks wrong, and no further ones.
fn liar_that_begins_a_piece() -> Conduct {
    let sent = AtomicUsize::new(0);
    Conduct::honest().with_blocks(move |content, block| {
        if sent.fetch_add(1, Ordering::Relaxed) >= BEGUN {
            return vec![];
        }
        let mut data = content.block(block, 0).unwrap();
        data[0] ^= 1;
        vec![Message::Piece(block.piece, block.begin, data)]
    })
}

/// Blocks that a liar sends before it leaves.
const BEGUN: usize = 8;

/// A liar has sent a part of a piece and leaves, as it does when it is found out. The honest seed has been asked for other
/// blocks of the piece, and has not answered because its link is slower. With the liar's blocks the piece would be wrong, and
/// the honest seed would have to send it twice.
#[test]
fn blocks_of_a_liar_that_left_spoil_no_piece() {
    in_private_net(|| {
        let length = 4 << 20;
        let sample = Sample::new(&[("model.bin", 2 * length as usize)], length, false);
        let content = Arc::new(Content::new(sample.info_hash, length, &sample.files));
        let mut client = Client::with(NetworkConfig { encryption: Encryption::Off, ..network() });
        let here = tempfile::tempdir().unwrap();
        let id = client.add(sample.add(here.path()));
        let rejected =
            |event: &Event| matches!(event, Event::PieceRejected(of, _) if *of == id).then_some(());

        // From now on the reader expects liars.
        let known = RawSeed::listen_here(&content, liar(0));
        client.session.connect_peer(id, known.address()).unwrap();
        client.session.request(id, PieceIndex(0), Duration::ZERO).unwrap();
        client.wait_for("rejected piece", SOON, rejected);
        drop(known);
        let wanted = [(PieceIndex(0), Priority::None), (PieceIndex(1), Priority::Normal)];
        client.session.set_priority(id, &wanted).unwrap();

        let liar = RawSeed::listen_here(&content, liar_that_begins_a_piece());
        client.session.connect_peer(id, liar.address()).unwrap();
        let asked = |seed: &RawSeed| Seen::count(&seed.seen().blocks);
        until("the liar has sent blocks", PATIENCE, || asked(&liar) > BEGUN as u64);

        let (answer, answers) = mpsc::channel::<()>();
        let answers = Mutex::new(answers);
        let honest = RawSeed::listen_here(
            &content,
            Conduct::honest().with_blocks(move |content, block| {
                // Until the sender is dropped.
                let _ = answers.lock().unwrap().recv_timeout(PATIENCE);
                vec![Message::Piece(block.piece, block.begin, content.block(block, 0).unwrap())]
            }),
        );
        client.session.connect_peer(id, honest.address()).unwrap();
        until("the honest seed is asked", PATIENCE, || asked(&honest) > 0);

        let left = liar.address();
        drop(liar);
        client.wait_for("disconnected liar", SOON, |event| {
            assert!(rejected(event).is_none(), "the liar was found out before it left");
            matches!(event, Event::PeerDisconnected(_, peer, _) if *peer == left).then_some(())
        });
        drop(answer);
        client.wait_for("verified piece", 3 * SOON, |event| {
            assert!(rejected(event).is_none(), "the piece was wrong");
            matches!(event, Event::PieceVerified(of, PieceIndex(1)) if *of == id).then_some(())
        });
    });
}
