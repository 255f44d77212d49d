//! The content of a torrent, for peers made by hand: the bytes of every block, and every hash of every file's tree.

use std::path::Path;

use sha2::{Digest as _, Sha256};
use silmaril::model::merkle::{self, Hash};
use silmaril::model::{BLOCK_LEN, InfoHash, Layout, Manifest};

use super::raw_peer_message::{Block, HashRange};

/// A file that is not empty.
pub struct FileTree {
    pub path: String,
    pub bytes: Vec<u8>,
    pub root: Hash,
    /// The file's first piece in the torrent.
    pub first_piece: u32,
    pub pieces: u32,
    /// All levels of the hash tree, leaves first, each padded to a power of two.
    levels: Vec<Vec<Hash>>,
}

/// A complete torrent.
pub struct Content {
    pub info_hash: InfoHash,
    pub piece_length: u32,
    pub pieces: u32,
    pub files: Vec<FileTree>,
}

impl FileTree {
    pub fn new(path: &str, bytes: Vec<u8>, first_piece: u32, pieces: u32) -> Self {
        let mut level: Vec<Hash> =
            bytes.chunks(BLOCK_LEN as usize).map(|block| Sha256::digest(block).into()).collect();
        level.resize(level.len().next_power_of_two(), [0; 32]);
        let mut levels = vec![level];
        while levels.last().unwrap().len() > 1 {
            let pairs = levels.last().unwrap().chunks(2);
            let above = pairs.map(|pair| merkle::parent(&pair[0], &pair[1])).collect();
            levels.push(above);
        }
        let root = levels.last().unwrap()[0];
        Self { path: path.to_owned(), bytes, root, first_piece, pieces, levels }
    }

    /// The number of levels between the leaves and the root.
    pub fn height(&self) -> i32 {
        self.levels.len() as i32 - 1
    }

    /// The hashes of one level.
    pub fn level(&self, base: i32) -> &[Hash] {
        &self.levels[base as usize]
    }

    /// A range of this file, with all uncle hashes up to the root.
    pub fn range(&self, base: i32, index: i32, length: i32) -> HashRange {
        let below_root = self.height() - base - log2(length);
        let proofs = if below_root > 0 { self.height() - base - 1 } else { 0 };
        HashRange { root: self.root, base, index, length, proofs }
    }

    /// The hashes that HASHES carries for a range, the uncles last. `None` if the range is not a subtree.
    pub fn hashes(&self, range: HashRange) -> Option<Vec<Hash>> {
        let level = self.levels.get(usize::try_from(range.base).ok()?)?;
        let (index, length) = (usize::try_from(range.index).ok()?, usize::try_from(range.length).ok()?);
        if !length.is_power_of_two() || index % length != 0 {
            return None;
        }
        let mut hashes = level.get(index..index.checked_add(length)?)?.to_vec();
        let uncles = range.proofs.saturating_sub(log2(range.length)).saturating_add(1).max(0);
        let (mut height, mut node) = (range.base as usize + log2(range.length) as usize, index / length);
        for _ in 0..uncles {
            hashes.push(*self.levels.get(height)?.get(node ^ 1)?);
            (height, node) = (height + 1, node / 2);
        }
        Some(hashes)
    }
}

fn log2(length: i32) -> i32 {
    length.max(1).ilog2() as i32
}

impl Content {
    /// The torrent of an exported manifest, with the files in `dir`.
    pub fn of(manifest: &Path, dir: &Path) -> Self {
        let manifest = Manifest::from_json(&std::fs::read(manifest).unwrap()).unwrap();
        let piece_length = manifest.torrent.piece_length;
        let layout = Layout::new(piece_length, manifest.files.iter().map(|file| file.size));
        let files: Vec<FileTree> = (manifest.files.iter().zip(layout.spans()))
            .filter(|(file, _)| file.size > 0)
            .map(|(file, span)| {
                let bytes = std::fs::read(dir.join(&file.path)).unwrap();
                let tree = FileTree::new(&file.path, bytes, span.first_piece, span.pieces);
                assert_eq!(file.pieces_root.map(|root| root.0), Some(tree.root), "{}", file.path);
                tree
            })
            .collect();
        Self { info_hash: manifest.torrent.info_hash, piece_length, pieces: layout.piece_count(), files }
    }

