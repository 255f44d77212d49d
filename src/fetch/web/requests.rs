//! What is under way over HTTP: the web's part of the one state.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use super::sources::{Choice, Servers, Sources};
use super::{
    FOR_READERS, Job, MAX_REFUSED, MEMORY_BLOCKS, MIN_REQUEST, PATIENCE, PER_NODE, PER_TORRENT,
    VERIFY_WITHIN, WebError, WebRequest, WebSettings, plan,
};
use crate::fetch::state::{Command, State};
use crate::fetch::transfer::Transfer;
use crate::fetch::wants::{ClaimId, Level};
use crate::model::{InfoHash, Manifest, PieceHashes, PieceIndex};

/// What all torrents share.
#[derive(Debug)]
pub(in crate::fetch) struct WebShared {
    slots: Arc<Semaphore>,
    /// Bytes on their way, in blocks.
    memory: Arc<Semaphore>,
    servers: Servers,
    /// Wakes the timer task, which looks who can use a slot that became free.
    freed: Arc<Notify>,
}

impl WebShared {
    pub(in crate::fetch) fn new(freed: Arc<Notify>) -> Self {
        let (slots, memory) = (Semaphore::new(PER_NODE), Semaphore::new(MEMORY_BLOCKS));
        Self { slots: Arc::new(slots), memory: Arc::new(memory), servers: Servers::default(), freed }
    }

    fn slot(&self, for_reader: bool) -> Option<Slot> {
        if !for_reader && self.slots.available_permits() <= 2 * FOR_READERS {
            return None;
        }
        let permit = self.slots.clone().try_acquire_owned().ok()?;
        Some(Slot { permit: Some(permit), freed: self.freed.clone() })
    }
}

/// The right to one of the node's requests.
#[derive(Debug)]
struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    freed: Arc<Notify>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.permit = None;
        self.freed.notify_one();
    }
}

/// One request. Dropping it ends it.
#[derive(Debug)]
struct Running {
    id: ClaimId,
    source: usize,
    file: usize,
    /// The pieces that are still to come.
    rest: Range<u32>,
    /// Those that somebody wanted when it began.
    wanted: HashSet<u32>,
    _slot: Slot,
    /// The task ends when this is dropped.
    _end: oneshot::Sender<()>,
}

/// A piece that the engine was given and has not said anything about.
#[derive(Debug)]
struct Given {
    until: Instant,
    _memory: OwnedSemaphorePermit,
}

/// Bytes a second, over the last whole second.
#[derive(Debug, Default)]
struct Meter {
    second: Option<Instant>,
    bytes: u64,
    rate: u64,
}

impl Meter {
    fn add(&mut self, bytes: u64, now: Instant) {
        self.rate = self.rate(now);
        match self.second {
            Some(begun) if now < begun + Duration::from_secs(1) => self.bytes += bytes,
            _ => (self.second, self.bytes) = (Some(now), bytes),
        }
    }

    fn rate(&self, now: Instant) -> u64 {
        match self.second {
            Some(begun) if now < begun + Duration::from_secs(1) => self.rate,
            Some(begun) if now < begun + Duration::from_secs(2) => self.bytes,
            _ => 0,
        }
    }
}

/// The web's part of one torrent, where it has one.
#[derive(Debug)]
pub(in crate::fetch) struct TransferWeb {
    sources: Sources,
    /// Known once it was added.
    hashes: Option<Arc<PieceHashes>>,
    requests: Vec<Running>,
    given: BTreeMap<u32, Given>,
    /// How often the engine refused a piece.
    refused: HashMap<u32, u32>,
    /// Nobody delivered when it was last needed, and nobody has come since.
    alone: bool,
    /// When it was last looked at.
    looked: Option<Instant>,
    /// When the clock next matters.
    next: Option<Instant>,
    received: u64,
    meter: Meter,
    /// Why the last request failed, until one succeeds.
    pub trouble: Option<String>,
}

