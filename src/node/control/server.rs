//! The node's side of the control socket.

use std::os::unix::fs::PermissionsExt;
use std::sync::Weak;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::net::UnixListener;

use super::{Failure, Status, Warm, Warmed, short_path};
use crate::node::{Node, NodeError};
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
        .with_state(node);
    Ok(tokio::spawn(async move {
        if let Err(e) = axum::serve(listener, router).await {
            tracing::error!("the control socket failed: {e}");
        }
    }))
}

/// An error as the client sees it.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(Failure { error: self.1 })).into_response()
    }
}

impl From<NodeError> for Refusal {
    fn from(e: NodeError) -> Self {
        let status = match &e {
            NodeError::UnknownModel(_) => StatusCode::NOT_FOUND,
            NodeError::Request(_) | NodeError::Refused { .. } => StatusCode::BAD_REQUEST,
            NodeError::Fetch { .. } => StatusCode::GATEWAY_TIMEOUT,
            NodeError::Busy { .. } | NodeError::OtherPublisher { .. } | NodeError::Untrusted { .. } => {
                StatusCode::CONFLICT
            }
            NodeError::Io { .. }
            | NodeError::Paths(_)
            | NodeError::Key(_)
            | NodeError::Describe(_)
            | NodeError::Store(_)
            | NodeError::Engine(_)
            | NodeError::Damaged { .. }
            | NodeError::Control { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, e.to_string())
    }
}

fn alive(node: &Weak<Node>) -> Result<std::sync::Arc<Node>, Refusal> {
    node.upgrade().ok_or_else(|| Refusal(StatusCode::SERVICE_UNAVAILABLE, "the node is stopping".to_owned()))
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
