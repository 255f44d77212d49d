//! The other commands' side of the control socket.

use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound, PermissionDenied};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::{
    BytesDone, Detach, Failure, Hello, Line, OfModel, SILENCE, Seed, Status, Stop, Warm, Warmed, short_path,
};
use crate::descriptors;
use crate::model::{Manifest, ModelRef};
use crate::node::NodeError;
use crate::node::attached::Companion;
use crate::node::discover::{DiscoverProgress, DiscoverRequest, Discovered};
use crate::node::get::{GetProgress, GetReport, GetRequest};
use crate::node::handover::HandoverRequest;
use crate::node::import::ImportRequest;
use crate::node::lock::NodeLock;
use crate::node::maintenance::Verified;
use crate::node::mirror::{MirrorProgress, MirrorReport, MirrorRequest};
use crate::node::patience::{LETS_GO_WITHIN, Patience};
use crate::node::share::{ShareRequest, Shared};
use crate::paths::Paths;

/// How long a node may take for an answer that needs no network.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether a process has ended; there is nothing to be woken by.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Speaks to the node of a base directory, one connection a request.
#[derive(Debug)]
pub struct Client {
    paths: Paths,
}

impl Client {
    /// Finds the node of a base directory; `Ok(None)` when none runs. A socket left by a dead node counts as none, and so
    /// does a node that dies meanwhile.
    pub async fn connect(paths: &Paths) -> Result<Option<Self>, NodeError> {
        let client = Self { paths: paths.clone() };
        match client.stream().await {
            Ok(_) => Ok(Some(client)),
            Err(e) if matches!(e.kind(), NotFound | ConnectionRefused | ConnectionReset) => Ok(None),
            Err(e) if e.kind() == PermissionDenied => Err(client.closed_to_us(e)),
            Err(e) => Err(client.failed(e)),
        }
    }

    /// Asks the node who it is, and refuses one of a version that may speak differently.
    pub async fn hello(&self) -> Result<Hello, NodeError> {
        let hello: Hello = self.within(ANSWER_WITHIN, self.call("GET", "/v1/status", &())).await?;
        if release(&hello.version) != release(env!("CARGO_PKG_VERSION")) {
            return Err(NodeError::OtherVersion { pid: hello.pid, theirs: hello.version });
        }
        Ok(hello)
    }

    /// Gets a model. Dropping the future ends it, keeping what came.
    pub async fn get(
        &self,
        request: &GetRequest,
        progress: impl FnMut(GetProgress),
    ) -> Result<GetReport, NodeError> {
        self.job("/v1/get", request, progress).await
    }

    /// Searches what is shared, until the time is up or everybody has answered.
    pub async fn discover(
        &self,
        request: &DiscoverRequest,
        progress: impl FnMut(DiscoverProgress),
    ) -> Result<Discovered, NodeError> {
        self.job("/v1/discover", request, progress).await
    }

    /// Makes a model of a directory. Dropping the future ends it, and nothing is recorded.
    pub async fn share(
        &self,
        request: &ShareRequest,
        progress: impl FnMut(BytesDone),
    ) -> Result<Shared, NodeError> {
        self.job("/v1/share", request, progress).await
    }

    /// Has the node seed; tells which models.
    pub async fn seed(&self, request: &Seed) -> Result<Vec<ModelRef>, NodeError> {
        self.job("/v1/seed", request, |()| {}).await
    }

    /// Imports what only a swarm can complete.
    pub async fn import(&self, request: &ImportRequest) -> Result<Arc<Manifest>, NodeError> {
        self.job("/v1/import", request, |()| {}).await
    }

    /// Reads a model again and compares it with its hashes.
    pub async fn verify(
        &self,
        model: &ModelRef,
        progress: impl FnMut(BytesDone),
    ) -> Result<Verified, NodeError> {
        self.job("/v1/verify", &OfModel { model: model.clone() }, progress).await
    }

    /// Mirrors a repository. Given up on as soon as the future is dropped.
    pub async fn mirror(
        &self,
        request: &MirrorRequest,
        progress: impl FnMut(MirrorProgress),
    ) -> Result<MirrorReport, NodeError> {
        self.job("/v1/mirror", request, progress).await
    }

    /// Forgets a model.
    pub async fn remove(&self, model: &ModelRef) -> Result<(), NodeError> {
        self.job("/v1/remove", &OfModel { model: model.clone() }, |()| {}).await
    }

