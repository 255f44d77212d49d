//! The client side of the control socket.

use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound, PermissionDenied};
use std::os::fd::OwnedFd;
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

use super::passing::PassingStream;
use super::{
    BytesDone, ErrorBody, Hello, Line, OfModel, SILENCE, Seed, Seeded, Status, StopRequest, WarmRequest,
    Warmed, short_path,
};
use crate::descriptors;
use crate::model::{Manifest, ModelRef};
use crate::node::NodeError;
use crate::node::adopt::{AdoptProgress, AdoptRequest, AdoptedDir};
use crate::node::discover::{DiscoverProgress, DiscoverRequest, Discovered};
use crate::node::endpoint::{EndpointStatus, ServeRequest};
use crate::node::get::{GetProgress, GetReport, GetRequest};
use crate::node::import::ImportRequest;
use crate::node::lock::NodeLock;
use crate::node::mirror::{MirrorProgress, MirrorReport, MirrorRequest};
use crate::node::mounts::{MountRequest, UnmountRequest};
use crate::node::patience::{Patience, RELEASED_WITHIN};
use crate::node::share::{ShareRequest, Shared};
use crate::node::verify::Verified;
use crate::paths::Paths;

/// How long a node may take to answer without using the network.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a node may take to end a mount: its own deadlines, one after another.
const UNMOUNTED_WITHIN: Duration = Duration::from_secs(20);
/// How often a process is polled for its end: there is no event for it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A client of the node of a base directory. Each request has its own connection.
#[derive(Debug)]
pub struct DaemonClient {
    paths: Paths,
}

impl DaemonClient {
    /// Finds the node of a base directory; `Ok(None)` when none runs. A socket of a dead node counts as none, and so
    /// does a node that dies during the call.
    pub async fn connect(paths: &Paths) -> Result<Option<Self>, NodeError> {
        let client = Self { paths: paths.clone() };
        match client.stream().await {
            Ok(_) => Ok(Some(client)),
            Err(e) if matches!(e.kind(), NotFound | ConnectionRefused | ConnectionReset) => Ok(None),
            Err(e) if e.kind() == PermissionDenied => Err(client.no_permission(e)),
            Err(e) => Err(client.failed(e)),
        }
    }

    /// The process and the version of the node, which every version of a node reports.
    pub async fn hello(&self) -> Result<Hello, NodeError> {
        self.within(ANSWER_WITHIN, self.call("GET", "/v1/status", &())).await
    }

    /// Gets a model. Dropping the future ends the job and keeps the received bytes.
    pub async fn get(
        &self,
        request: &GetRequest,
        progress: impl FnMut(GetProgress),
    ) -> Result<GetReport, NodeError> {
        self.job("/v1/get", request, progress).await
    }

    /// Searches the shared models, until the time is up or all peers have answered.
    pub async fn discover(
        &self,
        request: &DiscoverRequest,
        progress: impl FnMut(DiscoverProgress),
    ) -> Result<Discovered, NodeError> {
        self.job("/v1/discover", request, progress).await
    }

    /// Makes a model of a directory. Dropping the future ends the job, and nothing is recorded.
    pub async fn share(
        &self,
        request: &ShareRequest,
        progress: impl FnMut(BytesDone),
    ) -> Result<Shared, NodeError> {
        self.job("/v1/share", request, progress).await
    }

