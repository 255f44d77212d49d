//! Pieces of one torrent that this node has given to the engine, and that the engine has not verified yet.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// How long the engine may take to verify a piece.
const VERIFY_WITHIN: Duration = Duration::from_secs(60);

/// The origin of a piece that was passed to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HandedFrom {
    Web,
    /// Cached bytes that are not proved.
    Cache,
}

#[derive(Debug)]
struct Piece {
    source: HandedFrom,
    until: Instant,
    _memory: OwnedSemaphorePermit,
}

/// The pieces, each with the permit for its memory.
#[derive(Debug, Default)]
pub(super) struct Handed(BTreeMap<u32, Piece>);

impl Handed {
    /// The engine gets a piece. Returns when its time to verify the piece ends.
    pub(super) fn insert(
        &mut self,
        piece: u32,
        source: HandedFrom,
        memory: OwnedSemaphorePermit,
        now: Instant,
    ) -> Instant {
        let until = now + VERIFY_WITHIN;
        self.0.insert(piece, Piece { source, until, _memory: memory });
        until
    }

    /// The engine has verified or rejected a piece. Returns where the piece came from, if the engine was given it.
    pub(super) fn remove(&mut self, piece: u32) -> Option<HandedFrom> {
        self.0.remove(&piece).map(|piece| piece.source)
    }

    pub(super) fn contains(&self, piece: u32) -> bool {
        self.0.contains_key(&piece)
    }

    /// The engine lost all pieces.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Removes the pieces whose time is over.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<(u32, HandedFrom)> {
        let overdue = self.0.iter().filter(|(_, piece)| piece.until <= now);
        let numbers: Vec<u32> = overdue.map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| Some((number, self.0.remove(&number)?.source))).collect()
    }

    /// When the time of the next piece ends.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|piece| piece.until).min()
    }
}
