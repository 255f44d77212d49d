//! How long other processes are waited for that have the base directory, or are to have it next.

use std::time::{Duration, Instant};

/// How long a process may keep the base directory without answering: longer than one that stops lives, and than one
/// that starts takes.
pub const LETS_GO_WITHIN: Duration = Duration::from_secs(35);
/// As many processes are waited for, one after another.
const MAX_HOLDERS: usize = 4;

/// Patience with whoever has the base directory: each process has [`LETS_GO_WITHIN`], and there is an end to it.
#[derive(Debug, Default)]
pub struct Patience {
    holder: Option<String>,
    holders: usize,
    until: Option<Instant>,
}

impl Patience {
    /// Whether the process that has it now, by its number (empty where it is not known), is waited for any longer.
    pub fn has(&mut self, holder: &str) -> bool {
        self.has_at(holder, Instant::now())
    }

    fn has_at(&mut self, holder: &str, now: Instant) -> bool {
        if self.holder.as_deref() != Some(holder) && self.holders < MAX_HOLDERS {
            self.holder = Some(holder.to_owned());
            self.holders += 1;
            self.until = Some(now + LETS_GO_WITHIN);
        }
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holder_has_its_time_and_all_together_have_an_end() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(patience.has_at("1", start));
        assert!(patience.has_at("1", start + LETS_GO_WITHIN - second));
        assert!(patience.has_at("2", start + LETS_GO_WITHIN + second), "its successor has just begun");
        assert!(!patience.has_at("2", start + 2 * LETS_GO_WITHIN + second));
        assert!(Patience::default().has_at("", start), "one that is not known");

        let (mut patience, mut now) = (Patience::default(), start);
        for turn in 0.. {
            if !patience.has_at(["1", "2"][turn % 2], now) {
                break;
            }
            now += LETS_GO_WITHIN / 2;
            assert!(now < start + 5 * LETS_GO_WITHIN, "two that take turns are waited for without end");
        }
    }
}
