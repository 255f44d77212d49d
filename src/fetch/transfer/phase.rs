//! Whether the engine has a torrent, and what it was added with.

use std::sync::Arc;
use std::time::Duration;

use fixedbitset::FixedBitSet;
use tokio::time::Instant;

use crate::fetch::parts::EngineBlocks;
use crate::model::PieceHashes;
use crate::torrent::TorrentId;

/// How long the engine may take to release a torrent that is added again.
pub(in crate::fetch) const REMOVAL: Duration = Duration::from_secs(10);

/// The state of a torrent in the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fetch) enum Phase {
    /// Nothing: a command to add it is queued.
    Queued,
    /// It was added; `Event::Added` has not come.
    Adding(TorrentId),
    Running(TorrentId),
    /// It was removed, and is added again when the engine has released it, at the latest at `until`.
    Removing {
        id: TorrentId,
        until: Instant,
    },
    /// Nothing while bytes of the torrent are deleted or moved.
    Held,
    /// Nothing: the engine refused it.
    Failed {
        why: String,
        retry: Instant,
    },
}

/// The parameters with which a torrent was added.
pub(in crate::fetch) struct AddedWith {
    pub have: FixedBitSet,
    /// Verified blocks of other pieces.
    pub blocks: EngineBlocks,
    /// The pieces that are cached and not proved.
    pub unproved: FixedBitSet,
    /// `Content::moves` of the files.
    pub given: Vec<u64>,
    /// Whether the metainfo is a saved one with all layers.
    pub with_layers: bool,
    /// The known hashes of the pieces, for a model whose files are on the web too.
    pub hashes: Option<Arc<PieceHashes>>,
}
