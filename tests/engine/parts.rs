//! Parts of pieces: blocks that become readable before their piece is complete.

use std::collections::HashSet;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use silmaril::model::PieceIndex;
use silmaril::torrent::{AddTorrent, Event, Priority, Swarms, TorrentId};

use super::rig::{Client, SOON, Sample};
use crate::support::private_net::in_private_net;
use crate::support::raw_peer_content::Content;
use crate::support::raw_peer_message::Message;
use crate::support::raw_peer_seed::{Conduct, RawSeed, Seen};

const MIB: usize = 1 << 20;
const BLOCK: usize = 16 * 1024;

/// One file of eight pieces of 1 MiB; the last piece is short.
fn sample() -> Sample {
    Sample::new(&[("model.safetensors", 8 * MIB - 100_000)], MIB as u32, false)
}

fn content(sample: &Sample) -> Arc<Content> {
    Arc::new(Content::new(sample.info_hash, MIB as u32, &sample.files))
}

fn request(client: &Client, id: TorrentId, piece: u32, blocks: Range<u32>) {
    client.session.request_blocks(id, PieceIndex(piece), &[blocks], Duration::ZERO).unwrap();
}

/// Compares blocks in the file with the original. The caller knows that they were reported as verified.
#[track_caller]
fn assert_right(sample: &Sample, dir: &std::path::Path, piece: u32, blocks: &Range<u32>) {
    let whole = sample.piece(piece);
    let part = blocks.start as usize * BLOCK..(blocks.end as usize * BLOCK).min(whole.len());
    let mut bytes = vec![0; part.len()];
    let (file, range) = sample.layout.owner(PieceIndex(piece)).unwrap();
    let file = std::fs::File::open(&sample.paths_in(dir)[file]).unwrap();
    file.read_exact_at(&mut bytes, range.start + part.start as u64).unwrap();
    assert!(bytes == whole[part], "blocks {blocks:?} of piece {piece} are wrong");
}

/// Waits until blocks are verified, and checks every byte that is reported.
#[track_caller]
fn wait_for_blocks(
    client: &mut Client,
    sample: &Sample,
    dir: &std::path::Path,
    piece: u32,
    blocks: Range<u32>,
) {
    let mut left: Vec<u32> = blocks.collect();
    client.wait_for("verified blocks", SOON, |event| {
        match event {
            Event::BlocksVerified(_, p, came) => {
                assert_right(sample, dir, p.0, came);
                left.retain(|block| p.0 != piece || !came.contains(block));
            }
            Event::PieceVerified(_, p) => {
                assert!(sample.piece_in(dir, p.0).unwrap() == sample.piece(p.0));
                left.retain(|_| p.0 != piece);
            }
            Event::Failed(_, why) => panic!("{why}"),
            _ => {}
        }
        left.is_empty().then_some(())
    });
}

/// A reader of a seed: the client, its torrent, and its directory.
fn reader(sample: &Sample, peers: Vec<std::net::SocketAddr>) -> (Client, TorrentId, tempfile::TempDir) {
    let here = tempfile::tempdir().unwrap();
    let mut client = Client::new();
    let id = client.add(AddTorrent { peers, ..sample.add(here.path()) });
    (client, id, here)
}

#[test]
fn blocks_are_verified_without_their_piece() {
    in_private_net(|| {
        let sample = sample();
        let mut seed = Client::new();
        seed.add(sample.add_seed());
        let (mut client, id, here) = reader(&sample, vec![seed.address]);
        // In the middle, the first and the last of the file: the last granule is short.
        for (piece, blocks) in [(3, 20..24), (0, 0..4), (7, 56..58), (3, 0..16)] {
            request(&client, id, piece, blocks.clone());
            wait_for_blocks(&mut client, &sample, here.path(), piece, blocks);
            client.session.set_priority(id, &[(PieceIndex(piece), Priority::None)]).unwrap();
        }
        let downloaded = client.wait_for("figures", SOON, |event| match event {
            Event::Stats(_, stats) if stats.downloaded > 0 => Some(stats.downloaded),
            _ => None,
        });
        assert!(downloaded <= 26 * BLOCK as u64, "{downloaded} bytes for 26 blocks");
    });
}

