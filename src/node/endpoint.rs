//! The endpoint that this node serves for other programs, and its models: the names of a mount, and the hub's answer about
//! models that are withheld.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lru::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::hub::HubUser;
use super::mounts::look_up_in_network;
use super::{Node, NodeError, metrics};
use crate::http::{Auth, HttpError, Method, Request, Token};
use crate::mirror::HubRepository;
use crate::model::{ModelName, ModelRef};
use crate::mount::{FindError, ModelNames, MountLayout, Owner};
use crate::serve::{
    DEFAULT_PORT, Endpoint, EndpointServer, Guard, HubError, Listener, ModelSource, is_loopback,
};
use crate::store::StoredRevision;

/// How long an answer of the hub about one client and one model is used. The hub limits requests, and a client sends two
/// for each file.
const ANSWER_KEPT: Duration = Duration::from_secs(60);
/// How many such answers are kept.
const MAX_ANSWERS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(1024).unwrap();
/// How long the hub may take to answer.
const HUB_WITHIN: Duration = Duration::from_secs(10);

/// Body of `POST /v1/serve`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ServeRequest {
    /// Where to listen; none is the address of the configuration, otherwise the default.
    pub listen: Option<SocketAddr>,
    /// Whether hosts that reach the address need no token.
    pub open: bool,
}

/// The endpoint, as `status` reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// The address in use.
    pub address: SocketAddr,
    /// For `HF_ENDPOINT`, on this machine.
    pub url: String,
    /// Whether requests need `serve.token`.
    pub token: bool,
    /// Whether other hosts reach it without a token.
    pub open: bool,
    /// Files that are being sent.
    pub sending: usize,
}

/// Why an endpoint cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The system refused the address.
    #[error("cannot listen on {address}: {}", listen_reason(error))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the system, which the message has already.
        error: std::io::Error,
    },
    /// Other hosts would reach the endpoint without a token.
    #[error("other hosts reach {0}, so it needs a token")]
    Exposed(SocketAddr),
}

fn listen_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program uses the port".to_owned(),
        _ => error.to_string(),
    }
}

/// The servers of one node.
#[derive(Default)]
pub(super) struct Endpoints {
    endpoint: Mutex<Option<Running>>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
    /// Why the endpoint of the configuration is not served.
    pub problem: Mutex<Option<String>>,
    metrics: Mutex<Option<EndpointServer>>,
    /// Why the figures of the configuration are not served.
    pub metrics_problem: Mutex<Option<String>>,
}

struct Running {
    server: EndpointServer,
    endpoint: Arc<Endpoint>,
    names: Arc<ModelNames>,
    token: bool,
    open: bool,
    /// The endpoint reads from the hub with the access of the node.
    _access: HubUser,
}

