//! The waits of a process for other processes that hold the base directory, or are about to hold it.

use std::time::{Duration, Instant};

/// How long a process may hold the base directory without answering: longer than a node needs to stop or to start.
pub const RELEASED_WITHIN: Duration = Duration::from_secs(35);
/// The most processes that are waited for, one after another.
const MAX_HOLDERS: usize = 4;

/// The time that is left to wait for holders of the base directory: [`RELEASED_WITHIN`] for each process, and a bounded
/// number of processes.
#[derive(Debug, Default)]
pub struct Patience {
    holder: Option<String>,
    holders: usize,
    until: Option<Instant>,
}

impl Patience {
    /// Whether to continue to wait for the present holder, given its process id (empty if unknown).
    pub fn has(&mut self, holder: &str) -> bool {
        self.has_at(holder, Instant::now())
    }

    fn has_at(&mut self, holder: &str, now: Instant) -> bool {
        if self.holder.as_deref() != Some(holder) && self.holders < MAX_HOLDERS {
            self.holder = Some(holder.to_owned());
            self.holders += 1;
            self.until = Some(now + RELEASED_WITHIN);
        }
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_bounded_for_each_holder_and_in_total() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(patience.has_at("1", start));
        assert!(patience.has_at("1", start + RELEASED_WITHIN - second));
        assert!(patience.has_at("2", start + RELEASED_WITHIN + second), "its successor has just begun");
        assert!(!patience.has_at("2", start + 2 * RELEASED_WITHIN + second));
        assert!(Patience::default().has_at("", start), "an unknown holder");

        let (mut patience, mut now) = (Patience::default(), start);
        for turn in 0.. {
            if !patience.has_at(["1", "2"][turn % 2], now) {
                break;
            }
            now += RELEASED_WITHIN / 2;
            assert!(now < start + 5 * RELEASED_WITHIN, "two alternating holders are waited for without end");
        }
    }
}
