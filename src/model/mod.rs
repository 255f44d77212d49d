//! A model: its name, its files and its manifest. The only I/O is reading a directory.

pub mod bencode;
pub(crate) mod card;
pub(crate) mod code;
pub(crate) mod codec;
pub(crate) mod commit;
pub(crate) mod complete;
pub(crate) mod config_json;
pub mod describe;
pub mod files;
pub(crate) mod gguf;
pub mod hash;
pub(crate) mod identity;
pub(crate) mod ids;
pub mod keys;
#[cfg(test)]
mod known_answers;
pub(crate) mod layout;
pub(crate) mod legacy;
pub(crate) mod license;
pub(crate) mod magnet;
pub mod manifest;
pub mod merkle;
pub mod metainfo;
pub(crate) mod names;
pub(crate) mod path;
pub(crate) mod piece_hashes;
pub(crate) mod pointer;
pub(crate) mod remains;
pub mod safetensors;
pub(crate) mod saved_layers;
pub(crate) mod scan;
pub mod text;
pub(crate) mod web_seed;

pub(crate) use codec::ManifestError;
pub use identity::GitOid;
pub(crate) use identity::Identity;
pub use ids::{InfoHash, PiecesRoot, PublisherKey, Sha256Digest};
pub use layout::{Layout, PieceIndex};
pub use legacy::ImportedDocument;
pub use magnet::Magnet;
pub use manifest::{FileEntry, Manifest, PieceLayer};
pub use merkle::PieceLayers;
pub(crate) use names::Kind;
pub use names::{ModelName, ModelRef, Revision};
pub(crate) use piece_hashes::PieceHashes;
pub use pointer::Pointer;

/// The unit of BitTorrent v2 hashing and of request scheduling, in bytes (BEP 52).
pub const BLOCK_LEN: u64 = 16 * 1024;

/// Bytes of a granule, the part of a file that one saved hash covers.
pub const GRANULE_LEN: u64 = 64 * 1024;

/// The largest piece length, in bytes. libtorrent refuses larger ones.
pub const MAX_PIECE_LENGTH: u32 = 128 << 20;

/// Whether `n` can be the piece length of a v2 torrent: a power of two from 16 KiB (BEP 52) to 128 MiB.
pub fn is_piece_length(n: u32) -> bool {
    n.is_power_of_two() && u64::from(n) >= BLOCK_LEN && n <= MAX_PIECE_LENGTH
}
