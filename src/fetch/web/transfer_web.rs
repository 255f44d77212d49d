//! The requests over HTTP of one torrent.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::meter::Meter;
use super::shared::Slot;
use super::sources::Sources;
use super::{MIN_REQUEST, WebSettings};
use crate::fetch::claim::ClaimId;
use crate::fetch::effects::Effects;
use crate::fetch::wants::Wants;
use crate::model::{Manifest, PieceHashes};

/// One request. Dropping it ends it.
#[derive(Debug)]
pub(super) struct RunningRequest {
    pub(super) id: ClaimId,
    pub(super) source: usize,
    pub(super) file: usize,
    /// The pieces that have not come.
    pub(super) rest: Range<u32>,
    /// The pieces that were claimed when it began.
    pub(super) wanted: HashSet<u32>,
    pub(super) _slot: Slot,
    /// The task ends when this is dropped.
    pub(super) _end: oneshot::Sender<()>,
}

impl RunningRequest {
    /// Whether one of its pieces is claimed; or, where all pieces claimed at its begin have come, whether the remaining
    /// pieces are few.
    pub(super) fn is_needed(&self, wants: &Wants, piece_length: u32) -> bool {
        let rest = || self.rest.clone();
        let bytes = u64::from(self.rest.end - self.rest.start) * u64::from(piece_length);
        rest().any(|piece| wants.is_claimed(piece))
            || (bytes <= MIN_REQUEST && !rest().any(|piece| self.wanted.contains(&piece)))
    }
}

/// The requests of one torrent whose manifest names addresses on the web.
#[derive(Debug)]
pub(in crate::fetch) struct TransferWeb {
    pub(super) sources: Sources,
    /// Known once the torrent was added.
    pub(super) hashes: Option<Arc<PieceHashes>>,
    pub(super) requests: Vec<RunningRequest>,
    /// How often the engine refused a piece.
    pub(super) refused: HashMap<u32, u32>,
    /// No peer was connected when the last request began, and none has come since.
    pub(super) alone: bool,
    /// When requests were last chosen.
    pub(super) chosen: Option<Instant>,
    /// When the clock next matters.
    pub(super) next: Option<Instant>,
    pub(super) received: u64,
    pub(super) meter: Meter,
    /// Requests that failed since the last right piece.
    pub(super) failed_in_a_row: u32,
    /// The reason why the last request failed, until one succeeds.
    pub trouble: Option<String>,
}

impl TransferWeb {
    /// None where the manifest names no address.
    pub(in crate::fetch) fn of(manifest: &Manifest, settings: Option<&WebSettings>) -> Option<Self> {
        let sources = Sources::of(manifest, &settings?.endpoint)?;
        Some(Self {
            sources,
            hashes: None,
            requests: Vec::new(),
            refused: HashMap::new(),
            alone: false,
            chosen: None,
            next: None,
            received: 0,
            meter: Meter::default(),
            failed_in_a_row: 0,
            trouble: None,
        })
    }

    pub(in crate::fetch) fn set_hashes(&mut self, hashes: Arc<PieceHashes>) {
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

    /// The engine has not verified a piece that came over HTTP.
    pub(in crate::fetch) fn was_not_verified(&mut self) {
        self.trouble = Some("the engine does not accept pieces that came over HTTP".to_owned());
    }

    /// A peer is connected or sent something: the web is asked again only after its time.
    pub(in crate::fetch) fn not_alone(&mut self) {
        self.alone = false;
    }

    /// When the clock next matters.
    pub(in crate::fetch) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Bytes received over HTTP, and bytes per second.
    pub(in crate::fetch) fn figures(&self, now: Instant) -> (u64, u64) {
        (self.received, self.meter.rate(now))
    }

    /// Whether a piece is being requested.
    pub(super) fn is_under_way(&self, piece: u32) -> bool {
        self.requests.iter().any(|r| r.rest.contains(&piece))
    }

    pub(super) fn set_next(&mut self, next: Option<Instant>, effects: &mut Effects) {
        self.next = next;
        next.into_iter().for_each(|next| effects.wake_by(next));
    }
}
