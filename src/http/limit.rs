//! The download rate limit that all bodies of a client share.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A rate in bytes per second.
#[derive(Debug)]
pub(super) struct RateLimit {
    /// None is unlimited.
    rate: Option<u64>,
    /// The time at which all bytes received so far conform to the rate.
    conforms_at: Mutex<Instant>,
}

impl RateLimit {
    /// `rate` is in bytes per second; 0 is unlimited.
    pub fn new(rate: u64) -> Self {
        Self { rate: (rate > 0).then_some(rate), conforms_at: Mutex::new(Instant::now()) }
    }

    /// Counts `bytes` received bytes, and waits until they conform to the rate.
    pub async fn wait(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let until = {
            let mut at = self.conforms_at.lock();
            *at = (*at).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *at
        };
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn several_bodies_share_the_rate() {
        let limit = RateLimit::new(1000);
        let start = Instant::now();
        tokio::join!(limit.wait(500), limit.wait(1500), async {
            limit.wait(1000).await;
            limit.wait(1000).await;
        });
        assert_eq!(start.elapsed().as_secs_f64().round(), 4.0);
        RateLimit::new(0).wait(u64::MAX).await;
        assert_eq!(start.elapsed().as_secs_f64().round(), 4.0);
    }
}
