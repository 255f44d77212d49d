//! The hashes of single pieces, from the manifest and from saved files.
//!
//! If its files are available over HTTP, a manifest contains the piece layers of its files (BEP 52). So a host that has
//! only the manifest can verify one piece without any peer. The signature covers the layers.

use std::collections::HashMap;
use std::sync::Arc;

use super::codec::ManifestError;
use super::manifest::{MAX_CARRIED, MAX_MANIFEST, PieceLayer};
use super::merkle::{self, Hash, LayerError};
use super::saved_layers::PartialLayers;
use super::{Manifest, PieceIndex, PieceLayers, PiecesRoot};

impl Manifest {
    /// Replaces the piece layers in the manifest. Of files with equal bytes only the first gets a layer. If the layers
    /// exceed [`MAX_CARRIED`] or make the manifest too large, removes all layers and returns false. Invalidates the
    /// signature.
    pub fn carry_piece_layers(&mut self, layers: &PieceLayers) -> bool {
        self.files.iter_mut().for_each(|file| file.piece_layer = None);
        let bytes: usize = layers.iter().map(|(_, layer)| size_of_val(layer)).sum();
        if bytes > MAX_CARRIED {
            return false;
        }
        let mut left: HashMap<&PiecesRoot, &[Hash]> = layers.iter().collect();
        for file in &mut self.files {
            let layer = file.pieces_root.and_then(|root| left.remove(&root));
            file.piece_layer = layer.map(|layer| PieceLayer(layer.to_vec()));
        }
        // 1024 bytes are left for the publisher and the signature.
        let fits = self.to_json().len() + 1024 <= MAX_MANIFEST;
        if !fits {
            self.files.iter_mut().for_each(|file| file.piece_layer = None);
        }
        fits
    }

    /// The piece layers in the manifest.
    pub fn piece_layers(&self) -> PieceLayers {
        let mut layers = PieceLayers::default();
        for file in &self.files {
            let (Some(root), Some(layer)) = (file.pieces_root, &file.piece_layer) else { continue };
            // No error: the layers were checked when the manifest was read, or when `PieceLayers` was built.
            let _ = layers.insert(root, file.size, self.torrent.piece_length, layer.0.clone());
        }
        layers
    }

    /// Checks the layers in the manifest: their total size, that each belongs to a file with several pieces, and that each
    /// hashes to its root.
    pub(super) fn check_piece_layers(&self) -> Result<(), ManifestError> {
        let carried = self.files.iter().filter_map(|file| Some((file, file.piece_layer.as_ref()?)));
        if carried.clone().map(|(_, layer)| size_of_val(layer.0.as_slice())).sum::<usize>() > MAX_CARRIED {
            return Err(ManifestError::LayersTooLarge);
        }
        let piece_length = self.torrent.piece_length;
        for (file, layer) in carried {
            let root = file.pieces_root.filter(|_| file.size > u64::from(piece_length));
            let Some(root) = root else {
                return Err(ManifestError::LayerOfOnePiece(file.path.clone()));
            };
            merkle::check_layer(root, file.size, piece_length, &layer.0)?;
        }
        Ok(())
    }
}

/// The expected hashes of pieces, as far as they are known.
#[derive(Debug)]
pub struct PieceHashes {
    manifest: Arc<Manifest>,
    /// By root, the index of the file with its layer in the manifest.
    carried: HashMap<PiecesRoot, usize>,
    /// Layers from saved metainfo.
    saved: PieceLayers,
    /// Proved hashes of files whose layer is not completely known.
    partial: PartialLayers,
}

impl PieceHashes {
    /// Hashes from the manifest, and from the saved metainfo of its torrent.
    pub fn new(manifest: Arc<Manifest>, saved: PieceLayers) -> Self {
        let carried = manifest.files.iter().enumerate().filter(|(_, file)| file.piece_layer.is_some());
        let carried = carried.filter_map(|(i, file)| Some((file.pieces_root?, i))).collect();
        Self { manifest, carried, saved, partial: PartialLayers::new() }
    }

    /// Adds proved hashes of files whose layer is not completely known.
    pub fn with_partial(self, partial: PartialLayers) -> Self {
        Self { partial, ..self }
    }

