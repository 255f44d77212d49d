//! What a model is: its name, its files, its manifest. No I/O beyond reading a directory.

pub mod ids;
pub mod layout;
pub mod manifest;
pub mod names;

pub use ids::{InfoHash, PiecesRoot, PublisherKey, Sha256Digest};
pub use layout::{FileSpan, Layout, PieceIndex};
pub use manifest::{FileEntry, Manifest};
pub use names::{Kind, ModelName, ModelRef, Revision};

/// The unit of BitTorrent v2 hashing and of request scheduling, in bytes (BEP 52).
pub const BLOCK_LEN: u64 = 16 * 1024;
