//! The routes of jobs: each may take long, reports its progress, and ends when its client disconnects.

use std::sync::Weak;

use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Json, Router};

use super::passing::Passed;
use super::stream::job;
use super::{BytesDone, OfModel, Seed};
use crate::node::discover::DiscoverRequest;
use crate::node::get::{GetProgress, GetRequest};
use crate::node::import::ImportRequest;
use crate::node::mirror::{MirrorProgress, MirrorRequest};
use crate::node::mounts::{MountGuard, MountRequest};
use crate::node::share::ShareRequest;
use crate::node::{
    Node, NodeError, clear_cache, discover, get, import, mirror, mounts, remove, seed, share, verify,
};

/// The node; it is gone when the process stops.
type NodeState = State<Weak<Node>>;

/// All routes of this file.
pub(super) fn routes() -> Router<Weak<Node>> {
    Router::new()
        .route("/v1/get", post(get))
        .route("/v1/share", post(share))
        .route("/v1/mirror", post(mirror))
        .route("/v1/seed", post(seed))
        .route("/v1/mount", post(mount))
        .route("/v1/discover", post(discover))
        .route("/v1/import", post(import))
        .route("/v1/verify", post(verify))
        .route("/v1/remove", post(remove))
        .route("/v1/cache/clear", post(clear))
}

async fn get(State(node): NodeState, Json(request): Json<GetRequest>) -> Response {
    job(node, |node, reporter| async move {
        let listed = node.clients.begin(format!("get {}", request.model));
        let report = |progress: GetProgress| {
            let (done, total) = progress.bytes();
            listed.progress(done, total);
            reporter.report(progress);
        };
        get::run(&node, &request, report).await
    })
}

async fn discover(State(node): NodeState, Json(request): Json<DiscoverRequest>) -> Response {
    job(node, |node, reporter| async move {
        let _listed = node.clients.begin(format!("discover {}", request.query).trim_end().to_owned());
        discover::run(&node, &request, |progress| reporter.report(progress)).await
    })
}

async fn share(State(node): NodeState, Json(request): Json<ShareRequest>) -> Response {
    job(node, |node, reporter| async move {
        let listed = node.clients.begin(format!("share {}", request.name));
        let report = move |done, total| {
            listed.progress(done, total);
            reporter.report(BytesDone { done, total });
        };
        share::run(&node, request, report).await
    })
}

async fn mirror(State(node): NodeState, Json(request): Json<MirrorRequest>) -> Response {
    job(node, |node, reporter| async move {
        let listed = node.clients.begin(format!("mirror {}", request.shown));
        let report = |progress: MirrorProgress| {
            if let MirrorProgress::Downloading { done, total, .. } = &progress {
                listed.progress(*done, *total);
            }
            reporter.report(progress);
        };
        let mirrored = mirror::run(&node, &request, report).await?;
        if mirrored.info_hash.is_some() && mirrored.withheld.is_none() {
            // Also when the client disconnects now.
            node.seeds.join(&node.library.revision(&mirrored.model)?)?;
        }
        Ok(mirrored)
    })
}

async fn seed(State(node): NodeState, Json(request): Json<Seed>) -> Response {
    job(node, |node, _| async move { seed::run(&node, &request).await })
}

async fn mount(
    State(node): NodeState,
    Extension(passed): Extension<Passed>,
    Json(request): Json<MountRequest>,
) -> Response {
    job(node, |node, reporter| async move {
        let no_device = || NodeError::internal("the command passed no connection to the kernel");
        let device = passed.take().ok_or_else(no_device)?;
        let guard = request.held.then(|| MountGuard::new(&node, &request.place));
        let served = mounts::serve(&node, request, device).await?;
        reporter.report(());
        if guard.is_some() {
            served.closing().await;
        }
        Ok(())
    })
}

async fn import(State(node): NodeState, Json(request): Json<ImportRequest>) -> Response {
    job(node, |node, _| async move {
        let _listed = node.clients.begin("registry import".to_owned());
        import::run(&node, &request).await
    })
}

async fn verify(State(node): NodeState, Json(request): Json<OfModel>) -> Response {
    job(node, |node, reporter| async move {
        let listed = node.clients.begin(format!("verify {}", request.model));
        let report = move |done, total| {
            listed.progress(done, total);
            reporter.report(BytesDone { done, total });
        };
        verify::run(&node, &request.model, report).await
    })
}

async fn remove(State(node): NodeState, Json(request): Json<OfModel>) -> Response {
    job(node, |node, _| async move { remove::run(&node, &request.model).await })
}

async fn clear(State(node): NodeState) -> Response {
    job(node, |node, _| async move { clear_cache::run(&node).await })
}
