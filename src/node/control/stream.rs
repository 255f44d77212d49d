//! The answer of a job: lines as they come, and the end of the job when nobody reads them any more.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Failure, Line, SILENCE};
use crate::node::{Ending, Node, NodeError};

/// Progress is told at most this often.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// Lines that a slow reader may leave waiting; further progress is left out.
const BACKLOG: usize = 16;

/// Tells the progress of a job.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    lines: mpsc::Sender<Bytes>,
    last: Arc<parking_lot::Mutex<Option<Instant>>>,
}

impl Teller {
    /// Tells it unless something was told a moment ago.
    pub fn tell(&self, progress: impl Serialize) {
        let mut last = self.last.lock();
        if last.is_none_or(|last| last.elapsed() >= TELL_EVERY) {
            *last = Some(Instant::now());
            // A reader that is slow misses this one; one that is gone ends the job by itself.
            let _ = self.lines.try_send(line(&Line::<_, ()>::Progress(progress)));
        }
    }
}

/// The node, unless it has stopped or is about to.
pub(super) fn alive(node: &Weak<Node>) -> Result<Arc<Node>, NodeError> {
    node.upgrade().filter(|node| !node.is_stopping()).ok_or(NodeError::HostLost)
}

/// Has the node do something. What fails because the node stops is to be done by another.
pub(super) async fn by_node<T, F>(
    node: &Weak<Node>,
    work: impl FnOnce(Arc<Node>) -> F,
) -> Result<T, NodeError>
where
    F: Future<Output = Result<T, NodeError>>,
{
    let node = alive(node)?;
    let mut endings = node.endings();
    let done = tokio::select! {
        done = work(node.clone()) => done,
        // The sender lives as long as the node.
        _ = endings.wait_for(Option::is_some) => Err(NodeError::HostLost),
    };
    done.map_err(|e| match *endings.borrow() {
        Some(Ending::Stopped) => NodeError::Stopped,
        _ if node.is_stopping() => NodeError::HostLost,
        _ => e,
    })
}

/// Runs a job and answers with its lines.
pub(super) fn job<T: Serialize, F>(
    node: Weak<Node>,
    work: impl FnOnce(Arc<Node>, Teller) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = Result<T, NodeError>> + Send + 'static,
{
    let (lines, receiver) = mpsc::channel(BACKLOG);
    let teller = Teller { lines: lines.clone(), last: Arc::default() };
    let task = tokio::spawn(async move {
        let work = by_node(&node, |node| work(node, teller));
        let end = match beating(work, &lines).await {
            Ok(done) => line(&Line::<(), T>::Done(done)),
            Err(e) => line(&Line::<(), ()>::Error(Failure::from(&e))),
        };
        // A reader that is gone needs no end.
        let _ = lines.send(end).await;
    });
    let body = Body::new(Lines { receiver, task });
    ([("content-type", "application/x-ndjson")], body).into_response()
}

/// Awaits the work, with an empty line now and then.
async fn beating<T>(work: impl Future<Output = T>, lines: &mpsc::Sender<Bytes>) -> T {
    tokio::pin!(work);
    let mut clock = tokio::time::interval(SILENCE);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = clock.tick() => drop(lines.try_send(Bytes::from_static(b"\n"))),
        }
    }
}

fn line(value: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).unwrap_or_else(|e| {
        tracing::error!("an answer cannot be written: {e}");
        br#"{"error":{"kind":"internal","error":"the answer cannot be written"}}"#.to_vec()
    });
    text.push(b'\n');
    text.into()
}

/// The body of the answer. Dropping it, as the server does when the client is gone, ends the job.
struct Lines {
    receiver: mpsc::Receiver<Bytes>,
    task: JoinHandle<()>,
}

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let line = ready!(self.receiver.poll_recv(context));
        Poll::Ready(line.map(|line| Ok(Frame::data(line))))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.task.abort();
    }
}
