//! One torrent: its phase in the engine, its pieces, and its faults.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fixedbitset::FixedBitSet;
use tokio::time::Instant;

use super::handed::Handed;
use super::issue::AddedWith;
use super::parts::EngineBlocks;
use super::peers::Peers;
use super::space::Space;
use super::timeouts::Timeouts;
use super::unproved::Unproved;
use super::wants::{Orders, Wants};
use super::web::TransferWeb;
use super::{Exposure, ReadError};
use crate::model::InfoHash;
use crate::store::{Rooms, StoredRevision};
use crate::torrent::{SwarmStats, TorrentId};

/// Without a byte for this time while a read waits, connected peers may have lost their power or link: the known addresses
/// are called.
const SILENT: Duration = Duration::from_secs(2);

/// Without a verified piece for this time while a read waits, the known addresses are called, although bytes come.
const FRUITLESS: Duration = Duration::from_secs(6);

/// Without a byte for this time, connected peers do not count as a source.
pub(super) const QUIET: Duration = Duration::from_secs(15);

/// The longest pause before a torrent that the engine refused is tried again.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How long the engine may take to release a torrent that is added again.
pub(super) const REMOVAL: Duration = Duration::from_secs(10);

/// After this many bad pieces in a row, received bytes do not count as progress.
const MAX_REJECTED: u32 = 8;

