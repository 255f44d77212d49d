//! Piece hashes that were saved while a torrent was fetched (`resume/`).
//!
//! `pack_layers` in `cpp/layers.cc` writes the format: a bencoded dictionary with a list `files`, which has one dictionary
//! for each file of the torrent and each pad file between them. `mask` has one bit for each node of the file's hash tree
//! from the root down to the piece layer, starting with the highest bit. `hashes` has the nodes whose bit is set. The
//! content is untrusted: a hash is used only if it is proved against the pieces root.

use std::collections::HashMap;

use bt_bencode::ByteString;
use serde::Deserialize;

use super::bencode;
use super::merkle::{self, Hash};
use super::{Manifest, PiecesRoot};

/// By pieces root, the hashes of a file's pieces as far as they are known and proved.
pub type PartialLayers = HashMap<PiecesRoot, Vec<Option<Hash>>>;

#[derive(Deserialize)]
struct Packed {
    files: Vec<PackedFile>,
}

/// Without both fields no hash of the file is known.
#[derive(Deserialize)]
struct PackedFile {
    mask: Option<ByteString>,
    hashes: Option<ByteString>,
}

/// The proved hashes of all files of a torrent with several pieces. Empty for damaged or foreign bytes.
pub fn parse(bytes: &[u8], manifest: &Manifest) -> PartialLayers {
    let mut layers = PartialLayers::new();
    if bencode::check(bytes).is_err() {
        return layers;
    }
    let Ok(packed) = bt_bencode::from_slice::<Packed>(bytes) else { return layers };
    let piece_length = u64::from(manifest.torrent.piece_length);
    let mut entries = packed.files.iter();
    for file in &manifest.files {
        let Some(entry) = entries.next() else { break };
        if file.size % piece_length != 0 {
            // Skips the pad file after this file.
            entries.next();
        }
        let pieces = usize::try_from(file.size.div_ceil(piece_length)).unwrap_or(usize::MAX);
        let Some(root) = file.pieces_root.filter(|_| pieces > 1) else { continue };
        let Some(nodes) = nodes(entry, 2 * pieces.next_power_of_two() - 1) else { continue };
        let height = merkle::piece_height(manifest.torrent.piece_length);
        let proved = merkle::prove_layer(root, pieces, height, nodes);
        if proved.iter().any(Option::is_some) {
            layers.insert(root, proved);
        }
    }
    layers
}

/// The nodes of a file's tree; none if the mask does not have one bit per node.
fn nodes(entry: &PackedFile, count: usize) -> Option<Vec<Option<Hash>>> {
    let (mask, hashes) = (entry.mask.as_ref()?.as_slice(), entry.hashes.as_ref()?.as_slice());
    let mut hashes = hashes.as_chunks::<32>().0.iter();
    if mask.len() != count.div_ceil(8) {
        return None;
    }
    let is_set = |node: usize| mask[node / 8] & (0x80 >> (node % 8)) != 0;
    Some((0..count).map(|node| if is_set(node) { hashes.next().copied() } else { None }).collect())
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::model::{BLOCK_LEN, FileEntry};

    const PIECE: u64 = BLOCK_LEN;

    fn layer(seed: u8, pieces: u8) -> Vec<Hash> {
        (0..pieces).map(|i| Sha256::digest([seed, i]).into()).collect()
    }

    fn root(layer: &[Hash]) -> PiecesRoot {
        PiecesRoot(merkle::root(layer.to_vec(), 0, 0))
    }

    /// A file of five pieces, the last one short; an empty file; a file of eight pieces.
    fn manifest() -> Manifest {
        let files = vec![
            FileEntry::new("a", 4 * PIECE + 1, None, Some(root(&layer(1, 5)))),
            FileEntry::new("b", 0, None, None),
            FileEntry::new("c", 8 * PIECE, None, Some(root(&layer(2, 8)))),
        ];
        Manifest::new("o/m".parse().unwrap(), Default::default(), PIECE as u32, files).unwrap()
    }

    fn packed(files: &[Option<&[(usize, Hash)]>]) -> Vec<u8> {
        let mut out = b"d5:filesl".to_vec();
        for nodes in files {
            out.push(b'd');
            if let Some(nodes) = nodes {
                let mut mask = vec![0u8; 2];
                let mut hashes = Vec::new();
                for (node, hash) in *nodes {
                    mask[node / 8] |= 0x80 >> (node % 8);
                    hashes.extend_from_slice(hash);
                }
                out.extend(format!("6:hashes{}:", hashes.len()).bytes());
                out.extend(hashes);
                out.extend(b"4:mask2:");
                out.extend(mask);
            }
            out.push(b'e');
        }
        out.extend(b"ee");
        out
    }

    #[test]
    fn only_proved_hashes_are_known() {
        let (a, c) = (layer(1, 5), layer(2, 8));
        let upper = |layer: &[Hash], from: usize| merkle::root(layer[from..from + 4].to_vec(), 0, 0);
        // For `a` the first half with its proof. The fifth piece has no hash of its own, so it stays unknown.
        let mut nodes = vec![(2, merkle::root(a[4..].to_vec(), 0, 4))];
        nodes.extend((0..4).map(|i| (7 + i, a[i])));
        // For `c` the second half, and a first half with a wrong hash.
        let mut damaged = vec![(1, upper(&c, 0)), (2, upper(&c, 4)), (7, [9; 32])];
        damaged.extend((1..8).map(|i| (7 + i, c[i])));
        let known = parse(&packed(&[Some(&nodes), None, None, Some(&damaged)]), &manifest());
        let some = |hashes: &[Hash]| hashes.iter().copied().map(Some).collect::<Vec<_>>();
        let mut expected = some(&a);
        expected[4] = None;
        assert_eq!(known[&root(&a)], expected);
        // Hashes whose proof contains the wrong hash are not proved.
        assert_eq!(known[&root(&c)][4..], some(&c)[4..]);
        assert_eq!(known[&root(&c)][..4], [None; 4]);
    }

    #[test]
    fn a_whole_layer_needs_no_upper_nodes() {
        let a = layer(1, 5);
        let nodes: Vec<_> = (0..5).map(|i| (7 + i, a[i])).collect();
        let known = parse(&packed(&[Some(&nodes)]), &manifest());
        assert_eq!(known[&root(&a)], a.iter().copied().map(Some).collect::<Vec<_>>());
        let mut wrong = nodes.clone();
        wrong[4].1[0] ^= 1;
        // The half without the wrong hash is not proved either, because its sibling is unknown.
        assert!(parse(&packed(&[Some(&wrong)]), &manifest()).is_empty());
    }

    #[test]
    fn damaged_and_foreign_bytes_give_no_hashes() {
        let a = layer(1, 5);
        let nodes: Vec<_> = (0..5).map(|i| (7 + i, a[i])).collect();
        let good = packed(&[Some(&nodes)]);
        for bytes in
            [&b""[..], b"garbage", b"de", b"d5:filesi1ee", b"d5:filesli1eee", &good[..good.len() - 1]]
        {
            assert!(parse(bytes, &manifest()).is_empty());
        }
        // A mask of another length, and fewer hashes than its bits.
        assert!(parse(b"d5:filesld6:hashes0:4:mask1:\xffeee", &manifest()).is_empty());
        assert!(parse(b"d5:filesld6:hashes0:4:mask2:\xff\xffeee", &manifest()).is_empty());
    }
}
