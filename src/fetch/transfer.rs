//! One torrent: its place in the engine, its peers, and what went wrong with it.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fixedbitset::FixedBitSet;
use tokio::time::Instant;

use super::handed::Handed;
use super::space::Space;
use super::unproved::Unproved;
use super::wants::Wants;
use super::web::TransferWeb;
use super::{Exposure, ReadError};
use crate::store::StoredRevision;
use crate::torrent::{SwarmStats, TorrentId};

/// How long a piece that has timed out fails at once, unless there is hope again: progress, or a peer.
const FAIL_FAST: Duration = Duration::from_secs(5);

/// How long a piece that has timed out fails at once in any case. After a failed read-ahead the kernel immediately asks
/// again for each page that a program waits for, and that must not wait as long again.
const ASKED_AGAIN_WITHIN: Duration = Duration::from_secs(1);

/// The pauses between two searches for peers while a read waits.
const SEARCH: Pauses = Pauses { first: Duration::from_secs(1), longest: Duration::from_secs(30) };

/// The pauses between two rounds of calls to the known peers while a read waits. A live peer answers within one of them.
const DIAL: Pauses = Pauses { first: Duration::from_millis(100), longest: Duration::from_secs(3) };

/// Without a byte for so long while a read waits, connected peers may be gone without a word: other addresses are called.
const SILENT: Duration = Duration::from_secs(2);

/// How often the end of the last connection has the known peers called immediately.
const CALLED_AGAIN_EVERY: Duration = Duration::from_secs(1);

/// Without a byte for so long, connected peers do not count as a source.
pub(super) const QUIET: Duration = Duration::from_secs(15);

/// The longest pause before a torrent that the engine refused is tried again.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How long the engine may take to let go of a torrent that is to be added anew.
pub(super) const REMOVAL: Duration = Duration::from_secs(10);

/// So many bad pieces in a row, and received bytes no longer count as progress.
const MAX_REJECTED: u32 = 8;

/// Where a torrent stands in the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// To be added by whoever issues commands.
    Queued,
    /// Given to the engine; `Event::Added` is awaited.
    Adding(TorrentId),
    /// Running.
    Running(TorrentId),
    /// Taken out, to be added anew when it is gone, at the latest at `until`.
    Removing { id: TorrentId, until: Instant },
    /// Out of the engine while its bytes are thrown away.
    Held,
    /// The engine refused it.
    Failed { why: String, retry: Instant },
}

/// The pause after the first attempt; each further one is twice as long, up to the longest.
#[derive(Debug, Clone, Copy)]
struct Pauses {
    first: Duration,
    longest: Duration,
}

/// When to try something again while a read waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search {
    /// The next attempt; none while no read waits.
    pub next: Option<Instant>,
    pause: Duration,
    pauses: Pauses,
}

impl Search {
    fn new(pauses: Pauses) -> Self {
        Self { next: None, pause: pauses.first, pauses }
    }

    /// Starts, unless it has started: the first attempt comes after the first pause.
    pub(super) fn start(&mut self, now: Instant) -> Instant {
        *self.next.get_or_insert(now + self.pause)
    }

    /// Starts, unless it has started: the first attempt comes now.
    pub(super) fn start_now(&mut self, now: Instant) -> Instant {
        *self.next.get_or_insert(now)
    }

    /// The next attempt comes at `when`, if none comes earlier.
    pub(super) fn hasten(&mut self, when: Instant) {
        self.next = Some(self.next.map_or(when, |next| next.min(when)));
    }

    /// An attempt was made.
    pub(super) fn made(&mut self, now: Instant) {
        self.pause = (self.pause * 2).min(self.pauses.longest);
        self.next = Some(now + self.pause);
    }

    /// There is no more reason to try.
    pub(super) fn end(&mut self) {
        *self = Self::new(self.pauses);
    }

    /// Whether an attempt was made and the next one awaits its time.
    pub(super) fn goes_on(&self) -> bool {
        self.next.is_some() && self.pause > self.pauses.first
    }
}

