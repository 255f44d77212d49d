//! The node's side of the control socket.

use std::os::unix::fs::PermissionsExt;
use std::sync::Weak;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::net::UnixListener;

use super::{Failure, Status, Warm, Warmed, figures, jobs, short_path};
use crate::model::codec::MAX_MANIFEST;
use crate::node::{ErrorKind, Node, NodeError};
use crate::paths::Paths;

/// Binds the socket and serves it until the task is dropped. The caller holds the node lock, so that a socket
/// found here is a dead node's.
pub(in crate::node) fn serve(
    node: Weak<Node>,
    paths: &Paths,
) -> Result<tokio::task::JoinHandle<()>, NodeError> {
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
        .route("/v1/warm", post(warm))
        .merge(figures::routes())
        .merge(jobs::routes())
        // A manifest inside JSON, every byte of it escaped.
        .layer(DefaultBodyLimit::max(6 * MAX_MANIFEST))
        .with_state(node);
    Ok(tokio::spawn(async move {
        if let Err(e) = axum::serve(listener, router).await {
            tracing::error!("the control socket failed: {e}");
        }
    }))
}

/// An error as the client sees it.
pub(super) struct Refusal(NodeError);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            ErrorKind::UnknownModel | ErrorKind::UnknownPublisher | ErrorKind::NothingHere => {
                StatusCode::NOT_FOUND
            }
            ErrorKind::Failed | ErrorKind::Setting => StatusCode::BAD_REQUEST,
            ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            ErrorKind::Busy | ErrorKind::OtherPublisher | ErrorKind::Untrusted | ErrorKind::Ambiguous => {
                StatusCode::CONFLICT
            }
            ErrorKind::HostLost => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Listen
            | ErrorKind::Damaged
            | ErrorKind::Control
            | ErrorKind::OtherUser
            | ErrorKind::OtherVersion
            | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(Failure::from(&self.0))).into_response()
    }
}

impl From<NodeError> for Refusal {
    fn from(e: NodeError) -> Self {
        Self(e)
    }
}

/// The node, or that it is gone.
pub(super) fn alive(node: &Weak<Node>) -> Result<std::sync::Arc<Node>, Refusal> {
    node.upgrade().ok_or(Refusal(NodeError::HostLost))
}

async fn status(State(node): State<Weak<Node>>) -> Result<Json<Status>, Refusal> {
    Ok(Json(alive(&node)?.status()))
}

async fn reload(State(node): State<Weak<Node>>) -> Result<StatusCode, Refusal> {
    alive(&node)?.reload()?;
    Ok(StatusCode::NO_CONTENT)
}

async fn stop(State(node): State<Weak<Node>>) -> Result<StatusCode, Refusal> {
    alive(&node)?.request_stop();
    Ok(StatusCode::ACCEPTED)
}

async fn warm(State(node): State<Weak<Node>>, Json(request): Json<Warm>) -> Result<Json<Warmed>, Refusal> {
    Ok(Json(alive(&node)?.warm(&request.path).await?))
}
