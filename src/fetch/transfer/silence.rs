//! Whether the peers of a torrent send anything, and the reason for people why they do not.

use std::time::Duration;

use tokio::time::Instant;

use super::{Phase, Transfer};

/// Without a byte for this time while a read waits, connected peers may have lost their power or link: the known addresses
/// are called.
const SILENT: Duration = Duration::from_secs(2);

/// Without a verified piece for this time while a read waits, the known addresses are called, although bytes come.
const FRUITLESS: Duration = Duration::from_secs(6);

/// Without a byte for this time, connected peers do not count as a source.
pub(in crate::fetch) const QUIET: Duration = Duration::from_secs(15);

impl Transfer {
    /// Whether peers are connected that have sent something lately, or have had no time to yet.
    pub(in crate::fetch) fn is_alive(&self, now: Instant) -> bool {
        self.has_sent_within(QUIET, now)
    }

    /// Whether no peer is connected, or none has sent anything for a moment, or nothing useful for longer.
    pub(in crate::fetch) fn is_silent(&self, now: Instant) -> bool {
        let fruitless =
            self.peers.without_piece_since(self.wanting_since).is_some_and(|at| now >= at + FRUITLESS);
        !self.has_sent_within(SILENT, now) || fruitless
    }

    /// The next moment at which [`Self::is_silent`] may have become true.
    pub(in crate::fetch) fn silent_at(&self) -> Option<Instant> {
        let silent = self.peers.last_activity(self.wanting_since).map(|at| at + SILENT);
        let fruitless = self.peers.without_piece_since(self.wanting_since).map(|at| at + FRUITLESS);
        silent.into_iter().chain(fruitless).min()
    }

    fn has_sent_within(&self, time: Duration, now: Instant) -> bool {
        self.running().is_some()
            && !self.peers.connected.is_empty()
            && self.peers.last_activity(self.wanting_since).is_none_or(|at| now < at + time)
    }

    /// The reason why a read waits, for people.
    pub(in crate::fetch) fn why_it_waits(&self, now: Instant) -> String {
        if self.last_progress.is_some_and(|at| now < at + SILENT) {
            "data arrives, but slowly".to_owned()
        } else {
            self.why_nothing_comes()
        }
    }

    /// What is missing, for people.
    pub(in crate::fetch) fn why_nothing_comes(&self) -> String {
        let of_peers = self.why_peers_send_nothing();
        match self.web.as_ref().and_then(|web| web.trouble.as_ref()) {
            Some(trouble) => format!("{of_peers}; and over HTTP: {trouble}"),
            None => of_peers,
        }
    }

    fn why_peers_send_nothing(&self) -> String {
        let peers = self.peers.connected.len();
        let plural = if peers == 1 { "peer is" } else { "peers are" };
        match &self.phase {
            Phase::Failed { why, .. } => why.clone(),
            Phase::Queued | Phase::Adding(_) | Phase::Removing { .. } | Phase::Held => {
                "the torrent has not started".to_owned()
            }
            Phase::Running(_) if peers == 0 => "no peer was found".to_owned(),
            Phase::Running(_) if self.rejected_in_a_row > 0 => {
                format!("{peers} {plural} connected, but the data they sent was bad")
            }
            Phase::Running(_) if self.peers.stats.seeds == 0 => {
                format!("{peers} {plural} connected, but none has the piece")
            }
            Phase::Running(_) if self.peers.full() == 0 => {
                format!("{peers} {plural} connected, but no peer that has the piece sends anything")
            }
            Phase::Running(_) => format!("{peers} {plural} connected, but the transfer has stalled"),
        }
    }
}
