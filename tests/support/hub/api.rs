//! The hub's API for a repository: its revisions, and the tree of each in pages.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Path, Request, State as Extract};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::{Access, HubState, commit, refusal};
use crate::support::repos::{Entry, Repo, What};
use crate::support::web::uri::{encode, fields};
use crate::support::web::{ErrorResponse, HandlerResult};

pub fn routes() -> Router<Arc<HubState>> {
    let mut router = Router::new()
        .route("/api/models/{name}", get(newest_of_word))
        .route("/api/models/{name}/revision/{rev}", get(revision_of_word))
        .route("/api/models/{name}/tree/{rev}", get(tree_of_word));
    for kind in ["models", "datasets"] {
        let repo = format!("/api/{kind}/{{org}}/{{name}}");
        router = router
            .route(&repo, get(newest))
            .route(&format!("{repo}/revision/{{rev}}"), get(revision))
            .route(&format!("{repo}/auth-check"), get(auth_check))
            .route(&format!("{repo}/commits/{{rev}}"), get(commits))
            .route(&format!("{repo}/tree/{{rev}}"), get(tree))
            .route(&format!("{repo}/tree/{{rev}}/{{*dir}}"), get(subtree));
    }
    router
}

type Shared = Extract<Arc<HubState>>;

async fn newest(state: Shared, Path((org, name)): Path<(String, String)>, request: Request) -> HandlerResult {
    about(&state, &request, &format!("{org}/{name}"), "main")
}

async fn newest_of_word(state: Shared, Path(name): Path<String>, request: Request) -> HandlerResult {
    about(&state, &request, &name, "main")
}

async fn revision_of_word(
    state: Shared,
    Path((name, rev)): Path<(String, String)>,
    request: Request,
) -> HandlerResult {
    about(&state, &request, &name, &rev)
}

async fn tree_of_word(
    state: Shared,
    Path((name, rev)): Path<(String, String)>,
    request: Request,
) -> HandlerResult {
    page(&state, &request, &name, &rev, "")
}

/// Whether the user may read the files.
async fn auth_check(
    state: Shared,
    Path((org, name)): Path<(String, String)>,
    request: Request,
) -> HandlerResult {
    let (repo, _) = find(&state, &request, &format!("{org}/{name}"), "main")?;
    state.may_read_files(&request, &repo)?;
    Ok(Json(json!({})).into_response())
}

async fn revision(
    state: Shared,
    Path((org, name, rev)): Path<(String, String, String)>,
    request: Request,
) -> HandlerResult {
    about(&state, &request, &format!("{org}/{name}"), &rev)
}

/// The history of a revision, in one page.
async fn commits(
    state: Shared,
    Path((org, name, rev)): Path<(String, String, String)>,
    request: Request,
) -> HandlerResult {
    let (repo, commit) = find(&state, &request, &format!("{org}/{name}"), &rev)?;
    let about = |id: String| json!({"id": id, "title": "a commit", "message": "", "authors": []});
    Ok(Json(repo.history(&commit).into_iter().map(about).collect::<Vec<_>>()).into_response())
}

async fn tree(
    state: Shared,
    Path((org, name, rev)): Path<(String, String, String)>,
    request: Request,
) -> HandlerResult {
    page(&state, &request, &format!("{org}/{name}"), &rev, "")
}

async fn subtree(
    state: Shared,
    Path((org, name, rev, dir)): Path<(String, String, String, String)>,
    request: Request,
) -> HandlerResult {
    page(&state, &request, &format!("{org}/{name}"), &rev, &dir)
}

fn about(state: &HubState, request: &Request, name: &str, rev: &str) -> HandlerResult {
    let (repo, commit) = find(state, request, name, rev)?;
    let with_blobs = is_set(&fields(request), "blobs");
    Ok(Json(describe(state, &repo, name, &commit, with_blobs)).into_response())
}

fn is_set(fields: &HashMap<String, String>, name: &str) -> bool {
    fields.get(name).is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
}

/// The repository `org/name` of the kind that the route has, and the commit of a revision.
fn find(state: &HubState, request: &Request, name: &str, rev: &str) -> Result<(Repo, String), ErrorResponse> {
    let is_dataset = request.uri().path().starts_with("/api/datasets/");
    let id = if is_dataset { format!("datasets/{name}") } else { name.to_owned() };
    let repo = state.repo(request, &id)?;
    let commit = commit(&repo, rev)?;
    Ok((repo, commit))
}