impl TransferWeb {
    /// For a torrent whose manifest says where its files are on the web.
    pub(in crate::fetch) fn of(manifest: &Manifest, settings: Option<&WebSettings>) -> Option<Self> {
        let sources = Sources::of(manifest, &settings?.endpoint)?;
        Some(Self {
            sources,
            hashes: None,
            requests: Vec::new(),
            given: BTreeMap::new(),
            refused: HashMap::new(),
            alone: false,
            looked: None,
            next: None,
            received: 0,
            meter: Meter::default(),
            trouble: None,
        })
    }

    /// The torrent was added, and these hashes are known.
    pub(in crate::fetch) fn knows(&mut self, hashes: Arc<PieceHashes>) {
        self.hashes = Some(hashes);
    }

    /// The torrent is out of the engine: all requests end.
    pub(in crate::fetch) fn end_all(&mut self) {
        self.requests.clear();
        self.given.clear();
        self.next = None;
    }

    /// The engine lost what it was given.
    pub(in crate::fetch) fn forget_given(&mut self) {
        self.given.clear();
    }

    /// Whether a piece that is here now came over HTTP. Asked once.
    pub(in crate::fetch) fn delivered(&mut self, piece: u32) -> bool {
        self.given.remove(&piece).is_some()
    }

    /// Whether a piece that the engine refused came over HTTP. Asked once.
    pub(in crate::fetch) fn was_refused(&mut self, piece: u32) -> bool {
        let ours = self.given.remove(&piece).is_some();
        if ours {
            *self.refused.entry(piece).or_default() += 1;
        }
        ours
    }

    /// A peer is here or sent something: it has its time again.
    pub(in crate::fetch) fn not_alone(&mut self) {
        self.alone = false;
    }

    /// When the clock next matters.
    pub(in crate::fetch) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Bytes received over HTTP, and how many a second.
    pub(in crate::fetch) fn figures(&self, now: Instant) -> (u64, u64) {
        (self.received, self.meter.rate(now))
    }

    fn is_under_way(&self, piece: u32) -> bool {
        self.given.contains_key(&piece) || self.requests.iter().any(|r| r.rest.contains(&piece))
    }

    fn running(&mut self, id: ClaimId) -> Option<&mut Running> {
        self.requests.iter_mut().find(|r| r.id == id)
    }
}

/// Looks at one torrent to decide what to ask the web for.
struct Look<'a> {
    transfer: &'a Transfer,
    web: &'a TransferWeb,
    hashes: &'a PieceHashes,
    now: Instant,
    /// Since when no peer has sent anything, or could have.
    silent_since: Option<Instant>,
    /// Files of which a reader has waited too long for a piece, whatever peers send.
    impatient: HashSet<usize>,
}

/// What a look found.
enum Found {
    Start { source: usize, url: String, file: usize, pieces: Range<u32>, for_reader: bool },
    Nothing { next: Option<Instant> },
}

/// What is to be done about a claimed piece.
enum Verdict {
    /// Ask this source for it, under this address; the file is that of this number.
    Ask(usize, String, usize),
    /// Nothing before then.
    Later(Instant),
    /// Nothing: it is here or under way, or cannot come.
    No,
    /// Nothing, as about all pieces of this file.
    NoneOfFile(usize),
}

impl<'a> Look<'a> {
    fn at(transfer: &'a Transfer, web: &'a TransferWeb, now: Instant) -> Option<Self> {
        let hashes = web.hashes.as_deref()?;
        let look = Self {
            transfer,
            web,
            hashes,
            now,
            silent_since: transfer.last_from_peers.max(transfer.running_since),
            impatient: HashSet::new(),
        };
        let late = |since: Instant| look.asked_since(since) + PATIENCE <= now;
        let late = transfer.wants.readings().filter(|r| r.level == Level::Urgent && late(r.since));
        let impatient = late.filter_map(|r| look.file_of(r.piece)).collect();
        Some(Self { impatient, ..look })
    }

    /// Since when peers have been asked for a piece that has been claimed since then.
    fn asked_since(&self, claimed: Instant) -> Instant {
        claimed.max(self.transfer.running_since.unwrap_or(claimed))
    }

