//! Offers: a host that has parts of pieces serves them to other hosts (`cpp/offers.h`).

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use silmaril::model::PieceIndex;
use silmaril::torrent::{AddTorrent, Event, FileCare, Priority, Swarms, TorrentId};
use tempfile::TempDir;

use super::rig::{Client, SOON, Sample};
use crate::support::private_net::in_private_net;

const MIB: usize = 1 << 20;
const BLOCK: usize = 16 * 1024;
const PER_GRANULE: u32 = 4;

/// One file of eight pieces of 1 MiB; the last piece is short.
fn sample() -> Sample {
    Sample::new(&[("model.safetensors", 8 * MIB - 100_000)], MIB as u32, false)
}

/// A host that reads parts.
struct Reader {
    client: Client,
    id: TorrentId,
    dir: TempDir,
}

impl Reader {
    fn new(sample: &Sample) -> Self {
        Self::again(sample, tempfile::tempdir().unwrap(), vec![])
    }

    /// Another run of a reader, which has these blocks.
    fn again(sample: &Sample, dir: TempDir, blocks: Vec<(PieceIndex, Range<u32>)>) -> Self {
        let mut client = Client::new();
        let care = FileCare { doubted: false, granules: Some(granules(dir.path())) };
        let id = client.add(AddTorrent { file_care: vec![care], blocks, ..sample.add(dir.path()) });
        Self { client, id, dir }
    }

    fn connect(&self, to: &Client) {
        self.client.session.connect_peer(self.id, to.address).unwrap();
    }

    fn request(&self, piece: u32, blocks: Range<u32>) {
        self.client.session.request_blocks(self.id, PieceIndex(piece), &[blocks], Duration::ZERO).unwrap();
    }

    /// Waits until blocks are verified, and compares them with the original.
    #[track_caller]
    fn wait(&mut self, sample: &Sample, piece: u32, blocks: Range<u32>) {
        let mut left: Vec<u32> = blocks.collect();
        let dir = self.dir.path();
        self.client.wait_for("verified blocks", SOON, |event| {
            match event {
                Event::BlocksVerified(_, p, came) => {
                    assert_right(sample, dir, p.0, came);
                    left.retain(|block| p.0 != piece || !came.contains(block));
                }
                Event::BlocksRefused(..) | Event::Failed(..) => panic!("{event:?}"),
                _ => {}
            }
            left.is_empty().then_some(())
        });
    }

    #[track_caller]
    fn read(&mut self, sample: &Sample, piece: u32, blocks: Range<u32>) {
        self.request(piece, blocks.clone());
        self.wait(sample, piece, blocks);
        self.client.session.set_priority(self.id, &[(PieceIndex(piece), Priority::None)]).unwrap();
    }

    /// Waits until the hashes of the granules of a piece are saved. Only then it can prove them to a peer.
    #[track_caller]
    fn wait_for_granules(&mut self, piece: u32) {
        let began = Instant::now();
        let at = u64::from(piece) * (MIB / BLOCK) as u64 / u64::from(PER_GRANULE) * 32;
        let mut hash = [0; 32];
        while hash == [0; 32] {
            assert!(began.elapsed() < SOON, "the hashes of the granules of piece {piece} do not come");
            let _ = self.client.next(Duration::from_millis(20));
            let _ =
                std::fs::File::open(granules(self.dir.path())).and_then(|f| f.read_exact_at(&mut hash, at));
        }
    }
}

fn granules(dir: &Path) -> std::path::PathBuf {
    dir.join("granules")
}

#[track_caller]
fn assert_right(sample: &Sample, dir: &Path, piece: u32, blocks: &Range<u32>) {
    let whole = sample.piece(piece);
    let part = blocks.start as usize * BLOCK..(blocks.end as usize * BLOCK).min(whole.len());
    let (file, range) = sample.layout.owner(PieceIndex(piece)).unwrap();
    let mut bytes = vec![0; part.len()];
    let file = std::fs::File::open(&sample.paths_in(dir)[file]).unwrap();
    file.read_exact_at(&mut bytes, range.start + part.start as u64).unwrap();
    assert!(bytes == whole[part], "blocks {blocks:?} of piece {piece} are wrong");
}

/// A reader of these parts, after the only seed has gone.
fn reader_of(sample: &Sample, parts: &[(u32, Range<u32>)]) -> Reader {
    let mut seed = Client::new();
    seed.add(sample.add_seed());
    let mut reader = Reader::new(sample);
    reader.connect(&seed);
    for (piece, blocks) in parts {
        reader.read(sample, *piece, blocks.clone());
        reader.wait_for_granules(*piece);
    }
    reader
}

#[test]
fn host_that_reads_in_parts_serves_what_it_read() {
    in_private_net(|| {
        let sample = sample();
        // The last granule of the file is short.
        let parts = [(3, 20..24), (3, 32..40), (7, 56..58)];
        let first = reader_of(&sample, &parts);
        let mut second = Reader::new(&sample);
        second.connect(&first.client);
        for (piece, blocks) in parts.clone() {
            second.read(&sample, piece, blocks);
            second.wait_for_granules(piece);
        }
        // What was got as an offer is offered again.
        drop(first);
        let mut third = Reader::new(&sample);
        third.connect(&second.client);
        for (piece, blocks) in parts {
            third.read(&sample, piece, blocks);
        }
    });
}

#[test]
fn parts_of_an_earlier_run_are_served() {
    in_private_net(|| {
        let sample = sample();
        let first = reader_of(&sample, &[(2, 8..12)]);
        drop(first.client);
        let first = Reader::again(&sample, first.dir, vec![(PieceIndex(2), 8..12)]);
        let mut second = Reader::new(&sample);
        second.connect(&first.client);
        second.read(&sample, 2, 8..12);
    });
}

#[test]
fn parts_that_come_later_are_served_to_a_reader_that_waits() {
    in_private_net(|| {
        let sample = sample();
        let mut first = Reader::new(&sample);
        let mut second = Reader::new(&sample);
        second.connect(&first.client);
        second.request(5, 0..8);
        let mut seed = Client::new();
        seed.add(sample.add_seed());
        first.connect(&seed);
        first.read(&sample, 5, 0..4);
        first.read(&sample, 5, 4..8);
        second.wait(&sample, 5, 0..8);
    });
}

#[test]
fn read_of_a_whole_piece_gets_the_parts_that_peers_have() {
    in_private_net(|| {
        let sample = sample();
        let first = reader_of(&sample, &[(4, 0..8), (4, 16..20)]);
        let mut second = Reader::new(&sample);
        second.connect(&first.client);
        second.client.session.request(second.id, PieceIndex(4), Duration::ZERO).unwrap();
        second.wait(&sample, 4, 0..8);
        // The rest comes from a seed that connects later.
        let mut seed = Client::new();
        seed.add(sample.add_seed());
        second.connect(&seed);
        second.client.wait_verified(second.id, 4);
        assert!(sample.piece_in(second.dir.path(), 4).unwrap() == sample.piece(4));
    });
}