/// Waits until all these blocks are verified. Fails if hashes of any of them are refused.
#[track_caller]
fn wait_without_refusal(
    client: &mut Client,
    sample: &Sample,
    dir: &std::path::Path,
    parts: &[(u32, Range<u32>)],
) {
    let mut left: HashSet<(u32, u32)> =
        parts.iter().flat_map(|(piece, blocks)| blocks.clone().map(move |block| (*piece, block))).collect();
    client.wait_for("verified blocks", SOON, |event| {
        match event {
            Event::BlocksVerified(_, piece, blocks) => {
                assert_right(sample, dir, piece.0, blocks);
                left.retain(|(p, block)| *p != piece.0 || !blocks.contains(block));
            }
            Event::BlocksRefused(_, piece) => panic!("hashes of piece {} are refused", piece.0),
            _ => {}
        }
        left.is_empty().then_some(())
    });
}

#[test]
fn blocks_far_apart_or_in_two_subtrees_are_verified() {
    in_private_net(|| {
        // 256 blocks per piece; at most the hashes of 64 are requested at a time.
        let sample = Sample::new(&[("model.safetensors", 12 * MIB)], 4 * MIB as u32, false);
        let mut seed = Client::new();
        seed.add(sample.add_seed());
        let (mut client, id, here) = reader(&sample, vec![seed.address]);
        let cases: [&[Range<u32>]; 3] = [&[60..72, 124..132], &[0..4, 252..256], &[20..90, 90..120]];
        for (piece, blocks) in (0..).zip(cases) {
            client.session.request_blocks(id, PieceIndex(piece), blocks, Duration::ZERO).unwrap();
            let parts: Vec<_> = blocks.iter().map(|blocks| (piece, blocks.clone())).collect();
            wait_without_refusal(&mut client, &sample, here.path(), &parts);
        }
    });
}

#[test]
fn many_pieces_are_read_in_parts_at_the_same_time() {
    in_private_net(|| {
        let sample = Sample::new(&[("model.safetensors", 12 * MIB)], MIB as u32 / 8, false);
        let mut seed = Client::new();
        seed.add(sample.add_seed());
        let (mut client, id, here) = reader(&sample, vec![seed.address]);
        request(&client, id, 0, 0..4);
        wait_without_refusal(&mut client, &sample, here.path(), &[(0, 0..4)]);
        // More than the hash requests that a peer gets at a time.
        let parts: Vec<_> = (1..96).map(|piece| (piece, 4..8)).collect();
        for (piece, blocks) in &parts {
            request(&client, id, *piece, blocks.clone());
        }
        wait_without_refusal(&mut client, &sample, here.path(), &parts);
    });
}

#[test]
fn piece_of_verified_blocks_is_completed_and_each_block_fetched_once() {
    in_private_net(|| {
        let sample = sample();
        let served = RawSeed::listen_here(&content(&sample), Conduct::honest());
        let (mut client, id, here) = reader(&sample, vec![served.address()]);
        request(&client, id, 2, 8..12);
        wait_for_blocks(&mut client, &sample, here.path(), 2, 8..12);
        client.read(id, 2);
        assert!(sample.piece_in(here.path(), 2).unwrap() == sample.piece(2));
        assert_eq!(Seen::count(&served.seen().blocks), (MIB / BLOCK) as u64);
    });
}

#[test]
fn piece_read_in_parts_becomes_complete() {
    in_private_net(|| {
        let sample = sample();
        let mut seed = Client::new();
        seed.add(sample.add_seed());
        let (mut client, id, here) = reader(&sample, vec![seed.address]);
        for start in (0..64).step_by(16) {
            request(&client, id, 1, start..start + 16);
            if start + 16 < 64 {
                wait_for_blocks(&mut client, &sample, here.path(), 1, start..start + 16);
                client.session.set_priority(id, &[(PieceIndex(1), Priority::None)]).unwrap();
            }
        }
        client.wait_verified(id, 1);
        assert!(sample.piece_in(here.path(), 1).unwrap() == sample.piece(1));
    });
}

#[test]
fn blocks_of_an_earlier_run_are_not_fetched_again() {
    in_private_net(|| {
        let sample = sample();
        let served = RawSeed::listen_here(&content(&sample), Conduct::honest());
        let here = tempfile::tempdir().unwrap();
        {
            let mut client = Client::new();
            let id = client.add(AddTorrent { peers: vec![served.address()], ..sample.add(here.path()) });
            request(&client, id, 4, 16..32);
            wait_for_blocks(&mut client, &sample, here.path(), 4, 16..32);
        }
        let before = Seen::count(&served.seen().blocks);
        let mut client = Client::new();
        let blocks = vec![(PieceIndex(4), 16..32)];
        let id = client.add(AddTorrent { peers: vec![served.address()], blocks, ..sample.add(here.path()) });
        client.read(id, 4);
        assert!(sample.piece_in(here.path(), 4).unwrap() == sample.piece(4));
        assert_eq!(Seen::count(&served.seen().blocks) - before, 48);
    });
}