    fn file_of(&self, piece: u32) -> Option<usize> {
        self.transfer.revision.layout.owner(PieceIndex(piece)).map(|(file, _)| file)
    }

    /// From when on a claimed piece may be asked for.
    fn due_at(&self, piece: u32) -> Option<Instant> {
        let wants = &self.transfer.wants;
        let since = wants.since(piece)?;
        if self.web.alone {
            return Some(since);
        }
        let unsent = since.max(self.silent_since.unwrap_or(since)) + PATIENCE;
        let reading = wants.reading(piece).filter(|reading| {
            reading.level == Level::Urgent
                || self.file_of(piece).is_some_and(|file| self.impatient.contains(&file))
        });
        Some(reading.map_or(unsent, |reading| unsent.min(self.asked_since(reading.since) + PATIENCE)))
    }

    fn is_due(&self, piece: u32) -> bool {
        self.due_at(piece).is_some_and(|at| at <= self.now)
    }

    /// Whether a piece is neither here nor on its way, and could come.
    fn is_missing(&self, piece: u32) -> bool {
        let refused = self.web.refused.get(&piece).is_some_and(|&times| times >= MAX_REFUSED);
        if refused || self.transfer.engine_has.contains(piece as usize) || self.web.is_under_way(piece) {
            return false;
        }
        let revision = &self.transfer.revision;
        let owner = revision.layout.owner(PieceIndex(piece));
        owner.is_some_and(|(file, bytes)| !revision.contents[file].has(bytes))
    }

    /// What to ask for next: first what readers wait for, then what they are expected to, then whole files.
    fn next(&self, servers: &Servers, for_readers_only: bool) -> Found {
        let mut next: Option<Instant> = None;
        let mut later = |at: Instant| next = Some(next.map_or(at, |before| before.min(at)));
        let wants = &self.transfer.wants;
        let mut readings: Vec<(bool, u32)> =
            wants.readings().map(|r| (r.level != Level::Urgent, r.piece)).collect();
        readings.sort_unstable();
        for (_, piece) in readings {
            match self.consider(piece, servers) {
                Verdict::Ask(source, url, file) => return self.start(source, url, file, piece, true),
                Verdict::Later(at) => later(at),
                Verdict::No | Verdict::NoneOfFile(_) => {}
            }
        }
        // While peers send something, nothing of whole files is due.
        let peers_until = self.silent_since.map(|at| at + PATIENCE).filter(|&at| at > self.now);
        if let Some(until) = peers_until.filter(|_| !self.web.alone && wants.any()) {
            later(until);
            return Found::Nothing { next };
        }
        let mut from = 0;
        let mut too_early = 0;
        while let Some(piece) =
            wants.next_claimed(from).filter(|_| !for_readers_only && too_early < MAX_EARLY)
        {
            from = piece + 1;
            match self.consider(piece, servers) {
                Verdict::Ask(source, url, file) => return self.start(source, url, file, piece, false),
                Verdict::Later(at) => {
                    later(at);
                    too_early += 1;
                }
                Verdict::No => {}
                Verdict::NoneOfFile(file) => {
                    let span = self.transfer.revision.layout.spans()[file];
                    from = span.first_piece + span.pieces;
                }
            }
        }
        Found::Nothing { next }
    }

    /// Whether a claimed piece can be asked for now.
    fn consider(&self, piece: u32, servers: &Servers) -> Verdict {
        let Some(file) = self.file_of(piece) else { return Verdict::No };
        if !self.hashes.knows(file) {
            return Verdict::NoneOfFile(file);
        }
        if let Some(at) = self.due_at(piece).filter(|&at| at > self.now) {
            return Verdict::Later(at);
        }
        if !self.is_missing(piece) {
            return Verdict::No;
        }
        let path = &self.transfer.revision.manifest.files[file].path;
        match self.web.sources.choose(file, path, servers, self.now) {
            Choice::Ask(source, url) => Verdict::Ask(source, url, file),
            Choice::Wait(until) => Verdict::Later(until),
            Choice::Never => Verdict::NoneOfFile(file),
        }
    }

