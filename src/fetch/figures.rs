//! The bytes that readers received, and how long the readers waited, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

use super::ReadError;

/// The upper bounds of the histogram, in seconds: from a local peer's answer to the default `mount.read_timeout`.
const BOUNDS: [f64; 12] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];

/// Counters of all reads since the node started.
#[derive(Debug)]
pub struct ReadFigures {
    waits: Histogram,
    stored: AtomicU64,
    awaited: AtomicU64,
    failures: [AtomicU64; FAILURES.len()],
}

/// The reasons of failed reads, as labels.
const FAILURES: [&str; 6] = ["timed_out", "stopped", "left", "disk", "no_space", "broken"];

impl Default for ReadFigures {
    fn default() -> Self {
        let waits = Histogram::new(BOUNDS);
        Self { waits, stored: AtomicU64::new(0), awaited: AtomicU64::new(0), failures: Default::default() }
    }
}

impl ReadFigures {
    /// How long reads waited whose bytes were not stored, in seconds.
    pub fn waits(&self) -> &Histogram {
        &self.waits
    }

    /// Bytes of reads that were stored, and of reads that waited.
    pub fn bytes(&self) -> (u64, u64) {
        (self.stored.load(Ordering::Relaxed), self.awaited.load(Ordering::Relaxed))
    }

    /// Number of failed reads by reason.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        FAILURES.into_iter().zip(self.failures.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Counts a read of stored bytes.
    pub(super) fn stored(&self, bytes: u64) {
        self.stored.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a read that waited.
    pub(super) fn waited(&self, result: &Result<Vec<u8>, ReadError>, time: Duration) {
        self.waits.observe(time.as_secs_f64());
        match result {
            Ok(bytes) => {
                self.awaited.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Err(error) => {
                let reason = match error {
                    ReadError::TimedOut(_) => 0,
                    ReadError::Stopped => 1,
                    ReadError::Left => 2,
                    ReadError::Disk(..) => 3,
                    ReadError::NoSpace => 4,
                    ReadError::Broken(_) | ReadError::Denied(_) => 5,
                };
                self.failures[reason].fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_counted_by_result() {
        let figures = ReadFigures::default();
        figures.stored(5);
        figures.waited(&Ok(vec![0; 7]), Duration::from_millis(3));
        figures.waited(&Err(ReadError::NoSpace), Duration::from_secs(9));
        assert_eq!(figures.bytes(), (5, 7));
        let failed: Vec<_> = figures.failures().filter(|(_, count)| *count > 0).collect();
        assert_eq!(failed, [("no_space", 1)]);
    }
}