fn describe(state: &HubState, repo: &Repo, name: &str, commit: &str, blobs: bool) -> Value {
    let entries = repo.entries(commit);
    let files = entries.iter().filter(|entry| entry.what != What::Directory);
    let siblings: Vec<Value> = files
        .map(|entry| {
            let mut sibling = json!({"rfilename": entry.path});
            if blobs {
                sibling["blobId"] = entry.oid.clone().into();
                match &entry.what {
                    What::Lfs(lfs) => {
                        sibling["size"] = lfs.size.into();
                        sibling["lfs"] =
                            json!({"sha256": lfs.sha256, "size": lfs.size, "pointerSize": lfs.pointer_size});
                    }
                    What::Blob(size) => sibling["size"] = (*size).into(),
                    What::Directory => {}
                }
            }
            sibling
        })
        .collect();
    let card = entries.iter().find(|entry| entry.path == "README.md").and_then(|e| front_matter(repo, e));
    let license = card.as_ref().and_then(|card| card["license"].as_str());
    let access = state.access(repo.id());
    let mut about = json!({
        "_id": commit[..24],
        "id": name,
        "author": name.split('/').next(),
        "sha": commit,
        "lastModified": jiff::Timestamp::from_second(repo.time(commit)).unwrap().to_string(),
        "private": access == Access::Private,
        "gated": if access == Access::Gated { json!("manual") } else { json!(false) },
        "disabled": false,
        "downloads": 0,
        "likes": 0,
        "tags": license.map(|license| format!("license:{license}")).into_iter().collect::<Vec<_>>(),
        "siblings": siblings,
    });
    if repo.id() == name {
        about["modelId"] = name.into();
    }
    if let Some(card) = card {
        about["cardData"] = card;
    }
    about
}

/// The YAML between the first two lines `---` of a README.
fn front_matter(repo: &Repo, readme: &Entry) -> Option<Value> {
    let text = String::from_utf8(repo.blob(&readme.oid)).ok()?;
    let yaml = text.strip_prefix("---\n")?.split("\n---").next()?;
    serde_saphyr::from_str(yaml).ok()
}

/// One page of a tree, and a link to the next.
fn page(state: &HubState, request: &Request, name: &str, rev: &str, dir: &str) -> HandlerResult {
    let (repo, commit) = find(state, request, name, rev)?;
    let fields = fields(request);
    let is_recursive = is_set(&fields, "recursive");
    let prefix = if dir.is_empty() { String::new() } else { format!("{}/", dir.trim_end_matches('/')) };
    let entries = repo.entries(&commit);
    let below: Vec<&Entry> = entries
        .iter()
        .filter(|entry| {
            entry.path.strip_prefix(&prefix).is_some_and(|rest| is_recursive || !rest.contains('/'))
        })
        .collect();
    if below.is_empty() && !dir.is_empty() {
        let message = format!("{dir} does not exist on \"{rev}\"");
        return Err(refusal(StatusCode::NOT_FOUND, "EntryNotFound", &message));
    }

    let limit = fields.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let limit = limit.clamp(1, state.page_size.load(Ordering::Relaxed));
    let start = match fields.get("cursor") {
        Some(cursor) => position(cursor)
            .filter(|at| *at < below.len())
            .ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "", "Invalid cursor"))?,
        None => 0,
    };
    let end = below.len().min(start + limit);
    let listed: Vec<Value> = below[start..end].iter().map(|entry| listed(entry)).collect();
    let mut response = Json(listed).into_response();
    if end < below.len() {
        let cursor = encode(&BASE64.encode(format!("after {end}")));
        let kept = request.uri().query().unwrap_or_default().split('&').filter(|f| !f.is_empty());
        let kept = kept.filter(|field| !field.starts_with("cursor=")).map(|field| format!("{field}&"));
        let url =
            format!("{}{}?{}cursor={cursor}", state.url, request.uri().path(), kept.collect::<String>());
        response.headers_mut().insert(header::LINK, format!("<{url}>; rel=\"next\"").parse().unwrap());
    }
    Ok(response)
}

/// The position in the tree that a page's cursor refers to.
fn position(cursor: &str) -> Option<usize> {
    let text = String::from_utf8(BASE64.decode(cursor).ok()?).ok()?;
    text.strip_prefix("after ")?.parse().ok()
}

fn listed(entry: &Entry) -> Value {
    let Entry { path, oid, what } = entry;
    match what {
        What::Directory => json!({"type": "directory", "oid": oid, "size": 0, "path": path}),
        What::Blob(size) => json!({"type": "file", "oid": oid, "size": size, "path": path}),
        What::Lfs(lfs) => json!({
            "type": "file", "oid": oid, "size": lfs.size, "path": path,
            "lfs": {"oid": lfs.sha256, "size": lfs.size, "pointerSize": lfs.pointer_size},
        }),
    }
}