    /// Has the node seed from now on; returns the models that it seeds.
    pub async fn seed(&self, request: &Seed) -> Result<Seeded, NodeError> {
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

    /// Mirrors a repository. Dropping the future ends the job and keeps the received bytes.
    pub async fn mirror(
        &self,
        request: &MirrorRequest,
        progress: impl FnMut(MirrorProgress),
    ) -> Result<MirrorReport, NodeError> {
        self.job("/v1/mirror", request, progress).await
    }

    /// Adopts files of other programs. Dropping the future ends the job; models that were adopted stay.
    pub async fn adopt(
        &self,
        request: &AdoptRequest,
        progress: impl FnMut(AdoptProgress),
    ) -> Result<Vec<AdoptedDir>, NodeError> {
        self.job("/v1/adopt", request, progress).await
    }

    /// Deletes a model.
    pub async fn remove(&self, model: &ModelRef) -> Result<(), NodeError> {
        self.job("/v1/remove", &OfModel { model: model.clone() }, |()| {}).await
    }

    /// Clears the cache; returns how many bytes that freed.
    pub async fn clear_cache(&self) -> Result<u64, NodeError> {
        self.job("/v1/cache/clear", &(), |()| {}).await
    }

    /// Runs a job: one request, and a response of many lines. `HostLost` if the connection breaks.
    async fn job<B: Serialize, P: DeserializeOwned, T: DeserializeOwned>(
        &self,
        route: &str,
        body: &B,
        progress: impl FnMut(P),
    ) -> Result<T, NodeError> {
        self.follow(self.send("POST", route, body).await?, progress).await
    }

    /// Reads the lines of a job to its end.
    async fn follow<P: DeserializeOwned, T: DeserializeOwned>(
        &self,
        Connected { response, _driver }: Connected,
        mut progress: impl FnMut(P),
    ) -> Result<T, NodeError> {
        if !response.status().is_success() {
            return Err(self.error_in(response).await);
        }
        let mut lines = response.into_body();
        let mut text: Vec<u8> = Vec::new();
        loop {
            let frame = match tokio::time::timeout(SILENCE * 6, lines.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_)) | None) => return Err(NodeError::HostLost),
                Err(_) => {
                    let waited = (SILENCE * 6).as_secs();
                    return Err(self.failed(format!("it has sent nothing for {waited} s")));
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

    /// The running node and its status; none if none runs. If the node is about to end, this waits for its successor.
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

    /// The status of the node.
    pub async fn status(&self) -> Result<Status, NodeError> {
        self.within(ANSWER_WITHIN, self.call("GET", "/v1/status", &())).await
    }

    /// Has the node read the registry again; returns when it has.
    pub async fn reload(&self) -> Result<(), NodeError> {
        self.within(ANSWER_WITHIN, self.call::<_, Option<()>>("POST", "/v1/reload", &())).await.map(|_| ())
    }

    /// Stops the node if it is process `pid`, and waits until it has released the base directory. A later node is not
    /// stopped. With `replaced`, the clients of the node continue their work with the next node.
    pub async fn stop(&self, pid: u32, replaced: bool) -> Result<(), NodeError> {
        let which = StopRequest { pid, replaced };
        let asked = self.within(ANSWER_WITHIN, self.call::<_, Option<()>>("POST", "/v1/stop", &which)).await;
        match asked {
            Ok(_) | Err(NodeError::HostLost) => {}
            Err(e) => return Err(e),
        }
        self.gone(&pid.to_string()).await
    }

    /// Waits until the process with this number has released the base directory.
    pub async fn gone(&self, pid: &str) -> Result<(), NodeError> {
        let until = Instant::now() + RELEASED_WITHIN;
        while NodeLock::holder(&self.paths).is_some_and(|holder| holder == pid) {
            if Instant::now() >= until {
                let waited = RELEASED_WITHIN.as_secs();
                return Err(self.failed(format!("process {pid} still runs after {waited} s")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Has the node serve a mount. `ready` is called when its models can be read. For a held mount, this returns when
    /// the mount has ended, and dropping the future ends it.
    pub async fn mount(
        &self,
        request: &MountRequest,
        device: OwnedFd,
        mut ready: impl FnMut(),
    ) -> Result<(), NodeError> {
        let answer = self.send_with("POST", "/v1/mount", request, Some(device)).await?;
        self.follow(answer, |()| ready()).await
    }

    /// Unmounts. Returns whether the node served the mount.
    pub async fn unmount(&self, request: &UnmountRequest) -> Result<bool, NodeError> {
        self.within(UNMOUNTED_WITHIN, self.call("POST", "/v1/unmount", request)).await
    }

    /// Has the node serve its endpoint; returns the address in use.
    pub async fn serve(&self, request: &ServeRequest) -> Result<EndpointStatus, NodeError> {
        self.within(ANSWER_WITHIN, self.call("POST", "/v1/serve", request)).await
    }

    /// Ends the endpoint. Returns whether there was one.
    pub async fn stop_serving(&self) -> Result<bool, NodeError> {
        self.within(ANSWER_WITHIN, self.call("POST", "/v1/serve/stop", &())).await
    }

    /// Fetches a model, a directory or a file before it is read. Has no deadline: the node fails when the swarm stalls.
    pub async fn warm(&self, request: &WarmRequest) -> Result<Warmed, NodeError> {
        self.call("POST", "/v1/warm", request).await
    }

    /// A connection. If descriptors are short, this waits for some, at most [`ANSWER_WITHIN`].
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
            return Err(self.error_in(response).await);
        }
        let bytes = response.into_body().collect().await.map_err(|_| NodeError::HostLost)?.to_bytes();
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text).map_err(|e| self.failed(e))
    }

    /// Sends a request and waits for the head of the response.
    async fn send<B: Serialize>(&self, method: &str, route: &str, body: &B) -> Result<Connected, NodeError> {
        self.send_with(method, route, body, None).await
    }

    /// Sends a request, and a descriptor with it.
    async fn send_with<B: Serialize>(
        &self,
        method: &str,
        route: &str,
        body: &B,
        descriptor: Option<OwnedFd>,
    ) -> Result<Connected, NodeError> {
        let body = serde_json::to_vec(body).map_err(|e| self.failed(e))?;
        // The node was running when this client was made.
        let stream = self.stream().await.map_err(|error| {
            if descriptors::is_shortage(&error) { self.failed(error) } else { NodeError::HostLost }
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(PassingStream::new(stream, descriptor)))
                .await
                .map_err(|e| self.failed(e))?;
        let driver = JobConnection(tokio::spawn(connection));
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

    /// The error in a response.
    async fn error_in(&self, response: Response<Incoming>) -> NodeError {
        let status = response.status();
        let Ok(body) = response.into_body().collect().await else { return NodeError::HostLost };
        match serde_json::from_slice::<ErrorBody>(&body.to_bytes()) {
            Ok(failure) => failure.into(),
            Err(_) => self.failed(format!("it answered {status}")),
        }
    }

    /// The error for a socket that this user may not use.
    fn no_permission(&self, error: std::io::Error) -> NodeError {
        let socket = self.paths.socket();
        let owner = std::fs::metadata(&socket).or_else(|_| std::fs::metadata(&self.paths.base));
        match owner.map(|meta| meta.uid()) {
            Ok(uid) if uid != rustix::process::geteuid().as_raw() => {
                NodeError::OtherUser { base: self.paths.base.clone(), uid }
            }
            _ => self.failed(error),
        }
    }

    fn failed(&self, reason: impl ToString) -> NodeError {
        NodeError::Control { socket: self.paths.socket(), reason: reason.to_string() }
    }
}

/// A response whose body has not arrived yet.
struct Connected {
    response: Response<Incoming>,
    _driver: JobConnection,
}

/// Closes the connection when it goes out of scope, so that the node ends the job.
struct JobConnection(JoinHandle<hyper::Result<()>>);

impl Drop for JobConnection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_node_that_dies_during_connect_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        for _ in 0..2000 {
            let listener = UnixListener::bind(paths.socket()).unwrap();
            let dies = std::thread::spawn(move || drop(listener));
            DaemonClient::connect(&paths).await.unwrap();
            dies.join().unwrap();
            std::fs::remove_file(paths.socket()).unwrap();
        }
    }
}