/// A piece that has timed out: when, and until when reads of it fail at once.
#[derive(Debug, Clone, Copy)]
struct FailFast {
    since: Instant,
    until: Instant,
}

/// One torrent that was joined.
#[derive(Debug)]
pub(super) struct Transfer {
    pub revision: Arc<StoredRevision>,
    pub phase: Phase,
    pub wants: Wants,
    /// How often each file's path had changed when the engine was given it (`Content::moves`).
    pub given: Vec<u64>,
    /// Pieces the engine knows to be here.
    pub engine_has: FixedBitSet,
    /// Pieces that are cached and not proved.
    pub unproved: Unproved,
    /// What of it waits for space, or has some.
    pub space: Space,
    /// Pieces that the engine was handed and has not judged.
    pub handed: Handed,
    pub peers: HashSet<SocketAddr>,
    pub stats: SwarmStats,
    /// Peers in the figures that have everything, and send nothing although pieces are wanted.
    pub silent_seeds: u32,
    /// Bytes received and sent before the torrent was added anew.
    past: (u64, u64),
    /// Bytes of pieces that came from peers since it was last added. Figures of the engine are up to a second older.
    came: u64,
    /// The last bytes, from wherever.
    pub last_progress: Option<Instant>,
    /// The last bytes from a peer.
    pub last_from_peers: Option<Instant>,
    last_peer: Option<Instant>,
    /// When the engine began with it, the last time.
    pub running_since: Option<Instant>,
    /// When something became wanted after nothing was.
    pub wanting_since: Option<Instant>,
    pub search: Search,
    /// When the known peers are called again.
    pub dial: Search,
    /// When the known peers were last called because the last connection had ended.
    pub called_again: Option<Instant>,
    timed_out: HashMap<u32, FailFast>,
    /// The torrent's files changed while it was being added: add it anew.
    pub again: bool,
    failures: u32,
    rejected_in_a_row: u32,
    pub rejected: u64,
    /// Bytes of the cache that were verified and turned out wrong.
    pub damaged: u64,
    /// A disk failure since the last piece.
    pub disk_failed: bool,
    pub last_error: Option<String>,
    /// The metainfo with all piece layers is on disk.
    pub metainfo_saved: bool,
    /// The engine refused the metainfo on disk.
    pub distrust_saved: bool,
    /// The layers were computed from the bytes here, or are being, or could not be.
    pub hashed: bool,
    /// `export_metainfo` was asked and not answered.
    pub exporting: bool,
    /// Pieces came since the resume data was last asked for.
    pub resume_dirty: bool,
    /// `save_resume` was asked and not answered.
    pub saving: bool,
    pub next_save: Instant,
    /// The web, where its files are there too.
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
            unproved: Unproved::default(),
            space: Space::default(),
            handed: Handed::default(),
            peers: HashSet::new(),
            stats: SwarmStats::default(),
            silent_seeds: 0,
            past: (0, 0),
            came: 0,
            last_progress: None,
            last_from_peers: None,
            last_peer: None,
            running_since: None,
            wanting_since: None,
            search: Search::new(SEARCH),
            dial: Search::new(DIAL),
            called_again: None,
            timed_out: HashMap::new(),
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

    /// The torrent's number while it is in the engine and not on its way out.
    pub(super) fn id(&self) -> Option<TorrentId> {
        match self.phase {
            Phase::Adding(id) | Phase::Running(id) => Some(id),
            Phase::Queued | Phase::Removing { .. } | Phase::Held | Phase::Failed { .. } => None,
        }
    }

    /// The torrent's number once commands reach it.
    pub(super) fn running(&self) -> Option<TorrentId> {
        match self.phase {
            Phase::Running(id) => Some(id),
            _ => None,
        }
    }

    /// Whether peers are there that have sent something lately, or have had no time to yet.
    pub(super) fn is_alive(&self, now: Instant) -> bool {
        self.has_sent_within(QUIET, now)
    }

