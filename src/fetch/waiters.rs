//! Who waits for which bytes, and how they are answered.

use std::collections::BTreeMap;
use std::ops::Range;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::deadline::Deadline;
use super::transfer::QUIET;
use super::wants::ClaimId;
use super::{Fetch, ReadError};
use crate::model::InfoHash;
use crate::store::ContentKey;

/// What a waiter is told.
pub(super) type Answer = Result<(), ReadError>;

/// Why somebody waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A read.
    Read,
    /// A whole file is fetched.
    Job,
}

/// One who waits for bytes of a content.
#[derive(Debug)]
pub(super) struct Waiter {
    /// The torrent and file that the waiter named.
    pub via: (InfoHash, usize),
    /// The bytes of the file.
    pub range: Range<u64>,
    pub kind: Kind,
    pub deadline: Deadline,
    /// The pieces claimed for it.
    pub claims: Vec<(InfoHash, u32)>,
    pub since: Instant,
    /// Whether the torrent it named is asked besides those it relies on.
    pub spread: bool,
    pub answer: oneshot::Sender<Answer>,
}

impl Waiter {
    /// Whether it relies on other torrents than the one it named.
    pub(super) fn may_spread(&self) -> bool {
        !self.spread && self.claims.iter().any(|(ih, _)| *ih != self.via.0)
    }
}

/// The waiters of one content.
pub(super) type Waiters = BTreeMap<ClaimId, Waiter>;

/// A waiter's own end. Dropping it takes the waiter out, and its pieces back where nobody else wants them.
pub(super) struct Parked<'a> {
    fetch: &'a Fetch,
    root: ContentKey,
    id: ClaimId,
    answer: oneshot::Receiver<Answer>,
}

impl<'a> Parked<'a> {
    pub(super) fn new(
        fetch: &'a Fetch,
        root: ContentKey,
        id: ClaimId,
        answer: oneshot::Receiver<Answer>,
    ) -> Self {
        Self { fetch, root, id, answer }
    }

    /// Waits for the answer.
    pub(super) async fn answered(mut self) -> Answer {
        (&mut self.answer).await.unwrap_or(Err(ReadError::Stopped))
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.fetch.with(|state, _| state.take_waiter(&self.root, self.id));
    }
}

/// When the clock next matters to some waiters.
pub(super) fn earliest(waiters: &Waiters) -> Option<Instant> {
    let look = |w: &Waiter| {
        let due = w.deadline.due();
        if w.may_spread() { due.min(w.since + QUIET) } else { due }
    };
    waiters.values().map(look).min()
}
