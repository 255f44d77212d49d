//! What to ask the web for next, for one torrent: the policy.

use std::collections::HashSet;
use std::ops::Range;

use tokio::time::Instant;

use super::requests::TransferWeb;
use super::sources::{Choice, Servers};
use super::{MAX_REFUSED, PATIENCE, plan};
use crate::fetch::transfer::Transfer;
use crate::fetch::wants::Level;
use crate::model::{PieceHashes, PieceIndex};

/// So many pieces that are not due yet, and the others are taken to be like them.
const MAX_EARLY: usize = 64;

/// Looks at one torrent to decide what to ask the web for.
pub(super) struct Look<'a> {
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
pub(super) enum Found {
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
    /// Looks now. None where no hashes are known.
    pub(super) fn at(transfer: &'a Transfer, web: &'a TransferWeb, now: Instant) -> Option<Self> {
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

    /// What to ask for next: first what readers wait for, then what they are expected to, then whole files.
    pub(super) fn next(&self, servers: &Servers, for_readers_only: bool) -> Found {
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
