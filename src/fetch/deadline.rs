//! The deadline of a read or a job, and the progress that postpones it.

use std::time::Duration;

use tokio::time::Instant;

/// How often progress postpones the deadline of a read.
pub(super) const POSTPONEMENTS: u32 = 2;

/// A deadline that progress of the swarm postpones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    due: Instant,
    span: Duration,
    since: Instant,
    /// How often it may still be postponed; no limit if none.
    left: Option<u32>,
}

impl Deadline {
    /// For a read: `span` from now, and at most [`POSTPONEMENTS`] times as long again.
    pub(super) fn read(now: Instant, span: Duration) -> Self {
        Self { due: now + span, span, since: now, left: Some(POSTPONEMENTS) }
    }

    /// For a whole-file job: `span` without any progress.
    pub(super) fn stall(now: Instant, span: Duration) -> Self {
        Self { due: now + span, span, since: now, left: None }
    }

    /// When [`Self::expired`] has to be called.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Whether the wait is over at `now`, given the time of the swarm's last progress. Progress moves `due`.
    pub(super) fn expired(&mut self, now: Instant, progress: Option<Instant>) -> bool {
        if now < self.due {
            return false;
        }
        let Some(at) = progress.filter(|&at| at > self.since) else { return true };
        match &mut self.left {
            Some(0) => return true,
            Some(left) => {
                *left -= 1;
                self.since = now;
                self.due = now + self.span;
            }
            None => {
                self.since = at;
                self.due = at + self.span;
            }
        }
        now >= self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(10);

    #[test]
    fn read_without_progress_ends_at_its_deadline() {
        let start = Instant::now();
        let mut deadline = Deadline::read(start, SPAN);
        assert!(!deadline.expired(start + SPAN - Duration::from_nanos(1), None));
        assert!(deadline.expired(start + SPAN, None));
    }

    #[test]
    fn progress_postpones_a_read_exactly_twice() {
        let start = Instant::now();
        let mut deadline = Deadline::read(start, SPAN);
        for round in 1..=2 {
            let now = start + round * SPAN;
            assert_eq!(deadline.due(), now);
            assert!(!deadline.expired(now, Some(now - Duration::from_secs(1))), "round {round}");
        }
        let now = start + 3 * SPAN;
        assert!(deadline.expired(now, Some(now - Duration::from_secs(1))));
    }

    #[test]
    fn progress_before_the_wait_does_not_count() {
        let start = Instant::now();
        assert!(Deadline::read(start, SPAN).expired(start + SPAN, Some(start)));
        let mut deadline = Deadline::read(start, SPAN);
        assert!(!deadline.expired(start + SPAN, Some(start + SPAN / 2)));
        assert!(deadline.expired(start + 2 * SPAN, Some(start + SPAN / 2)), "the same progress counts once");
    }

    #[test]
    fn job_ends_after_its_span_without_progress() {
        let start = Instant::now();
        let mut deadline = Deadline::stall(start, SPAN);
        for round in 1..=20 {
            let now = start + round * SPAN / 2 + SPAN;
            assert!(!deadline.expired(now, Some(now - SPAN / 2)), "round {round}");
        }
        let last = start + 11 * SPAN - SPAN / 2;
        assert_eq!(deadline.due(), last + SPAN);
        assert!(deadline.expired(last + SPAN, Some(last)));
    }
}
