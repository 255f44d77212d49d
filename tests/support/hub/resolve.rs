//! The hub's files: the `resolve` routes, and the routes that they redirect to.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State as Extract};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use sha2::{Digest as _, Sha256};

use super::{HubState, commit, refusal};
use crate::support::repos::{Entry, Repo, Repos, What};
use crate::support::web::faults::Fault;
use crate::support::web::files::{self, Content};
use crate::support::web::links::Links;
use crate::support::web::uri::{decoded_path, encode};
use crate::support::web::{ErrorResponse, HandlerResult};

pub fn routes() -> Router<Arc<HubState>> {
    Router::new()
        .route("/{name}/resolve/{rev}/{*path}", get(file_of_word))
        .route("/{org}/{name}/resolve/{rev}/{*path}", get(model_file))
        .route("/datasets/{org}/{name}/resolve/{rev}/{*path}", get(dataset_file))
        .route("/api/resolve-cache/{kind}/{org}/{name}/{rev}/{*path}", get(small_file))
}

/// In links, the organisation of a repository whose name is one word.
const WORD: &str = "word/";

type Four = Path<(String, String, String, String)>;

async fn model_file(state: Extract<Arc<HubState>>, path: Four, request: Request) -> HandlerResult {
    let Path((org, name, rev, path)) = path;
    resolve(&state, &request, &format!("{org}/{name}"), &rev, &path)
}

async fn file_of_word(
    state: Extract<Arc<HubState>>,
    Path((name, rev, path)): Path<(String, String, String)>,
    request: Request,
) -> HandlerResult {
    resolve(&state, &request, &name, &rev, &path)
}

async fn dataset_file(state: Extract<Arc<HubState>>, path: Four, request: Request) -> HandlerResult {
    let Path((org, name, rev, path)) = path;
    resolve(&state, &request, &format!("datasets/{org}/{name}"), &rev, &path)
}

/// Redirects to the bytes of a file.
fn resolve(state: &HubState, request: &Request, id: &str, rev: &str, path: &str) -> HandlerResult {
    let (repo, commit, entry) = find(state, request, id, rev, path)?;
    let (etag, size, target, status) = match &entry.what {
        What::Lfs(lfs) => {
            let place = format!("/lfs/{}/{}/{path}", kind_and_name(&repo), lfs.sha256);
            let query = state.links.sign(&place);
            let target = format!("{}{}?{query}", state.cdn, encode(&place));
            (&lfs.sha256, lfs.size, target, StatusCode::FOUND)
        }
        What::Blob(size) => {
            let place = format!("/api/resolve-cache/{}/{commit}/{path}", kind_and_name(&repo));
            (&entry.oid, *size, encode(&place), StatusCode::TEMPORARY_REDIRECT)
        }
        What::Directory => return Err(no_entry(&commit, path)),
    };
    let mut response = Response::builder()
        .status(status)
        .header(header::LOCATION, target)
        .header(header::ETAG, format!("\"{etag}\""))
        .header("X-Repo-Commit", &commit)
        .header(header::ACCEPT_RANGES, "bytes");
    if matches!(entry.what, What::Lfs(_)) {
        response =
            response.header("X-Linked-Etag", format!("\"{etag}\"")).header("X-Linked-Size", size.to_string());
    }
    Ok(response.body(Body::empty()).unwrap())
}

/// The bytes of a file that git itself holds.
async fn small_file(
    Extract(state): Extract<Arc<HubState>>,
    Path((kind, org, name, rev, path)): Path<(String, String, String, String, String)>,
    request: Request,
) -> HandlerResult {
    let id = format!("{kind}/{org}/{name}").replace(&format!("models/{WORD}"), "models/");
    let (repo, commit, entry) = find(&state, &request, &id, &rev, &path)?;
    let content = Content::Memory(repo.blob(&entry.oid).into());
    let mut response = files::answer(&request, content, &entry.oid);
    response.headers_mut().insert("X-Repo-Commit", HeaderValue::from_str(&commit).unwrap());
    Ok(response)
}

fn find(
    state: &HubState,
    request: &Request,
    id: &str,
    rev: &str,
    path: &str,
) -> Result<(Repo, String, Entry), ErrorResponse> {
    let repo = state.repo(request, id)?;
    state.may_read_files(request, &repo)?;
    let commit = commit(&repo, rev)?;
    let entry = repo.entry(&commit, path).ok_or_else(|| no_entry(&commit, path))?;
    Ok((repo, commit, entry))
}

fn no_entry(commit: &str, path: &str) -> ErrorResponse {
    let message = format!("{path} does not exist");
    let mut response = refusal(StatusCode::NOT_FOUND, "EntryNotFound", &message).into_response();
    response.headers_mut().insert("X-Repo-Commit", HeaderValue::from_str(commit).unwrap());
    response.into()
}

fn kind_and_name(repo: &Repo) -> String {
    match repo.id() {
        id if id.starts_with("datasets/") => id.to_owned(),
        id if id.contains('/') => format!("models/{id}"),
        // A name of one word.
        id => format!("models/{WORD}{id}"),
    }
}

/// The second origin, which serves files by their links only. Its entity tags differ from the hub's, as on the real
/// CDN.
pub fn cdn(repos: Repos, links: Arc<Links>) -> Router {
    Router::new().fallback(move |request: Request| {
        let (repos, links) = (repos.clone(), links.clone());
        async move { linked(&repos, &links, &request) }
    })
}

fn linked(repos: &Repos, links: &Links, request: &Request) -> Response {
    let path = decoded_path(request);
    if !links.is_good(&path, request.uri().query().unwrap_or_default()) {
        return Fault::ExpiredLink.answer(request).unwrap();
    }
    let found = path.strip_prefix("/lfs/").and_then(|rest| {
        let mut parts = rest.splitn(5, '/');
        let (kind, org, name, sha256) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let id = if kind == "datasets" { format!("datasets/{org}/{name}") } else { format!("{org}/{name}") };
        let id = id.strip_prefix(WORD).unwrap_or(&id);
        Some((repos.find(id)?.lfs_object(sha256)?, sha256.to_owned()))
    });
    match found.map(|(object, sha256)| (Content::open(&object), sha256)) {
        Some((Ok(content), sha256)) => {
            let etag = hex::encode(&Sha256::digest(sha256)[..16]) + "-6";
            files::answer(request, content, &etag)
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