/// What the engine has of a torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
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
            next_save: now + super::timer::SAVE_EVERY,
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

    /// Whether peers are connected that have sent something lately, or have had no time to yet.
    pub(super) fn is_alive(&self, now: Instant) -> bool {
        self.has_sent_within(QUIET, now)
    }

    /// Whether no peer is connected, or none has sent anything for a moment, or nothing useful for longer.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let fruitless =
            self.peers.without_piece_since(self.wanting_since).is_some_and(|at| now >= at + FRUITLESS);
        !self.has_sent_within(SILENT, now) || fruitless
    }

    /// The next moment at which [`Self::is_silent`] may have become true.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        let silent = self.peers.last_activity(self.wanting_since).map(|at| at + SILENT);
        let fruitless = self.peers.without_piece_since(self.wanting_since).map(|at| at + FRUITLESS);
        silent.into_iter().chain(fruitless).min()
    }

    fn has_sent_within(&self, time: Duration, now: Instant) -> bool {
        self.running().is_some()
            && !self.peers.connected.is_empty()
            && self.peers.last_activity(self.wanting_since).is_none_or(|at| now < at + time)
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

    /// Why a read waits, for people.
    pub(super) fn why_it_waits(&self, now: Instant) -> String {
        if self.last_progress.is_some_and(|at| now < at + SILENT) {
            "data arrives, but slowly".to_owned()
        } else {
            self.why_nothing_comes()
        }
    }

    /// What is missing, for people.
    pub(super) fn why_nothing_comes(&self) -> String {
        let of_peers = self.why_peers_send_nothing();
        match self.web.as_ref().and_then(|web| web.trouble.as_ref()) {
            Some(trouble) => format!("{of_peers}; and over HTTP: {trouble}"),
            None => of_peers,
        }
    }

    fn why_peers_send_nothing(&self) -> String {
        let peers = self.peers.connected.len();
        let plural = if peers == 1 { "peer is" } else { "peers are" };
        match &self.phase {
            Phase::Failed { why, .. } => why.clone(),
            Phase::Queued | Phase::Adding(_) | Phase::Removing { .. } | Phase::Held => {
                "the torrent has not started".to_owned()
            }
            Phase::Running(_) if peers == 0 => "no peer was found".to_owned(),
            Phase::Running(_) if self.rejected_in_a_row > 0 => {
                format!("{peers} {plural} connected, but the data they sent was bad")
            }
            Phase::Running(_) if self.peers.stats.seeds == 0 => {
                format!("{peers} {plural} connected, but none has the piece")
            }
            Phase::Running(_) if self.peers.full() == 0 => {
                format!("{peers} {plural} connected, but no peer that has the piece sends anything")
            }
            Phase::Running(_) => format!("{peers} {plural} connected, but the transfer has stalled"),
        }
    }

    /// Whether the metainfo with all piece layers has to be requested now.
    pub(super) fn starts_export(&mut self) -> bool {
        let starts = self.engine_has.is_full() && !self.metainfo_saved && !self.exporting;
        self.exporting |= starts;
        starts
    }

    /// The torrent is out of the engine, or being removed.
    pub(super) fn left_engine(&mut self) {
        self.peers.left_engine();
        if let Some(web) = &mut self.web {
            web.end_all();
        }
        self.handed.clear();
        self.unproved = Unproved::default();
        self.wants.forget_orders();
        self.exporting = false;
        self.saving = false;
    }

    /// Takes a running torrent out of the engine so that it is added again. Returns the number to remove.
    pub(super) fn add_again(&mut self, now: Instant) -> Option<TorrentId> {
        match self.phase {
            Phase::Adding(id) | Phase::Running(id) => {
                self.phase = Phase::Removing { id, until: now + REMOVAL };
                self.left_engine();
                Some(id)
            }
            Phase::Queued => {
                self.again = true;
                None
            }
            Phase::Removing { .. } | Phase::Held | Phase::Failed { .. } => None,
        }
    }

    /// The engine refused the torrent: it is tried again after a pause that doubles.
    pub(super) fn failed(&mut self, why: &str, now: Instant) {
        let pause = Duration::from_secs(1 << self.failures.min(6)).min(RETRY_MAX);
        self.failures += 1;
        self.left_engine();
        self.last_error = Some(why.to_owned());
        self.phase = Phase::Failed { why: why.to_owned(), retry: now + pause };
    }

    /// Whether the engine has a path that the file no longer has.
    pub(super) fn has_moved(&self, file: usize) -> bool {
        self.id().is_some()
            && self.given.get(file).is_some_and(|&m| m != self.revision.contents[file].moves())
    }

    /// Whether the engine has other paths or other pieces than are true now.
    pub(super) fn is_outdated(&self, exposure: Exposure) -> bool {
        matches!(self.phase, Phase::Queued)
            || (0..self.given.len()).any(|file| self.has_moved(file))
            || self.may_offer(exposure) != self.engine_has
    }

    /// Whether the engine has pieces that must not be offered, or is about to receive such.
    pub(super) fn offers_reserved(&self, exposure: Exposure) -> bool {
        matches!(self.phase, Phase::Queued) || !self.engine_has.is_subset(&self.may_offer(exposure))
    }

    fn may_offer(&self, exposure: Exposure) -> FixedBitSet {
        match exposure {
            Exposure::Hidden => self.revision.have_pieces(),
            Exposure::Unannounced | Exposure::WithoutDht | Exposure::Public => {
                self.revision.offered_pieces().0
            }
        }
    }

    /// The engine has the torrent. Returns whether its files moved meanwhile, so that it has to be added again.
    pub(super) fn entered_engine(&mut self, id: TorrentId, with: AddedWith) -> bool {
        self.engine_has = with.have;
        self.engine_blocks = with.blocks;
        self.given = with.given;
        self.metainfo_saved = with.with_layers;
        if let (Some(web), Some(hashes)) = (&mut self.web, with.hashes) {
            web.set_hashes(hashes);
        }
        self.unproved = Unproved::new(with.unproved);
        self.peers.entered_engine();
        self.phase = Phase::Adding(id);
        std::mem::take(&mut self.again)
    }

    /// Records the last figures of a torrent that is being removed.
    pub(super) fn last_stats_came(&mut self, id: TorrentId, stats: SwarmStats) {
        if matches!(self.phase, Phase::Removing { id: leaving, .. } if leaving == id) {
            self.peers.stats.downloaded = stats.downloaded;
            self.peers.stats.uploaded = stats.uploaded;
        }
    }

    /// The torrent runs.
    pub(super) fn started(&mut self, id: TorrentId, now: Instant) {
        self.phase = Phase::Running(id);
        self.running_since = Some(now);
        self.failures = 0;
    }

    /// Whether a torrent that failed can be tried again now: then it is queued. `Broken` until then.
    pub(super) fn retry(&mut self, now: Instant) -> Result<bool, ReadError> {
        match &self.phase {
            Phase::Failed { retry, .. } if *retry <= now => {
                self.phase = Phase::Queued;
                Ok(true)
            }
            Phase::Failed { why, .. } => Err(ReadError::Broken(why.clone())),
            _ => Ok(false),
        }
    }
}
