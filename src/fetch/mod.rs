//! Which pieces, when: reads that wait, the windows ahead of them, whole-file fetching.
//!
//! Readers name a revision and a file; [`Fetch`] joins the swarm when it is first needed, asks for the pieces
//! that are missing, and wakes whoever waits when a piece is verified. All state is on our side and fed by
//! events; the engine is never asked.
//!
//! What always holds:
//! - Bytes are handed out only from verified blocks of a [`Content`]; a piece is marked
//!   there before anybody is woken, and have bits are tested under the lock under which waiters are registered.
//! - A piece is asked for once, however many wait for it, and is taken back when nobody wants it any more.
//! - Every wait has a deadline; [`Fetch::stop`] ends them all.
//!
//! Parts: `wants` (claims on pieces, and what the engine was told), `waiters` (who waits), `window` and `tensors`
//! (pure arithmetic of read-ahead), `readahead` (windows turned into claims), `routing` (source choice), `transfer` (one torrent), `state`
//! (all of it, behind one lock), `web` (what peers do not deliver), `unproved` (cached bytes that are to be proved), `handed` (what the engine was given
//! by both), `damage` (bytes that
//! are wrong on the disk), `events` (what the engine says), `timer` (what the clock says), `saving` (files), `layers`
//! (piece layers that no peer told).

mod damage;
mod deadline;
mod events;
mod handed;
mod hold;
mod issue;
mod layers;
mod readahead;
mod routing;
mod saving;
mod space;
mod state;
mod status;
mod tensors;
mod timer;
mod transfer;
mod unproved;
mod waiters;
mod wants;
pub mod web;
mod window;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::descriptors;
use crate::model::InfoHash;
use crate::paths::Paths;
use crate::store::{Content, ContentKey, Rooms, StoredRevision};
use crate::torrent::{Discovery, Event, GivenPeers, Swarms};
pub use hold::{EvictionHold, NotReleased};
pub use saving::places;
pub use space::Shedding;
pub use status::{StalledRead, TransferStatus};

use saving::Saver;
use state::{Parking, State};
use waiters::{Kind, Parked};
use web::WebSettings;

/// How often a read starts again because its bytes could not be read when they were there.
const ATTEMPTS: usize = 3;

/// How long a read waits for a free descriptor, and its first pause; each further one is twice as long.
const SHORTAGE_WITHIN: Duration = Duration::from_secs(10);
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// Who may hear of a torrent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exposure {
    /// Nobody: it is in the engine for this node's readers alone. Peers named by hand are called; no peer is accepted,
    /// and nothing is sent to any.
    Hidden,
    /// Peers named by hand, trackers and those they exchange; not the DHT, not the local network.
    Unannounced,
    /// Everybody except the DHT.
    WithoutDht,
    /// Everybody.
    #[default]
    Public,
}

impl Exposure {
    /// What is left of the ways to find peers.
    pub(crate) fn restrict(self, discovery: Discovery) -> Discovery {
        match self {
            Self::Public => discovery,
            Self::Unannounced => Discovery { dht: false, lan: false, ..discovery },
            Self::WithoutDht => Discovery { dht: false, ..discovery },
            Self::Hidden => Discovery { dht: false, lan: false, pex: false },
        }
    }
}

/// What `Fetch` needs to know of the configuration.
#[derive(Debug, Clone)]
pub struct FetchSettings {
    /// How long a read waits; progress by any byte of the swarm postpones it up to twice.
    pub read_timeout: Duration,
    /// The widest window, in bytes.
    pub readahead_max: u64,
    /// Bytes of pieces that one window may request ahead of its reader: a quarter of the cache.
    pub window_bound: u64,
    /// Where space is limited.
    pub rooms: Arc<Rooms>,
    /// Discovery of every torrent.
    pub discovery: Discovery,
    /// Peers given by hand, for every torrent.
    pub peers: GivenPeers,
    /// The web as the seed of last resort; none where it is not to be used.
    pub web: Option<WebSettings>,
}

/// Why a read failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// No piece came in time; the text says what was missing (no peers, no peer with the piece, …).
    #[error("timed out: {0}")]
    TimedOut(String),
    /// The node is stopping.
    #[error("stopped")]
    Stopped,
    /// The swarm was left while the node goes on: the model was removed, is another one now, or is withheld now.
    #[error("it was removed, replaced or withheld meanwhile")]
    Left,
    /// The local disk failed.
    #[error("disk: {0}")]
    Disk(String),
    /// The bytes of whole files have found no space for a while.
    #[error("there is no space for it any more")]
    NoSpace,
    /// The torrent cannot be used (metainfo refused by the engine).
    #[error("{0}")]
    Broken(String),
}

