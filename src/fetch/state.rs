//! What the one lock of `Fetch` protects: transfers, contents, and the commands that wait to be issued.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;

use super::deadline::Deadline;
use super::tensors::Shape;
use super::transfer::{Phase, QUIET, REMOVAL, Transfer};
use super::unproved::{Proof, READS_AT_A_TIME};
use super::waiters::{Answer, Kind, Waiter, Waiters};
use super::wants::{ClaimId, Orders};
use super::web::{Job, TransferWeb, WebShared};
use super::window::Windows;
use super::{Exposure, FetchSettings, FileRef, ReadError};
use crate::model::{InfoHash, PieceIndex};
use crate::store::ContentKey;
use crate::store::{Content, StoredRevision};
use crate::torrent::TorrentId;

/// Something to be said to the engine, outside the lock and in order.
#[derive(Debug)]
pub(super) enum Command {
    /// Add the torrent if it is still queued.
    Add(InfoHash),
    Remove(TorrentId),
    /// These pieces are no longer there.
    Withdraw(TorrentId, Vec<PieceIndex>),
    Orders(TorrentId, Orders),
    /// Upload nothing from now on, until the torrent is added anew.
    Withhold(TorrentId),
    Reannounce(TorrentId),
    /// Call the peers that are known and not connected.
    Redial(TorrentId),
    Connect(TorrentId, SocketAddr),
    SaveResume(TorrentId),
    ExportMetainfo(TorrentId),
    /// Begin a request over HTTP.
    Ask(Box<Job>),
    /// Read a cached piece that is not proved, and hand it over.
    Prove(Box<Proof>),
    /// Hand over a piece that came another way than from peers.
    Give(TorrentId, PieceIndex, Vec<u8>),
}

/// The claims of one cursor.
#[derive(Debug)]
pub(super) struct CursorClaims {
    pub via: (InfoHash, usize),
    /// The pieces of that torrent that the window covered when it was last looked at.
    pub pieces: Range<u32>,
    pub claims: Vec<(InfoHash, u32)>,
}

/// The bytes of one file, wherever joined torrents hold it.
#[derive(Debug)]
pub(super) struct ContentState {
    pub content: Arc<Content>,
    /// Torrents and their files with these bytes.
    pub uses: Vec<(InfoHash, usize)>,
    pub waiters: Waiters,
    pub windows: Windows,
    pub cursor_claims: HashMap<ClaimId, CursorClaims>,
    pub shape: Shape,
}

/// All that changes.
pub(super) struct State {
    pub settings: Arc<FetchSettings>,
    /// Peers given by hand for single torrents.
    pub introduced: HashMap<InfoHash, Vec<SocketAddr>>,
    /// Who may hear of torrents, of those that not everybody may.
    pub exposures: HashMap<InfoHash, Exposure>,
    pub stopped: bool,
    pub transfers: HashMap<InfoHash, Transfer>,
    /// Torrents in the engine, also those on their way out.
    pub ids: HashMap<TorrentId, InfoHash>,
    /// Torrents that were left and are not out yet.
    pub leaving: HashMap<InfoHash, TorrentId>,
    pub contents: HashMap<ContentKey, ContentState>,
    /// Contents whose bytes are being thrown away or moved, and by how many at once: their torrents stay out of the
    /// engine meanwhile, also those that are joined only then.
    pub held: HashMap<ContentKey, usize>,
    /// Contents with waiters or cursors.
    pub hot: BTreeSet<ContentKey>,
    pub outbox: VecDeque<Command>,
    /// Transfers whose wants changed.
    pub touched: BTreeSet<InfoHash>,
    /// The earliest moment, asked for since the timer last looked, at which it is to look again.
    pub wake_at: Option<Instant>,
    /// When the timer looks next.
    pub timer_at: Instant,
    pub web: WebShared,
    /// Bounds how many cached pieces are read at a time.
    pub proofs: Arc<Semaphore>,
    /// When the background pass proves the next cached piece.
    pub next_proof: Option<Instant>,
    next_id: ClaimId,
}

/// What became of a wish to wait.
pub(super) enum Parking {
    /// All bytes are here.
    Ready,
    /// The waiter's content and name, and its answer to come.
    Waits(ContentKey, ClaimId, oneshot::Receiver<Answer>),
}