impl Running {
    fn status(&self) -> EndpointStatus {
        let address = self.server.address();
        EndpointStatus {
            address,
            url: format!("http://{}", reachable(address)),
            token: self.token,
            open: self.open,
            sending: self.endpoint.open_files(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.names.stop();
    }
}

/// The address with which a program of this machine reaches a listening address.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

impl Endpoints {
    /// The endpoint in use; none if none is served.
    pub fn status(&self) -> Option<EndpointStatus> {
        self.endpoint.lock().as_ref().map(Running::status)
    }

    /// Whether an endpoint is served.
    pub fn is_serving(&self) -> bool {
        self.endpoint.lock().is_some()
    }

    /// The address that serves figures; none if none does.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.lock().as_ref().map(EndpointServer::address)
    }

    /// Ends the endpoint. Returns whether there was one.
    pub fn stop(&self) -> bool {
        self.endpoint.lock().take().is_some()
    }
}

/// Serves the endpoint from now on. A former endpoint at another address ends.
pub(super) async fn serve(node: &Arc<Node>, request: &ServeRequest) -> Result<EndpointStatus, NodeError> {
    let config = &node.library.config.serve;
    let address = request
        .listen
        .or(config.listen)
        .unwrap_or_else(|| (std::net::Ipv4Addr::LOCALHOST, DEFAULT_PORT).into());
    let (token, open) = (config.token.clone(), request.open || config.open);
    if !is_loopback(address.ip()) && token.is_none() && !open {
        return Err(EndpointError::Exposed(address).into());
    }
    let _one = node.endpoints.changing.lock().await;
    let is_same = |now: &EndpointStatus| {
        let is_address = now.address == address || address.port() == 0 && now.address.ip() == address.ip();
        is_address && now.open == open
    };
    if let Some(now) = node.endpoints.status() {
        if is_same(&now) {
            return Ok(now);
        }
        if now.address == address {
            let former = node.endpoints.endpoint.lock().take();
            if let Some(mut former) = former {
                former.server.end().await;
            }
        }
    }
    let listener = Listener::bind(address).await.map_err(|error| EndpointError::Listen { address, error })?;
    let runtime = tokio::runtime::Handle::current();
    let names = Arc::new(ModelNames::new(Owner::of_this_process(), MountLayout::Plain, runtime));
    let access = node.hub.with_access(node.hub.own.clone());
    look_up_in_network(node, &names, &access, false)?;
    node.mounts.add_names(&names);
    node.mounts.publish()?;
    let has_token = token.is_some();
    let guard = Guard { address: listener.address(), token };
    let models =
        NodeModels { node: Arc::downgrade(node), names: names.clone(), answers: HubAnswers::default() };
    let endpoint = Endpoint::new(Arc::new(models), node.fetch.clone(), guard);
    let server = listener.serve(endpoint.router());
    tracing::info!(address = %server.address(), "serving the endpoint");
    let running = Running { server, endpoint, names, token: has_token, open, _access: access };
    let status = running.status();
    *node.endpoints.problem.lock() = None;
    *node.endpoints.endpoint.lock() = Some(running);
    Ok(status)
}

/// Serves the endpoint of the configuration, if it has one. A failure is logged and reported by `status`.
pub(super) async fn serve_configured(node: &Arc<Node>) {
    if node.library.config.serve.listen.is_none() {
        return;
    }
    if let Err(error) = serve(node, &ServeRequest::default()).await {
        tracing::error!(%error, "the endpoint is not served");
        *node.endpoints.problem.lock() = Some(super::chain(&error));
    }
}

/// Serves figures at the address of the configuration, if it has one. A failure is logged and reported by `status`.
pub(super) async fn serve_metrics(node: &Arc<Node>) {
    let Some(address) = node.library.config.metrics.listen else { return };
    match Listener::bind(address).await {
        Ok(listener) => {
            let guard = Guard { address: listener.address(), token: None };
            let server = listener.serve(metrics::router(Arc::downgrade(node), guard));
            tracing::info!(address = %server.address(), "serving metrics");
            *node.endpoints.metrics.lock() = Some(server);
        }
        Err(error) => {
            let error = EndpointError::Listen { address, error };
            tracing::error!(%error, "the metrics are not served");
            *node.endpoints.metrics_problem.lock() = Some(error.to_string());
        }
    }
}

/// The models of a node, for its endpoint.
struct NodeModels {
    node: Weak<Node>,
    names: Arc<ModelNames>,
    answers: HubAnswers,
}

impl ModelSource for NodeModels {
    fn find<'a>(&'a self, model: &'a ModelRef) -> BoxFuture<'a, Result<Arc<StoredRevision>, FindError>> {
        self.names.find(model).boxed()
    }

    fn revisions(&self, name: &ModelName) -> Vec<Arc<StoredRevision>> {
        let canonical = self.node.upgrade().and_then(|node| node.hub.canonical_name(name));
        self.names.revisions(canonical.as_ref().unwrap_or(name))
    }

    fn is_shown(&self, revision: &StoredRevision) -> bool {
        self.names.shows(&revision.manifest.torrent.info_hash)
    }

    fn reason(&self, model: &ModelRef) -> Option<String> {
        let sought = model.clone().into();
        self.node.upgrade()?.unresolved.reason(&sought)
    }

    fn may_read<'a>(
        &'a self,
        revision: &'a StoredRevision,
        token: Option<&'a Token>,
    ) -> BoxFuture<'a, Result<(), HubError>> {
        self.check(revision, token).boxed()
    }
}

