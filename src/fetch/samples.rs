//! Which large files were compared with the hub, and which parts of a file are compared.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::FileRef;
use crate::model::{GRANULE_LEN, Identity};
use crate::store::ContentKey;

/// The pause between two comparisons of a file if the hub did not answer, and how many there are.
const RETRY_AFTER: Duration = Duration::from_secs(60);
const MAX_ATTEMPTS: u32 = 5;

/// The most bytes of the reader's part that are compared.
const MAX_WANTED: u64 = 1 << 20;

/// The number of granules at random that are compared before the first byte.
pub(super) const RANDOM: usize = 6;

/// The most files that are remembered. Further ones are compared again.
const MAX_FILES: usize = 10_000;

/// The comparisons of one content with one file of the hub.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    /// One comparison at a time.
    pub turn: tokio::sync::Mutex<()>,
    state: Mutex<SamplingState>,
}

#[derive(Debug, Default, Clone, Copy)]
struct SamplingState {
    /// All compared parts are equal.
    is_equal: bool,
    /// When the hub did not send all parts, and how often.
    failed: Option<Instant>,
    attempts: u32,
}

/// What a reader does about the comparison of a file.
pub(super) enum Due {
    Nothing,
    /// It waits for the first comparison.
    First,
    /// A further one is made in the background.
    Again,
}

impl SamplingState {
    fn due(&self) -> Due {
        match self.failed {
            _ if self.is_equal => Due::Nothing,
            None => Due::First,
            Some(at) if self.attempts < MAX_ATTEMPTS && at.elapsed() >= RETRY_AFTER => Due::Again,
            Some(_) => Due::Nothing,
        }
    }
}

impl Sampling {
    pub fn due(&self) -> Due {
        self.state.lock().due()
    }

    pub fn note_equal(&self) {
        self.state.lock().is_equal = true;
    }

    /// The hub or the swarm did not send all bytes.
    pub fn note_failure(&self) {
        let mut state = self.state.lock();
        (state.failed, state.attempts) = (Some(Instant::now()), state.attempts + 1);
    }
}

/// The comparisons of large files.
#[derive(Debug, Default)]
pub(super) struct Samples {
    files: Mutex<HashMap<(Identity, ContentKey), Arc<Sampling>>>,
    /// When the hub did not send parts of a file in time: readers of other files do not wait for it then.
    missed: Mutex<Option<Instant>>,
}

impl Samples {
    pub fn of(&self, file: &FileRef) -> Option<Arc<Sampling>> {
        let at = (file.unchecked_large()?, file.content().key()?);
        let mut files = self.files.lock();
        if files.len() >= MAX_FILES && !files.contains_key(&at) {
            files.clear();
        }
        Some(files.entry(at).or_default().clone())
    }

    /// Whether a read must wait for a comparison, or begin one.
    pub fn are_due(&self, file: &FileRef) -> bool {
        self.of(file).is_some_and(|sampling| !matches!(sampling.due(), Due::Nothing))
    }

    /// Records whether the hub did not send parts of a file in time.
    pub fn note_missed(&self, missed: bool) {
        *self.missed.lock() = missed.then(Instant::now);
    }

    /// Whether the hub did not answer in time a moment ago.
    pub fn missed_lately(&self) -> bool {
        self.missed.lock().is_some_and(|at| at.elapsed() < RETRY_AFTER)
    }
}

/// The granules of a file that a range touches.
pub(super) fn granules(len: u64, range: &Range<u64>) -> Vec<Range<u64>> {
    let first = range.start / GRANULE_LEN;
    let behind = range.end.min(len).div_ceil(GRANULE_LEN);
    (first..behind).map(|granule| granule_at(len, granule)).collect()
}

fn granule_at(len: u64, granule: u64) -> Range<u64> {
    granule * GRANULE_LEN..len.min((granule + 1) * GRANULE_LEN)
}

/// The part that a reader wants, as whole granules.
pub(super) fn wanted_part(len: u64, wanted: &Range<u64>) -> Range<u64> {
    let start = wanted.start / GRANULE_LEN * GRANULE_LEN;
    let end = wanted.end.next_multiple_of(GRANULE_LEN).min(start + MAX_WANTED);
    start..end.min(len)
}

/// The first granule of a file and granules at random, without those of the wanted part.
pub(super) fn random_parts(len: u64, wanted: &Range<u64>) -> Vec<Range<u64>> {
    let wanted = wanted_part(len, wanted);
    let last = len.div_ceil(GRANULE_LEN);
    let mut chosen: Vec<u64> = std::iter::once(0).chain((0..RANDOM).map(|_| fastrand::u64(..last))).collect();
    chosen.sort_unstable();
    chosen.dedup();
    let parts = chosen.into_iter().map(|granule| granule_at(len, granule));
    parts.filter(|part| !wanted.contains(&part.start)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: u64 = GRANULE_LEN;

    #[test]
    fn parts_are_granules_of_the_file() {
        let len = 10 * G + 5;
        assert_eq!(wanted_part(len, &(G + 1..2 * G + 1)), G..3 * G);
        assert_eq!(wanted_part(len, &(10 * G + 1..len)), 10 * G..len);
        assert_eq!(wanted_part(100 * G, &(G..90 * G)), G..G + MAX_WANTED);
        assert_eq!(granules(len, &(9 * G + 7..len)), [9 * G..10 * G, 10 * G..len]);
        for _ in 0..100 {
            let parts = random_parts(len, &(3 * G..4 * G));
            assert_eq!(parts[0], 0..G);
            let fits =
                |part: &Range<u64>| part.start.is_multiple_of(G) && part.end <= len && part.start < part.end;
            assert!(parts.iter().all(fits) && parts.iter().all(|part| part.start != 3 * G), "{parts:?}");
            assert!(parts.len() <= RANDOM + 1);
        }
    }

    #[test]
    fn each_granule_may_be_chosen() {
        let chosen = (0..2000).flat_map(|_| random_parts(20 * G, &(0..1)));
        let starts: std::collections::BTreeSet<u64> = chosen.map(|part| part.start).collect();
        assert_eq!(starts.len(), 19, "all but the wanted one");
    }

    #[test]
    fn comparison_is_repeated_a_few_times_with_pauses() {
        let mut state = SamplingState::default();
        assert!(matches!(state.due(), Due::First));
        state.failed = Some(Instant::now());
        assert!(matches!(state.due(), Due::Nothing));
        state.failed = Instant::now().checked_sub(RETRY_AFTER);
        assert!(matches!(state.due(), Due::Again));
        state.attempts = MAX_ATTEMPTS;
        assert!(matches!(state.due(), Due::Nothing));
        state = SamplingState { is_equal: true, ..state };
        assert!(matches!(state.due(), Due::Nothing));
    }
}
