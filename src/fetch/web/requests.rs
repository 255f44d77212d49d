//! What is under way over HTTP: the web's part of the one state.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::look::{Found, Look};
use super::meter::Meter;
use super::shared::Slot;
use super::sources::Sources;
use super::{FOR_READERS, Job, MIN_REQUEST, PER_TORRENT, WebError, WebRequest, WebSettings};
use crate::fetch::handed::Source;
use crate::fetch::state::{Command, State};
use crate::fetch::wants::ClaimId;
use crate::model::{InfoHash, Manifest, PieceHashes, PieceIndex};

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

/// The web's part of one torrent, where it has one.
#[derive(Debug)]
pub(in crate::fetch) struct TransferWeb {
    pub(super) sources: Sources,
    /// Known once it was added.
    pub(super) hashes: Option<Arc<PieceHashes>>,
    requests: Vec<Running>,
    /// How often the engine refused a piece.
    pub(super) refused: HashMap<u32, u32>,
    /// Nobody delivered when it was last needed, and nobody has come since.
    pub(super) alone: bool,
    /// When it was last looked at.
    looked: Option<Instant>,
    /// When the clock next matters.
    next: Option<Instant>,
    received: u64,
    meter: Meter,
    /// Requests that failed since the last right piece.
    failed_in_a_row: u32,
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
            refused: HashMap::new(),
            alone: false,
            looked: None,
            next: None,
            received: 0,
            meter: Meter::default(),
            failed_in_a_row: 0,
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
        self.next = None;
    }

    /// The engine refused a piece that came over HTTP.
    pub(in crate::fetch) fn was_refused(&mut self, piece: u32) {
        *self.refused.entry(piece).or_default() += 1;
    }

    /// The engine has not judged a piece that came over HTTP.
    pub(in crate::fetch) fn was_not_judged(&mut self) {
        self.trouble = Some("the engine does not take in what came over HTTP".to_owned());
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

    /// Whether a piece was asked for.
    pub(super) fn is_under_way(&self, piece: u32) -> bool {
        self.requests.iter().any(|r| r.rest.contains(&piece))
    }

    fn running(&mut self, id: ClaimId) -> Option<&mut Running> {
        self.requests.iter_mut().find(|r| r.id == id)
    }
}

/// So many requests without a whole piece, and the bytes of the next no longer count as progress.
const MAX_FAILED: u32 = 8;

/// How long after one look the next comes at the earliest: with small pieces, much happens in one second.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl State {
    /// Ends requests that nobody needs, and begins those that are due.
    pub(in crate::fetch) fn ask_the_web(&mut self, ih: InfoHash, now: Instant) {
        self.end_needless_requests(ih);
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
        web.next = next;
        if let Some(next) = next {
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
    fn end_needless_requests(&mut self, ih: InfoHash) {
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
    }

    /// Bytes came over HTTP.
    pub(super) fn web_bytes_came(&mut self, ih: InfoHash, id: ClaimId, bytes: u64, now: Instant) {
        let Some(transfer) = self.transfers.get_mut(&ih) else { return };
        let Some(web) = transfer.web.as_mut().filter(|web| web.requests.iter().any(|r| r.id == id)) else {
            return;
        };
        web.received += bytes;
        web.meter.add(bytes, now);
        if web.failed_in_a_row < MAX_FAILED {
            transfer.progressed(now);
        }
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
        web.failed_in_a_row = 0;
        self.touched.insert(ih);
        let owner = transfer.revision.layout.owner(PieceIndex(piece));
        let here = owner.is_none_or(|(file, range)| transfer.revision.contents[file].has(range));
        if here || transfer.engine_has.contains(piece as usize) {
            return;
        }
        let until = transfer.handed.insert(piece, Source::Web, memory, now);
        self.outbox.push_back(Command::Give(engine, PieceIndex(piece), bytes));
        self.look_at(until);
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
            web.failed_in_a_row = web.failed_in_a_row.saturating_add(1);
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
