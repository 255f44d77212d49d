//! The routes of the endpoint.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, body};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::body::Bodies;
use super::file::ServedFile;
use super::find::{Found, find};
use super::route::Route;
use super::{Guard, HubError, ModelSource, describe, file, registry};
use crate::fetch::Fetch;
use crate::http::Token;
use crate::model::{Kind, ModelName};

/// Entries of a page of a tree, as at the hub.
const PAGE: usize = 1000;
/// Longest body of a request, in bytes: a list of paths.
const MAX_BODY: usize = 1 << 20;
/// The most paths of a list.
const MAX_PATHS: usize = 1000;
/// Time within which a client must send the body of a request.
const BODY_WITHIN: Duration = Duration::from_secs(20);
/// How many descriptions of a model are made at a time: that of a model with many files uses much memory.
const MAX_DESCRIPTIONS: usize = 2;
/// How long a request may wait for its turn to be described.
const TURN_WITHIN: Duration = Duration::from_secs(20);

/// An endpoint for programs that read models of a hub.
pub struct Endpoint {
    models: Arc<dyn ModelSource>,
    bodies: Arc<Bodies>,
    guard: Guard,
    /// The turns of requests that describe models.
    turns: Arc<Semaphore>,
}

/// The parts of a request that routes use.
struct Call {
    method: Method,
    headers: HeaderMap,
    query: String,
    body: Bytes,
    /// The client's own token for the hub.
    token: Option<Token>,
}

impl Endpoint {
    /// An endpoint that serves these models. Must be called inside the runtime of the daemon.
    pub fn new(models: Arc<dyn ModelSource>, fetch: Arc<Fetch>, guard: Guard) -> Arc<Self> {
        let turns = Arc::new(Semaphore::new(MAX_DESCRIPTIONS));
        let bodies = Bodies::new(models.clone(), fetch);
        Arc::new(Self { models, bodies, guard, turns })
    }

    /// Number of files that are being sent.
    pub fn open_files(&self) -> usize {
        self.bodies.count()
    }

