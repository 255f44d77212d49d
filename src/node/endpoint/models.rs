//! The models of the endpoint: the names of a mount, and the hub's answer about models that are withheld.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lru::LruCache;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use crate::http::{Auth, HttpError, Method, Request, Token};
use crate::mirror::HubRepository;
use crate::model::{ModelName, ModelRef};
use crate::mount::{FindError, ModelNames};
use crate::node::Node;
use crate::serve::{HubError, ModelSource};
use crate::store::StoredRevision;

/// How long an answer of the hub about one client and one model is used. The hub limits requests, and a client sends two
/// for each file.
const ANSWER_KEPT: Duration = Duration::from_secs(60);
/// How many such answers are kept.
const MAX_ANSWERS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(1024).unwrap();
/// How long the hub may take to answer.
const HUB_WITHIN: Duration = Duration::from_secs(10);

/// The models of a node, for its endpoint.
pub(super) struct NodeModels {
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
    pub fn new(node: &Arc<Node>, names: Arc<ModelNames>) -> Self {
        Self { node: Arc::downgrade(node), names, answers: HubAnswers::default() }
    }

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
