//! One torrent: its claims, its pieces, its peers and its faults.

mod engine;
mod phase;
mod silence;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fixedbitset::FixedBitSet;
use tokio::time::Instant;

use super::handed::Handed;
use super::orders::Orders;
use super::parts::EngineBlocks;
use super::peers::Peers;
use super::space::Space;
use super::timeouts::Timeouts;
use super::unproved::Unproved;
use super::wants::Wants;
use super::web::TransferWeb;
use crate::model::InfoHash;
use crate::store::{Rooms, StoredRevision};
use crate::torrent::{SwarmStats, TorrentId};
pub(super) use phase::{AddedWith, Phase, REMOVAL};
pub(super) use silence::QUIET;

/// How often resume data of a torrent that changed is written.
pub(super) const SAVE_EVERY: Duration = Duration::from_secs(30);

/// After this many bad pieces in a row, received bytes do not count as progress.
const MAX_REJECTED: u32 = 8;

/// One joined torrent.
#[derive(Debug)]
pub(super) struct Transfer {
    pub revision: Arc<StoredRevision>,
    pub phase: Phase,
    pub wants: Wants,
    /// `Content::moves` of each file when the engine received its path.
    pub given: Vec<u64>,
    /// Pieces that the engine believes to be on the disk.
    pub engine_has: FixedBitSet,
    /// Blocks of other pieces that the engine believes to be on the disk.
    pub engine_blocks: EngineBlocks,
    pub unproved: Unproved,
    pub space: Space,
    pub handed: Handed,
    pub peers: Peers,
    /// The last bytes, from peers or over HTTP.
    pub last_progress: Option<Instant>,
    /// When the engine last started it.
    pub running_since: Option<Instant>,
    /// When a piece became wanted while none was.
    pub wanting_since: Option<Instant>,
    pub timeouts: Timeouts,
    /// Files moved while the torrent was being added: it is added again.
    again: bool,
    failures: u32,
    rejected_in_a_row: u32,
    rejected: u64,
    /// Bytes of the cache that were verified and turned out wrong.
    pub damaged: u64,
    /// The disk has failed since the last piece.
    pub disk_failed: bool,
    /// For people.
    pub last_error: Option<String>,
    /// The metainfo with all piece layers is on disk.
    pub metainfo_saved: bool,
    /// The engine refused the metainfo on disk.
    pub distrust_saved: bool,
    /// The layers were computed from the local files, are being computed, or could not be.
    pub hashed: bool,
    /// The answer to `export_metainfo` has not come.
    pub exporting: bool,
    /// Pieces came since the resume data was last requested.
    pub resume_dirty: bool,
    /// The answer to `save_resume` has not come.
    pub saving: bool,
    pub next_save: Instant,
    /// For a model whose files are on the web too.
    pub web: Option<TransferWeb>,
}

impl Transfer {
    pub(super) fn new(revision: Arc<StoredRevision>, web: Option<TransferWeb>, now: Instant) -> Self {
        let pieces = revision.layout.piece_count() as usize;
        Self {
            revision,
            phase: Phase::Queued,
            wants: Wants::default(),
            given: Vec::new(),
            engine_has: FixedBitSet::with_capacity(pieces),
            engine_blocks: EngineBlocks::default(),
            unproved: Unproved::default(),
            space: Space::default(),
            handed: Handed::default(),
            peers: Peers::new(),
            last_progress: None,
            running_since: None,
            wanting_since: None,
            timeouts: Timeouts::default(),
            again: false,
            failures: 0,
            rejected_in_a_row: 0,
            rejected: 0,
            damaged: 0,
            disk_failed: false,
            last_error: None,
            metainfo_saved: false,
            distrust_saved: false,
            hashed: false,
            exporting: false,
            resume_dirty: false,
            saving: false,
            next_save: now + SAVE_EVERY,
            web,
        }
    }

    pub(super) fn info_hash(&self) -> InfoHash {
        self.revision.manifest.torrent.info_hash
    }

    /// The torrent's number while it is in the engine and not being removed.
    pub(super) fn id(&self) -> Option<TorrentId> {
        match self.phase {
            Phase::Adding(id) | Phase::Running(id) => Some(id),
            Phase::Queued | Phase::Removing { .. } | Phase::Held | Phase::Failed { .. } => None,
        }
    }

