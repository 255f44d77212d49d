//! Reads and whole-file jobs that wait for bytes, and how they are answered.

use std::collections::BTreeMap;
use std::ops::Range;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::claim::{ClaimId, FileUse, TorrentPiece};
use super::deadline::Deadline;
use super::transfer::QUIET;
use super::{FileRef, ReadError};
use crate::model::InfoHash;
use crate::store::ContentKey;

/// Success means that the bytes were verified.
pub(super) type WaitResult = Result<(), ReadError>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitKind {
    /// A read.
    Read,
    /// A whole file is fetched.
    Job,
}

/// Bytes to wait for.
pub(super) struct WaitRequest {
    pub file: FileRef,
    /// Bytes of the file; not empty.
    pub range: Range<u64>,
    pub kind: WaitKind,
    /// Whether the bytes behind it are fetched ahead of the reader.
    pub moves_window: bool,
}

impl WaitRequest {
    /// Whether all of its bytes are verified.
    pub(super) fn is_verified(&self) -> bool {
        self.file.content().has(self.range.clone())
    }
}

/// A read or a job that waits for bytes of a content.
#[derive(Debug)]
pub(super) struct Waiter {
    /// The file that the reader named.
    pub via: FileUse,
    /// The bytes of the file.
    pub range: Range<u64>,
    pub kind: WaitKind,
    pub deadline: Deadline,
    /// The pieces claimed for it.
    pub claims: Vec<TorrentPiece>,
    pub since: Instant,
    /// Whether the torrent that it named is asked in addition to those that it relies on.
    pub spread: bool,
    pub answer: oneshot::Sender<WaitResult>,
}

impl Waiter {
    /// Whether it relies on another torrent and has not asked its own yet.
    pub(super) fn may_spread(&self) -> bool {
        !self.spread && self.claims.iter().any(|(info_hash, _)| *info_hash != self.via.0)
    }

    /// The torrents of its claims and the torrent that it named. A torrent may occur several times.
    pub(super) fn torrents(&self) -> impl Iterator<Item = InfoHash> {
        self.claims.iter().map(|(info_hash, _)| *info_hash).chain([self.via.0])
    }

    /// Whether it named a torrent or waits for pieces of it.
    pub(super) fn concerns(&self, info_hash: &InfoHash) -> bool {
        self.torrents().any(|of| of == *info_hash)
    }
}

/// The waiters of one content.
pub(super) type Waiters = BTreeMap<ClaimId, Waiter>;

/// A waiter's name, and its answer to come.
pub(super) struct Ticket {
    pub key: ContentKey,
    pub id: ClaimId,
    pub answer: oneshot::Receiver<WaitResult>,
}

/// When a deadline of these waiters ends, or one of them has relied on another torrent for long.
pub(super) fn earliest(waiters: &Waiters) -> Option<Instant> {
    let due = |waiter: &Waiter| {
        let due = waiter.deadline.due();
        if waiter.may_spread() { due.min(waiter.since + QUIET) } else { due }
    };
    waiters.values().map(due).min()
}
