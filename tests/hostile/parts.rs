//! Blocks that become readable before their piece: no byte of them is wrong, whatever hostile peers send, and an honest peer
//! is enough to read.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use silmaril::config::{Encryption, NetworkConfig};
use silmaril::model::PieceIndex;
use silmaril::torrent::{AddTorrent, Event, FileCare, Priority, Swarms, TorrentId};

use crate::engine::rig::{Client, SOON, Sample, network};
use crate::support::private_net::in_private_net;
use crate::support::raw_peer::RawPeer;
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_message::{Block, HashRange, Message};
use crate::support::raw_peer_seed::{Conduct, RawSeed, Seen};

pub(super) const PIECES: u32 = 6;
pub(super) const PIECE: u32 = 1 << 20;
const BLOCK: u32 = 16 * 1024;

/// Numbers that are equal for equal seeds.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as u32 % below
    }
}

/// A reader of parts, which compares every byte that the engine reports with the original.
pub(super) struct Reader<'a> {
    sample: &'a Sample,
    pub(super) client: Client,
    pub(super) id: TorrentId,
    dir: tempfile::TempDir,
    /// Reported blocks, by piece and number in it.
    known: BTreeSet<(u32, u32)>,
    refused: BTreeSet<u32>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sample: &'a Sample, peers: Vec<std::net::SocketAddr>) -> Self {
        Self::start(sample, tempfile::tempdir().unwrap(), AddTorrent { peers, ..sample.add(Path::new("")) })
    }

    /// The next run of the reader, which has these blocks.
    pub(super) fn again(self, blocks: Vec<(PieceIndex, Range<u32>)>) -> Self {
        let Self { sample, client, dir, .. } = self;
        drop(client);
        Self::start(sample, dir, AddTorrent { blocks, ..sample.add(Path::new("")) })
    }

    fn start(sample: &'a Sample, dir: tempfile::TempDir, add: AddTorrent) -> Self {
        let mut client = Client::with(NetworkConfig { encryption: Encryption::Off, ..network() });
        let care = FileCare { doubted: false, granules: Some(dir.path().join("granules")) };
        let file_paths = sample.paths_in(dir.path());
        let id = client.add(AddTorrent { file_paths, file_care: vec![care], ..add });
        Self { sample, client, id, dir, known: BTreeSet::new(), refused: BTreeSet::new() }
    }

    /// Reads blocks of a piece, or the whole piece if no peer supplies hashes.
    #[track_caller]
    pub(super) fn read(&mut self, piece: u32, blocks: Range<u32>) {
        self.request(piece, blocks.clone());
        self.wait(piece, blocks);
        self.client.session.set_priority(self.id, &[(PieceIndex(piece), Priority::None)]).unwrap();
    }

    fn request(&self, piece: u32, blocks: Range<u32>) {
        let session = &self.client.session;
        session.request_blocks(self.id, PieceIndex(piece), &[blocks], Duration::ZERO).unwrap();
    }

    #[track_caller]
    pub(super) fn wait(&mut self, piece: u32, blocks: Range<u32>) {
        let Self { sample, client, id, dir, known, refused } = self;
        let has = |known: &BTreeSet<_>| blocks.clone().all(|block| known.contains(&(piece, block)));
        if has(known) {
            return;
        }
        let mut asked = None;
        loop {
            client.wait_for("verified blocks", 3 * SOON, |event| match event {
                Event::BlocksVerified(_, p, came) => {
                    came.clone().for_each(|block| assert_right(sample, dir.path(), p.0, block));
                    known.extend(came.clone().map(|block| (p.0, block)));
                    has(known).then_some(())
                }
                Event::PieceVerified(_, p) => {
                    for block in 0..PIECE / BLOCK {
                        assert_right(sample, dir.path(), p.0, block);
                        known.insert((p.0, block));
                    }
                    has(known).then_some(())
                }
                Event::BlocksRefused(_, p) => {
                    refused.insert(p.0);
                    (p.0 == piece).then(|| asked = Some(p.0))
                }
                Event::Failed(_, why) => panic!("{why}"),
                _ => None,
            });
            if has(known) {
                return;
            }
            client.session.request(*id, PieceIndex(asked.take().unwrap()), Duration::ZERO).unwrap();
        }
    }

    /// Compares all bytes. The caller knows that all pieces were reported.
    #[track_caller]
    pub(super) fn assert_complete(&self) {
        let blocks = (0..PIECES).flat_map(|piece| (0..PIECE / BLOCK).map(move |block| (piece, block)));
        blocks.for_each(|(piece, block)| assert_right(self.sample, self.dir.path(), piece, block));
    }

    /// Compares all bytes that were reported, also long ago.
    #[track_caller]
    fn check(&self) {
        self.known
            .iter()
            .for_each(|(piece, block)| assert_right(self.sample, self.dir.path(), *piece, *block));
    }

    /// Withdraws a piece and deletes its bytes.
    #[track_caller]
    fn delete(&mut self, piece: u32) {
        self.client.session.withdraw(self.id, &[PieceIndex(piece)]).unwrap();
        self.known.retain(|(of, _)| *of != piece);
        self.client.wait_for("withdrawal", SOON, |event| {
            matches!(event, Event::Withdrawn(_, of) if of.0 == piece).then_some(())
        });
        let path = &self.sample.paths_in(self.dir.path())[0];
        if let Ok(file) = std::fs::File::options().write(true).open(path) {
            file.write_all_at(&vec![0; PIECE as usize], u64::from(piece * PIECE)).unwrap();
        }
    }

    /// Small reads, whole pieces and deletions in a random order.
    fn read_randomly(&mut self, dice: &mut Dice, steps: u32) {
        for _ in 0..steps {
            let piece = dice.roll(PIECES);
            match dice.roll(12) {
                0 => self.delete(piece),
                1 => {
                    self.client.session.request(self.id, PieceIndex(piece), Duration::ZERO).unwrap();
                    self.wait(piece, 0..PIECE / BLOCK);
                    self.client
                        .session
                        .set_priority(self.id, &[(PieceIndex(piece), Priority::None)])
                        .unwrap();
                }
                _ => {
                    let granule = 4 * dice.roll(PIECE / BLOCK / 4);
                    self.read(piece, granule..granule + 4);
                }
            }
        }
        self.check();
    }
}