    /// The hashes of all pieces of a file, if all are known.
    pub fn layer(&self, file: usize) -> Option<Vec<Hash>> {
        let entry = self.manifest.files.get(file)?;
        let pieces = entry.size.div_ceil(u64::from(self.manifest.torrent.piece_length));
        (0..u32::try_from(pieces).ok()?).map(|piece| self.hash(file, PieceIndex(piece))).collect()
    }

    /// Whether hashes of a file's pieces are known. For a file of one piece its root is sufficient.
    pub fn knows(&self, file: usize) -> bool {
        self.hash(file, PieceIndex(0)).is_some()
    }

    /// The expected hash of a piece, counted from the file's first piece, if it is known: a node of the piece layer, or
    /// the root for a file of one piece.
    pub fn hash(&self, file: usize, piece: PieceIndex) -> Option<Hash> {
        let entry = self.manifest.files.get(file)?;
        let root = entry.pieces_root?;
        if entry.size <= u64::from(self.manifest.torrent.piece_length) {
            return (piece.0 == 0).then_some(root.0);
        }
        let carried = self.carried.get(&root).and_then(|&i| self.manifest.files[i].piece_layer.as_ref());
        let layer = carried.map(|layer| layer.0.as_slice()).or_else(|| self.saved.get(&root));
        match layer {
            Some(layer) => layer.get(piece.0 as usize).copied(),
            None => self.partial.get(&root)?.get(piece.0 as usize).copied().flatten(),
        }
    }

    /// Whether blocks with these hashes are that piece; none if the piece's hash is unknown.
    pub fn fits(&self, file: usize, piece: PieceIndex, leaves: Vec<Hash>) -> Option<bool> {
        let expected = self.hash(file, piece)?;
        let piece_length = self.manifest.torrent.piece_length;
        let single = self.manifest.files[file].size <= u64::from(piece_length);
        let found =
            if single { merkle::root(leaves, 0, 0) } else { merkle::piece_hash(leaves, piece_length) };
        Some(found == expected)
    }
}

impl From<LayerError> for ManifestError {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::model::{BLOCK_LEN, FileEntry, Revision};

    const PIECE: u32 = 32 << 10;

    fn leaves(bytes: &[u8]) -> Vec<Hash> {
        bytes.chunks(BLOCK_LEN as usize).map(|block| Sha256::digest(block).into()).collect()
    }

    fn layer(bytes: &[u8]) -> Vec<Hash> {
        bytes.chunks(PIECE as usize).map(|piece| merkle::piece_hash(leaves(piece), PIECE)).collect()
    }

    /// Two equal files of 100 000 bytes, one of 20 000 bytes, and an empty one.
    fn made() -> (Manifest, PieceLayers, Vec<u8>, Vec<u8>) {
        let long: Vec<u8> = (0..100_000u32).map(|i| (i / 7) as u8).collect();
        let short: Vec<u8> = long[..20_000].to_vec();
        let root = |bytes: &[u8]| Some(PiecesRoot(merkle::root(leaves(bytes), 0, 0)));
        let files = vec![
            FileEntry::new("a", 100_000, None, root(&long)),
            FileEntry::new("b", 100_000, None, root(&long)),
            FileEntry::new("c", 20_000, None, root(&short)),
            FileEntry::new("d", 0, None, None),
        ];
        let manifest = Manifest::new("o/n".parse().unwrap(), Revision::default(), PIECE, files).unwrap();
        let mut layers = PieceLayers::default();
        layers.insert(root(&long).unwrap(), 100_000, PIECE, layer(&long)).unwrap();
        (manifest, layers, long, short)
    }

    #[test]
    fn a_manifest_keeps_its_layers_when_read_again() {
        let (mut manifest, layers, ..) = made();
        let without = manifest.to_json();
        assert!(manifest.carry_piece_layers(&layers));
        assert_eq!(manifest.files[0].piece_layer.as_ref().unwrap().0.len(), 4);
        assert_eq!(manifest.files[1].piece_layer, None, "equal files share one layer");
        let key = crate::model::keys::PublisherKeypair::generate().unwrap();
        manifest.sign(&key);
        let again = Manifest::from_json(&manifest.to_json()).unwrap();
        assert_eq!((&again, again.signed_by()), (&manifest, Some(key.public())));
        assert_eq!(again.piece_layers(), layers);
        let torrent = crate::model::metainfo::parse_metainfo(&again.metainfo(None)).unwrap();
        assert_eq!((torrent.layers, torrent.info_hash), (layers, manifest.torrent.info_hash));
        assert!(manifest.carry_piece_layers(&PieceLayers::default()));
        (manifest.signature, manifest.publisher) = (None, None);
        assert_eq!(manifest.to_json(), without);
    }