#[test]
fn peers_without_hashes_of_blocks_are_reported() {
    in_private_net(|| {
        let sample = sample();
        for silent in [false, true] {
            let conduct = Conduct::honest().with_hashes(move |_, range| match silent {
                true => vec![],
                false => vec![Message::HashReject(range)],
            });
            let seed = RawSeed::listen_here(&content(&sample), conduct);
            let (mut client, id, here) = reader(&sample, vec![seed.address()]);
            request(&client, id, 5, 0..4);
            client.wait_for("refusal", SOON, |event| match event {
                Event::BlocksRefused(of, piece) if (*of, piece.0) == (id, 5) => Some(()),
                Event::BlocksVerified(..) => panic!("no hash was sent"),
                _ => None,
            });
            client.read(id, 5);
            assert!(sample.piece_in(here.path(), 5).unwrap() == sample.piece(5));
        }
    });
}

#[test]
fn withdrawn_blocks_are_fetched_again() {
    in_private_net(|| {
        let sample = sample();
        let served = RawSeed::listen_here(&content(&sample), Conduct::honest());
        let (mut client, id, here) = reader(&sample, vec![served.address()]);
        for round in 0..10 {
            request(&client, id, 6, 4..12);
            wait_for_blocks(&mut client, &sample, here.path(), 6, 4..12);
            assert_eq!(Seen::count(&served.seen().blocks), 8 * (round + 1));
            client.session.set_priority(id, &[(PieceIndex(6), Priority::None)]).unwrap();
            client.session.withdraw(id, &[PieceIndex(6)]).unwrap();
            client.wait_for("withdrawal", SOON, |event| {
                matches!(event, Event::Withdrawn(_, piece) if piece.0 == 6).then_some(())
            });
            let (file, range) = sample.layout.owner(PieceIndex(6)).unwrap();
            let file =
                std::fs::File::options().write(true).open(&sample.paths_in(here.path())[file]).unwrap();
            file.write_all_at(&vec![0; MIB], range.start).unwrap();
        }
    });
}

#[test]
fn blocks_of_an_order_before_a_deletion_are_not_verified() {
    in_private_net(|| {
        let sample = sample();
        let mut seed = Client::new();
        seed.add(sample.add_seed());
        let (mut client, id, here) = reader(&sample, vec![seed.address]);
        for _ in 0..100 {
            let mut withdrawals = 0;
            for _ in 0..2 {
                request(&client, id, 6, 4..12);
                client.session.withdraw(id, &[PieceIndex(6)]).unwrap();
            }
            client.wait_for("withdrawals", SOON, |event| {
                withdrawals += usize::from(matches!(event, Event::Withdrawn(..)));
                (withdrawals == 2).then_some(())
            });
            // The engine has handled all orders before it has this.
            request(&client, id, 5, 0..4);
            client.wait_for("verified blocks of another piece", SOON, |event| match event {
                Event::BlocksVerified(_, piece, blocks) => {
                    assert_eq!(piece.0, 5, "blocks {blocks:?} of the deleted piece are verified");
                    Some(())
                }
                _ => None,
            });
            client.session.withdraw(id, &[PieceIndex(5)]).unwrap();
            client.wait_for("withdrawal", SOON, |event| matches!(event, Event::Withdrawn(..)).then_some(()));
        }
        drop(here);
    });
}

#[test]
fn late_block_comes_from_another_peer() {
    in_private_net(|| {
        let sample = sample();
        // Answers requests for hashes, but no request for blocks.
        let silent = RawSeed::listen_here(&content(&sample), Conduct::honest().with_blocks(|_, _| vec![]));
        let (mut client, id, here) = reader(&sample, vec![silent.address()]);
        request(&client, id, 3, 0..4);
        let began = Instant::now();
        while Seen::count(&silent.seen().blocks) < 4 {
            assert!(began.elapsed() < SOON, "the blocks were not requested");
            let _ = client.next(Duration::from_millis(20));
        }
        let honest = RawSeed::listen_here(&content(&sample), Conduct::honest());
        client.session.connect_peer(id, honest.address()).unwrap();
        wait_for_blocks(&mut client, &sample, here.path(), 3, 0..4);
        assert!(Seen::count(&honest.seen().blocks) <= 4);
    });
}

