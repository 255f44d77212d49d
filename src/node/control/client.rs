//! The other commands' side of the control socket.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{Failure, Status, Warm, Warmed, short_path};
use crate::node::NodeError;
use crate::node::lock::NodeLock;
use crate::paths::Paths;

/// How long a node may take for an answer that needs no network.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Speaks to the node of a base directory, one connection a request.
#[derive(Debug)]
pub struct Client {
    paths: Paths,
}

impl Client {
    /// Finds the node of a base directory; `Ok(None)` when none runs. A socket left by a dead node counts as none.
    pub async fn connect(paths: &Paths) -> Result<Option<Self>, NodeError> {
        let client = Self { paths: paths.clone() };
        match client.stream().await {
            Ok(_) => Ok(Some(client)),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
            Err(e) => Err(client.failed(e)),
        }
    }

    /// What the node does now.
    pub async fn status(&self) -> Result<Status, NodeError> {
        self.within(ANSWER_WITHIN, self.call("GET", "/v1/status", &())).await
    }

    /// Tells the node that the registry changed; returns once it has read it.
    pub async fn reload(&self) -> Result<(), NodeError> {
        self.within(ANSWER_WITHIN, self.call::<_, Option<()>>("POST", "/v1/reload", &())).await.map(|_| ())
    }

    /// Asks the node to stop and waits until it let go of the base directory.
    pub async fn stop(&self, within: Duration) -> Result<(), NodeError> {
        self.within(ANSWER_WITHIN, self.call::<_, Option<()>>("POST", "/v1/stop", &())).await?;
        self.released(within).await
    }

    /// Waits until no process holds the base directory.
    pub async fn released(&self, within: Duration) -> Result<(), NodeError> {
        let until = Instant::now() + within;
        while let Some(pid) = NodeLock::holder(&self.paths) {
            if Instant::now() >= until {
                return Err(self.failed(format!("process {pid} still runs after {} s", within.as_secs())));
            }
            // The lock belongs to another process: there is nothing to be woken by.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Fetches a model, a directory or a file ahead; `path` is relative to the mount point. Waits as long as the
    /// node makes progress: the node itself gives up on a stalled swarm.
    pub async fn warm(&self, path: &str) -> Result<Warmed, NodeError> {
        self.call("POST", "/v1/warm", &Warm { path: path.to_owned() }).await
    }

    async fn stream(&self) -> std::io::Result<UnixStream> {
        let (_dir, short) = short_path(&self.paths)?;
        UnixStream::connect(short).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, NodeError>>,
    ) -> Result<T, NodeError> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer,
            Err(_) => Err(self.failed(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: &str,
        route: &str,
        body: &B,
    ) -> Result<T, NodeError> {
        let stream = self.stream().await.map_err(|e| self.failed(e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.failed(e))?;
        let driver = tokio::spawn(connection);
        let body = serde_json::to_vec(body).map_err(|e| self.failed(e))?;
        let request = Request::builder()
            .method(method)
            .uri(route)
            .header("host", "silmaril")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| self.failed(e))?;
        let response = sender.send_request(request).await.map_err(|e| self.failed(e))?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(|e| self.failed(e))?.to_bytes();
        driver.abort();
        if !status.is_success() {
            let why = serde_json::from_slice(&bytes).map(|f: Failure| f.error);
            return Err(NodeError::Request(why.unwrap_or_else(|_| format!("the node answered {status}"))));
        }
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text).map_err(|e| self.failed(e))
    }

    fn failed(&self, reason: impl ToString) -> NodeError {
        NodeError::Control { socket: self.paths.socket(), reason: reason.to_string() }
    }
}
