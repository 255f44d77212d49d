//! A test hub: the routes of huggingface.co that are needed to read models and datasets.
//!
//! `tests/servers/hub.rs` proves with the real `hf` client that it behaves like the real hub. Small files come from the
//! hub itself, by a relative redirect. Files in LFS come from a second origin ("CDN"), by a signed link that expires. No
//! token may be sent to the second origin; the log shows that. Repositories are those of [`super::repos`].

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
use super::web::{ErrorResponse, Site};

/// The token of a user who may read gated and private repositories.
pub const MEMBER: &str = "hf_memberOfTheTestHub";
/// The token of a user who may not read gated or private repositories.
pub const STRANGER: &str = "hf_strangerToTheTestHub";

/// The users who may read a repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// All users.
    #[default]
    Public,
    /// All users may read its metadata, only [`MEMBER`] its files: 401 without a token, 403 for [`STRANGER`].
    Gated,
    /// Only [`MEMBER`] may read it. For other users it does not exist: 401 without a token, 404 for [`STRANGER`].
    Private,
}

/// A running hub. Dropping it ends the hub.
pub struct Hub {
    hub: Site,
    cdn: Site,
    state: Arc<HubState>,
    log: Log,
}

/// The data that the routes of the hub use.
struct HubState {
    url: String,
    cdn: String,
    repos: Repos,
    links: Arc<Links>,
    access: Mutex<HashMap<String, Access>>,
    moved: Mutex<HashMap<String, String>>,
    page_size: AtomicUsize,
}

impl Hub {
    /// Starts a hub whose two origins have the same address.
    pub fn start(place: &Place, repos: &Repos) -> Self {
        Self::with_cdn_at(place, place, repos)
    }

    /// Starts a hub whose files in LFS have another address.
    pub fn with_cdn_at(hub: &Place, cdn: &Place, repos: &Repos) -> Self {
        let (log, links) = (Log::default(), Arc::new(Links::default()));
        let cdn = Site::start(cdn, "cdn", &log, |_| resolve::cdn(repos.clone(), links.clone()));
        let mut state = None;
        let hub = Site::start(hub, "hub", &log, |url| {
            let shared = Arc::new(HubState {
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
            routes.layer(map_response(add_limits)).with_state(shared)
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

    /// Faults of the hub itself: its API, and the bytes of small files.
    pub fn faults(&self) -> &Faults {
        self.hub.faults()
    }

    /// Faults of the bytes of files in LFS. Their paths end in the file's path.
    pub fn cdn_faults(&self) -> &Faults {
        self.cdn.faults()
    }

    /// Sets the users who may read a repository.
    pub fn set_access(&self, id: &str, access: Access) {
        self.state.access.lock().unwrap().insert(id.to_owned(), access);
    }

    /// Renames a repository: all routes of `old` redirect to those of `new` from now on. Both ids are of the same
    /// kind. If `new` is the address of a server, they redirect to the same paths there.
    pub fn moved(&self, old: &str, new: &str) {
        self.state.moved.lock().unwrap().insert(old.to_owned(), new.to_owned());
    }

    /// Sets the highest number of entries in a page of a tree, 1000 by default.
    pub fn set_page_size(&self, entries: usize) {
        self.state.page_size.store(entries, Ordering::Relaxed);
    }

    /// Makes all links so far expire. New links work.
    pub fn expire_links(&self) {
        self.state.links.expire();
    }
}

impl HubState {
    /// The repository of a request, or the answer to a user who may not know that it exists.
    fn repo(&self, request: &Request, id: &str) -> Result<Repo, ErrorResponse> {
        let id = id.strip_prefix("models/").unwrap_or(id);
        let user = User::of(request)?;
        if let Some(new) = self.moved.lock().unwrap().get(id) {
            let path = request.uri().path_and_query().unwrap().as_str();
            let path = if new.contains("://") { format!("{new}{path}") } else { path.replacen(id, new, 1) };
            let redirect = (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, path)]);
            return Err(redirect.into_response().into());
        }
        let is_hidden = self.access(id) == Access::Private && user != User::Member;
        match self.repos.find(id).filter(|_| !is_hidden) {
            Some(repo) => Ok(repo),
            None if user == User::Anonymous => {
                Err(refusal(StatusCode::UNAUTHORIZED, "RepoNotFound", "Invalid username or password."))
            }
            None => Err(refusal(StatusCode::NOT_FOUND, "RepoNotFound", "Repository not found")),
        }
    }

    /// Checks that the user may read the files of a repository that [`Self::repo`] returned.
    fn may_read_files(&self, request: &Request, repo: &Repo) -> Result<(), ErrorResponse> {
        let id = repo.id();
        let (status, message) = match (self.access(id), User::of(request)?) {
            (Access::Gated, User::Anonymous) => (
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

/// The user of a request, by its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    Anonymous,
    Stranger,
    Member,
}

impl User {
    fn of(request: &Request) -> Result<Self, ErrorResponse> {
        let Some(authorization) = text(request.headers(), "authorization") else {
            return Ok(Self::Anonymous);
        };
        match authorization.strip_prefix("Bearer ") {
            Some(MEMBER) => Ok(Self::Member),
            Some(STRANGER) => Ok(Self::Stranger),
            _ => Err(refusal(StatusCode::UNAUTHORIZED, "", "Invalid credentials in Authorization header")),
        }
    }
}

/// The commit of a revision of a repository, or the answer that there is none.
fn commit(repo: &Repo, revision: &str) -> Result<String, ErrorResponse> {
    repo.resolve(revision).ok_or_else(|| {
        refusal(StatusCode::NOT_FOUND, "RevisionNotFound", &format!("Invalid rev id: {revision}"))
    })
}

/// Adds the client's remaining request budget to an answer, as the hub does.
async fn add_limits(mut response: Response) -> Response {
    response.headers_mut().insert("RateLimit", HeaderValue::from_static("\"api\";r=499;t=300"));
    response
}

/// An error in the form of the hub: in headers, and in JSON.
fn refusal(status: StatusCode, code: &str, message: &str) -> ErrorResponse {
    let mut response = (status, Json(serde_json::json!({"error": message}))).into_response();
    let headers = response.headers_mut();
    headers.insert("X-Error-Message", HeaderValue::from_str(message).unwrap());
    if !code.is_empty() {
        headers.insert("X-Error-Code", HeaderValue::from_str(code).unwrap());
    }
    response.into()
}