impl State {
    pub(super) fn new(settings: Arc<FetchSettings>, timer: Arc<Notify>, now: Instant) -> Self {
        Self {
            settings,
            introduced: HashMap::new(),
            exposures: HashMap::new(),
            stopped: false,
            transfers: HashMap::new(),
            ids: HashMap::new(),
            leaving: HashMap::new(),
            contents: HashMap::new(),
            held: HashMap::new(),
            hot: BTreeSet::new(),
            outbox: VecDeque::new(),
            touched: BTreeSet::new(),
            wake_at: None,
            timer_at: now,
            web: WebShared::new(timer),
            proofs: Arc::new(Semaphore::new(READS_AT_A_TIME)),
            next_proof: None,
            next_id: 1,
        }
    }

    pub(super) fn new_id(&mut self) -> ClaimId {
        self.next_id += 1;
        self.next_id
    }

    /// Has the timer look at `when` at the latest.
    pub(super) fn look_at(&mut self, when: Instant) {
        self.wake_at = Some(self.wake_at.map_or(when, |at| at.min(when)));
    }

    /// Whether the timer has to look earlier than it means to. Told once.
    pub(super) fn is_due_earlier(&mut self) -> bool {
        match self.wake_at.take().filter(|&at| at < self.timer_at) {
            Some(at) => {
                self.timer_at = at;
                true
            }
            None => false,
        }
    }

    /// Turns changed wants into commands. Called before the lock is given back.
    pub(super) fn settle(&mut self, now: Instant) {
        for ih in std::mem::take(&mut self.touched) {
            let Some(transfer) = self.transfers.get_mut(&ih) else { continue };
            if transfer.wants.any() {
                transfer.wanting_since.get_or_insert(now);
            } else {
                transfer.wanting_since = None;
            }
            // While it does not run, the wants keep; they are all told when it does.
            let Some(id) = transfer.running() else { continue };
            let Transfer { wants, unproved, space, revision, .. } = transfer;
            let rooms = &self.settings.rooms;
            space.release_unclaimed(wants, rooms);
            let orders = wants.orders(|piece, level| {
                unproved.holds(piece) || !space.admit(revision, rooms, piece, level, now)
            });
            if space.lacks_any() {
                rooms.request_space();
            }
            if !orders.is_empty() {
                self.outbox.push_back(Command::Orders(id, orders));
            }
            self.prove_wanted(ih);
            self.ask_the_web(ih, now);
        }
    }

    /// Remembers peers of a torrent, and connects to them if it runs.
    pub(super) fn introduce(&mut self, ih: InfoHash, peers: &[SocketAddr]) {
        if peers.is_empty() {
            return;
        }
        let known = self.introduced.entry(ih).or_default();
        known.extend(peers);
        known.sort_unstable();
        known.dedup();
        if let Some(id) = self.transfers.get(&ih).and_then(Transfer::running) {
            self.outbox.extend(peers.iter().map(|&peer| Command::Connect(id, peer)));
        }
    }

    /// Who may hear of a torrent.
    pub(super) fn exposure(&self, ih: &InfoHash) -> Exposure {
        self.exposures.get(ih).copied().unwrap_or_default()
    }

    pub(super) fn expose(&mut self, ih: InfoHash, exposure: Exposure, now: Instant) -> bool {
        let former = match exposure {
            Exposure::Public => self.exposures.remove(&ih),
            _ => self.exposures.insert(ih, exposure),
        };
        let changes = former.unwrap_or_default() != exposure;
        if changes {
            // Before it is out of the engine, which takes a moment.
            let running = self.transfers.get(&ih).and_then(Transfer::id);
            if let Some(id) = running.filter(|_| exposure == Exposure::Hidden) {
                self.outbox.push_back(Command::Withhold(id));
            }
            self.add_anew(ih, now);
        }
        changes
    }

    /// Adds the torrents again that offer pieces which are reserved now.
    pub(super) fn withdraw_reserved(&mut self, now: Instant) {
        let offers = |(ih, transfer): &(&InfoHash, &Transfer)| transfer.offers_reserved(self.exposure(ih));
        let offering: Vec<InfoHash> = self.transfers.iter().filter(offers).map(|(ih, _)| *ih).collect();
        for ih in offering {
            // Before it is out of the engine, which takes a moment.
            if let Some(id) = self.transfers.get(&ih).and_then(Transfer::id) {
                self.outbox.push_back(Command::Withhold(id));
            }
            self.add_anew(ih, now);
        }
    }

