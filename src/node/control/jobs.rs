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
use crate::node::{Node, NodeError};

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
        node.get(&request, tell).await
    })
}

async fn discover(State(node): Alive, Json(request): Json<DiscoverRequest>) -> Response {
    job(node, |node, teller| async move {
        let _noted = node.clients.begin(format!("discover {}", request.query).trim_end().to_owned());
        node.discover(&request, |progress| teller.tell(progress)).await
    })
}

async fn share(State(node): Alive, Json(request): Json<ShareRequest>) -> Response {
    job(node, |node, teller| async move {
        let noted = node.clients.begin(format!("share {}", request.name));
        let tell = move |done, total| {
            noted.progress(done, total);
            teller.tell(BytesDone { done, total });
        };
        node.publish(request, tell).await
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
        let report = node.mirror(&request, tell).await?;
        if report.info_hash.is_some() && report.withheld.is_none() {
            // Whether or not the command lives to see it.
            node.seed(&node.library.revision(&report.model)?)?;
        }
        Ok(report)
    })
}

async fn seed(State(node): Alive, Json(request): Json<Seed>) -> Response {
    job(node, |node, _| async move {
        // They may know those who look for the model.
        node.call_in_catalog(&request.peers);
        if let Some(model) = &request.model {
            node.take_in(model).await?;
        }
        node.seed_by_request(&request).await
    })
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
        let served = node.mount(request, device).await?;
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
        node.import(&request).await
    })
}

async fn verify(State(node): Alive, Json(request): Json<OfModel>) -> Response {
    job(node, |node, teller| async move {
        let noted = node.clients.begin(format!("verify {}", request.model));
        let tell = move |done, total| {
            noted.progress(done, total);
            teller.tell(BytesDone { done, total });
        };
        node.verify(&request.model, tell).await
    })
}

async fn remove(State(node): Alive, Json(request): Json<OfModel>) -> Response {
    job(node, |node, _| async move { node.remove(&request.model).await })
}

async fn clear(State(node): Alive) -> Response {
    job(node, |node, _| async move { node.clear_cache().await })
}
