//! Errors with the codes of the hub. Its clients read the code from a header, and show the message to their user.

use axum::Json;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::model::text::clean;

/// Longest message in a header, in bytes.
const MAX_MESSAGE: usize = 1000;

/// A response other than success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubError {
    /// The status.
    pub status: StatusCode,
    /// `X-Error-Code`; none if the hub has no code for it.
    pub code: Option<&'static str>,
    /// `X-Error-Message`, and `error` in the body.
    pub message: String,
    /// `X-Repo-Commit`, where the revision was found.
    pub commit: Option<String>,
}

impl HubError {
    /// An error without a code of the hub.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, code: None, message: message.into(), commit: None }
    }

    fn coded(status: StatusCode, code: &'static str, message: String) -> Self {
        Self { status, code: Some(code), message, commit: None }
    }

    /// No such model; `reason` for people.
    pub fn no_repository(name: &str, reason: &str) -> Self {
        let message = format!("Repository not found: {name}: {reason}");
        Self::coded(StatusCode::NOT_FOUND, "RepoNotFound", message)
    }

    /// The model has no such revision.
    pub fn no_revision(name: &str, revision: &str) -> Self {
        let message = format!("Invalid rev id: {revision}: no such revision of {name} is known");
        Self::coded(StatusCode::NOT_FOUND, "RevisionNotFound", message)
    }

    /// The revision has no such file or directory.
    pub fn no_entry(path: &str, commit: &str) -> Self {
        let message = format!("Entry not found: {path}");
        let error = Self::coded(StatusCode::NOT_FOUND, "EntryNotFound", message);
        Self { commit: Some(commit.to_owned()), ..error }
    }

    /// The hub does not permit the client to read a gated model. 401 without a token.
    pub fn gated(has_token: bool, message: String) -> Self {
        let status = if has_token { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
        Self::coded(status, "GatedRepo", message)
    }
}

impl IntoResponse for HubError {
    fn into_response(self) -> Response {
        let message = clean(&self.message);
        let mut response = (self.status, Json(serde_json::json!({"error": message}))).into_response();
        let headers = response.headers_mut();
        // A header has only ASCII.
        let ascii: String = message.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).collect();
        if let Ok(value) = HeaderValue::from_str(&ascii[..ascii.len().min(MAX_MESSAGE)]) {
            headers.insert("x-error-message", value);
        }
        if let Some(code) = self.code {
            headers.insert("x-error-code", HeaderValue::from_static(code));
        }
        if let Some(commit) = self.commit.and_then(|commit| HeaderValue::from_str(&commit).ok()) {
            headers.insert("x-repo-commit", commit);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert("www-authenticate", HeaderValue::from_static("Bearer realm=\"silmaril\""));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_safe_in_headers() {
        let error = HubError::no_entry("ä\r\nx: y", &"ab".repeat(20));
        let response = error.into_response();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        let text = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert!(text("x-error-message").starts_with("Entry not found: "));
        assert_eq!(text("x-error-code"), "EntryNotFound");
        assert_eq!(text("x-repo-commit"), "ab".repeat(20));
        let long = HubError::new(StatusCode::BAD_REQUEST, "é".repeat(5000)).into_response();
        assert!(long.headers().contains_key("x-error-message"));
    }
}