/// One file of one revision.
#[derive(Debug, Clone)]
pub struct FileRef {
    /// The revision.
    pub revision: Arc<StoredRevision>,
    /// Index into its manifest's files.
    pub file: usize,
}

impl FileRef {
    fn content(&self) -> &Arc<Content> {
        &self.revision.contents[self.file]
    }

    /// Bytes `offset..offset + len`, cut at the end of the file.
    fn cut(&self, offset: u64, len: u64) -> Range<u64> {
        let size = self.content().len();
        offset.min(size)..offset.saturating_add(len).min(size)
    }
}

/// The scheduler of all transfers of one node.
///
/// Lock order: `issuing`, then `state`, then a content's own. `state` is held for a few lines, never across a wait
/// or a call into the engine. What is to be said to the engine is queued in `state` and issued, in that order, by
/// whoever holds `issuing`; so two threads that change their minds at once cannot be heard in the wrong order.
pub struct Fetch {
    /// For tasks that outlive nobody.
    myself: Weak<Self>,
    engine: Arc<dyn Swarms>,
    paths: Paths,
    settings: Arc<FetchSettings>,
    state: Mutex<State>,
    issuing: Mutex<()>,
    /// What reads are about to copy. Taken last.
    guards: Mutex<HashMap<ContentKey, Vec<Range<u64>>>>,
    /// Wakes the timer task earlier than it meant to.
    timer: Arc<Notify>,
    /// The torrents that reads wait for and whose peers send nothing.
    starving: watch::Sender<BTreeSet<InfoHash>>,
    /// Told when a torrent is out of the engine or its resume data came.
    changed: Notify,
    saver: Saver,
    /// Set when hashing in the background is to end.
    cancelled: Arc<AtomicBool>,
    /// Where requests run: whoever changes the state may be no part of a runtime.
    runtime: tokio::runtime::Handle,
}

/// Locks. What a panicking thread left is still consistent: no code between two changes of state can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

impl Fetch {
    /// Makes the scheduler, with two tasks of its own on the current tokio runtime. Nothing else happens until a
    /// revision is read, fetched or seeded.
    pub fn new(engine: Arc<dyn Swarms>, paths: Paths, settings: FetchSettings) -> Arc<Self> {
        let settings = Arc::new(settings);
        let timer = Arc::new(Notify::new());
        let fetch = Arc::new_cyclic(|myself| Self {
            myself: myself.clone(),
            cancelled: Arc::default(),
            engine,
            saver: Saver::start(paths.clone()),
            paths,
            state: Mutex::new(State::new(settings.clone(), timer.clone(), Instant::now())),
            settings,
            issuing: Mutex::new(()),
            guards: Mutex::default(),
            timer,
            changed: Notify::new(),
            starving: watch::Sender::default(),
            runtime: tokio::runtime::Handle::current(),
        });
        tokio::spawn(timer::run(Arc::downgrade(&fetch), fetch.timer.clone()));
        fetch
    }

    /// Changes the state, then issues what that means for the engine.
    fn with<R>(&self, change: impl FnOnce(&mut State, Instant) -> R) -> R {
        let (result, earlier, nothing_to_say) = {
            let mut state = lock(&self.state);
            let now = Instant::now();
            let result = change(&mut state, now);
            state.settle(now);
            (result, state.is_due_earlier(), state.outbox.is_empty())
        };
        if earlier {
            self.timer.notify_one();
        }
        if !nothing_to_say {
            self.issue();
        }
        result
    }

    /// Takes in what happened in the engine. Called by one task, in order.
    pub fn handle(&self, event: Event) {
        self.take(event);
    }

    /// Joins the swarm of a revision, to upload what is here. Idempotent. `Broken` if the engine refuses it, and
    /// for a while after it did.
    pub fn join(&self, revision: &Arc<StoredRevision>) -> Result<(), ReadError> {
        self.with(|state, now| state.join(revision, now))?;
        let ih = &revision.manifest.torrent.info_hash;
        // The command has been issued, by us or by somebody we waited for.
        match lock(&self.state).transfers.get(ih).map(|t| &t.phase) {
            Some(transfer::Phase::Failed { why, .. }) => Err(ReadError::Broken(why.clone())),
            _ => Ok(()),
        }
    }

