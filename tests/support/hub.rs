//! A stand-in for the hub: the routes of huggingface.co that are needed to read models and datasets.
//!
//! `tests/servers/hub.rs` proves with the real `hf` client that it is a fair one. Small files come from the hub itself,
//! by a relative redirect; files in LFS from a second origin ("CDN"), by a signed link that expires. No token may go
//! there, which the log shows. Repositories are those of [`super::repos`].

mod api;
mod resolve;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse as _, Response};

use super::repos::{Repo, Repos};
use super::web::faults::Faults;
use super::web::links::Links;
use super::web::log::{Log, header as text};
use super::web::place::Place;
use super::web::{Refusal, Site};

/// The token of a user who may read gated and private repositories.
pub const MEMBER: &str = "hf_memberOfTheTestHub";
/// The token of a user who may not.
pub const STRANGER: &str = "hf_strangerToTheTestHub";

/// Who may read a repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    #[default]
    Public,
    /// Its metadata everybody, its files only [`MEMBER`]: 401 for nobody, 403 for [`STRANGER`].
    Gated,
    /// Only [`MEMBER`]; for others it does not exist: 401 for nobody, 404 for [`STRANGER`].
    Private,
}

/// A running hub. Dropping it ends that.
pub struct Hub {
    hub: Site,
    cdn: Site,
    state: Arc<State>,
    log: Log,
}

/// What the routes of the hub know.
struct State {
    url: String,
    cdn: String,
    repos: Repos,
    links: Arc<Links>,
    access: Mutex<HashMap<String, Access>>,
    moved: Mutex<HashMap<String, String>>,
    page_size: AtomicUsize,
}

impl Hub {
    /// Starts a hub; both origins are at the same address.
    pub fn start(place: &Place, repos: &Repos) -> Self {
        Self::with_cdn_at(place, place, repos)
    }

    /// Starts a hub whose files in LFS are somewhere else.
    pub fn with_cdn_at(hub: &Place, cdn: &Place, repos: &Repos) -> Self {
        let (log, links) = (Log::default(), Arc::new(Links::default()));
        let cdn = Site::start(cdn, "cdn", &log, |_| resolve::cdn(repos.clone(), links.clone()));
        let mut state = None;
        let hub = Site::start(hub, "hub", &log, |url| {
            let shared = Arc::new(State {
                url: url.to_owned(),
                cdn: cdn.url().to_owned(),
                repos: repos.clone(),
                links,
                access: Mutex::default(),
                moved: Mutex::default(),
                page_size: AtomicUsize::new(1000),
            });
            state = Some(shared.clone());
            let routes = api::routes().merge(resolve::routes());
            routes.layer(map_response(say_limits)).with_state(shared)
        });
        Self { hub, cdn, state: state.unwrap(), log }
    }

    /// For `HF_ENDPOINT` and `hub.endpoint`: `http://address:port`.
    pub fn url(&self) -> &str {
        self.hub.url()
    }

    /// The origin of files in LFS.
    pub fn cdn_url(&self) -> &str {
        self.cdn.url()
    }

    /// The requests to both origins; `site` is `hub` or `cdn`.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What goes wrong at the hub itself: its API, and the bytes of small files.
    pub fn faults(&self) -> &Faults {
        self.hub.faults()
    }

    /// What goes wrong with the bytes of files in LFS. Their paths end in the file's path.
    pub fn cdn_faults(&self) -> &Faults {
        self.cdn.faults()
    }

    /// Says who may read a repository.
    pub fn set_access(&self, id: &str, access: Access) {
        self.state.access.lock().unwrap().insert(id.to_owned(), access);
    }

    /// Renames: all routes of `old` redirect to the same of `new` from now on. Both are ids of the same kind.
    pub fn moved(&self, old: &str, new: &str) {
        self.state.moved.lock().unwrap().insert(old.to_owned(), new.to_owned());
    }

    /// At most how many entries a page of a tree has; 1000 at first.
    pub fn set_page_size(&self, entries: usize) {
        self.state.page_size.store(entries, Ordering::Relaxed);
    }

    /// Lets all links handed out so far expire. New ones work.
    pub fn expire_links(&self) {
        self.state.links.expire();
    }
}

impl State {
    /// The repository that a request is for, or the answer to who may not see it.
    fn repo(&self, request: &Request, id: &str) -> Result<Repo, Refusal> {
        let id = id.strip_prefix("models/").unwrap_or(id);
        let user = User::of(request)?;
        if let Some(new) = self.moved.lock().unwrap().get(id) {
            let path = request.uri().path_and_query().unwrap().as_str().replacen(id, new, 1);
            let redirect = (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, path)]);
            return Err(redirect.into_response().into());
        }
        let is_hidden = self.access(id) == Access::Private && user != User::Member;
        match self.repos.find(id).filter(|_| !is_hidden) {
            Some(repo) => Ok(repo),
            None if user == User::Nobody => {
                Err(refusal(StatusCode::UNAUTHORIZED, "RepoNotFound", "Invalid username or password."))
            }
            None => Err(refusal(StatusCode::NOT_FOUND, "RepoNotFound", "Repository not found")),
        }
    }

    /// Whether the files of a repository that [`Self::repo`] let through may be read, or the answer to who may not.
    fn may_read_files(&self, request: &Request, repo: &Repo) -> Result<(), Refusal> {
        let id = repo.id();
        let (status, message) = match (self.access(id), User::of(request)?) {
            (Access::Gated, User::Nobody) => (
                StatusCode::UNAUTHORIZED,
                format!("Access to {id} is restricted. You must be authenticated to access it."),
            ),
            (Access::Gated, User::Stranger) => (
                StatusCode::FORBIDDEN,
                format!("Access to {id} is restricted and you are not in the authorized list."),
            ),
            _ => return Ok(()),
        };
        Err(refusal(status, "GatedRepo", &message))
    }

    fn access(&self, id: &str) -> Access {
        self.access.lock().unwrap().get(id).copied().unwrap_or_default()
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    Nobody,
    Stranger,
    Member,
}

impl User {
    fn of(request: &Request) -> Result<Self, Refusal> {
        let Some(authorization) = text(request.headers(), "authorization") else { return Ok(Self::Nobody) };
        match authorization.strip_prefix("Bearer ") {
            Some(MEMBER) => Ok(Self::Member),
            Some(STRANGER) => Ok(Self::Stranger),
            _ => Err(refusal(StatusCode::UNAUTHORIZED, "", "Invalid credentials in Authorization header")),
        }
    }
}

/// The commit of a revision of a repository, or the answer that there is none.
fn commit(repo: &Repo, revision: &str) -> Result<String, Refusal> {
    repo.resolve(revision).ok_or_else(|| {
        refusal(StatusCode::NOT_FOUND, "RevisionNotFound", &format!("Invalid rev id: {revision}"))
    })
}

/// What is left of the client's allowance, which the hub says in every answer.
async fn say_limits(mut response: Response) -> Response {
    response.headers_mut().insert("RateLimit", HeaderValue::from_static("\"api\";r=499;t=300"));
    response
}

/// An error as the hub says it: in headers, and in JSON.
fn refusal(status: StatusCode, code: &str, message: &str) -> Refusal {
    let mut response = (status, Json(serde_json::json!({"error": message}))).into_response();
    let headers = response.headers_mut();
    headers.insert("X-Error-Message", HeaderValue::from_str(message).unwrap());
    if !code.is_empty() {
        headers.insert("X-Error-Code", HeaderValue::from_str(code).unwrap());
    }
    response.into()
}