    /// The torrent's number while commands reach it.
    pub(super) fn running(&self) -> Option<TorrentId> {
        match self.phase {
            Phase::Running(id) => Some(id),
            _ => None,
        }
    }

    /// Records since when pieces have been wanted. Called when the claims changed.
    pub(super) fn wants_changed(&mut self, now: Instant) {
        if self.wants.any() {
            self.wanting_since.get_or_insert(now);
        } else {
            self.wanting_since = None;
        }
    }

    /// The orders for changed claims. Pieces that are proved from the cache, and pieces that lack space, are held back.
    pub(super) fn orders(&mut self, rooms: &Rooms, now: Instant) -> Orders {
        let Self { wants, unproved, space, revision, engine_blocks, .. } = self;
        space.release_unclaimed(wants, rooms);
        let orders = wants.orders(engine_blocks, |need| {
            unproved.holds(need.piece) || !space.admit(revision, engine_blocks, rooms, need, now)
        });
        if space.lacks_any() {
            rooms.request_space();
        }
        orders
    }

    /// Records that bytes or a piece came.
    pub(super) fn progressed(&mut self, now: Instant) {
        self.last_progress = Some(now);
        self.timeouts.shorten();
    }

    fn peers_delivered(&mut self, now: Instant) {
        self.peers.last_sent = Some(now);
        self.peers_are_back();
        self.progressed(now);
    }

    /// Peers get their time again before the web is asked.
    fn peers_are_back(&mut self) {
        if let Some(web) = &mut self.web {
            web.not_alone();
        }
    }

    /// Records new figures of the engine.
    pub(super) fn stats_came(&mut self, stats: SwarmStats, now: Instant) {
        if self.peers.update(stats) && self.rejected_in_a_row < MAX_REJECTED {
            self.peers_delivered(now);
        }
    }

    /// Records that blocks of a piece are verified.
    pub(super) fn blocks_came(&mut self, piece: u32, blocks: &Range<u32>, now: Instant) {
        self.engine_blocks.insert(piece, blocks);
        self.wants.blocks_came(piece, &self.engine_blocks);
        self.peers.blocks_came(now);
        self.rejected_in_a_row = 0;
        self.disk_failed = false;
        self.peers_delivered(now);
    }

    /// The engine is about to forget a piece.
    pub(super) fn forget_piece(&mut self, piece: u32) {
        self.engine_has.set(piece as usize, false);
        self.engine_blocks.remove(piece);
        self.wants.forget_order(piece);
    }

    /// Records that a piece of `len` bytes is verified.
    pub(super) fn piece_came(&mut self, piece: u32, len: u64, now: Instant) {
        let new = !self.engine_has.put(piece as usize);
        self.engine_blocks.remove(piece);
        self.wants.fulfilled(piece);
        self.rejected_in_a_row = 0;
        self.disk_failed = false;
        self.resume_dirty |= !self.metainfo_saved;
        self.unproved.done(piece);
        if self.handed.remove(piece).is_some() {
            return self.progressed(now);
        }
        if new {
            self.peers.add_piece(len, now);
        }
        self.peers_delivered(now);
    }

    /// Records that a peer sent bytes that are not the piece.
    pub(super) fn piece_rejected(&mut self) {
        self.rejected += 1;
        self.rejected_in_a_row = self.rejected_in_a_row.saturating_add(1);
        let plural = if self.rejected == 1 { "piece" } else { "pieces" };
        self.last_error = Some(format!("a peer sent bad data ({} {plural} discarded)", self.rejected));
    }

    /// Records a peer. Returns whether it is the only one. Reads may wait again for pieces that timed out.
    pub(super) fn peer_came(&mut self, peer: std::net::SocketAddr, now: Instant) -> bool {
        self.peers_are_back();
        let first = self.peers.insert(peer, now);
        if first {
            self.unproved.peer_came();
        }
        self.timeouts.shorten();
        first
    }

    /// Whether the metainfo with all piece layers has to be requested now.
    pub(super) fn starts_export(&mut self) -> bool {
        let starts = self.engine_has.is_full() && !self.metainfo_saved && !self.exporting;
        self.exporting |= starts;
        starts
    }
}
