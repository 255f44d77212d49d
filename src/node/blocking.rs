//! Work that blocks, on threads of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::NodeError;

/// Runs work that blocks. Dropping the future sets the flag that the work is given, and leaves the thread to end by
/// itself.
pub(crate) async fn cancellable<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    let abandoned = Abandoned::default();
    let flag = abandoned.0.clone();
    match tokio::task::spawn_blocking(move || work(&flag)).await {
        Ok(done) => done,
        Err(e) => Err(NodeError::Request(format!("the work was interrupted: {e}"))),
    }
}

/// Sets its flag when it goes out of scope.
#[derive(Debug, Default)]
pub(super) struct Abandoned(pub Arc<AtomicBool>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_more_is_told() {
        let (started, has_started) = mpsc::channel();
        let (ended, has_ended) = mpsc::channel();
        let work = cancellable(move |cancel| {
            started.send(()).unwrap();
            while !cancel.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            ended.send(()).unwrap();
            Ok(())
        });
        let task = tokio::spawn(work);
        tokio::task::spawn_blocking(move || has_started.recv_timeout(Duration::from_secs(20)))
            .await
            .unwrap()
            .unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        tokio::task::spawn_blocking(move || has_ended.recv_timeout(Duration::from_secs(20)))
            .await
            .unwrap()
            .unwrap();
    }
}
