//! The routes of jobs: each may take long, reports its progress, and ends when its client disconnects.

use std::sync::Weak;

use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Json, Router};
use tracing::debug_span;

use super::passing::Passed;
use super::stream::{Reporter, job};
use super::{BytesDone, OfModel, Seed};
use crate::node::adopt::{AdoptProgress, AdoptRequest};
use crate::node::clients::ListedJob;
use crate::node::discover::DiscoverRequest;
use crate::node::get::{GetProgress, GetRequest};
use crate::node::import::ImportRequest;
use crate::node::mirror::{MirrorProgress, MirrorRequest};
use crate::node::mounts::{MountGuard, MountRequest};
use crate::node::share::ShareRequest;
use crate::node::{
    Node, NodeError, adopt, clear_cache, discover, get, import, mirror, mounts, remove, seed, share, verify,
};

/// The node; it is gone when the process stops.
type NodeState = State<Weak<Node>>;

/// All routes of this file.
pub(super) fn routes() -> Router<Weak<Node>> {
    Router::new()
        .route("/v1/get", post(get))
        .route("/v1/share", post(share))
        .route("/v1/mirror", post(mirror))
        .route("/v1/adopt", post(adopt))
        .route("/v1/seed", post(seed))
        .route("/v1/mount", post(mount))
        .route("/v1/discover", post(discover))
        .route("/v1/import", post(import))
        .route("/v1/verify", post(verify))
        .route("/v1/remove", post(remove))
        .route("/v1/cache/clear", post(clear))
}

/// Reports bytes to the list of jobs and to the client.
fn bytes_done(listed: ListedJob, reporter: Reporter) -> impl Fn(u64, u64) {
    move |done, total| {
        listed.progress(done, total);
        reporter.report(BytesDone { done, total });
    }
}

async fn get(State(node): NodeState, Json(request): Json<GetRequest>) -> Response {
    let span = debug_span!("get", model = %request.model);
    job(node, span, |node, reporter| async move {
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
    let span = debug_span!("discover", query = %request.query);
    job(node, span, |node, reporter| async move {
        let _listed = node.clients.begin(format!("discover {}", request.query).trim_end().to_owned());
        discover::run(&node, &request, |progress| reporter.report(progress)).await
    })
}

async fn share(State(node): NodeState, Json(request): Json<ShareRequest>) -> Response {
    let span = debug_span!("share", model = %request.name);
    job(node, span, |node, reporter| async move {
        let listed = node.clients.begin(format!("share {}", request.name));
        share::run(&node, request, bytes_done(listed, reporter)).await
    })
}

async fn mirror(State(node): NodeState, Json(request): Json<MirrorRequest>) -> Response {
    let span = debug_span!("mirror", repository = %request.shown);
    job(node, span, |node, reporter| async move {
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

async fn adopt(State(node): NodeState, Json(request): Json<AdoptRequest>) -> Response {
    let span = debug_span!("adopt");
    job(node, span, |node, reporter| async move {
        let listed = node.clients.begin("adopt".to_owned());
        let report = move |progress: AdoptProgress| {
            listed.progress(progress.done, progress.total);
            reporter.report(progress);
        };
        adopt::run(&node, &request, report).await
    })
}

async fn seed(State(node): NodeState, Json(request): Json<Seed>) -> Response {
    let span = debug_span!("seed");
    job(node, span, |node, _| async move { seed::run(&node, &request).await })
}

async fn mount(
    State(node): NodeState,
    Extension(passed): Extension<Passed>,
    Json(request): Json<MountRequest>,
) -> Response {
    let span = debug_span!("mount", point = %request.place.path.display());
    job(node, span, |node, reporter| async move {
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
    let span = debug_span!("import");
    job(node, span, |node, _| async move {
        let _listed = node.clients.begin("registry import".to_owned());
        import::run(&node, &request).await
    })
}

async fn verify(State(node): NodeState, Json(request): Json<OfModel>) -> Response {
    let span = debug_span!("verify", model = %request.model);
    job(node, span, |node, reporter| async move {
        let listed = node.clients.begin(format!("verify {}", request.model));
        verify::run(&node, &request.model, bytes_done(listed, reporter)).await
    })
}

async fn remove(State(node): NodeState, Json(request): Json<OfModel>) -> Response {
    let span = debug_span!("remove", model = %request.model);
    job(node, span, |node, _| async move { remove::run(&node, &request.model).await })
}

async fn clear(State(node): NodeState) -> Response {
    let span = debug_span!("clear_cache");
    job(node, span, |node, _| async move { clear_cache::run(&node).await })
}
