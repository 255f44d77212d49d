//! The download rate that all bodies of a client keep to.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A rate in bytes per second.
#[derive(Debug)]
pub(super) struct RateLimit {
    /// None is unlimited.
    rate: Option<u64>,
    /// When all that was taken so far is paid for.
    paid: Mutex<Instant>,
}

impl RateLimit {
    /// Bytes per second; 0 is unlimited.
    pub fn new(rate: u64) -> Self {
        Self { rate: (rate > 0).then_some(rate), paid: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more may have come.
    pub async fn take(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let until = {
            let mut paid = self.paid.lock();
            *paid = (*paid).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *paid
        };
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn several_that_take_share_the_rate() {
        let limit = RateLimit::new(1000);
        let start = Instant::now();
        tokio::join!(limit.take(500), limit.take(1500), async {
            limit.take(1000).await;
            limit.take(1000).await;
        });
        assert_eq!(start.elapsed().as_secs_f64().round(), 4.0);
        RateLimit::new(0).take(u64::MAX).await;
        assert_eq!(start.elapsed().as_secs_f64().round(), 4.0);
    }
}
