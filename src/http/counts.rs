//! The number of requests that were sent, by the kind of the answer, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::StatusCode;

/// The kinds of answers, as labels.
const ANSWERS: [&str; 5] = ["ok", "refused", "too_many_requests", "server_error", "none"];

/// Counters by the kind of the answer.
#[derive(Debug, Default)]
pub struct RequestCounts([AtomicU64; ANSWERS.len()]);

impl RequestCounts {
    /// Counts a request with the status of its answer; none if no server answered.
    pub(super) fn count(&self, status: Option<StatusCode>) {
        let kind = match status {
            Some(status) if status.is_success() || status.is_redirection() => 0,
            Some(StatusCode::TOO_MANY_REQUESTS) => 2,
            Some(status) if status.is_client_error() => 1,
            Some(_) => 3,
            None => 4,
        };
        self.0[kind].fetch_add(1, Ordering::Relaxed);
    }

    /// The number of requests of each kind.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ANSWERS.into_iter().zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_answer() {
        let counts = RequestCounts::default();
        for status in [Some(200), Some(302), Some(404), Some(429), Some(503), None] {
            counts.count(status.map(|status| StatusCode::from_u16(status).unwrap()));
        }
        assert_eq!(counts.all().map(|(_, count)| count).collect::<Vec<_>>(), [2, 1, 1, 1, 1]);
    }
}
