//! Work that blocks, on threads of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::MirrorError;

/// Sets its flag when it goes out of scope.
struct Abandoned(Arc<AtomicBool>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs work that blocks. Dropping the future sets the flag that the work is given, and leaves the thread to end by itself.
pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce(&Arc<AtomicBool>) -> T + Send + 'static,
) -> Result<T, MirrorError> {
    let abandoned = Abandoned(Arc::default());
    let flag = abandoned.0.clone();
    // A thread that ended without a result has panicked, or the runtime is going.
    tokio::task::spawn_blocking(move || work(&flag)).await.map_err(|_| MirrorError::Cancelled)
}
