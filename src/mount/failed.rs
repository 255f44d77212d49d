//! Reads that have just timed out.
//!
//! When a read-ahead fails, the kernel asks once more for the one page that somebody waits for, before it tells
//! them. Without this memory they would wait the whole read timeout twice.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store::ContentKey;

/// How long a failure is remembered: long enough for the kernel's retry, short enough for a person's.
const REMEMBERED: Duration = Duration::from_secs(2);

/// How many are remembered: all read-aheads that can be in flight fail at about the same time.
const MOST: usize = 1024;

/// Ranges whose reads have timed out within the last two seconds.
#[derive(Debug, Default)]
pub struct Failed(Mutex<VecDeque<(Instant, ContentKey, Range<u64>)>>);

impl Failed {
    /// Remembers a failure.
    pub fn insert(&self, key: ContentKey, range: Range<u64>, now: Instant) {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() == MOST {
            failed.pop_front();
        }
        failed.push_back((now, key, range));
    }

    /// Whether a read of this whole range has just failed.
    pub fn contains(&self, key: ContentKey, range: &Range<u64>, now: Instant) -> bool {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while failed.front().is_some_and(|(at, ..)| now.saturating_duration_since(*at) > REMEMBERED) {
            failed.pop_front();
        }
        failed.iter().any(|(_, k, r)| *k == key && r.start <= range.start && range.end <= r.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PiecesRoot;

    #[test]
    fn a_retry_within_the_failed_range_is_known_for_a_while() {
        let failed = Failed::default();
        let key = ContentKey { root: PiecesRoot([1; 32]), len: 1000 };
        let other = ContentKey { root: PiecesRoot([2; 32]), len: 1000 };
        let now = Instant::now();
        failed.insert(key, 100..200, now);
        assert!(failed.contains(key, &(150..200), now + REMEMBERED));
        assert!(!failed.contains(key, &(150..201), now));
        assert!(!failed.contains(other, &(150..200), now));
        assert!(!failed.contains(key, &(150..200), now + REMEMBERED + Duration::from_millis(1)));
        for n in 0..2 * MOST as u64 {
            failed.insert(key, n..n + 1, now);
        }
        assert_eq!(failed.0.lock().unwrap().len(), MOST);
    }
}