    /// Clears the cache; tells how many bytes that freed.
    pub async fn clear_cache(&self) -> Result<u64, NodeError> {
        self.job("/v1/cache/clear", &(), |()| {}).await
    }

    /// Runs a job: one request, an answer of many lines. A connection that breaks is a node that is gone.
    async fn job<B: Serialize, P: DeserializeOwned, T: DeserializeOwned>(
        &self,
        route: &str,
        body: &B,
        mut progress: impl FnMut(P),
    ) -> Result<T, NodeError> {
        let Connected { response, _driver } = self.send("POST", route, body).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let mut lines = response.into_body();
        let mut text: Vec<u8> = Vec::new();
        loop {
            let frame = match tokio::time::timeout(SILENCE * 6, lines.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_)) | None) => return Err(NodeError::HostLost),
                Err(_) => {
                    let waited = (SILENCE * 6).as_secs();
                    return Err(self.failed(format!("nothing came for {waited} s")));
                }
            };
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                if line.len() == 1 {
                    continue;
                }
                match serde_json::from_slice(&line).map_err(|e| self.failed(e))? {
                    Line::Progress(p) => progress(p),
                    Line::Done(done) => return Ok(done),
                    Line::Error(failure) => return Err(failure.into()),
                }
            }
        }
    }

    /// The node that runs, and what it does now; none where none runs. One that ends just now is waited for, and what
    /// took its place is told.
    pub async fn find(paths: &Paths) -> Result<Option<(Self, Status)>, NodeError> {
        let mut patience = Patience::default();
        while let Some(client) = Self::connect(paths).await? {
            match client.status().await {
                Err(NodeError::HostLost) if patience.has(&NodeLock::holder(paths).unwrap_or_default()) => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                status => return Ok(Some((client, status?))),
            }
        }
        Ok(None)
    }

    /// What the node does now.
    pub async fn status(&self) -> Result<Status, NodeError> {
        self.within(ANSWER_WITHIN, self.call("GET", "/v1/status", &())).await
    }

    /// Tells the node that the registry changed; returns once it has read it.
    pub async fn reload(&self) -> Result<(), NodeError> {
        self.within(ANSWER_WITHIN, self.call::<_, Option<()>>("POST", "/v1/reload", &())).await.map(|_| ())
    }

    /// Asks the node that is process `pid` to stop, and waits until it let go of the base directory; another that has
    /// it by then is left alone.
    pub async fn stop(&self, pid: u32) -> Result<(), NodeError> {
        let which = Stop { pid };
        let asked = self.within(ANSWER_WITHIN, self.call::<_, Option<()>>("POST", "/v1/stop", &which)).await;
        match asked {
            Ok(_) | Err(NodeError::HostLost) => {}
            Err(e) => return Err(e),
        }
        self.gone(&pid.to_string()).await
    }

    /// Waits until a process, by its number, has let go of the base directory.
    pub async fn gone(&self, pid: &str) -> Result<(), NodeError> {
        let until = Instant::now() + LETS_GO_WITHIN;
        while NodeLock::holder(&self.paths).is_some_and(|holder| holder == pid) {
            if Instant::now() >= until {
                let waited = LETS_GO_WITHIN.as_secs();
                return Err(self.failed(format!("process {pid} still runs after {waited} s")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Asks the node to let another process have the base directory. Refused where it serves a mount.
    pub async fn handover(&self, request: HandoverRequest) -> Result<(), NodeError> {
        self.within(ANSWER_WITHIN, self.call::<_, Option<()>>("POST", "/v1/handover", &request))
            .await
            .map(|_| ())
    }

    /// Waits beside the node until it ends, which is [`NodeError::HostLost`], or until somebody asks for the end of
    /// this command, which is success.
    pub async fn attend(&self, companion: &Companion) -> Result<(), NodeError> {
        self.job("/v1/attach", companion, |()| {}).await
    }

    /// Asks the command that waits beside the node as `activity` to end.
    pub async fn detach(&self, activity: &str) -> Result<Companion, NodeError> {
        let which = Detach { activity: activity.to_owned() };
        self.within(ANSWER_WITHIN, self.call("POST", "/v1/detach", &which)).await
    }

    /// Fetches a model, a directory or a file ahead; `path` is relative to the mount point. Waits as long as the
    /// node makes progress: the node itself gives up on a stalled swarm.
    pub async fn warm(&self, path: &str) -> Result<Warmed, NodeError> {
        self.call("POST", "/v1/warm", &Warm { path: path.to_owned() }).await
    }

    /// A connection. Descriptors that are short for a moment are waited for, at most [`ANSWER_WITHIN`].
    async fn stream(&self) -> std::io::Result<UnixStream> {
        let until = Instant::now() + ANSWER_WITHIN;
        loop {
            let connected = match descriptors::open(|| short_path(&self.paths)) {
                Ok((_dir, short)) => UnixStream::connect(short).await,
                Err(error) => Err(error),
            };
            match connected {
                Err(error) if descriptors::is_shortage(&error) && Instant::now() < until => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                connected => return connected,
            }
        }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, NodeError>>,
    ) -> Result<T, NodeError> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer,
            Err(_) => {
                let who =
                    NodeLock::holder(&self.paths).map_or(String::new(), |pid| format!(" from process {pid}"));
                Err(self.failed(format!("no answer{who} within {} s", limit.as_secs())))
            }
        }
    }

    async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: &str,
        route: &str,
        body: &B,
    ) -> Result<T, NodeError> {
        let Connected { response, _driver } = self.send(method, route, body).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let bytes = response.into_body().collect().await.map_err(|_| NodeError::HostLost)?.to_bytes();
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text).map_err(|e| self.failed(e))
    }

    /// Sends a request and waits for the head of the answer.
    async fn send<B: Serialize>(&self, method: &str, route: &str, body: &B) -> Result<Connected, NodeError> {
        let body = serde_json::to_vec(body).map_err(|e| self.failed(e))?;
        // It was there when we looked for it.
        let stream = self.stream().await.map_err(|error| match descriptors::is_shortage(&error) {
            true => self.failed(error),
            false => NodeError::HostLost,
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.failed(e))?;
        let driver = AbortOnDrop(tokio::spawn(connection));
        let request = Request::builder()
            .method(method)
            .uri(route)
            .header("host", "silmaril")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| self.failed(e))?;
        let response = sender.send_request(request).await.map_err(|_| NodeError::HostLost)?;
        Ok(Connected { response, _driver: driver })
    }

    /// The error of an answer that is one.
    async fn refusal(&self, response: Response<Incoming>) -> NodeError {
        let status = response.status();
        let Ok(body) = response.into_body().collect().await else { return NodeError::HostLost };
        match serde_json::from_slice::<Failure>(&body.to_bytes()) {
            Ok(failure) => failure.into(),
            Err(_) => self.failed(format!("it answered {status}")),
        }
    }

    /// Who has the socket that may not be used.
    fn closed_to_us(&self, error: std::io::Error) -> NodeError {
        let socket = self.paths.socket();
        let owner = std::fs::metadata(&socket).or_else(|_| std::fs::metadata(&self.paths.base));
        match owner.map(|meta| meta.uid()) {
            Ok(uid) if uid != rustix::process::geteuid().as_raw() => NodeError::OtherUser { socket, uid },
            _ => self.failed(error),
        }
    }

    fn failed(&self, reason: impl ToString) -> NodeError {
        NodeError::Control { socket: self.paths.socket(), reason: reason.to_string() }
    }
}

/// An answer whose body is still to come.
struct Connected {
    response: Response<Incoming>,
    _driver: AbortOnDrop,
}

/// Closes the connection when it goes out of scope, by which the node knows that nobody waits any more.
struct AbortOnDrop(JoinHandle<hyper::Result<()>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Major and minor version: what speaks the same language.
fn release(version: &str) -> (&str, &str) {
    let mut parts = version.split('.');
    (parts.next().unwrap_or(""), parts.next().unwrap_or(""))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_node_that_dies_while_it_is_called_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        for _ in 0..2000 {
            let listener = UnixListener::bind(paths.socket()).unwrap();
            let dies = std::thread::spawn(move || drop(listener));
            Client::connect(&paths).await.unwrap();
            dies.join().unwrap();
            std::fs::remove_file(paths.socket()).unwrap();
        }
    }

    #[test]
    fn versions_that_differ_in_the_last_number_speak_the_same() {
        assert_eq!(release("0.1.0"), release("0.1.7-dev"));
        assert_ne!(release("0.1.0"), release("0.2.0"));
        assert_ne!(release("1.1.0"), release("0.1.0"));
    }
}
