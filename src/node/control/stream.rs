//! The response of a job: a stream of lines. The job ends when the client disconnects.

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
use tracing::{Instrument as _, Span};

use super::{ErrorBody, Line, SILENCE};
use crate::node::{Ending, Node, NodeError};

/// The shortest pause between two reports of progress.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// The most unread lines: for a slow reader, further progress is left out.
const BACKLOG: usize = 16;

/// Reports the progress of a job.
#[derive(Debug, Clone)]
pub(super) struct Reporter {
    lines: mpsc::Sender<Bytes>,
    last: Arc<parking_lot::Mutex<Option<Instant>>>,
}

impl Reporter {
    /// Sends a progress line, unless one was sent less than [`REPORT_EVERY`] ago.
    pub fn report(&self, progress: impl Serialize) {
        let mut last = self.last.lock();
        if last.is_none_or(|last| last.elapsed() >= REPORT_EVERY) {
            *last = Some(Instant::now());
            // A slow reader misses this line. If the reader is gone, dropping the response ends the job.
            let _ = self.lines.try_send(line(&Line::<_, ()>::Progress(progress)));
        }
    }
}

/// The node, or `HostLost` if it has stopped or is stopping.
pub(super) fn alive(node: &Weak<Node>) -> Result<Arc<Node>, NodeError> {
    node.upgrade().filter(|node| !node.is_stopping()).ok_or(NodeError::HostLost)
}

/// Runs work on the node. `HostLost` or `Stopped` if it fails because the node ends: another node can do it then.
pub(super) async fn on_node<T, F>(
    node: &Weak<Node>,
    work: impl FnOnce(Arc<Node>) -> F,
) -> Result<T, NodeError>
where
    F: Future<Output = Result<T, NodeError>>,
{
    let node = alive(node)?;
    let mut endings = node.ending.subscribe();
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

/// Runs a job within a span of the log; the response has its lines.
pub(super) fn job<T: Serialize, F>(
    node: Weak<Node>,
    span: Span,
    work: impl FnOnce(Arc<Node>, Reporter) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = Result<T, NodeError>> + Send + 'static,
{
    let (lines, receiver) = mpsc::channel(BACKLOG);
    let reporter = Reporter { lines: lines.clone(), last: Arc::default() };
    let run = async move {
        let work = on_node(&node, |node| work(node, reporter));
        let end = match with_heartbeat(work, &lines).await {
            Ok(done) => line(&Line::<(), T>::Done(done)),
            Err(e) => line(&Line::<(), ()>::Error(ErrorBody::from(&e))),
        };
        // The reader may be gone.
        let _ = lines.send(end).await;
    };
    let task = tokio::spawn(run.instrument(span));
    let body = Body::new(Lines { receiver, task });
    ([("content-type", "application/x-ndjson")], body).into_response()
}

/// Awaits the work, and sends an empty line every [`SILENCE`].
async fn with_heartbeat<T>(work: impl Future<Output = T>, lines: &mpsc::Sender<Bytes>) -> T {
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
        tracing::error!(error = %e, "could not encode a response");
        br#"{"error":{"kind":"internal","error":"the response cannot be encoded"}}"#.to_vec()
    });
    text.push(b'\n');
    text.into()
}

/// The body of the response. The server drops it when the client disconnects, which ends the job.
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
