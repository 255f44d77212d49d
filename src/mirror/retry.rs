//! When something that failed is tried again, and how long that waits.

use std::time::{Duration, SystemTime};

use super::progress::{Board, Waiting};
use super::{MirrorError, MirrorErrorKind};

/// How often in a row something may fail without any progress.
const TRIES: u32 = 5;
/// The first pause; each later one is twice as long.
const FIRST: Duration = Duration::from_millis(500);
/// The longest pause that nobody asked for.
const LONGEST: Duration = Duration::from_secs(30);
/// The longest pause that a server may ask for. The hub counts requests over five minutes.
const LONGEST_ASKED: Duration = Duration::from_secs(15 * 60);

/// The failures of one task.
pub(super) struct Retries<'a> {
    board: &'a Board,
    failed: u32,
}

impl<'a> Retries<'a> {
    pub fn new(board: &'a Board) -> Self {
        Self { board, failed: 0 }
    }

    /// Something came: what failed before counts no more.
    pub fn progressed(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next try; gives the error back where that would not help, or not for too long.
    pub async fn wait(&mut self, error: MirrorError) -> Result<(), MirrorError> {
        if !error.is_transient() {
            return Err(error);
        }
        self.wait_anyway(error).await
    }

    /// Waits before the next try, although the error is not one that passes by itself.
    pub async fn wait_anyway(&mut self, error: MirrorError) -> Result<(), MirrorError> {
        self.failed += 1;
        let asked = error.retry_after();
        if self.failed >= TRIES || asked.is_some_and(|asked| asked > LONGEST_ASKED) {
            return Err(error);
        }
        let pause = match asked {
            // A little later than asked, and not all at once.
            Some(asked) => asked + FIRST.mul_f64(fastrand::f64()),
            None => (FIRST * 2u32.pow(self.failed - 1)).min(LONGEST).mul_f64(0.5 + fastrand::f64() / 2.0),
        };
        tracing::debug!("{error}; trying again in {pause:?}.");
        let rate_limited = error.kind() == MirrorErrorKind::RateLimited || asked.is_some();
        let _shown = self.board.wait(Waiting { until: SystemTime::now() + pause, rate_limited });
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::error::GitFault;
    use tokio::time::Instant;

    fn busy(after: Option<Duration>) -> MirrorError {
        MirrorError::RateLimited { server: "s".to_owned(), after }
    }

    fn broken() -> MirrorError {
        MirrorError::Git { repository: "r".to_owned(), reason: "cut".to_owned(), fault: GitFault::Passing }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end() {
        let board = Board::default();
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
    async fn a_server_is_left_alone_as_long_as_it_asks_within_reason() {
        let board = Board::default();
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