#[track_caller]
fn assert_right(sample: &Sample, dir: &Path, piece: u32, block: u32) {
    let part = (block * BLOCK) as usize..((block + 1) * BLOCK) as usize;
    let mut bytes = vec![0; part.len()];
    let file = std::fs::File::open(&sample.paths_in(dir)[0]).unwrap();
    file.read_exact_at(&mut bytes, u64::from(piece * PIECE + block * BLOCK)).unwrap();
    assert!(bytes == sample.piece(piece)[part], "wrong bytes in block {block} of piece {piece}");
}

pub(super) fn sample() -> Sample {
    Sample::new(&[("model.safetensors", (PIECES * PIECE) as usize)], PIECE, false)
}

pub(super) fn wrong(block: Block) -> Message {
    Message::Piece(block.piece, block.begin, vec![0x55; block.length as usize])
}

/// The bytes of a block.
pub(super) fn right(content: &Content, block: Block) -> Message {
    Message::Piece(block.piece, block.begin, content.block(block, 0).unwrap())
}

/// Answers one of `share` requests for blocks with wrong bytes, and all further ones honestly.
fn sometimes_wrong(share: u64) -> Conduct {
    let count = AtomicU64::new(0);
    Conduct::honest().with_blocks(move |content, block| {
        let lies = count.fetch_add(1, Ordering::Relaxed).is_multiple_of(share);
        vec![if lies { wrong(block) } else { right(content, block) }]
    })
}

