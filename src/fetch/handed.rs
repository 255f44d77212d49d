//! Pieces of one torrent that this node has handed to the engine, and that the engine has not judged yet.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// How long the engine may take to verify a piece that it was given.
const VERIFY_WITHIN: Duration = Duration::from_secs(60);

/// Where a piece came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Web,
    /// Cached bytes that are not proved.
    Cache,
}

#[derive(Debug)]
struct Piece {
    source: Source,
    until: Instant,
    _memory: OwnedSemaphorePermit,
}

/// The pieces, each with the memory it takes.
#[derive(Debug, Default)]
pub(super) struct Handed(BTreeMap<u32, Piece>);

impl Handed {
    /// The engine gets a piece. Returns until when it is to be judged.
    pub(super) fn insert(
        &mut self,
        piece: u32,
        source: Source,
        memory: OwnedSemaphorePermit,
        now: Instant,
    ) -> Instant {
        let until = now + VERIFY_WITHIN;
        self.0.insert(piece, Piece { source, until, _memory: memory });
        until
    }

    /// The engine has judged a piece. Returns where it came from, if it was handed over.
    pub(super) fn take(&mut self, piece: u32) -> Option<Source> {
        self.0.remove(&piece).map(|piece| piece.source)
    }

    pub(super) fn contains(&self, piece: u32) -> bool {
        self.0.contains_key(&piece)
    }

    /// The engine lost them.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes out the pieces whose time is over.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<(u32, Source)> {
        let overdue = self.0.iter().filter(|(_, piece)| piece.until <= now);
        let numbers: Vec<u32> = overdue.map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| Some((number, self.0.remove(&number)?.source))).collect()
    }

    /// When the time of the next piece is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|piece| piece.until).min()
    }
}