    /// Names hosts that have a revision, besides those that the settings name for all. They are tried whenever its
    /// swarm is searched, until it is left.
    pub fn introduce(&self, info_hash: &InfoHash, peers: &[std::net::SocketAddr]) {
        self.with(|state, _| state.introduce(*info_hash, peers));
    }

    /// [`Self::introduce`] for all swarms that are joined.
    pub fn introduce_to_all(&self, peers: &[std::net::SocketAddr]) {
        self.with(|state, _| {
            let joined: Vec<InfoHash> = state.transfers.keys().copied().collect();
            for info_hash in joined {
                state.introduce(info_hash, peers);
            }
        });
    }

    /// Whether a swarm is joined in which something is sent or may be: bytes of it are here, or a read waits.
    pub fn has_work(&self) -> bool {
        let state = lock(&self.state);
        state.transfers.iter().any(|(info_hash, transfer)| {
            let shares = state.exposure(info_hash) != Exposure::Hidden && transfer.revision.held_bytes() > 0;
            shares || state.has_waiters(info_hash)
        })
    }

    /// The torrents that reads wait for while no peer of theirs sends anything, kept up to date: more hosts that have
    /// them are to be [introduced](Self::introduce).
    pub fn starving(&self) -> watch::Receiver<BTreeSet<InfoHash>> {
        self.starving.subscribe()
    }

    /// Says who may hear of a torrent, and tells whether that is a change; one that is in the engine starts anew then.
    /// Public until said.
    pub fn expose(&self, info_hash: &InfoHash, exposure: Exposure) -> bool {
        self.with(|state, now| state.expose(*info_hash, exposure, now))
    }

    /// Who may hear of a torrent.
    pub fn exposure(&self, info_hash: &InfoHash) -> Exposure {
        lock(&self.state).exposure(info_hash)
    }

    /// Other contents are reserved than before (see [`Store::withheld`](crate::store::Store)): torrents that offer
    /// their bytes are added again without them.
    pub fn withdraw_reserved(&self) {
        self.with(|state, now| state.withdraw_reserved(now));
    }

    /// Leaves a swarm and fails its waiting reads with `Left`.
    pub fn leave(&self, info_hash: &InfoHash) {
        self.with(|state, now| state.leave(*info_hash, now));
    }

    /// The files of a revision stand elsewhere now, or bytes of them were found here: its torrent goes on with
    /// that. Nobody who waits notices. Does nothing where nothing changed.
    pub fn relocate(&self, revision: &Arc<StoredRevision>) {
        self.with(|state, now| state.relocate(revision, now));
    }