/// The peers that a reader meets next to an honest one.
pub(super) fn attack(conducts: impl Fn() -> Vec<Conduct> + Send + 'static) {
    in_private_net(move || {
        let sample = sample();
        let content = Arc::new(Content::new(sample.info_hash, PIECE, &sample.files));
        for round in 1..=3u64 {
            let hostile: Vec<RawSeed> =
                conducts().into_iter().map(|conduct| RawSeed::listen_here(&content, conduct)).collect();
            let mut reader = Reader::new(&sample, hostile.iter().map(RawSeed::address).collect());
            let honest = RawSeed::listen_here(&content, Conduct::honest());
            reader.client.session.connect_peer(reader.id, honest.address()).unwrap();
            reader.read_randomly(&mut Dice(round.wrapping_mul(0x9e37_79b9_7f4a_7c15)), 40);
        }
    });
}

#[test]
fn wrong_blocks_with_right_hashes_change_no_byte() {
    attack(|| vec![sometimes_wrong(1), sometimes_wrong(3), sometimes_wrong(50)]);
}

#[test]
fn wrong_hashes_of_blocks_change_no_byte() {
    let conduct = || {
        Conduct::honest().with_blocks(|_, block| vec![wrong(block)]).with_hashes(|content, range| {
            let mut hashes = content.hashes(range).unwrap_or_default();
            hashes.iter_mut().for_each(|hash| hash[7] ^= 1);
            vec![Message::Hashes(range, hashes)]
        })
    };
    attack(move || vec![conduct(), conduct()]);
}

#[test]
fn hashes_of_other_blocks_change_no_byte() {
    // The right hashes of the next subtree, under the requested range, and the blocks that match them.
    let shifted = |content: &Content, range: HashRange| {
        let other = HashRange { index: range.index ^ range.length, ..range };
        match content.hashes(other) {
            Some(hashes) => vec![Message::Hashes(range, hashes)],
            None => vec![Message::HashReject(range)],
        }
    };
    let conduct = move || {
        Conduct::honest().with_hashes(shifted).with_blocks(|content, block| {
            let begin = block.begin ^ (4 * BLOCK);
            let other = content.block(Block { begin, ..block }, 0);
            other.map(|bytes| Message::Piece(block.piece, block.begin, bytes)).into_iter().collect()
        })
    };
    attack(move || vec![conduct(), conduct()]);
}

#[test]
fn silent_and_rejecting_peers_stop_no_reader() {
    attack(|| {
        vec![
            Conduct::honest().with_hashes(|_, _| vec![]),
            Conduct::honest().with_hashes(|_, range| vec![Message::HashReject(range)]),
            Conduct::honest().with_blocks(|_, block| vec![Message::Reject(block)]),
        ]
    });
}

#[test]
fn mixed_attacks_change_no_byte() {
    attack(|| {
        vec![
            sometimes_wrong(2),
            sometimes_wrong(5).with_hashes(|_, range| vec![Message::HashReject(range)]),
            sometimes_wrong(7).with_hashes(|_, _| vec![]),
            Conduct::honest().with_hashes(|content, range| {
                // Twice: the second answer was not requested.
                let hashes = content.hashes(range).unwrap_or_default();
                vec![Message::Hashes(range, hashes.clone()), Message::Hashes(range, hashes)]
            }),
        ]
    });
}

#[test]
fn short_and_long_blocks_change_no_byte() {
    let resized = |change: i64| {
        Conduct::honest().with_blocks(move |content, block| {
            let mut bytes = content.block(block, 0).unwrap();
            bytes.resize((bytes.len() as i64 + change) as usize, 0);
            vec![Message::Piece(block.piece, block.begin, bytes)]
        })
    };
    attack(move || vec![resized(-1), resized(-8192), resized(1), resized(-16384)]);
}

#[test]
fn short_and_long_answers_with_hashes_change_no_byte() {
    let resized = |count: fn(usize) -> usize| {
        Conduct::honest().with_blocks(|_, block| vec![wrong(block)]).with_hashes(move |content, range| {
            let mut hashes = content.hashes(range).unwrap_or_default();
            hashes.resize(count(hashes.len()), [9; 32]);
            vec![Message::Hashes(range, hashes)]
        })
    };
    attack(move || {
        vec![resized(|len| len.saturating_sub(1)), resized(|_| 0), resized(|len| len + 1), resized(|_| 1)]
    });
}