    /// Whether no peer is there, or none has sent anything for a moment.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        !self.has_sent_within(SILENT, now)
    }

    /// The last connection has ended while a read waits: the known peers are called immediately, at most once a second. Two
    /// hosts that call each other at the same time may each end the connection of the other one. Returns when they are
    /// called.
    pub(super) fn call_again(&mut self, now: Instant) -> Option<Instant> {
        if self.called_again.is_none_or(|at| now >= at + CALLED_AGAIN_EVERY) {
            self.called_again = Some(now);
            self.dial.hasten(now);
        }
        self.dial.next
    }

    /// The next moment at which [`Self::is_silent`] may have become true.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        self.wanting_since.max(self.last_from_peers).max(self.last_peer).map(|at| at + SILENT)
    }

    fn has_sent_within(&self, time: Duration, now: Instant) -> bool {
        self.running().is_some()
            && !self.peers.is_empty()
            && self
                .wanting_since
                .max(self.last_from_peers)
                .max(self.last_peer)
                .is_none_or(|at| now < at + time)
    }

    /// Takes in that bytes or a piece came.
    pub(super) fn progressed(&mut self, now: Instant) {
        self.last_progress = Some(now);
        self.hope_again();
    }

    /// Takes in that peers delivered.
    fn peers_delivered(&mut self, now: Instant) {
        self.last_from_peers = Some(now);
        if let Some(web) = &mut self.web {
            web.not_alone();
        }
        self.progressed(now);
    }

    /// Takes in new figures. Returns whether they are progress.
    pub(super) fn take_stats(&mut self, stats: SwarmStats, now: Instant) -> bool {
        let more = stats.downloaded > self.stats.downloaded && self.rejected_in_a_row < MAX_REJECTED;
        self.stats = stats;
        if more {
            self.peers_delivered(now);
        }
        more
    }

    /// Takes in that a piece is here.
    pub(super) fn piece_came(&mut self, piece: u32, len: u64, now: Instant) {
        let new = !self.engine_has.put(piece as usize);
        self.wants.fulfilled(piece);
        self.rejected_in_a_row = 0;
        self.disk_failed = false;
        self.resume_dirty |= !self.metainfo_saved;
        self.unproved.done(piece);
        if self.handed.take(piece).is_some() {
            return self.progressed(now);
        }
        if new {
            self.came += len;
        }
        self.peers_delivered(now);
    }

    /// Takes in that a peer sent bytes that are not the piece.
    pub(super) fn piece_rejected(&mut self) {
        self.rejected += 1;
        self.rejected_in_a_row = self.rejected_in_a_row.saturating_add(1);
        let plural = if self.rejected == 1 { "piece" } else { "pieces" };
        self.last_error = Some(format!("a peer sent bad data ({} {plural} thrown away)", self.rejected));
    }

    /// A peer is here: pieces that timed out may be asked for again.
    pub(super) fn peer_came(&mut self, peer: SocketAddr, now: Instant) {
        self.last_peer = Some(now);
        if let Some(web) = &mut self.web {
            web.not_alone();
        }
        if self.peers.is_empty() {
            self.unproved.peer_came();
        }
        self.peers.insert(peer);
        self.hope_again();
    }

    /// Remembers for a while that pieces did not come.
    pub(super) fn remember_timeout(&mut self, pieces: impl IntoIterator<Item = u32>, now: Instant) {
        self.timed_out.retain(|_, fails| fails.until > now);
        let fails = FailFast { since: now, until: now + FAIL_FAST };
        self.timed_out.extend(pieces.into_iter().map(|piece| (piece, fails)));
    }

    /// Pieces that timed out may be waited for again, once the kernel has asked again.
    fn hope_again(&mut self) {
        for fails in self.timed_out.values_mut() {
            fails.until = fails.until.min(fails.since + ASKED_AGAIN_WITHIN);
        }
    }

    /// Whether one of the pieces has just timed out.
    pub(super) fn just_timed_out(&self, mut pieces: impl Iterator<Item = u32>, now: Instant) -> bool {
        pieces.any(|piece| self.timed_out.get(&piece).is_some_and(|fails| fails.until > now))
    }

    /// Connected peers that have everything and answer.
    pub(super) fn full_peers(&self) -> u32 {
        self.stats.seeds.saturating_sub(self.silent_seeds)
    }

    /// Why a read waits, for people.
    pub(super) fn why_it_waits(&self, now: Instant) -> String {
        match self.last_progress.is_some_and(|at| now < at + SILENT) {
            true => "data arrives, but slowly".to_owned(),
            false => self.why_nothing_comes(),
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
        let peers = self.peers.len();
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
            Phase::Running(_) if self.stats.seeds == 0 => {
                format!("{peers} {plural} connected, but none has the piece")
            }
            Phase::Running(_) if self.full_peers() == 0 => {
                format!("{peers} {plural} connected, but no peer that has the piece sends anything")
            }
            Phase::Running(_) => format!("{peers} {plural} connected, but the transfer has stalled"),
        }
    }

    /// The torrent is out of the engine, or on its way; its last figures may still come.
    pub(super) fn left_engine(&mut self) {
        let SwarmStats { downloaded, uploaded, .. } = self.stats;
        self.stats = SwarmStats { downloaded, uploaded, ..SwarmStats::default() };
        self.peers.clear();
        self.silent_seeds = 0;
        if let Some(web) = &mut self.web {
            web.end_all();
        }
        self.handed.clear();
        self.unproved = Unproved::default();
        self.wants.forget_told();
        self.exporting = false;
        self.saving = false;
    }

    /// Takes a running torrent out so that it is added anew. Returns the number to remove.
    pub(super) fn add_anew(&mut self, now: Instant) -> Option<TorrentId> {
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

    /// The engine refused the torrent.
    pub(super) fn failed(&mut self, why: &str, now: Instant) {
        let pause = Duration::from_secs(1 << self.failures.min(6)).min(RETRY_MAX);
        self.failures += 1;
        self.left_engine();
        self.last_error = Some(why.to_owned());
        self.phase = Phase::Failed { why: why.to_owned(), retry: now + pause };
    }

    /// Whether the engine was given a path that a file no longer has.
    pub(super) fn has_moved(&self, file: usize) -> bool {
        self.id().is_some()
            && self.given.get(file).is_some_and(|&m| m != self.revision.contents[file].moves())
    }

    /// Whether the engine was told other paths or other pieces than are true now.
    pub(super) fn is_outdated(&self, exposure: Exposure) -> bool {
        matches!(self.phase, Phase::Queued)
            || (0..self.given.len()).any(|file| self.has_moved(file))
            || self.may_offer(exposure) != self.engine_has
    }

    /// Whether the engine has pieces that are not to be offered, or is about to receive such.
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

    /// The torrent is in the engine, which counts from nothing; what was counted stays counted.
    pub(super) fn entered_engine(&mut self, id: TorrentId) {
        self.past = self.totals();
        self.came = 0;
        self.stats = SwarmStats::default();
        self.phase = Phase::Adding(id);
    }

    /// Takes in the last figures of a torrent on its way out.
    pub(super) fn take_last_stats(&mut self, id: TorrentId, stats: SwarmStats) {
        if matches!(self.phase, Phase::Removing { id: leaving, .. } if leaving == id) {
            self.stats.downloaded = stats.downloaded;
            self.stats.uploaded = stats.uploaded;
        }
    }

    /// The torrent runs.
    pub(super) fn started(&mut self, id: TorrentId, now: Instant) {
        self.phase = Phase::Running(id);
        self.running_since = Some(now);
        self.failures = 0;
    }

    /// Whether the torrent can be used now. One that failed is queued again when its time has come.
    pub(super) fn usable(&mut self, now: Instant) -> Result<bool, ReadError> {
        match &self.phase {
            Phase::Failed { retry, .. } if *retry <= now => {
                self.phase = Phase::Queued;
                Ok(true)
            }
            Phase::Failed { why, .. } => Err(ReadError::Broken(why.clone())),
            _ => Ok(false),
        }
    }

    /// Payload bytes received from peers and sent since the torrent was joined.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.past.0 + self.stats.downloaded.max(self.came), self.past.1 + self.stats.uploaded)
    }
}