impl NodeModels {
    async fn check(&self, revision: &StoredRevision, token: Option<&Token>) -> Result<(), HubError> {
        let stopping = || HubError::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping");
        let node = self.node.upgrade().ok_or_else(stopping)?;
        let model = revision.manifest.model_ref();
        let not_shared = |why: &str| {
            let message = format!("{model} is not shared: {why}; read it through a mount, or share it");
            HubError::new(StatusCode::FORBIDDEN, message)
        };
        if revision.is_local {
            return Err(not_shared("its files are those of the user of this machine"));
        }
        // The node reads a restricted model with the token of its user. The hub decides about the token of the client.
        let is_restricted = revision.hub.as_ref().is_some_and(|hub| hub.listing.is_restricted());
        if !is_restricted {
            let Some(withheld) = node.library.sharing.of(&model).withheld else { return Ok(()) };
            let is_of_hub =
                revision.manifest.source.as_ref().is_some_and(|source| source.kind == "huggingface");
            if !is_of_hub {
                // A repository of the hub with the same name is another one.
                return Err(not_shared(withheld.reason()));
            }
        }
        if let Some(answer) = self.answers.get(&model.name, token) {
            return answer;
        }
        let answer = ask_hub(&node, revision, token).await;
        if answer.as_ref().err().is_none_or(|error| error.status.is_client_error()) {
            self.answers.put(&model.name, token, answer.clone());
        }
        answer
    }
}

/// Asks the hub whether a client may read the files of a repository.
async fn ask_hub(node: &Node, revision: &StoredRevision, token: Option<&Token>) -> Result<(), HubError> {
    let manifest = &revision.manifest;
    let endpoint = &node.library.config.hub.endpoint;
    let id = revision.hub.as_ref().map_or(&manifest.name, |hub| &hub.listing.repository).clone();
    let repository = HubRepository { endpoint: endpoint.clone(), id };
    let auth = token.map(|token| Auth::bearer(endpoint, token));
    let ask = async |method: Method, url| {
        let request = Request { method, patience: HUB_WITHIN, ..Request::get(url).auth(auth.as_ref()) };
        node.web.client.send(request).await.map(|_| ())
    };
    let answer = match ask(Method::GET, repository.api(&["auth-check"])).await {
        // A mirror of the hub without this route: the hub refuses the file itself.
        Err(error) if error.error_response().is_some_and(|r| r.status == 404 && r.code.is_none()) => {
            let file = manifest.files.iter().max_by_key(|file| file.size);
            let path = file.map(|file| file.path.as_str()).unwrap_or_default();
            ask(Method::HEAD, repository.resolve(&manifest.commit(), path)).await
        }
        answer => answer,
    };
    answer.map_err(|error| explain(&manifest.name, token.is_some(), &error))
}

/// The response for a client that the hub refuses.
fn explain(name: &ModelName, has_token: bool, error: &HttpError) -> HubError {
    let Some(refusal) = error.error_response() else {
        let message = format!("{name} is not shared, and the hub cannot be asked who may read it: {error}");
        return HubError::new(StatusCode::SERVICE_UNAVAILABLE, message);
    };
    let message = refusal.message.clone().unwrap_or_else(|| "the hub refuses it".to_owned());
    match (refusal.status.as_u16(), refusal.code.as_deref()) {
        (_, Some("GatedRepo")) => HubError::gated(has_token, message),
        (401 | 403 | 404, _) => HubError::no_repository(&name.to_string(), &message),
        _ => HubError::new(StatusCode::BAD_GATEWAY, format!("{name}: the hub answered: {message}")),
    }
}

/// The latest answers of the hub. A token is not kept, only a hash of it with a key of this process.
struct HubAnswers {
    key: [u8; 32],
    latest: Mutex<LruCache<[u8; 32], TimedAnswer>>,
}

/// An answer, and when it was received.
type TimedAnswer = (Instant, Result<(), HubError>);

impl Default for HubAnswers {
    fn default() -> Self {
        let mut key = [0; 32];
        // Without random bytes the hashes are only less secret.
        let _ = getrandom::fill(&mut key);
        Self { key, latest: Mutex::new(LruCache::new(MAX_ANSWERS)) }
    }
}

impl HubAnswers {
    fn hash(&self, name: &ModelName, token: Option<&Token>) -> [u8; 32] {
        let token = token.map_or("", Token::secret);
        Sha256::new().chain_update(self.key).chain_update(format!("{name}\n{token}")).finalize().into()
    }

    fn get(&self, name: &ModelName, token: Option<&Token>) -> Option<Result<(), HubError>> {
        let mut latest = self.latest.lock();
        let (when, answer) = latest.get(&self.hash(name, token))?;
        (when.elapsed() < ANSWER_KEPT).then(|| answer.clone())
    }

    fn put(&self, name: &ModelName, token: Option<&Token>, answer: Result<(), HubError>) {
        self.latest.lock().put(self.hash(name, token), (Instant::now(), answer));
    }
}
