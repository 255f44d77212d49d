//! The merkle trees of BitTorrent v2 (BEP 52).
//!
//! A leaf is the SHA-256 of a block of 16 KiB; the last block of a file may be shorter. The leaves of a file are padded
//! with zero hashes to a power of two. The *piece layer* is the level at which a node covers one piece.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::{BLOCK_LEN, PiecesRoot};

/// A node of a tree.
pub type Hash = [u8; 32];

/// The node above two children.
pub fn parent(left: &Hash, right: &Hash) -> Hash {
    let mut both = [0; 64];
    both[..32].copy_from_slice(left);
    both[32..].copy_from_slice(right);
    Sha256::digest(both).into()
}

/// The root of a subtree of zero leaves with `height` levels. It pads a layer of that height.
pub fn pad(height: u32) -> Hash {
    (0..height).fold([0; 32], |hash, _| parent(&hash, &hash))
}

/// The number of levels between the leaves and the piece layer.
pub fn piece_height(piece_length: u32) -> u32 {
    (u64::from(piece_length) / BLOCK_LEN).trailing_zeros()
}

/// The root over a layer of nodes that are `height` levels above the leaves. The layer is padded to `width` nodes, or to
/// the next power of two if that is larger. The root of an empty layer is that of one padding node.
pub fn root(mut layer: Vec<Hash>, height: u32, width: usize) -> Hash {
    let width = layer.len().max(width).max(1).next_power_of_two();
    let mut fill = pad(height);
    for _ in 0..width.trailing_zeros() {
        if layer.len() % 2 == 1 {
            layer.push(fill);
        }
        for i in 0..layer.len() / 2 {
            layer[i] = parent(&layer[2 * i], &layer[2 * i + 1]);
        }
        layer.truncate(layer.len() / 2);
        fill = parent(&fill, &fill);
    }
    layer.first().copied().unwrap_or(fill)
}

/// The hash of one piece of a file with several pieces, from the leaves of its blocks.
pub fn piece_hash(leaves: Vec<Hash>, piece_length: u32) -> Hash {
    root(leaves, 0, (u64::from(piece_length) / BLOCK_LEN) as usize)
}

/// The reason why a piece layer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// The number of hashes is not the number of pieces.
    #[error("the piece layer of {root} has {given} hashes instead of {expected}")]
    Count {
        /// The file's root.
        root: PiecesRoot,
        /// Number of hashes.
        given: usize,
        /// Number of pieces of the file.
        expected: u64,
    },
    /// The hashes do not give the root.
    #[error("the piece layer of {0} does not hash to it")]
    Root(PiecesRoot),
}

/// Checks the piece layer of a file of `len` bytes and several pieces against its root.
pub fn check_layer(root: PiecesRoot, len: u64, piece_length: u32, layer: &[Hash]) -> Result<(), LayerError> {
    let expected = len.div_ceil(u64::from(piece_length));
    if layer.len() as u64 != expected {
        return Err(LayerError::Count { root, given: layer.len(), expected });
    }
    if self::root(layer.to_vec(), piece_height(piece_length), 0) != root.0 {
        return Err(LayerError::Root(root));
    }
    Ok(())
}

/// The hashes of a file's `pieces` pieces, as far as the known `nodes` of its tree prove them. A hash is proved if its
/// path of nodes ends at `root`. `nodes` is a flat array: node 0 is the root, the children of node n are 2n + 1 and
/// 2n + 2, and the last level is the piece layer, `height` levels above the leaves.
pub fn prove_layer(
    root: PiecesRoot,
    pieces: usize,
    height: u32,
    mut nodes: Vec<Option<Hash>>,
) -> Vec<Option<Hash>> {
    let width = pieces.max(1).next_power_of_two();
    let first = width - 1;
    nodes.resize(2 * width - 1, None);
    nodes[first + pieces..].fill(Some(pad(height)));
    // First pass, bottom up: compute missing nodes from their children. Second pass, top down: prove nodes.
    for node in (0..first).rev() {
        if let (None, Some(left), Some(right)) = (&nodes[node], &nodes[2 * node + 1], &nodes[2 * node + 2]) {
            nodes[node] = Some(parent(left, right));
        }
    }
    let mut proved = vec![false; nodes.len()];
    (nodes[0], proved[0]) = (Some(root.0), true);
    for node in 0..first {
        if let (true, Some(above), Some(left), Some(right)) =
            (proved[node], &nodes[node], &nodes[2 * node + 1], &nodes[2 * node + 2])
        {
            let matches = parent(left, right) == *above;
            (proved[2 * node + 1], proved[2 * node + 2]) = (matches, matches);
        }
    }
    (first..first + pieces).map(|node| nodes[node].filter(|_| proved[node])).collect()
}

