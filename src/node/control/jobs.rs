//! The routes that are jobs: each takes its time, tells its progress, and ends when its client goes away.

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
use crate::node::mounts::{Holding, MountRequest};
use crate::node::share::ShareRequest;
use crate::node::{
    Node, NodeError, cache, discover, get, import, mirror, mounts, remove, seed, share, verify,
};

/// What is known of the node; it is gone when the process stops.
type Alive = State<Weak<Node>>;

/// All of them.
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

async fn get(State(node): Alive, Json(request): Json<GetRequest>) -> Response {
    job(node, |node, teller| async move {
        let noted = node.clients.begin(format!("get {}", request.model));
        let tell = |progress: GetProgress| {
            let (done, total) = progress.bytes();
            noted.progress(done, total);
            teller.tell(progress);
        };
        get::run(&node, &request, tell).await
    })
}

async fn discover(State(node): Alive, Json(request): Json<DiscoverRequest>) -> Response {
    job(node, |node, teller| async move {
        let _noted = node.clients.begin(format!("discover {}", request.query).trim_end().to_owned());
        discover::run(&node, &request, |progress| teller.tell(progress)).await
    })
}

async fn share(State(node): Alive, Json(request): Json<ShareRequest>) -> Response {
    job(node, |node, teller| async move {
        let noted = node.clients.begin(format!("share {}", request.name));
        let tell = move |done, total| {
            noted.progress(done, total);
            teller.tell(BytesDone { done, total });
        };
        share::run(&node, request, tell).await
    })
}

async fn mirror(State(node): Alive, Json(request): Json<MirrorRequest>) -> Response {
    job(node, |node, teller| async move {
        let noted = node.clients.begin(format!("mirror {}", request.shown));
        let tell = |progress: MirrorProgress| {
            if let MirrorProgress::Downloading { done, total, .. } = &progress {
                noted.progress(*done, *total);
            }
            teller.tell(progress);
        };
        let report = mirror::run(&node, &request, tell).await?;
        if report.info_hash.is_some() && report.withheld.is_none() {
            // Whether or not the command lives to see it.
            node.seeds.join(&node.library.revision(&report.model)?)?;
        }
        Ok(report)
    })
}

async fn seed(State(node): Alive, Json(request): Json<Seed>) -> Response {
    job(node, |node, _| async move { seed::run(&node, &request).await })
}

async fn mount(
    State(node): Alive,
    Extension(passed): Extension<Passed>,
    Json(request): Json<MountRequest>,
) -> Response {
    job(node, |node, teller| async move {
        let no_device = || NodeError::Request("no connection to the kernel was passed".to_owned());
        let device = passed.take().ok_or_else(no_device)?;
        let holding = request.held.then(|| Holding::new(&node, &request.place));
        let served = mounts::serve(&node, request, device).await?;
        teller.tell(());
        if holding.is_some() {
            served.closing().await;
        }
        Ok(())
    })
}

async fn import(State(node): Alive, Json(request): Json<ImportRequest>) -> Response {
    job(node, |node, _| async move {
        let _noted = node.clients.begin("registry import".to_owned());
        import::run(&node, &request).await
    })
}

async fn verify(State(node): Alive, Json(request): Json<OfModel>) -> Response {
    job(node, |node, teller| async move {
        let noted = node.clients.begin(format!("verify {}", request.model));
        let tell = move |done, total| {
            noted.progress(done, total);
            teller.tell(BytesDone { done, total });
        };
        verify::run(&node, &request.model, tell).await
    })
}

async fn remove(State(node): Alive, Json(request): Json<OfModel>) -> Response {
    job(node, |node, _| async move { remove::run(&node, &request.model).await })
}

async fn clear(State(node): Alive) -> Response {
    job(node, |node, _| async move { cache::clear(&node).await })
}
