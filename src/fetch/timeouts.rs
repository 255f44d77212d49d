//! Pieces of one torrent that have timed out: reads of them fail immediately for a while.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// How long a read of a piece that has timed out fails immediately, unless a peer or other progress comes.
const FAIL_FAST: Duration = Duration::from_secs(5);

/// How long it fails immediately in any case. After a failed read-ahead the kernel immediately asks again for each page
/// that a program waits for, and that must not wait as long again.
const ASKED_AGAIN_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct FailFast {
    since: Instant,
    until: Instant,
}

/// The pieces, by index.
#[derive(Debug, Default)]
pub(super) struct Timeouts(HashMap<u32, FailFast>);

impl Timeouts {
    pub(super) fn insert(&mut self, piece: u32, now: Instant) {
        self.0.retain(|_, fails| fails.until > now);
        self.0.insert(piece, FailFast { since: now, until: now + FAIL_FAST });
    }

    /// Reads may wait for the pieces again, once the kernel has asked again.
    pub(super) fn shorten(&mut self) {
        for fails in self.0.values_mut() {
            fails.until = fails.until.min(fails.since + ASKED_AGAIN_WITHIN);
        }
    }

    /// Whether a read of the piece fails immediately.
    pub(super) fn contains(&self, piece: u32, now: Instant) -> bool {
        self.0.get(&piece).is_some_and(|fails| fails.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_shortens_a_timeout() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut timeouts = Timeouts::default();
        timeouts.insert(1, start);
        assert!(timeouts.contains(1, after(4)) && !timeouts.contains(1, after(5)));
        timeouts.shorten();
        assert!(timeouts.contains(1, start) && !timeouts.contains(1, after(1)));
        assert!(!timeouts.contains(2, start));
    }
}