/// The piece layers of a torrent: for each file longer than a piece, the hashes of its pieces. Every stored layer hashes to
/// its root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PieceLayers(BTreeMap<PiecesRoot, Vec<Hash>>);

impl PieceLayers {
    /// Checks that a layer of a file of `len` bytes hashes to `root`, and adds it. A file of one piece has no layer, so
    /// nothing is added for it.
    pub fn insert(
        &mut self,
        root: PiecesRoot,
        len: u64,
        piece_length: u32,
        layer: Vec<Hash>,
    ) -> Result<(), LayerError> {
        if len <= u64::from(piece_length) {
            return Ok(());
        }
        check_layer(root, len, piece_length, &layer)?;
        self.0.insert(root, layer);
        Ok(())
    }

    /// The hashes of a file's pieces.
    pub fn get(&self, root: &PiecesRoot) -> Option<&[Hash]> {
        self.0.get(root).map(Vec::as_slice)
    }

    /// All layers, by root.
    pub fn iter(&self) -> impl Iterator<Item = (&PiecesRoot, &[Hash])> {
        self.0.iter().map(|(root, layer)| (root, layer.as_slice()))
    }

    /// Number of files that have a layer.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no file has a layer.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The root computed as BEP 52 defines it: all leaves, padded with zero hashes to a power of two.
    fn naive(mut leaves: Vec<Hash>) -> Hash {
        leaves.resize(leaves.len().next_power_of_two(), [0; 32]);
        while leaves.len() > 1 {
            leaves = leaves.chunks(2).map(|pair| parent(&pair[0], &pair[1])).collect();
        }
        leaves[0]
    }

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|i| Sha256::digest(i.to_le_bytes()).into()).collect()
    }

    #[test]
    fn the_root_does_not_depend_on_the_piece_length() {
        for count in 1..40 {
            let expected = naive(leaves(count));
            assert_eq!(root(leaves(count), 0, 0), expected);
            for blocks in [1usize, 2, 4, 8] {
                let piece_length = (blocks as u64 * BLOCK_LEN) as u32;
                if count <= blocks {
                    continue;
                }
                let layer =
                    leaves(count).chunks(blocks).map(|c| piece_hash(c.to_vec(), piece_length)).collect();
                assert_eq!(
                    root(layer, piece_height(piece_length), 0),
                    expected,
                    "{count} leaves, {blocks} a piece"
                );
            }
        }
    }

    #[test]
    fn layers_are_checked_against_their_root() {
        let layer = leaves(3);
        let top = PiecesRoot(root(layer.clone(), 0, 0));
        let len = 2 * BLOCK_LEN + 5;
        let mut layers = PieceLayers::default();
        let mut damaged = layer.clone();
        damaged[1][0] ^= 1;
        assert_eq!(layers.insert(top, len, 16384, damaged), Err(LayerError::Root(top)));
        assert!(matches!(layers.insert(top, len, 16384, layer[..2].to_vec()), Err(LayerError::Count { .. })));
        assert!(layers.is_empty());
        layers.insert(top, len, 16384, layer.clone()).unwrap();
        assert_eq!(layers.get(&top), Some(layer.as_slice()));
    }
}
