//! How often jobs report their progress.

use std::time::Duration;

/// How often progress is reported.
pub(super) const REPORT_EVERY: Duration = Duration::from_millis(200);

/// Awaits some work, and calls `tick` every [`REPORT_EVERY`] until it ends.
pub(super) async fn with_ticks<T>(work: impl Future<Output = T>, tick: impl Fn()) -> T {
    tokio::pin!(work);
    let mut clock = tokio::time::interval(REPORT_EVERY);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = clock.tick() => tick(),
        }
    }
}