    /// Reads bytes `offset..offset + len` of a file (cut at its end) when all are already here.
    pub fn try_read(&self, file: &FileRef, offset: u64, len: u64) -> Option<Vec<u8>> {
        let range = file.cut(offset, len);
        if range.is_empty() {
            return Some(Vec::new());
        }
        let bytes = match file.content().read(range.clone()) {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!(path = %file.content().path().display(), %error, "Verified bytes could not be read.");
                return None;
            }
        };
        // A file outside the cache lacks only what is wrong in it, which is not fetched ahead.
        if !file.content().is_complete() && !file.content().is_placed() {
            self.learn_tensors(file);
            self.with(|state, now| state.touch(file, range, now));
        }
        Some(bytes)
    }

    /// Reads bytes `offset..offset + len` of a file, cut at its end, waiting for pieces up to the read timeout.
    /// Dropping the future takes the wish back.
    pub async fn read(self: &Arc<Self>, file: &FileRef, offset: u64, len: u64) -> Result<Vec<u8>, ReadError> {
        let range = file.cut(offset, len);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let _guard = self.guard(file.content(), &range);
        let mut trouble = "the bytes were thrown away while they were read".to_owned();
        let (began, mut pause) = (Instant::now(), SHORTAGE_PAUSE);
        let mut attempts = 0;
        // Bytes that give way to those of another read come again: that is no failed attempt.
        while attempts < ATTEMPTS && began.elapsed() < self.settings.read_timeout {
            self.make_fetchable(file, &range).await;
            self.learn_tensors(file);
            let wish = Wish { file: file.clone(), range: range.clone(), kind: Kind::Read };
            for parked in self.park(vec![wish], self.settings.read_timeout)? {
                parked.answered().await?;
            }
            let (content, bytes) = (file.content().clone(), range.clone());
            // A panic in there was reported; a runtime that goes down drops this future too.
            let read = tokio::task::spawn_blocking(move || content.read(bytes)).await;
            match read.map_err(|_| ReadError::Stopped)? {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => {}
                Err(error) if descriptors::is_shortage(&error) && began.elapsed() < SHORTAGE_WITHIN => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => {
                    let path = file.content().path();
                    tracing::warn!(path = %path.display(), %error, "Verified bytes could not be read.");
                    trouble = format!("{}: {error}", path.display());
                    attempts += 1;
                }
            }
        }
        Err(ReadError::Disk(trouble))
    }

    /// Fetches whole files (indices into the manifest). Returns when all are verified, or fails when nothing has
    /// come for `stall_timeout`. Dropping the future stops the fetching.
    pub async fn fetch_files(
        self: &Arc<Self>,
        revision: &Arc<StoredRevision>,
        files: &[usize],
        stall_timeout: Duration,
    ) -> Result<(), ReadError> {
        let wishes = files.iter().map(|&file| {
            let file = FileRef { revision: revision.clone(), file };
            Wish { range: 0..file.content().len(), file, kind: Kind::Job }
        });
        let wishes: Vec<Wish> = wishes.filter(|w| !w.range.is_empty()).collect();
        for wish in &wishes {
            self.make_fetchable(&wish.file, &wish.range).await;
        }
        for parked in self.park(wishes, stall_timeout)? {
            parked.answered().await?;
        }
        Ok(())
    }

    /// Has bytes that are wrong in a file outside the cache fetched to the cache: the file is never written to.
    async fn make_fetchable(&self, file: &FileRef, range: &Range<u64>) {
        let content = file.content();
        if content.has(range.clone()) || !content.is_placed() {
            return;
        }
        let (moving, bytes) = (content.clone(), range.clone());
        let moved = tokio::task::spawn_blocking(move || moving.make_fetchable(&bytes)).await;
        if let Ok(Err(error)) = moved {
            tracing::warn!(path = %content.path().display(), %error, "A damaged file could not be left for the cache.");
        }
    }

    /// Parks all wishes at once. Those whose bytes are here give nothing to wait for.
    fn park(&self, wishes: Vec<Wish>, span: Duration) -> Result<Vec<Parked<'_>>, ReadError> {
        let (parked, refused) = self.with(|state, now| {
            let mut parked = Vec::new();
            for wish in &wishes {
                match state.park(&wish.file, &wish.range, wish.kind, span, now) {
                    Ok(Parking::Ready) => {}
                    Ok(Parking::Waits(root, id, answer)) => parked.push((root, id, answer)),
                    Err(why) => return (parked, Err(why)),
                }
            }
            (parked, Ok(()))
        });
        // Made before the refusal is told, so that they are taken out again.
        let parked: Vec<_> =
            parked.into_iter().map(|(root, id, answer)| Parked::new(self, root, id, answer)).collect();
        refused.map(|()| parked)
    }

    /// The last handle of a file was closed: what was wanted ahead of its readers no longer is.
    pub fn released(&self, file: &FileRef) {
        if let Some(root) = file.content().key() {
            self.with(|state, _| state.drop_windows(&root));
        }
    }

    /// Fails all waiting reads with `Stopped`, and every later one.
    pub fn stop(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.with(|state, _| {
            state.stopped = true;
            state.answer_all(&Err(ReadError::Stopped), |_| true);
            for root in state.hot.iter().copied().collect::<Vec<_>>() {
                state.drop_windows(&root);
            }
        });
    }

    /// Parses the header of a `.safetensors` file once it is here.
    fn learn_tensors(&self, file: &FileRef) {
        let content = file.content();
        let Some(root) = content.key() else { return };
        let unread =
            |state: &State| state.contents.get(&root).is_some_and(|c| c.shape == tensors::Shape::Unread);
        if !unread(&lock(&self.state)) {
            return;
        }
        if let Some(shape) = tensors::read_shape(content)
            && let Some(content) = lock(&self.state).contents.get_mut(&root)
        {
            content.shape = shape;
        }
    }
}

/// Bytes that somebody wants to wait for.
struct Wish {
    file: FileRef,
    range: Range<u64>,
    kind: Kind,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        // The timer task finds that there is nothing left to do.
        self.timer.notify_one();
    }
}
