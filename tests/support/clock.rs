//! Time in tests that run on a stopped clock of tokio (`start_paused`).

use std::time::Duration;

/// Lets so much time pass, in none: what is due meanwhile happens, in its order. Panics where the clock runs, since
/// there it would be waiting for luck.
pub async fn pass(time: Duration) {
    // Of a clock that runs this is refused.
    tokio::time::advance(Duration::ZERO).await;
    tokio::time::sleep(time).await;
}
