//! Runs blocking work on separate threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::MirrorError;

/// Sets its flag when it is dropped.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs blocking work. When the future is dropped, the flag that `work` receives is set, and the thread ends by itself.
pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce(&Arc<AtomicBool>) -> T + Send + 'static,
) -> Result<T, MirrorError> {
    let cancelled = SetOnDrop(Arc::default());
    let flag = cancelled.0.clone();
    // There is no result if the work panicked or the runtime is shutting down.
    tokio::task::spawn_blocking(move || work(&flag)).await.map_err(|_| MirrorError::Cancelled)
}
