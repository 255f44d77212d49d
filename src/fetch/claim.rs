//! Claims on pieces: which reader, window or job needs which bytes of a piece, and how urgently.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::InfoHash;

/// Names a reader, cursor or job. Unique within one `Fetch`, so that releasing twice does no harm.
pub(super) type ClaimId = u64;

/// A file of a torrent, by its index in the manifest.
pub(super) type FileUse = (InfoHash, usize);

/// A piece of a torrent.
pub(super) type TorrentPiece = (InfoHash, u32);

/// How strongly a piece is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClaimLevel {
    /// Wanted by a whole-file job.
    Bulk,
    /// The tail of a window.
    Ahead,
    /// The first pieces of a window: wanted by a deadline, after pieces that readers wait for.
    Near,
    /// A reader waits.
    Urgent,
}

/// The bytes of a piece that a claim needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    /// Blocks of 16 KiB, by their numbers in the piece.
    Blocks(Range<u32>),
}

#[derive(Debug, Clone)]
pub(super) struct PieceClaim {
    pub by: ClaimId,
    pub level: ClaimLevel,
    pub deadline: Duration,
    pub extent: Extent,
}

/// A piece that readers wait for, or are expected to read soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReaderClaim {
    pub piece: u32,
    /// The strongest claim.
    pub level: ClaimLevel,
    pub since: Instant,
}
