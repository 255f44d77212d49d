//! The times at which peers are searched while a read waits.

use std::time::Duration;

use tokio::time::Instant;

/// The pauses between two searches for peers.
pub(super) const SEARCH: Pauses = Pauses { first: Duration::from_secs(1), longest: Duration::from_secs(30) };

/// The pauses between two rounds of calls to the known peers. A live peer answers within one of them.
pub(super) const DIAL: Pauses = Pauses { first: Duration::from_millis(100), longest: Duration::from_secs(3) };

/// The pause after the first attempt; each further one is twice as long, up to the longest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pauses {
    first: Duration,
    longest: Duration,
}

/// When something is attempted again while a read waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempts {
    /// The next attempt; none while no read waits.
    pub next: Option<Instant>,
    pause: Duration,
    pauses: Pauses,
}

impl Attempts {
    pub(super) fn new(pauses: Pauses) -> Self {
        Self { next: None, pause: pauses.first, pauses }
    }

    /// Starts unless started: the first attempt comes after the first pause. Returns the time of the next attempt.
    pub(super) fn start(&mut self, now: Instant) -> Instant {
        *self.next.get_or_insert(now + self.pause)
    }

    /// Starts unless started: the first attempt comes now. Returns the time of the next attempt.
    pub(super) fn start_now(&mut self, now: Instant) -> Instant {
        *self.next.get_or_insert(now)
    }

    /// Moves the next attempt to `when`, unless it is earlier.
    pub(super) fn hasten(&mut self, when: Instant) {
        self.next = Some(self.next.map_or(when, |next| next.min(when)));
    }

    /// Records an attempt.
    pub(super) fn made(&mut self, now: Instant) {
        self.pause = (self.pause * 2).min(self.pauses.longest);
        self.next = Some(now + self.pause);
    }

    /// Ends the attempts: there is no reason for them any more.
    pub(super) fn end(&mut self) {
        *self = Self::new(self.pauses);
    }

    /// Whether an attempt was made and another one follows.
    pub(super) fn are_repeated(&self) -> bool {
        self.next.is_some() && self.pause > self.pauses.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let start = Instant::now();
        let mut search = Attempts::new(SEARCH);
        let mut due = search.start(start);
        let mut pauses = vec![due - start];
        for _ in 0..6 {
            search.made(due);
            pauses.push(search.next.unwrap() - due);
            due = search.next.unwrap();
        }
        assert_eq!(pauses.iter().map(Duration::as_secs).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 30, 30]);
        assert!(search.are_repeated());
        search.end();
        assert!(!search.are_repeated() && search.next.is_none());
    }
}