#[test]
fn dropped_requests_are_repeated_to_the_only_peer() {
    in_private_net(|| {
        let sample = sample();
        let dropped = Mutex::new(HashSet::new());
        let conduct = Conduct::honest().with_blocks(move |content, block| {
            // The first request for the second block of each piece has no answer.
            if block.begin as usize == BLOCK && dropped.lock().unwrap().insert((block.piece, block.begin)) {
                return vec![];
            }
            vec![Message::Piece(block.piece, block.begin, content.block(block, 0).unwrap())]
        });
        let seed = RawSeed::listen_here(&content(&sample), conduct);
        let (mut client, id, here) = reader(&sample, vec![seed.address()]);
        request(&client, id, 3, 0..4);
        wait_for_blocks(&mut client, &sample, here.path(), 3, 0..4);
        client.session.set_priority(id, &[(PieceIndex(3), Priority::None)]).unwrap();
        client.read(id, 5);
        assert!(sample.piece_in(here.path(), 5).unwrap() == sample.piece(5));
    });
}

#[test]
fn piece_withdrawn_while_it_is_hashed_is_fetched_again() {
    in_private_net(|| {
        let sample = sample();
        let mut seed = Client::new();
        seed.add(sample.add_seed());
        let (mut client, id, here) = reader(&sample, vec![seed.address]);
        let (file, range) = sample.layout.owner(PieceIndex(6)).unwrap();
        let path = &sample.paths_in(here.path())[file];
        for _ in 0..40 {
            client.session.request(id, PieceIndex(6), Duration::ZERO).unwrap();
            // Until the last block is in the file: now the piece is hashed.
            let began = Instant::now();
            let mut last = [0; 32];
            while last == [0; 32] {
                assert!(began.elapsed() < SOON, "the piece does not come");
                let file = std::fs::File::open(path);
                let _ = file.and_then(|file| file.read_exact_at(&mut last, range.end - 32));
            }
            client.session.withdraw(id, &[PieceIndex(6)]).unwrap();
            let open = std::fs::File::options().write(true).open(path).unwrap();
            open.write_all_at(&vec![0; MIB], range.start).unwrap();
            client.session.request(id, PieceIndex(6), Duration::ZERO).unwrap();
            let mut withdrawn = false;
            client.wait_for("the piece, after its withdrawal", SOON, |event| match event {
                Event::Withdrawn(_, piece) if piece.0 == 6 => {
                    withdrawn = true;
                    None
                }
                Event::PieceVerified(_, piece) if piece.0 == 6 && withdrawn => Some(()),
                _ => None,
            });
            assert!(sample.piece_in(here.path(), 6).unwrap() == sample.piece(6));
            client.session.withdraw(id, &[PieceIndex(6)]).unwrap();
            client.wait_for("withdrawal", SOON, |event| matches!(event, Event::Withdrawn(..)).then_some(()));
            open.write_all_at(&vec![0; MIB], range.start).unwrap();
        }
    });
}

#[test]
fn damaged_blocks_of_an_earlier_run_are_reported() {
    in_private_net(|| {
        let sample = sample();
        let seed = RawSeed::listen_here(&content(&sample), Conduct::honest());
        let here = tempfile::tempdir().unwrap();
        let (file, range) = sample.layout.owner(PieceIndex(4)).unwrap();
        let path = &sample.paths_in(here.path())[file];
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut wrong = sample.piece(4)[16 * BLOCK..32 * BLOCK].to_vec();
        wrong[5 * BLOCK + 3] ^= 1;
        std::fs::File::create(path).unwrap().write_all_at(&wrong, range.start + (16 * BLOCK) as u64).unwrap();

        let mut client = Client::new();
        let blocks = vec![(PieceIndex(4), 16..32)];
        let id = client.add(AddTorrent { peers: vec![seed.address()], blocks, ..sample.add(here.path()) });
        client.session.request(id, PieceIndex(4), Duration::ZERO).unwrap();
        client.wait_for("damage", SOON, |event| match event {
            Event::PieceDamaged(_, piece) if piece.0 == 4 => Some(()),
            Event::PieceVerified(..) => panic!("a piece with a wrong byte is verified"),
            _ => None,
        });
        client.session.withdraw(id, &[PieceIndex(4)]).unwrap();
        client.read(id, 4);
        assert!(sample.piece_in(here.path(), 4).unwrap() == sample.piece(4));
    });
}
