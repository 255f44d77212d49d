//! The bytes of a file that decide between two manifests with different pieces roots.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use crate::model::merkle::{self, Hash};
use crate::model::{BLOCK_LEN, FileEntry, PiecesRoot};

/// The longest part of a file that is read to decide, in bytes.
pub const MAX_STRETCH: u64 = 32 << 20;

/// A file of a manifest, with the hashes of its pieces.
#[derive(Debug, Clone, Copy)]
pub struct HashedFile<'a> {
    /// The pieces root.
    pub root: PiecesRoot,
    /// Length in bytes.
    pub len: u64,
    /// Bytes per piece of its torrent.
    pub piece_length: u32,
    /// The proved hashes of its pieces; none if they are not known, or if it has one piece.
    pub layer: Option<&'a [Hash]>,
}

impl<'a> HashedFile<'a> {
    /// A file of a manifest that was read: its layer was checked then. None for an empty file.
    pub fn of(file: &'a FileEntry, piece_length: u32, layer: Option<&'a [Hash]>) -> Option<Self> {
        Some(Self { root: file.pieces_root?, len: file.size, piece_length, layer })
    }

    /// The nodes of its tree that cover `piece_length` bytes each, at least as many as a piece of its torrent has. A file that
    /// is not longer has its root. None if the hashes of its pieces are not known.
    fn nodes(&self, piece_length: u32) -> Option<Vec<Hash>> {
        if self.len <= u64::from(piece_length) {
            return Some(vec![self.root.0]);
        }
        let layer = self.layer?;
        let width = (piece_length / self.piece_length) as usize;
        let height = merkle::piece_height(self.piece_length);
        Some(layer.chunks(width).map(|nodes| merkle::root(nodes.to_vec(), height, width)).collect())
    }
}

/// A part of a file with the hashes that two manifests state for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The bytes.
    pub bytes: Range<u64>,
    /// The node of the first manifest.
    first: Hash,
    /// The node of the second manifest.
    second: Hash,
    /// The number of blocks to which the leaves are padded.
    width: usize,
}

impl Stretch {
    /// The first part in which two files of the same length with different roots differ. None if their hashes do not show that,
    /// or if the part is longer than [`MAX_STRETCH`].
    pub fn between(first: &HashedFile<'_>, second: &HashedFile<'_>) -> Option<Self> {
        if first.len != second.len || first.root == second.root {
            return None;
        }
        let piece_length = first.piece_length.max(second.piece_length);
        let pairs = first.nodes(piece_length)?.into_iter().zip(second.nodes(piece_length)?);
        let (at, (first_node, second_node)) = pairs.enumerate().find(|(_, (one, other))| one != other)?;
        let start = at as u64 * u64::from(piece_length);
        let bytes = start..first.len.min(start + u64::from(piece_length));
        let is_whole = first.len <= u64::from(piece_length);
        let width = if is_whole { 0 } else { (u64::from(piece_length) / BLOCK_LEN) as usize };
        let stretch = Self { bytes, first: first_node, second: second_node, width };
        (stretch.bytes.end - stretch.bytes.start <= MAX_STRETCH).then_some(stretch)
    }

    /// Whether each of the two manifests has the hash of these bytes. `bytes` are all bytes of the part.
    pub fn fits(&self, bytes: &[u8]) -> (bool, bool) {
        let leaves = bytes.chunks(BLOCK_LEN as usize).map(|block| Sha256::digest(block).into()).collect();
        let found = merkle::root(leaves, 0, self.width);
        (found == self.first, found == self.second)
    }
}

/// The pieces root of a file with these bytes.
pub fn root_of(bytes: &[u8]) -> PiecesRoot {
    let leaves = bytes.chunks(BLOCK_LEN as usize).map(|block| Sha256::digest(block).into()).collect();
    PiecesRoot(merkle::root(leaves, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i / 5) as u8 ^ (i / 4096) as u8).collect()
    }

    fn layer(bytes: &[u8], piece_length: u32) -> Vec<Hash> {
        let leaves = |piece: &[u8]| piece.chunks(16384).map(|block| Sha256::digest(block).into()).collect();
        bytes.chunks(piece_length as usize).map(|p| merkle::piece_hash(leaves(p), piece_length)).collect()
    }

    /// The decision between right bytes and bytes that differ at an offset.
    fn decide(len: usize, at: usize, lengths: [u32; 2]) -> Option<(Range<u64>, (bool, bool))> {
        let right = bytes(len);
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        let layers = [layer(&right, lengths[0]), layer(&wrong, lengths[1])];
        let file = |bytes: &[u8], i: usize| HashedFile {
            root: root_of(bytes),
            len: len as u64,
            piece_length: lengths[i],
            layer: (len as u64 > u64::from(lengths[i])).then_some(layers[i].as_slice()),
        };
        let stretch = Stretch::between(&file(&right, 0), &file(&wrong, 1))?;
        let part = stretch.bytes.start as usize..stretch.bytes.end as usize;
        Some((stretch.bytes.clone(), stretch.fits(&right[part])))
    }

    #[test]
    fn one_piece_decides_for_the_right_root() {
        const P: u32 = 32 << 10;
        for (len, at) in [(300_000, 0), (300_000, 100_000), (300_000, 299_999), (262_144, 262_143)] {
            let (part, fits) = decide(len, at, [P, P]).unwrap();
            assert_eq!(fits, (true, false), "{len} {at}");
            assert!(part.contains(&(at as u64)) && part.end - part.start <= u64::from(P), "{part:?}");
        }
    }

    #[test]
    fn pieces_of_different_lengths_are_compared() {
        for lengths in [[32 << 10, 128 << 10], [128 << 10, 32 << 10], [1 << 20, 32 << 10]] {
            for at in [0, 140_000, 299_999] {
                let (part, fits) = decide(300_000, at, lengths).unwrap();
                assert_eq!(fits, (true, false), "{lengths:?} {at}");
                assert!(part.contains(&(at as u64)));
            }
        }
    }

    #[test]
    fn short_file_is_read_whole() {
        let (part, fits) = decide(20_000, 19_999, [1 << 22, 1 << 22]).unwrap();
        assert_eq!((part, fits), (0..20_000, (true, false)));
    }

    #[test]
    fn unknown_hashes_and_long_pieces_decide_nothing() {
        let file = |root, len, piece_length| HashedFile {
            root: PiecesRoot([root; 32]),
            len,
            piece_length,
            layer: None,
        };
        let between = |first: HashedFile<'_>, second: HashedFile<'_>| Stretch::between(&first, &second);
        assert_eq!(between(file(1, 100_000, 32 << 10), file(2, 100_000, 32 << 10)), None);
        assert_eq!(between(file(1, 100, 1 << 20), file(1, 100, 1 << 20)), None);
        assert_eq!(between(file(1, 100, 1 << 20), file(2, 101, 1 << 20)), None);
        assert_eq!(between(file(1, 64 << 20, 128 << 20), file(2, 64 << 20, 128 << 20)), None);
    }

    #[test]
    fn bytes_that_neither_manifest_has_refute_both() {
        let file =
            |root| HashedFile { root: PiecesRoot([root; 32]), len: 100, piece_length: 1 << 20, layer: None };
        let stretch = Stretch::between(&file(1), &file(2)).unwrap();
        assert_eq!(stretch.fits(&bytes(100)), (false, false));
    }
}
