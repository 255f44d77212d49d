//! A torrent enters the engine, leaves it, or is refused and tried again later.

use std::time::Duration;

use fixedbitset::FixedBitSet;
use tokio::time::Instant;

use super::{AddedWith, Phase, REMOVAL, Transfer};
use crate::fetch::unproved::Unproved;
use crate::fetch::{Exposure, ReadError};
use crate::torrent::{SwarmStats, TorrentId};

/// The longest pause before a torrent that the engine refused is tried again.
const RETRY_MAX: Duration = Duration::from_secs(60);

impl Transfer {
    /// The torrent is out of the engine, or being removed.
    pub(in crate::fetch) fn left_engine(&mut self) {
        self.peers.left_engine();
        if let Some(web) = &mut self.web {
            web.end_all();
        }
        self.handed.clear();
        self.unproved = Unproved::default();
        self.wants.forget_orders();
        self.exporting = false;
        self.saving = false;
    }

    /// Takes a running torrent out of the engine so that it is added again. Returns the number to remove.
    pub(in crate::fetch) fn add_again(&mut self, now: Instant) -> Option<TorrentId> {
        match self.phase {
            Phase::Adding(id) | Phase::Running(id) => {
                self.phase = Phase::Removing { id, until: now + REMOVAL };
                self.left_engine();
                Some(id)
            }
            Phase::Queued => {
                self.again = true;
                None
            }
            Phase::Removing { .. } | Phase::Held | Phase::Failed { .. } => None,
        }
    }

    /// The engine refused the torrent: it is tried again after a pause that doubles.
    pub(in crate::fetch) fn failed(&mut self, why: &str, now: Instant) {
        let pause = Duration::from_secs(1 << self.failures.min(6)).min(RETRY_MAX);
        self.failures += 1;
        self.left_engine();
        self.last_error = Some(why.to_owned());
        self.phase = Phase::Failed { why: why.to_owned(), retry: now + pause };
    }

    /// Whether the engine has a path that the file no longer has.
    pub(in crate::fetch) fn has_moved(&self, file: usize) -> bool {
        self.id().is_some()
            && self.given.get(file).is_some_and(|&m| m != self.revision.contents[file].moves())
    }

    /// Whether the engine has other paths or other pieces than are true now.
    pub(in crate::fetch) fn is_outdated(&self, exposure: Exposure) -> bool {
        matches!(self.phase, Phase::Queued)
            || (0..self.given.len()).any(|file| self.has_moved(file))
            || self.may_offer(exposure) != self.engine_has
    }

    /// Whether the engine has pieces that must not be offered, or is about to receive such.
    pub(in crate::fetch) fn offers_reserved(&self, exposure: Exposure) -> bool {
        matches!(self.phase, Phase::Queued) || !self.engine_has.is_subset(&self.may_offer(exposure))
    }

    fn may_offer(&self, exposure: Exposure) -> FixedBitSet {
        match exposure {
            Exposure::Hidden => self.revision.have_pieces(),
            Exposure::Unannounced | Exposure::WithoutDht | Exposure::Public => {
                self.revision.offered_pieces().0
            }
        }
    }

    /// The engine has the torrent. Returns whether its files moved before that, so that it has to be added again.
    pub(in crate::fetch) fn entered_engine(&mut self, id: TorrentId, with: AddedWith) -> bool {
        self.engine_has = with.have;
        self.engine_blocks = with.blocks;
        self.given = with.given;
        self.metainfo_saved = with.with_layers;
        if let (Some(web), Some(hashes)) = (&mut self.web, with.hashes) {
            web.set_hashes(hashes);
        }
        self.unproved = Unproved::new(with.unproved);
        self.peers.entered_engine();
        self.phase = Phase::Adding(id);
        std::mem::take(&mut self.again)
    }

    /// Records the last figures of a torrent that is being removed.
    pub(in crate::fetch) fn last_stats_came(&mut self, id: TorrentId, stats: SwarmStats) {
        if matches!(self.phase, Phase::Removing { id: leaving, .. } if leaving == id) {
            self.peers.stats.downloaded = stats.downloaded;
            self.peers.stats.uploaded = stats.uploaded;
        }
    }

    /// The torrent runs.
    pub(in crate::fetch) fn started(&mut self, id: TorrentId, now: Instant) {
        self.phase = Phase::Running(id);
        self.running_since = Some(now);
        self.failures = 0;
    }

    /// Whether a torrent that failed can be tried again now: then it is queued. `Broken` until then.
    pub(in crate::fetch) fn retry(&mut self, now: Instant) -> Result<bool, ReadError> {
        match &self.phase {
            Phase::Failed { retry, .. } if *retry <= now => {
                self.phase = Phase::Queued;
                Ok(true)
            }
            Phase::Failed { why, .. } => Err(ReadError::Broken(why.clone())),
            _ => Ok(false),
        }
    }
}
