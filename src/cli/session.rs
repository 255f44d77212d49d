//! Commands that are the node themselves: it is started before their work and stopped after it, whatever came of it;
//! and work that blocks but can be interrupted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::context::Context;
use crate::cli::error::CommandError;
use crate::cli::signals::StopSignals;
use crate::config::Config;
use crate::node::{Node, NodeError, NodeOptions};

/// Runs `work` on a node of its own. A signal during the start ends it; later ones are for `work` to watch.
pub fn with_node<T>(
    context: &Context,
    config: Config,
    options: NodeOptions,
    work: impl AsyncFnOnce(&Arc<Node>, &mut StopSignals) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    context.block_on(async {
        let mut signals = StopSignals::new()?;
        let node = signals.unless(async { Ok(Node::start(config, options).await?) }).await?;
        let result = work(&node, &mut signals).await;
        signals.stopping(node.stop(), || ()).await;
        result
    })
}

/// Runs work that blocks on a thread of its own. Dropping the future sets the flag that the work is given, and
/// leaves the thread to end by itself.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> Result<T, NodeError> + Send + 'static,
) -> Result<T, CommandError> {
    struct CancelOnDrop(Arc<AtomicBool>);
    impl Drop for CancelOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let cancel = CancelOnDrop(Arc::default());
    let flag = cancel.0.clone();
    Ok(tokio::task::spawn_blocking(move || work(&flag)).await.map_err(CommandError::internal)??)
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
        let work = blocking(move |cancel| {
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