    /// The service of its connections.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().fallback(serve).with_state(self.clone())
    }

    async fn answer(&self, request: Request) -> Result<Response, HubError> {
        let (parts, content) = request.into_parts();
        self.guard.check_origin(&parts.headers)?;
        let route = Route::parse(&parts.method, parts.uri.path());
        let route = route.ok_or_else(|| HubError::new(StatusCode::NOT_FOUND, "no such route"))?;
        if route == Route::Health {
            return Ok("ok\n".into_response());
        }
        let token = self.guard.check_token(&parts.headers)?;
        let body = tokio::time::timeout(BODY_WITHIN, body::to_bytes(content, MAX_BODY)).await;
        let body =
            body.map_err(|_| HubError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"))?;
        let body = body.map_err(|_| HubError::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"))?;
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let call = Call { method: parts.method, headers: parts.headers, query, body, token };
        self.route(route, call).await
    }

    async fn route(&self, route: Route, call: Call) -> Result<Response, HubError> {
        match route {
            Route::Health => Ok("ok\n".into_response()),
            Route::NoName(name) => {
                Err(HubError::no_repository(&name, "a name here is one word, or has the form org/name"))
            }
            Route::Registry => Ok(Json(serde_json::json!({})).into_response()),
            Route::RegistryManifest(name, tag) => {
                let found = self.find(&name, None, &call).await?;
                registry::manifest(&self.bodies, &found, &tag).await
            }
            Route::RegistryBlob(name, digest) => {
                let found = self.find(&name, None, &call).await?;
                registry::blob(&self.bodies, &found, &digest, &call.method, &call.headers).await
            }
            Route::About(name, revision) => {
                let found = self.find(&name, revision.as_deref(), &call).await?;
                let blobs = call.is_set("blobs");
                self.describe(found, move |found| Ok(describe::about(found, blobs))).await
            }
            Route::Tree(name, revision, dir) => {
                let found = self.find(&name, Some(&revision), &call).await?;
                self.page(found, &call, &name, dir).await
            }
            Route::PathsInfo(name, revision) => {
                let found = self.find(&name, Some(&revision), &call).await?;
                let (paths, expand) = call.paths()?;
                self.describe(found, move |found| Ok(describe::paths(found, &paths, expand).into())).await
            }
            Route::Refs(name) => {
                let first = self.find(&name, None, &call).await?;
                let mut all = Vec::new();
                for revision in self.models.revisions(&name) {
                    if self.models.may_read(&revision, call.token.as_ref()).await.is_ok() {
                        all.push(Found { commit: revision.manifest.commit(), revision });
                    }
                }
                Ok(json(&first, describe::refs(&all)))
            }
            Route::Commits(name, revision) => {
                let found = self.find(&name, Some(&revision), &call).await?;
                Ok(json(&found, describe::commits(&found)))
            }
            Route::AuthCheck(name) => {
                let found = self.find(&name, None, &call).await?;
                Ok(json(&found, Value::Object(serde_json::Map::new())))
            }
            Route::File(name, revision, path) => {
                let found = self.find(&name, Some(&revision), &call).await?;
                let index = describe::file_index(&found.revision, &path)
                    .ok_or_else(|| HubError::no_entry(&path, &found.commit))?;
                let entry = &found.revision.manifest.files[index];
                let etag = describe::etag(&found.revision, entry);
                let mut headers = commit_header(&found);
                for (name, value) in
                    [("x-linked-etag", etag.clone()), ("x-linked-size", entry.size.to_string())]
                {
                    headers.extend(
                        HeaderValue::from_str(&value)
                            .map(|value| (header::HeaderName::from_static(name), value)),
                    );
                }
                let served = ServedFile { revision: found.revision, file: index, etag, headers };
                file::respond(&self.bodies, served, &call.method, &call.headers).await
            }
        }
    }

    async fn find(&self, name: &ModelName, revision: Option<&str>, call: &Call) -> Result<Found, HubError> {
        find(&*self.models, name, revision, call.token.as_ref()).await
    }

    /// The response with the description of a model, which is made in a thread of its own when it is its turn.
    async fn describe(
        &self,
        found: Found,
        description: impl FnOnce(&Found) -> Result<Value, HubError> + Send + 'static,
    ) -> Result<Response, HubError> {
        let turn = tokio::time::timeout(TURN_WITHIN, self.turns.clone().acquire_owned()).await;
        let busy = || HubError::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests; try again");
        let Ok(Ok(turn)) = turn else { return Err(busy()) };
        let described = move || {
            let _until_done = turn;
            description(&found).map(|value| json(&found, value))
        };
        tokio::task::spawn_blocking(described).await.map_err(|_| busy())?
    }

    /// One page of a tree, with the address of the next one in `Link` (RFC 8288).
    async fn page(
        &self,
        found: Found,
        call: &Call,
        name: &ModelName,
        dir: String,
    ) -> Result<Response, HubError> {
        let number = |field: &str| call.field(field).and_then(|text| text.parse::<usize>().ok());
        let limit = number("limit").unwrap_or(PAGE).clamp(1, PAGE);
        let from = number("cursor").unwrap_or(0);
        let end = from.saturating_add(limit);
        let (recursive, expand) = (call.is_set("recursive"), call.is_set("expand"));
        let kind = if name.kind() == Kind::Dataset { "datasets" } else { "models" };
        let host = call.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let base =
            host.map_or_else(|| format!("http://{}", self.guard.address), |host| format!("http://{host}"));
        let mut url = url::Url::parse(&base).ok();
        if let Some(url) = &mut url {
            if let Ok(mut path) = url.path_segments_mut() {
                path.extend(["api", kind]).extend(name.hub_parts()).extend(["tree", &found.commit]);
                path.extend(dir.split('/').filter(|part| !part.is_empty()));
            }
            let mut query = url.query_pairs_mut();
            for field in ["recursive", "expand"].into_iter().filter(|field| call.is_set(field)) {
                query.append_pair(field, "true");
            }
            query.append_pair("limit", &limit.to_string()).append_pair("cursor", &end.to_string());
        }
        let next = url.and_then(|url| HeaderValue::from_str(&format!("<{url}>; rel=\"next\"")).ok());
        let has_more = Arc::new(AtomicBool::new(false));
        let sees_more = Arc::clone(&has_more);
        let description = move |found: &Found| {
            let (entries, all) = describe::tree(found, &dir, recursive, expand, from..end)
                .ok_or_else(|| HubError::no_entry(&dir, &found.commit))?;
            has_more.store(end < all, Ordering::Relaxed);
            Ok(Value::Array(entries))
        };
        let mut response = self.describe(found, description).await?;
        let next = next.filter(|_| sees_more.load(Ordering::Relaxed));
        response.headers_mut().extend(next.map(|next| (header::LINK, next)));
        Ok(response)
    }
}

impl Call {
    /// A field of the query.
    fn field(&self, name: &str) -> Option<String> {
        let mut fields = url::form_urlencoded::parse(self.query.as_bytes());
        fields.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    fn is_set(&self, name: &str) -> bool {
        self.field(name).is_some_and(|value| is_true(&value))
    }

    /// The fields `paths`, each path once, and `expand` of a body, which is a form or JSON. Fails if there are more than [`MAX_PATHS`].
    fn paths(&self) -> Result<(Vec<String>, bool), HubError> {
        let bounded = |mut paths: Vec<String>, expand| {
            let mut seen = HashSet::new();
            paths.retain(|path| seen.insert(path.clone()));
            match paths.len() {
                0..=MAX_PATHS => Ok((paths, expand)),
                _ => Err(HubError::new(
                    StatusCode::BAD_REQUEST,
                    format!("there are more than {MAX_PATHS} paths"),
                )),
            }
        };
        let content_type = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if content_type.is_some_and(|text| text.starts_with("application/json")) {
            let refused = |_| HubError::new(StatusCode::BAD_REQUEST, "the body is not {\"paths\": […]}");
            #[derive(serde::Deserialize)]
            struct PathsRequest {
                paths: Vec<String>,
                #[serde(default)]
                expand: bool,
            }
            let PathsRequest { paths, expand } = serde_json::from_slice(&self.body).map_err(refused)?;
            return bounded(paths, expand);
        }
        let fields = || url::form_urlencoded::parse(&self.body);
        let expand = fields().any(|(key, value)| key == "expand" && is_true(&value));
        let paths = fields().filter(|(key, _)| key == "paths").map(|(_, path)| path.into_owned());
        bounded(paths.collect(), expand)
    }
}

fn is_true(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("true")
}

fn commit_header(found: &Found) -> HeaderMap {
    let value = HeaderValue::from_str(&found.commit).ok();
    value.into_iter().map(|value| (header::HeaderName::from_static("x-repo-commit"), value)).collect()
}

fn json(found: &Found, value: Value) -> Response {
    let mut response = Json(value).into_response();
    response.headers_mut().extend(commit_header(found));
    response
}

async fn serve(State(endpoint): State<Arc<Endpoint>>, request: Request) -> Response {
    let is_head = *request.method() == Method::HEAD;
    let mut response = endpoint.answer(request).await.unwrap_or_else(HubError::into_response);
    if is_head {
        // The header `Content-Length` stays that of the body that is left out.
        *response.body_mut() = axum::body::Body::empty();
    }
    response
}
