//! Time in tests that run on a stopped clock of tokio (`start_paused`).

use std::time::Duration;

/// Advances the paused clock by this time. Timers that are due meanwhile fire, in their order. Panics if the clock is
/// not paused, since a real wait would make the test depend on the machine's speed.
pub async fn pass(time: Duration) {
    // tokio refuses this call when the clock is not paused.
    tokio::time::advance(Duration::ZERO).await;
    tokio::time::sleep(time).await;
}