    fn start(&self, source: usize, url: String, file: usize, first: u32, for_reader: bool) -> Found {
        let layout = &self.transfer.revision.layout;
        let pieces = plan::extend(
            layout,
            first,
            |piece| self.is_missing(piece) && self.is_due(piece),
            |piece| self.is_missing(piece),
        );
        Found::Start { source, url, file, pieces, for_reader }
    }
}

/// So many pieces that are not due yet, and the others are taken to be like them.
const MAX_EARLY: usize = 64;

/// How long after one look the next comes at the earliest: with small pieces, much happens in one second.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl State {
    /// Ends requests that nobody needs, and begins those that are due.
    pub(in crate::fetch) fn ask_the_web(&mut self, ih: InfoHash, now: Instant) {
        self.end_needless_requests(ih, now);
        let Some(web) = self.transfers.get_mut(&ih).and_then(|t| t.web.as_mut()) else { return };
        if let Some(next) = web.looked.map(|at| at + LOOK_EVERY).filter(|&next| next > now) {
            web.next = Some(web.next.map_or(next, |at| at.min(next)));
            return self.look_at(next);
        }
        web.looked = Some(now);
        loop {
            let Some(transfer) = self.transfers.get(&ih) else { return };
            let Some(web) = &transfer.web else { return };
            let full = web.requests.len() >= PER_TORRENT;
            let found = match Look::at(transfer, web, now).filter(|_| transfer.running().is_some() && !full) {
                Some(look) if transfer.wants.any() => {
                    let for_readers_only = web.requests.len() >= PER_TORRENT - FOR_READERS;
                    look.next(&self.web.servers, for_readers_only)
                }
                _ => Found::Nothing { next: None },
            };
            match found {
                Found::Start { source, url, file, pieces, for_reader } => {
                    // When one is free, the timer looks again.
                    let Some(slot) = self.web.slot(for_reader) else {
                        return self.look_at_the_web(ih, None);
                    };
                    self.begin_request(ih, source, url, file, pieces, slot);
                }
                Found::Nothing { next } => return self.look_at_the_web(ih, next),
            }
        }
    }

    fn look_at_the_web(&mut self, ih: InfoHash, next: Option<Instant>) {
        let Some(web) = self.transfers.get_mut(&ih).and_then(|t| t.web.as_mut()) else { return };
        let verified = web.given.values().map(|given| given.until).min();
        web.next = next.into_iter().chain(verified).min();
        if let Some(next) = web.next {
            self.look_at(next);
        }
    }

    fn begin_request(
        &mut self,
        ih: InfoHash,
        source: usize,
        url: String,
        file: usize,
        pieces: Range<u32>,
        slot: Slot,
    ) {
        let id = self.new_id();
        let memory = self.web.memory.clone();
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        let Some(web) = &mut transfer.web else { return };
        let Some(hashes) = web.hashes.clone() else { return };
        let span = transfer.revision.layout.spans()[file];
        let piece_length = u64::from(transfer.revision.layout.piece_length());
        let at = |piece: u32| (u64::from(piece - span.first_piece) * piece_length).min(span.len);
        let request = WebRequest { url, range: at(pieces.start)..at(pieces.end), file_len: span.len };
        tracing::debug!(%ih, url = request.url, range = ?request.range, "Asking the web.");
        let (end, ended) = oneshot::channel();
        let job = Job {
            ih,
            id,
            file,
            request,
            first_piece: span.first_piece,
            pieces: pieces.clone(),
            piece_length,
            hashes,
            memory,
            ended,
        };
        // Only where peers were given their time: a reader may also have waited beside slow ones.
        web.alone |= transfer.peers.is_empty();
        let wanted = pieces.clone().filter(|&p| transfer.wants.is_claimed(p)).collect();
        web.requests.push(Running { id, source, file, rest: pieces, wanted, _slot: slot, _end: end });
        self.outbox.push_back(Command::Ask(Box::new(job)));
    }

    /// A request goes on while somebody claims one of its pieces; and where all that was wanted of it has come, to
    /// the end of what was taken along, if that is little.
    fn end_needless_requests(&mut self, ih: InfoHash, now: Instant) {
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        let Some(web) = &mut transfer.web else { return };
        let (wants, layout) = (&transfer.wants, &transfer.revision.layout);
        web.requests.retain(|request| {
            let rest = request.rest.clone();
            if rest.clone().any(|piece| wants.is_claimed(piece)) {
                return true;
            }
            let gone = rest.clone().any(|piece| request.wanted.contains(&piece));
            let bytes = u64::from(rest.end - rest.start) * u64::from(layout.piece_length());
            !gone && bytes <= MIN_REQUEST
        });
        let before = web.given.len();
        web.given.retain(|_, given| given.until > now);
        if web.given.len() < before {
            web.trouble = Some("the engine does not take in what came over HTTP".to_owned());
        }
    }

    /// Bytes came over HTTP.
    pub(super) fn web_bytes_came(&mut self, ih: InfoHash, id: ClaimId, bytes: u64, now: Instant) {
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        let Some(web) = transfer.web.as_mut().filter(|web| web.requests.iter().any(|r| r.id == id)) else {
            return;
        };
        web.received += bytes;
        web.meter.add(bytes, now);
        transfer.progressed(now);
    }

    /// A piece came over HTTP and is right: the engine gets it, unless it is here by now.
    pub(super) fn web_piece_came(
        &mut self,
        ih: InfoHash,
        id: ClaimId,
        piece: u32,
        bytes: Vec<u8>,
        memory: OwnedSemaphorePermit,
        now: Instant,
    ) {
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        let (Some(engine), Some(web)) = (transfer.running(), &mut transfer.web) else { return };
        let Some(request) = web.running(id) else { return };
        request.rest.start = piece + 1;
        let (source, file) = (request.source, request.file);
        web.sources.delivered(source, file, &mut self.web.servers);
        web.trouble = None;
        self.touched.insert(ih);
        let owner = transfer.revision.layout.owner(PieceIndex(piece));
        let here = owner.is_none_or(|(file, range)| transfer.revision.contents[file].has(range));
        if here || transfer.engine_has.contains(piece as usize) {
            return;
        }
        web.given.insert(piece, Given { until: now + VERIFY_WITHIN, _memory: memory });
        self.outbox.push_back(Command::Give(engine, PieceIndex(piece), bytes));
    }

    /// A request has come to its end.
    pub(super) fn web_request_ended(
        &mut self,
        ih: InfoHash,
        id: ClaimId,
        result: Result<(), WebError>,
        now: Instant,
    ) {
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        let Some(web) = &mut transfer.web else { return };
        let Some(at) = web.requests.iter().position(|r| r.id == id) else { return };
        let request = web.requests.swap_remove(at);
        self.touched.insert(ih);
        if let Err(error) = result {
            tracing::warn!(%ih, %error, "The web did not deliver.");
            web.sources.failed(request.source, request.file, &error, &mut self.web.servers, now);
            web.trouble = Some(error.to_string());
            transfer.last_error = Some(error.to_string());
        }
    }

    /// Looks at all torrents that the web is there for.
    pub(in crate::fetch) fn ask_the_web_for_all(&mut self, now: Instant) {
        let all: Vec<InfoHash> =
            self.transfers.iter().filter(|(_, t)| t.web.is_some()).map(|(ih, _)| *ih).collect();
        for ih in all {
            self.ask_the_web(ih, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_whole_second() {
        let (start, tenth) = (Instant::now(), Duration::from_millis(100));
        let mut meter = Meter::default();
        for i in 0..30 {
            meter.add(10, start + i * tenth);
        }
        assert_eq!(meter.rate(start + 29 * tenth), 100);
        assert_eq!(meter.rate(start + 35 * tenth), 100);
        assert_eq!(meter.rate(start + 45 * tenth), 0);
        assert_eq!(Meter::default().rate(start), 0);
    }
}
