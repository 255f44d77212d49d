//! LFS: the batch endpoint, and the second origin of objects (git-lfs `docs/api/batch.md` and `basic-transfers.md`).

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequest as _, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{GitState, Hrefs, Login};
use crate::support::repos::{Repo, Repos, lfs_path};
use crate::support::web::faults::Fault;
use crate::support::web::files::{self, Content};
use crate::support::web::links::{LIFETIME, Links};
use crate::support::web::log::header as text;
use crate::support::web::uri::decoded_path;
use crate::support::web::{ErrorResponse, HandlerResult};

/// The media type of all answers.
const LFS_JSON: &str = "application/vnd.git-lfs+json";
/// The scheme of the header for links of [`Hrefs::SignedHeader`].
const SCHEME: &str = "RemoteAuth ";

#[derive(Deserialize)]
struct Batch {
    operation: String,
    #[serde(default)]
    transfers: Vec<String>,
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    size: u64,
}

/// The batch endpoint, under the URL of every repository.
pub fn batch(state: Arc<GitState>) -> Router {
    Router::new().fallback(move |request: Request| {
        let state = state.clone();
        async move { answer(&state, request).await }
    })
}

async fn answer(state: &GitState, request: Request) -> HandlerResult {
    let (repo, origin) = admit(state, &request)?;
    let body = Bytes::from_request(request, &()).await.map_err(IntoResponse::into_response)?;
    let batch: Batch = serde_json::from_slice(&body)
        .map_err(|error| refusal(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()))?;
    if batch.operation != "download" {
        return Err(refusal(StatusCode::FORBIDDEN, "This host takes no uploads"));
    }
    if !batch.transfers.is_empty() && !batch.transfers.iter().any(|transfer| transfer == "basic") {
        return Err(refusal(StatusCode::UNPROCESSABLE_ENTITY, "Only basic transfers are known here"));
    }
    let objects: Vec<Value> =
        batch.objects.iter().map(|object| offer(state, &repo, &origin, object)).collect();
    let reply = json!({"transfer": "basic", "objects": objects, "hash_algo": "sha256"});
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, LFS_JSON)], reply.to_string()).into_response())
}

/// The repository of a request, and the origin that the client used for it.
fn admit(state: &GitState, request: &Request) -> Result<(Repo, String), ErrorResponse> {
    if state.login.as_ref().is_some_and(|login| !is_let_in(login, request)) {
        return Err(Fault::Unauthorized.answer(request).unwrap().into());
    }
    let is_lfs = |name| text(request.headers(), name).is_some_and(|value| value.starts_with(LFS_JSON));
    if !is_lfs("accept") {
        return Err(refusal(StatusCode::NOT_ACCEPTABLE, "Accept must name git-lfs's media type"));
    }
    if !is_lfs("content-type") {
        return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be git-lfs's media type"));
    }
    let path = decoded_path(request);
    let id = path.strip_suffix(".git/info/lfs/objects/batch").and_then(|id| id.strip_prefix('/'));
    let repo = id.and_then(|id| state.repos.find(id));
    let repo = repo.ok_or_else(|| refusal(StatusCode::NOT_FOUND, "Repository not found"))?;
    let origin = text(request.headers(), "host").map(|host| format!("http://{host}")).unwrap_or_default();
    Ok((repo, origin))
}

/// The link to an object, or the error that there is no such object.
fn offer(state: &GitState, repo: &Repo, origin: &str, Object { oid, size }: &Object) -> Value {
    if repo.lfs_object(oid).is_none() {
        let error = json!({"code": 404, "message": "Object does not exist"});
        return json!({"oid": oid, "size": size, "error": error});
    }
    let path = format!("/{}/{oid}", repo.id());
    let hrefs = match *state.hrefs.lock().unwrap() {
        Hrefs::Static if state.object_faults.awaits(&path) => Hrefs::SignedQuery,
        hrefs => hrefs,
    };
    let download = match hrefs {
        Hrefs::Static => {
            let object = lfs_path(oid).unwrap();
            json!({"href": format!("{origin}/{}.git/lfs/objects/{object}", repo.id())})
        }
        Hrefs::SignedQuery => json!({
            "href": format!("{}{path}?{}", state.objects, state.links.sign(&path)),
            "expires_in": LIFETIME,
        }),
        Hrefs::SignedHeader => json!({
            "href": format!("{}{path}", state.objects),
            "header": {"Authorization": format!("{SCHEME}{}", state.links.sign(&path))},
            "expires_in": LIFETIME,
        }),
    };
    json!({"oid": oid, "size": size, "authenticated": true, "actions": {"download": download}})
}

fn is_let_in(Login { user, password }: &Login, request: &Request) -> bool {
    let basic = BASE64.encode(format!("{user}:{password}"));
    let expected = [format!("Basic {basic}"), format!("Bearer {password}")];
    text(request.headers(), "authorization").is_some_and(|given| expected.contains(&given))
}

fn refusal(status: StatusCode, message: &str) -> ErrorResponse {
    let body = json!({"message": message}).to_string();
    (status, [(header::CONTENT_TYPE, LFS_JSON)], body).into_response().into()
}

/// The second origin, which serves objects by their links only.
pub fn objects(repos: Repos, links: Arc<Links>) -> Router {
    Router::new().fallback(move |request: Request| {
        let (repos, links) = (repos.clone(), links.clone());
        async move { object(&repos, &links, &request) }
    })
}

fn object(repos: &Repos, links: &Links, request: &Request) -> Response {
    let path = decoded_path(request);
    let authorization = text(request.headers(), "authorization");
    let signature = authorization.as_deref().and_then(|value| value.strip_prefix(SCHEME));
    if !links.is_good(&path, signature.or(request.uri().query()).unwrap_or_default()) {
        return Fault::ExpiredLink.answer(request).unwrap();
    }
    let found = path
        .rsplit_once('/')
        .and_then(|(id, oid)| Some((repos.find(id.strip_prefix('/')?)?.lfs_object(oid)?, oid)));
    match found.map(|(object, oid)| (Content::open(&object), oid)) {
        Some((Ok(content), oid)) => files::answer(request, content, &oid[..32]),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
