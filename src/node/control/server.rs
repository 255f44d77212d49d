//! The server side of the control socket.

use std::os::unix::fs::PermissionsExt;
use std::sync::Weak;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::error_reply::ErrorReply;
use super::handle::ControlServer;
use super::passing::PassingStream;
use super::stream::{alive, on_node};
use super::{Status, StopRequest, WarmRequest, Warmed, figures, jobs, short_path};
use crate::model::manifest::MAX_MANIFEST;
use crate::node::endpoint::{self, EndpointStatus, ServeRequest};
use crate::node::mounts::UnmountRequest;
use crate::node::{Ending, Node, NodeError, warm};
use crate::paths::Paths;

/// The most connections at a time; a command has one or two.
const MAX_CONNECTIONS: usize = 512;
/// How long running requests may take when the node stops, before their connections are closed.
const ENDS_WITHIN: Duration = Duration::from_millis(500);
/// How long to wait after the system refused a connection, for example because descriptors are short.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Binds the socket and serves it. The caller holds the node lock, so that a socket at this path belongs to a dead
/// node.
pub(in crate::node) fn serve(node: Weak<Node>, paths: &Paths) -> Result<ControlServer, NodeError> {
    let socket = paths.socket();
    let io = |source| NodeError::Io { path: socket.clone(), source };
    match std::fs::remove_file(&socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
        _ => {}
    }
    let (_dir, short) = short_path(paths).map_err(io)?;
    let listener = UnixListener::bind(short).map_err(io)?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/reload", post(reload))
        .route("/v1/stop", post(stop))
        .route("/v1/unmount", post(unmount))
        .route("/v1/serve", post(serve_endpoint))
        .route("/v1/serve/stop", post(stop_endpoint))
        .route("/v1/warm", post(warm))
        .merge(figures::routes())
        .merge(jobs::routes())
        // A manifest inside JSON with every byte escaped.
        .layer(DefaultBodyLimit::max(6 * MAX_MANIFEST))
        .with_state(node);
    let (ending, ends) = watch::channel(false);
    let mut task = JoinSet::new();
    task.spawn(accept(listener, router, ends));
    Ok(ControlServer { task, ending })
}

/// Serves connections until `ends` is true or the future is dropped. No connection lives longer.
async fn accept(listener: UnixListener, router: Router, mut ends: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            // The sender may be dropped: that ends the server as well.
            _ = ends.wait_for(|ends| *ends) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let stream = PassingStream::new(stream, None);
                let service = TowerToHyperService::new(router.clone().layer(Extension(stream.passed())));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move {
                    // A client that disconnects is no failure.
                    let _ = connection
                        .await
                        .inspect_err(|e| tracing::debug!(error = %e, "a control connection failed"));
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "the control socket could not accept a connection");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
    drop(listener);
    let answered = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(ENDS_WITHIN, answered).await.is_err() {
        connections.shutdown().await;
    }
}

async fn status(State(node): State<Weak<Node>>) -> Result<Json<Status>, ErrorReply> {
    Ok(Json(alive(&node)?.status()))
}

async fn reload(State(node): State<Weak<Node>>) -> Result<StatusCode, ErrorReply> {
    alive(&node)?.reload()?;
    Ok(StatusCode::NO_CONTENT)
}

async fn stop(
    State(node): State<Weak<Node>>,
    which: Option<Json<StopRequest>>,
) -> Result<StatusCode, ErrorReply> {
    let node = alive(&node)?;
    let ending = match which {
        Some(Json(StopRequest { pid, .. })) if pid != std::process::id() => {
            return Err(NodeError::HostLost.into());
        }
        Some(Json(StopRequest { replaced: true, .. })) => Ending::Replaced,
        _ => Ending::Stopped,
    };
    node.request_stop(ending);
    Ok(StatusCode::ACCEPTED)
}

async fn unmount(
    State(node): State<Weak<Node>>,
    Json(request): Json<UnmountRequest>,
) -> Result<Json<bool>, ErrorReply> {
    Ok(Json(alive(&node)?.mounts.unmount(&request).await))
}

async fn serve_endpoint(
    State(node): State<Weak<Node>>,
    Json(request): Json<ServeRequest>,
) -> Result<Json<EndpointStatus>, ErrorReply> {
    Ok(Json(on_node(&node, async |node| endpoint::serve(&node, &request).await).await?))
}

async fn stop_endpoint(State(node): State<Weak<Node>>) -> Result<Json<bool>, ErrorReply> {
    Ok(Json(alive(&node)?.endpoints.stop()))
}

async fn warm(
    State(node): State<Weak<Node>>,
    Json(request): Json<WarmRequest>,
) -> Result<Json<Warmed>, ErrorReply> {
    Ok(Json(on_node(&node, async |node| warm::run(&node, &request).await).await?))
}
