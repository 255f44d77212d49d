//! The limits of the requests to a hub that the whole process shares: how many at a time, and the pause that the hub asked
//! for.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The pause after a refusal for too many requests that names no time.
const DEFAULT_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause that a hub may ask for. It counts requests over five minutes.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// How long lookups do not ask a hub that could not be reached.
const UNREACHABLE_FOR: Duration = Duration::from_secs(30);

/// So many requests are kept for reads.
const FOR_READERS: usize = 4;

/// The right to request one range of a download.
#[derive(Debug)]
pub struct DownloadPermit {
    _download: OwnedSemaphorePermit,
    _request: OwnedSemaphorePermit,
}

/// The shared limits.
#[derive(Debug)]
pub struct HubLimits {
    /// One permit for each request for the bytes of a file.
    pub budget: Arc<Semaphore>,
    /// Permits for downloads of whole repositories, fewer than `budget` has: reads are never blocked by them.
    downloads: Arc<Semaphore>,
    until: Mutex<Option<Instant>>,
    /// When the hub could not be reached, unless it was reached since.
    missed: Mutex<Option<Instant>>,
}

impl HubLimits {
    /// At most `requests` requests for bytes at a time.
    pub fn new(requests: usize) -> Arc<Self> {
        let downloads = Arc::new(Semaphore::new(requests.saturating_sub(FOR_READERS).max(1)));
        Arc::new(Self {
            budget: Arc::new(Semaphore::new(requests)),
            downloads,
            until: Mutex::default(),
            missed: Mutex::default(),
        })
    }

    /// Waits until one more range of a download may be requested.
    pub async fn permit(&self) -> Option<DownloadPermit> {
        // The semaphores are never closed.
        let download = self.downloads.clone().acquire_owned().await.ok()?;
        let request = self.budget.clone().acquire_owned().await.ok()?;
        Some(DownloadPermit { _download: download, _request: request })
    }

    /// Waits until requests may be sent again.
    pub async fn pass(&self) {
        // Another response may extend the pause during this wait.
        while let Some(left) = self.pause() {
            tokio::time::sleep(left).await;
        }
    }

    /// The time for which no request may be sent.
    pub fn pause(&self) -> Option<Duration> {
        let until = *self.until.lock();
        until?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Records whether the hub could be reached.
    pub fn reached(&self, reached: bool) {
        *self.missed.lock() = (!reached).then(Instant::now);
    }

    /// Whether the hub could not be reached a moment ago: a request that has little time is not worth sending.
    pub fn is_unreachable(&self) -> bool {
        self.missed.lock().is_some_and(|at| at.elapsed() < UNREACHABLE_FOR)
    }

    /// Records that the hub refused a request because there were too many.
    pub fn refused(&self, asked: Option<Duration>) {
        let until = Instant::now() + asked.unwrap_or(DEFAULT_PAUSE).min(LONGEST);
        let mut known = self.until.lock();
        *known = Some(known.map_or(until, |known| known.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_the_longest_pause_that_was_asked_for() {
        let limits = HubLimits::new(4);
        limits.pass().await;
        let began = Instant::now();
        limits.refused(Some(Duration::from_secs(7)));
        limits.refused(Some(Duration::from_secs(2)));
        limits.pass().await;
        assert_eq!(began.elapsed().as_secs(), 7);
        limits.refused(Some(Duration::from_secs(86_400)));
        assert!(limits.pause().is_some_and(|pause| pause <= LONGEST));
    }
}
