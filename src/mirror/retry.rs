//! Decides whether a failed request is repeated, and waits before it.

use std::time::{Duration, SystemTime};

use super::progress::{ProgressBoard, RetryPause};
use super::{MirrorError, MirrorErrorKind};

/// Number of failures in a row without progress after which a task fails.
const TRIES: u32 = 5;
/// The first pause; each later pause is twice as long.
const FIRST: Duration = Duration::from_millis(500);
/// Longest pause that no server requested.
const LONGEST: Duration = Duration::from_secs(30);
/// Longest pause that a server may request. The hub counts requests over five minutes.
const LONGEST_REQUESTED: Duration = Duration::from_secs(15 * 60);

/// Counts the failures of one task.
pub(super) struct Retries<'a> {
    board: &'a ProgressBoard,
    failed: u32,
}

impl<'a> Retries<'a> {
    pub fn new(board: &'a ProgressBoard) -> Self {
        Self { board, failed: 0 }
    }

    /// Resets the count, because data was received.
    pub fn progressed(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next attempt. Returns the error if another attempt would not help or the pause would be too long.
    pub async fn wait(&mut self, error: MirrorError) -> Result<(), MirrorError> {
        if !error.is_transient() {
            return Err(error);
        }
        self.wait_anyway(error).await
    }

    /// [`Self::wait`] for an error that may not be temporary.
    pub async fn wait_anyway(&mut self, error: MirrorError) -> Result<(), MirrorError> {
        self.failed += 1;
        let requested = error.retry_after();
        if self.failed >= TRIES || requested.is_some_and(|requested| requested > LONGEST_REQUESTED) {
            return Err(error);
        }
        let pause = match requested {
            // A random delay is added, so that tasks do not continue at the same moment.
            Some(requested) => requested + FIRST.mul_f64(fastrand::f64()),
            None => (FIRST * 2u32.pow(self.failed - 1)).min(LONGEST).mul_f64(0.5 + fastrand::f64() / 2.0),
        };
        tracing::debug!(%error, ?pause, "repeating a request after a pause");
        let rate_limited = error.kind() == MirrorErrorKind::RateLimited || requested.is_some();
        let _shown = self.board.wait(RetryPause { until: SystemTime::now() + pause, rate_limited });
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::HttpError;
    use crate::mirror::error::GitFault;
    use tokio::time::Instant;

    fn busy(after: Option<Duration>) -> MirrorError {
        MirrorError::Http(HttpError::too_many_requests(after))
    }

    fn broken() -> MirrorError {
        MirrorError::Git { repository: "r".to_owned(), reason: "cut".to_owned(), fault: GitFault::Passing }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_are_limited() {
        let board = ProgressBoard::default();
        let mut retries = Retries::new(&board);
        let mut pauses = Vec::new();
        loop {
            let start = Instant::now();
            if retries.wait(broken()).await.is_err() {
                break;
            }
            pauses.push(start.elapsed().as_secs_f64());
        }
        assert_eq!(pauses.len() as u32, TRIES - 1);
        for (n, pause) in pauses.iter().enumerate() {
            let full = 0.5 * f64::from(1 << n);
            assert!((full / 2.0 - 0.01..=full + 0.01).contains(pause), "{pauses:?}");
        }
        retries.progressed();
        retries.wait(broken()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn requested_pauses_are_kept_up_to_a_limit() {
        let board = ProgressBoard::default();
        let mut retries = Retries::new(&board);
        let start = Instant::now();
        let waits = async {
            retries.wait(busy(Some(Duration::from_secs(55)))).await.unwrap();
            start.elapsed()
        };
        let looks = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            board.now().waiting
        };
        let (waited, shown) = tokio::join!(waits, looks);
        assert!((55.0..56.0).contains(&waited.as_secs_f64()), "{waited:?}");
        assert!(shown.is_some_and(|shown| shown.rate_limited));
        assert!(retries.wait(busy(Some(Duration::from_secs(901)))).await.is_err());
        assert!(retries.wait(MirrorError::Cancelled).await.is_err());
    }
}