#[test]
fn hashes_under_another_range_change_no_byte() {
    let moved = |shift: fn(&mut HashRange)| {
        Conduct::honest().with_blocks(|_, block| vec![wrong(block)]).with_hashes(move |content, range| {
            let mut other = range;
            shift(&mut other);
            vec![Message::Hashes(other, content.hashes(range).unwrap_or_default())]
        })
    };
    attack(move || {
        vec![
            moved(|range| range.root[0] ^= 1),
            moved(|range| range.index += range.length),
            moved(|range| range.base = 1),
            moved(|range| range.proofs += 1),
        ]
    });
}

/// A peer that sends its hashes with the next block that is requested, before or after it, so the first blocks are in the file
/// before their hashes. If it lies, its blocks are wrong.
fn late_hashes(lies: bool, hashes_first: bool) -> Conduct {
    let kept = Arc::new(std::sync::Mutex::new(vec![]));
    let later = kept.clone();
    Conduct::honest()
        .with_hashes(move |content, range| {
            let hashes = content.hashes(range).unwrap_or_default();
            later.lock().unwrap().push(Message::Hashes(range, hashes));
            vec![]
        })
        .with_blocks(move |content, block| {
            let sent = match lies {
                true => wrong(block),
                false => right(content, block),
            };
            let mut answers = std::mem::take(&mut *kept.lock().unwrap());
            answers.insert(if hashes_first { answers.len() } else { 0 }, sent);
            answers
        })
}

#[test]
fn hashes_that_come_after_their_blocks_are_used() {
    attack(|| vec![late_hashes(true, false), late_hashes(false, false)]);
}

/// The hashes come from two peers. The second ones come when the wrong blocks have been requested from the honest peer.
#[test]
fn honest_peer_is_not_blamed_for_blocks_that_are_judged_twice() {
    in_private_net(move || {
        let sample = sample();
        let content = Arc::new(Content::new(sample.info_hash, PIECE, &sample.files));
        for _ in 0..4 {
            let [honest, liar] =
                [false, true].map(|lies| RawSeed::listen_here(&content, late_hashes(lies, !lies)));
            let mut reader = Reader::new(&sample, vec![honest.address(), liar.address()]);
            for piece in 0..PIECES {
                for granule in 0..4 {
                    reader.request(piece, 8 * granule..8 * granule + 4);
                }
            }
            for piece in 0..PIECES {
                for granule in 0..4 {
                    reader.wait(piece, 8 * granule..8 * granule + 4);
                }
            }
            reader.check();
            assert_eq!(Seen::count(&honest.seen().disconnections), 0, "the honest peer was disconnected");
        }
    });
}

#[test]
fn peers_that_choke_stop_no_reader() {
    attack(|| {
        vec![
            // Without an answer to what was requested, and with one.
            Conduct::honest().with_blocks(|_, _| vec![Message::Choke, Message::Unchoke]),
            Conduct::honest()
                .with_blocks(|_, block| vec![Message::Choke, Message::Reject(block), Message::Unchoke]),
        ]
    });
}

#[test]
fn foreign_seeds_without_hashes_of_blocks_are_enough() {
    in_private_net(|| {
        let sample = sample();
        let content = Arc::new(Content::new(sample.info_hash, PIECE, &sample.files));
        for silent in [false, true] {
            let foreign = Conduct::honest().with_hashes(move |content, range| {
                // The hashes of pieces are known to every client of BitTorrent v2.
                match content.hashes(range).filter(|_| range.base > 0) {
                    Some(hashes) => vec![Message::Hashes(range, hashes)],
                    None if silent => vec![],
                    None => vec![Message::HashReject(range)],
                }
            });
            let seeds: Vec<_> = (0..2).map(|_| RawSeed::listen_here(&content, foreign.clone())).collect();
            let mut reader = Reader::new(&sample, seeds.iter().map(RawSeed::address).collect());
            for piece in 0..PIECES {
                reader.read(piece, 8..12);
            }
            reader.check();
            assert!(!reader.refused.is_empty());
        }
    });
}

