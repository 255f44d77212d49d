//! The response of the control socket for an error.

use axum::Json;
use axum::response::{IntoResponse, Response};

use super::ErrorBody;
use crate::node::NodeError;

/// An error, sent to the client with its status.
pub(super) struct ErrorReply(NodeError);

impl IntoResponse for ErrorReply {
    fn into_response(self) -> Response {
        (self.0.kind().status(), Json(ErrorBody::from(&self.0))).into_response()
    }
}

impl From<NodeError> for ErrorReply {
    fn from(e: NodeError) -> Self {
        Self(e)
    }
}