    #[test]
    fn wrong_layers_are_refused() {
        let (mut manifest, layers, ..) = made();
        manifest.carry_piece_layers(&layers);
        let refused = |change: fn(&mut serde_json::Value)| {
            let mut value = serde_json::to_value(&manifest).unwrap();
            change(&mut value["files"]);
            Manifest::from_value(value).unwrap_err().to_string()
        };
        let wrong = refused(|files| files[0]["piece_layer"] = BASE64.encode([0; 4 * 32]).into());
        assert!(wrong.contains("does not hash to it"), "{wrong}");
        let short = refused(|files| files[0]["piece_layer"] = BASE64.encode([0; 3 * 32]).into());
        assert!(short.contains("3 hashes instead of 4"), "{short}");
        let single = refused(|files| files[2]["piece_layer"] = BASE64.encode([0; 32]).into());
        assert!(single.contains("\"c\""), "{single}");
        let empty = refused(|files| files[3]["piece_layer"] = "".into());
        assert!(empty.contains("\"d\""), "{empty}");
        let uneven = refused(|files| files[0]["piece_layer"] = BASE64.encode([0; 33]).into());
        assert!(uneven.contains("list of hashes"), "{uneven}");
        let text = refused(|files| files[0]["piece_layer"] = "!".into());
        assert!(text.contains("base64"), "{text}");
    }

    #[test]
    fn layers_over_the_limit_are_left_out() {
        let (mut manifest, ..) = made();
        let mut layers = PieceLayers::default();
        let count = MAX_CARRIED / 32 + 1;
        let huge: Vec<Hash> = vec![[7; 32]; count];
        let top = PiecesRoot(merkle::root(huge.clone(), merkle::piece_height(PIECE), 0));
        layers.insert(top, count as u64 * u64::from(PIECE), PIECE, huge.clone()).unwrap();
        assert!(!manifest.carry_piece_layers(&layers));
        assert_eq!(manifest.piece_layers(), PieceLayers::default());
        manifest.files[0].piece_layer = Some(PieceLayer(huge[..count / 2].to_vec()));
        manifest.files[1].piece_layer = Some(PieceLayer(huge[..count / 2 + 1].to_vec()));
        assert!(matches!(manifest.check_piece_layers(), Err(ManifestError::LayersTooLarge)));
    }

    #[test]
    fn hashes_come_from_the_manifest_saved_layers_or_root() {
        let (mut manifest, layers, long, short) = made();
        let bare = Arc::new(manifest.clone());
        manifest.carry_piece_layers(&layers);
        let nothing = PieceLayers::default;
        for known in
            [PieceHashes::new(Arc::new(manifest), nothing()), PieceHashes::new(bare.clone(), layers.clone())]
        {
            for file in [0, 1] {
                assert!(known.knows(file));
                for (i, piece) in long.chunks(PIECE as usize).enumerate() {
                    let at = PieceIndex(i as u32);
                    assert_eq!(known.fits(file, at, leaves(piece)), Some(true), "piece {i}");
                    assert_eq!(known.fits(file, at, leaves(&piece[1..])), Some(false), "piece {i}");
                }
                assert_eq!(known.hash(file, PieceIndex(4)), None);
            }
            assert_eq!(known.fits(2, PieceIndex(0), leaves(&short)), Some(true));
            assert_eq!(known.hash(2, PieceIndex(1)), None);
            assert!(!known.knows(3) && !known.knows(4));
        }
        let unknown = PieceHashes::new(bare, nothing());
        assert!(!unknown.knows(0) && unknown.knows(2));
        assert_eq!(unknown.fits(0, PieceIndex(0), leaves(&long[..PIECE as usize])), None);
    }
}