    /// All peers given by hand for a torrent.
    pub(super) fn peers_of(&self, ih: &InfoHash) -> Vec<SocketAddr> {
        let own = self.introduced.get(ih).into_iter().flatten();
        self.settings.peers.list().into_iter().chain(own.copied()).collect()
    }

    /// Joins a swarm unless it is joined.
    pub(super) fn join(&mut self, revision: &Arc<StoredRevision>, now: Instant) -> Result<(), ReadError> {
        if self.stopped {
            return Err(ReadError::Stopped);
        }
        let ih = revision.manifest.torrent.info_hash;
        if let Some(transfer) = self.transfers.get_mut(&ih) {
            if transfer.usable(now)? {
                self.out_of_engine(ih);
            }
            return Ok(());
        }
        let web = TransferWeb::of(&revision.manifest, self.settings.web.as_ref());
        let mut transfer = Transfer::new(revision.clone(), web, now);
        match self.leaving.remove(&ih) {
            Some(id) => {
                transfer.phase = Phase::Running(id);
                transfer.add_anew(now);
                self.ids.insert(id, ih);
                self.look_at(now + REMOVAL);
            }
            None => {
                self.transfers.insert(ih, transfer);
                self.out_of_engine(ih);
                self.adopt_contents(ih, revision);
                return Ok(());
            }
        }
        self.transfers.insert(ih, transfer);
        self.adopt_contents(ih, revision);
        Ok(())
    }

    /// Enters a revision's files as sources of their contents.
    pub(super) fn adopt_contents(&mut self, ih: InfoHash, revision: &StoredRevision) {
        for (file, content) in revision.contents.iter().enumerate() {
            let Some(root) = content.key() else { continue };
            let safetensors = revision.manifest.files[file].path.ends_with(".safetensors");
            let state = self.contents.entry(root).or_insert_with(|| ContentState {
                content: content.clone(),
                uses: Vec::new(),
                waiters: Waiters::new(),
                windows: Windows::default(),
                cursor_claims: HashMap::new(),
                shape: if safetensors { Shape::Unread } else { Shape::Plain },
            });
            if !state.uses.contains(&(ih, file)) {
                state.uses.push((ih, file));
            }
        }
    }

    /// Takes a revision's files out as sources.
    pub(super) fn abandon_contents(&mut self, ih: InfoHash, revision: &StoredRevision, now: Instant) {
        for root in revision.contents.iter().filter_map(|c| c.key()) {
            let Some(content) = self.contents.get_mut(&root) else { continue };
            content.uses.retain(|(of, _)| *of != ih);
            if content.uses.is_empty() {
                self.contents.remove(&root);
                self.hot.remove(&root);
            } else {
                self.reroute(&root, now);
            }
        }
    }

    /// Has somebody wait for bytes of a file, unless they are here. The have bits are tested under the same lock
    /// under which waiters are woken, so no wake-up is lost.
    pub(super) fn park(
        &mut self,
        file: &FileRef,
        range: &Range<u64>,
        kind: Kind,
        span: Duration,
        now: Instant,
    ) -> Result<Parking, ReadError> {
        if self.stopped {
            return Err(ReadError::Stopped);
        }
        let content = &file.revision.contents[file.file];
        let Some(root) = content.key() else { return Ok(Parking::Ready) };
        if content.has(range.clone()) {
            if kind == Kind::Read {
                self.touch(file, range.clone(), now);
            }
            return Ok(Parking::Ready);
        }
        self.join(&file.revision, now)?;
        let via = (file.revision.manifest.torrent.info_hash, file.file);
        if kind == Kind::Read {
            self.refuse_what_just_timed_out(&root, via, range, now)?;
        }
        self.readd_if_lost(&root, via, range, now);
        let id = self.new_id();
        let deadline = match kind {
            Kind::Read => Deadline::read(now, span),
            Kind::Job => Deadline::stall(now, span),
        };
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter {
            via,
            range: range.clone(),
            kind,
            deadline,
            claims: Vec::new(),
            since: now,
            spread: false,
            answer,
        };
        let Some(state) = self.contents.get_mut(&root) else { return Err(ReadError::Stopped) };
        state.waiters.insert(id, waiter);
        self.hot.insert(root);
        self.look_at(deadline.due().min(now + QUIET));
        self.claim_for_waiter(&root, id, now);
        if kind == Kind::Read {
            self.touch(file, range.clone(), now);
        }
        self.start_search(via.0, now);
        Ok(Parking::Waits(root, id, answered))
    }

