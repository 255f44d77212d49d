//! Chooses the next request over HTTP of one torrent.

use std::collections::HashSet;
use std::ops::Range;

use tokio::time::Instant;

use super::sources::{Availability, Servers};
use super::transfer_web::TransferWeb;
use super::{MAX_REFUSED, PATIENCE, merge};
use crate::fetch::claim::ClaimLevel;
use crate::fetch::transfer::Transfer;
use crate::model::{PieceHashes, PieceIndex};

/// After this many pieces that are not due, the remaining pieces are assumed not to be due either.
const MAX_EARLY: usize = 64;

/// The facts on which the choice for one torrent depends.
pub(super) struct Choices<'a> {
    transfer: &'a Transfer,
    web: &'a TransferWeb,
    hashes: &'a PieceHashes,
    now: Instant,
    /// The last time at which a peer sent something, or the torrent started.
    silent_since: Option<Instant>,
    /// Files of which a reader has waited too long for a piece, whether or not peers send other pieces.
    impatient: HashSet<usize>,
}

/// Pieces of a file to request from a source, under an address.
pub(super) struct RequestPlan {
    pub source: usize,
    pub url: String,
    pub file: usize,
    pub pieces: Range<u32>,
    /// Whether a reader waits for one of them, or is expected to read it soon.
    pub for_reader: bool,
}

pub(super) enum NextRequest {
    Start(RequestPlan),
    /// No request is due, and none will be before `until`.
    None {
        until: Option<Instant>,
    },
}

/// Whether a claimed piece can be requested.
enum PieceChoice {
    /// Now, from a source, under an address; the last field is the index of the file.
    Now(usize, String, usize),
    /// Not before this time.
    Later(Instant),
    /// No: the piece is verified or under way, or no source has it.
    No,
    /// No, and no other piece of this file either.
    NoneOfFile(usize),
}

impl<'a> Choices<'a> {
    /// None where no hashes are known.
    pub(super) fn at(transfer: &'a Transfer, now: Instant) -> Option<Self> {
        let web = transfer.web.as_ref()?;
        let hashes = web.hashes.as_deref()?;
        let choices = Self {
            transfer,
            web,
            hashes,
            now,
            silent_since: transfer.peers.last_sent.max(transfer.running_since),
            impatient: HashSet::new(),
        };
        let late = |since: Instant| choices.asked_since(since) + PATIENCE <= now;
        let late = transfer.wants.readings().filter(|r| r.level == ClaimLevel::Urgent && late(r.since));
        let impatient = late.filter_map(|r| choices.file_of(r.piece)).collect();
        Some(Self { impatient, ..choices })
    }

    /// Since when peers have been asked for a piece, given since when it has been claimed.
    fn asked_since(&self, claimed: Instant) -> Instant {
        claimed.max(self.transfer.running_since.unwrap_or(claimed))
    }

    fn file_of(&self, piece: u32) -> Option<usize> {
        self.transfer.revision.layout.owner(PieceIndex(piece)).map(|(file, _)| file)
    }

    /// The earliest time of a request for a claimed piece.
    fn due_at(&self, piece: u32) -> Option<Instant> {
        let wants = &self.transfer.wants;
        let since = wants.since(piece)?;
        if self.web.alone {
            return Some(since);
        }
        let unsent = since.max(self.silent_since.unwrap_or(since)) + PATIENCE;
        let reading = wants.reading(piece).filter(|reading| {
            reading.level == ClaimLevel::Urgent
                || self.file_of(piece).is_some_and(|file| self.impatient.contains(&file))
        });
        Some(reading.map_or(unsent, |reading| unsent.min(self.asked_since(reading.since) + PATIENCE)))
    }

    fn is_due(&self, piece: u32) -> bool {
        self.due_at(piece).is_some_and(|at| at <= self.now)
    }

    /// Whether a piece is neither verified nor under way, and may be requested.
    fn is_missing(&self, piece: u32) -> bool {
        let refused = self.web.refused.get(&piece).is_some_and(|&times| times >= MAX_REFUSED);
        let transfer = self.transfer;
        let given =
            transfer.handed.contains(piece) || transfer.unproved.holds(piece) || transfer.space.holds(piece);
        if refused || given || transfer.engine_has.contains(piece as usize) || self.web.is_under_way(piece) {
            return false;
        }
        let revision = &transfer.revision;
        let owner = revision.layout.owner(PieceIndex(piece));
        owner.is_some_and(|(file, bytes)| !revision.contents[file].has(bytes))
    }

    /// The next request: first for pieces that readers wait for, then for pieces ahead of them, then for whole files.
    pub(super) fn next(&self, servers: &Servers, for_readers_only: bool) -> NextRequest {
        let mut next: Option<Instant> = None;
        let mut later = |at: Instant| next = Some(next.map_or(at, |before| before.min(at)));
        let wants = &self.transfer.wants;
        let mut readings: Vec<(bool, u32)> =
            wants.readings().map(|r| (r.level != ClaimLevel::Urgent, r.piece)).collect();
        readings.sort_unstable();
        for (_, piece) in readings {
            match self.consider(piece, servers) {
                PieceChoice::Now(source, url, file) => return self.start(source, url, file, piece, true),
                PieceChoice::Later(at) => later(at),
                PieceChoice::No | PieceChoice::NoneOfFile(_) => {}
            }
        }
        // While peers send something, nothing of whole files is due.
        let peers_until = self.silent_since.map(|at| at + PATIENCE).filter(|&at| at > self.now);
        if let Some(until) = peers_until.filter(|_| !self.web.alone && wants.any()) {
            later(until);
            return NextRequest::None { until: next };
        }
        let mut from = 0;
        let mut too_early = 0;
        while let Some(piece) =
            wants.next_claimed(from).filter(|_| !for_readers_only && too_early < MAX_EARLY)
        {
            from = piece + 1;
            match self.consider(piece, servers) {
                PieceChoice::Now(source, url, file) => return self.start(source, url, file, piece, false),
                PieceChoice::Later(at) => {
                    later(at);
                    too_early += 1;
                }
                PieceChoice::No => {}
                PieceChoice::NoneOfFile(file) => {
                    let span = self.transfer.revision.layout.spans()[file];
                    from = span.first_piece + span.pieces;
                }
            }
        }
        NextRequest::None { until: next }
    }

    /// Whether a claimed piece can be requested now.
    fn consider(&self, piece: u32, servers: &Servers) -> PieceChoice {
        let Some(file) = self.file_of(piece) else { return PieceChoice::No };
        if !self.hashes.knows(file) {
            return PieceChoice::NoneOfFile(file);
        }
        if let Some(at) = self.due_at(piece).filter(|&at| at > self.now) {
            return PieceChoice::Later(at);
        }
        if !self.is_missing(piece) {
            return PieceChoice::No;
        }
        let path = &self.transfer.revision.manifest.files[file].path;
        match self.web.sources.choose(file, path, servers, self.now) {
            Availability::Now(source, url) => PieceChoice::Now(source, url, file),
            Availability::Later(until) => PieceChoice::Later(until),
            Availability::Never => PieceChoice::NoneOfFile(file),
        }
    }

    fn start(&self, source: usize, url: String, file: usize, first: u32, for_reader: bool) -> NextRequest {
        let layout = &self.transfer.revision.layout;
        let pieces = merge::extend(
            layout,
            first,
            |piece| self.is_missing(piece) && self.is_due(piece),
            |piece| self.is_missing(piece),
        );
        NextRequest::Start(RequestPlan { source, url, file, pieces, for_reader })
    }
}