/// Answers requests for hashes, and collects as many requests for blocks without an answer.
fn collect_requests(peer: &mut RawPeer, content: &Content, count: usize) -> Vec<Block> {
    let mut blocks = vec![];
    while blocks.len() < count {
        match peer.receive().unwrap() {
            Message::Request(block) => blocks.push(block),
            Message::HashRequest(range) => {
                peer.send(&Message::Hashes(range, content.hashes(range).unwrap())).unwrap();
            }
            _ => {}
        }
    }
    blocks
}

#[test]
fn late_blocks_do_not_replace_verified_ones() {
    in_private_net(|| {
        let sample = sample();
        let content = Arc::new(Content::new(sample.info_hash, PIECE, &sample.files));
        for withdrawn in [false, true] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let mut reader = Reader::new(&sample, vec![listener.local_addr().unwrap()]);
            for granule in 0..4 {
                reader.request(1, 8 * granule..8 * granule + 4);
            }
            let mut late = RawPeer::accept(listener.accept().unwrap().0, &sample.info_hash, None).unwrap();
            late.send(&Message::HaveAll).unwrap();
            late.send(&Message::Unchoke).unwrap();
            let blocks = collect_requests(&mut late, &content, 16);
            let honest = RawSeed::listen_here(&content, Conduct::honest());
            reader.client.session.connect_peer(reader.id, honest.address()).unwrap();
            for granule in 0..4 {
                reader.wait(1, 8 * granule..8 * granule + 4);
            }
            if withdrawn {
                reader.client.session.set_priority(reader.id, &[(PieceIndex(1), Priority::None)]).unwrap();
                reader.delete(1);
            }
            for block in blocks {
                // An error: the reader has closed the connection.
                let _ = late.send(&wrong(block));
            }
            late.is_answered(content.any_range());
            reader.check();
            reader.read(1, 4..8);
            reader.check();
            reader.client.session.request(reader.id, PieceIndex(1), Duration::ZERO).unwrap();
            reader.wait(1, 0..PIECE / BLOCK);
            reader.check();
        }
    });
}

/// Writes and proofs of blocks are under way. A block that is reported has the right bytes, and none is reported when its
/// torrent has ended, because the caller may then use the file for another torrent.
#[test]
fn blocks_are_not_reported_when_their_torrent_has_ended() {
    in_private_net(|| {
        let sample = sample();
        let content = Arc::new(Content::new(sample.info_hash, PIECE, &sample.files));
        let seed = RawSeed::listen_here(&content, Conduct::honest());
        let liar = RawSeed::listen_here(&content, sometimes_wrong(5));
        for round in 0..12 {
            let Reader { client, id, dir, .. } =
                &mut Reader::new(&sample, vec![seed.address(), liar.address()]);
            let granules =
                (0..PIECES).flat_map(|piece| (0..PIECE / BLOCK).step_by(8).map(move |at| (piece, at)));
            for (piece, first) in granules {
                let blocks = first..first + 4;
                let blocks = std::slice::from_ref(&blocks);
                client.session.request_blocks(*id, PieceIndex(piece), blocks, Duration::ZERO).unwrap();
            }
            let mut left = 1 + 3 * round;
            let check = |event: &Event| match event {
                Event::BlocksVerified(_, piece, blocks) => {
                    blocks.clone().for_each(|block| assert_right(&sample, dir.path(), piece.0, block));
                    1
                }
                Event::Failed(_, why) => panic!("{why}"),
                _ => 0,
            };
            client.wait_for("verified blocks", 3 * SOON, |event| {
                left -= check(event);
                (left <= 0).then_some(())
            });
            client.session.remove(*id).unwrap();
            client.wait_for("the end of the torrent", SOON, |event| {
                check(event);
                matches!(event, Event::Removed(of) if of == id).then_some(())
            });
            // Events of the old torrent would come before this one.
            let other = client.session.add(sample.add(tempfile::tempdir().unwrap().path())).unwrap();
            client.session.remove(other).unwrap();
            client.wait_for("the end of the other torrent", SOON, |event| {
                assert!(!matches!(event, Event::BlocksVerified(..)), "reported after the end: {event:?}");
                matches!(event, Event::Removed(of) if *of == other).then_some(())
            });
        }
    });
}