    fn refuse_what_just_timed_out(
        &self,
        root: &ContentKey,
        via: (InfoHash, usize),
        range: &Range<u64>,
        now: Instant,
    ) -> Result<(), ReadError> {
        let missing = self.route(root, via, range, now);
        for (ih, piece) in missing {
            let Some(transfer) = self.transfers.get(&ih) else { continue };
            if transfer.just_timed_out(std::iter::once(piece), now) {
                return Err(ReadError::TimedOut(transfer.why_nothing_comes()));
            }
        }
        Ok(())
    }

    /// A piece that the engine believes to be here but that turned out damaged is fetched only by a torrent that
    /// is added anew without it, and one of a file that has moved only by a torrent that knows.
    fn readd_if_lost(&mut self, root: &ContentKey, via: (InfoHash, usize), range: &Range<u64>, now: Instant) {
        if self.transfers.get(&via.0).is_some_and(|t| t.has_moved(via.1)) {
            return self.add_anew(via.0, now);
        }
        let lost = self.route(root, via, range, now).into_iter().find(|(ih, piece)| {
            self.transfers.get(ih).is_some_and(|t| t.id().is_some() && t.engine_has.contains(*piece as usize))
        });
        if let Some((ih, _)) = lost {
            self.add_anew(ih, now);
        }
    }

    /// Takes a torrent out so that it is added with what is true now.
    pub(super) fn add_anew(&mut self, ih: InfoHash, now: Instant) {
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        if let Some(id) = transfer.add_anew(now) {
            self.outbox.push_back(Command::Remove(id));
        }
        if let Phase::Removing { until, .. } = transfer.phase {
            self.look_at(until);
        }
    }

    /// Begins searching for peers while somebody waits.
    pub(super) fn start_search(&mut self, ih: InfoHash, now: Instant) {
        if let Some(transfer) = self.transfers.get_mut(&ih) {
            let mut next = transfer.search.start(now);
            if transfer.is_silent(now) {
                next = transfer.dial.start_now(now).min(next);
            }
            self.look_at(next);
        }
    }

    /// Takes a waiter out, if it is still there.
    pub(super) fn take_waiter(&mut self, root: &ContentKey, id: ClaimId) -> Option<Waiter> {
        let waiter = self.contents.get_mut(root)?.waiters.remove(&id)?;
        self.cool(root);
        self.release(waiter.claims.iter(), id);
        Some(waiter)
    }

    /// Answers a waiter.
    pub(super) fn answer(&mut self, root: &ContentKey, id: ClaimId, answer: Answer) {
        if let Some(waiter) = self.take_waiter(root, id) {
            // The waiter may have been dropped meanwhile.
            let _ = waiter.answer.send(answer);
        }
    }

    /// Answers all waiters that `which` picks.
    pub(super) fn answer_all(&mut self, answer: &Answer, which: impl Fn(&Waiter) -> bool) {
        let hit: Vec<(ContentKey, ClaimId)> = self
            .hot
            .iter()
            .filter_map(|root| Some((root, self.contents.get(root)?)))
            .flat_map(|(root, c)| c.waiters.iter().map(move |(id, w)| (*root, *id, w)))
            .filter(|(_, _, w)| which(w))
            .map(|(root, id, _)| (root, id))
            .collect();
        for (root, id) in hit {
            self.answer(&root, id, answer.clone());
        }
    }

    /// Whether anybody waits for pieces of a torrent.
    pub(super) fn has_waiters(&self, ih: &InfoHash) -> bool {
        self.waiters().any(|w| w.via.0 == *ih || w.claims.iter().any(|(of, _)| of == ih))
    }

    /// All waiters.
    pub(super) fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.hot.iter().filter_map(|root| self.contents.get(root)).flat_map(|c| c.waiters.values())
    }
}
