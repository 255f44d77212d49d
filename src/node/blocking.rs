//! Work that blocks, on threads of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::NodeError;

/// Runs work that blocks. Dropping the future leaves the thread to end by itself. `Internal` if the work panics.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    tokio::task::spawn_blocking(work).await?
}

/// [`run`] for work that can be cancelled: dropping the future sets the flag that the work receives.
pub(crate) async fn cancellable<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    let abandoned = Abandoned::default();
    let flag = abandoned.0.clone();
    run(move || work(&flag)).await
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
    async fn panic_is_an_internal_fault() {
        let error = run::<()>(|| panic!("on purpose")).await.unwrap_err();
        assert_eq!(error.kind(), crate::node::ErrorKind::Internal, "{error}");
        assert_eq!(error.kind().exit_code(), 3);
    }

    #[tokio::test]
    async fn dropped_future_cancels_its_work() {
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