    /// The torrent of files in canonical order, with their bytes.
    pub fn new(info_hash: InfoHash, piece_length: u32, files: &[(String, Vec<u8>)]) -> Self {
        let layout = Layout::new(piece_length, files.iter().map(|(_, bytes)| bytes.len() as u64));
        let trees = files.iter().zip(layout.spans()).filter(|((_, bytes), _)| !bytes.is_empty());
        let trees = trees
            .map(|((path, bytes), span)| FileTree::new(path, bytes.clone(), span.first_piece, span.pieces));
        Self { info_hash, piece_length, pieces: layout.piece_count(), files: trees.collect() }
    }

    /// The file with this path.
    #[track_caller]
    pub fn file(&self, path: &str) -> &FileTree {
        self.files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("there is no {path}"))
    }

    /// The level of the piece layers.
    pub fn piece_base(&self) -> i32 {
        merkle::piece_height(self.piece_length) as i32
    }

    /// Blocks in a piece.
    pub fn blocks_per_piece(&self) -> i32 {
        (u64::from(self.piece_length) / BLOCK_LEN) as i32
    }

    /// The bytes of a block, read `shift` bytes later in its file. Bytes past the end of the file are zeros, as in
    /// the pad file. `None` if the torrent has no such block.
    pub fn block(&self, block: Block, shift: usize) -> Option<Vec<u8>> {
        let of = |file: &&FileTree| (file.first_piece..file.first_piece + file.pieces).contains(&block.piece);
        let file = self.files.iter().find(of)?;
        let offset = u64::from(block.piece - file.first_piece) * u64::from(self.piece_length);
        let begin = (offset + u64::from(block.begin)) as usize;
        let length = block.length as usize;
        // libtorrent requests whole blocks, including the bytes of the pad file.
        let fits = block.begin.checked_add(block.length).is_some_and(|end| end <= self.piece_length);
        if begin >= file.bytes.len() || !fits {
            return None;
        }
        let from = (begin + shift).min(file.bytes.len());
        let to = (from + length).min(file.bytes.len());
        let mut bytes = file.bytes[from..to].to_vec();
        bytes.resize(length, 0);
        Some(bytes)
    }

    /// The honest answer to a request for hashes.
    pub fn hashes(&self, range: HashRange) -> Option<Vec<Hash>> {
        self.files.iter().find(|file| file.root == range.root)?.hashes(range)
    }

    /// A range that any peer may request: two hashes of the first piece layer, without proof.
    pub fn any_range(&self) -> HashRange {
        let file = self.files.iter().find(|file| file.pieces > 1).expect("a file of several pieces");
        HashRange { proofs: 0, ..file.range(self.piece_base(), 0, 2) }
    }
}

#[test]
fn hashes_of_every_range_prove_its_root() {
    let bytes = super::fixtures::noise(3, 5 * 65536 + 20_000);
    let file = FileTree::new("a", bytes, 0, 6);
    assert_eq!(file.root, merkle::root(file.levels[0].clone(), 0, 0));
    for base in 0..file.height() {
        for exponent in 0..=file.height() - base {
            let length = 1 << exponent;
            for index in (0..file.level(base).len() as i32).step_by(length as usize) {
                let range = file.range(base, index, length);
                let hashes = file.hashes(range).unwrap();
                let (own, uncles) = hashes.split_at(length as usize);
                let mut node = merkle::root(own.to_vec(), base as u32, 0);
                let mut at = index / length;
                for uncle in uncles {
                    node =
                        if at % 2 == 0 { merkle::parent(&node, uncle) } else { merkle::parent(uncle, &node) };
                    at /= 2;
                }
                assert_eq!(node, file.root, "{range:?}");
            }
        }
    }
}
