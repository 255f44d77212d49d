//! The rate at which bytes come.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second, over the last whole second.
#[derive(Debug, Default)]
pub(super) struct Meter {
    second: Option<Instant>,
    bytes: u64,
    rate: u64,
}

impl Meter {
    /// Records bytes that came.
    pub(super) fn add(&mut self, bytes: u64, now: Instant) {
        self.rate = self.rate(now);
        match self.second {
            Some(begun) if now < begun + Duration::from_secs(1) => self.bytes += bytes,
            _ => (self.second, self.bytes) = (Some(now), bytes),
        }
    }

    /// The rate now; 0 when nothing came for two seconds.
    pub(super) fn rate(&self, now: Instant) -> u64 {
        match self.second {
            Some(begun) if now < begun + Duration::from_secs(1) => self.rate,
            Some(begun) if now < begun + Duration::from_secs(2) => self.bytes,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_covers_the_last_whole_second() {
        let (start, tenth) = (Instant::now(), Duration::from_millis(100));
        let mut meter = Meter::default();
        for i in 0..30 {
            meter.add(10, start + i * tenth);
        }
        assert_eq!(meter.rate(start + 29 * tenth), 100);
        assert_eq!(meter.rate(start + 35 * tenth), 100);
        assert_eq!(meter.rate(start + 45 * tenth), 0);
        assert_eq!(Meter::default().rate(start), 0);
    }
}
