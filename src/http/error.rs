//! Errors of HTTP requests, and which of them are temporary.

use std::time::Duration;

use reqwest::{StatusCode, Url};

use super::address::{RefusedAddress, Scope, without_secrets};
use super::headers;

/// Time within which a connection, with TLS, must be established.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// Default time within which a server must respond.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Longest text of an error response that is read, in bytes.
const MAX_MESSAGE: usize = 64 << 10;
/// Longest part of it that is printed, in characters.
const SHOWN_MESSAGE: usize = 200;

/// A response with a status other than success.
#[derive(Debug, Clone)]
pub struct ErrorResponse {
    /// The URL that responded, without secrets.
    pub url: String,
    /// The status, which is not a success.
    pub status: StatusCode,
    /// The header `X-Error-Code`, with which the hub distinguishes errors of the same status.
    pub code: Option<String>,
    /// The message of the server: one line without control characters.
    pub message: Option<String>,
    /// The pause that the server requests by `Retry-After` or `RateLimit`.
    pub retry_after: Option<Duration>,
}

/// The reason why a request failed. URLs in the messages have no secrets.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The client could not be made.
    #[error("HTTP cannot be used: {0}")]
    Setup(#[source] reqwest::Error),
    /// A proxy variable of the environment is not a valid address.
    #[error("the environment names a proxy that is not a valid address")]
    EnvironmentProxy,
    /// The URL has another scheme, or no host.
    #[error("{url} is not an http or https address")]
    NotHttp {
        /// The refused URL.
        url: String,
    },
    /// The host has no address that may be contacted.
    #[error("{url} is refused: {refused}")]
    Address {
        /// The refused URL.
        url: String,
        /// The address and the reason.
        refused: RefusedAddress,
    },
    /// A redirect from https to http.
    #[error("{from} redirects to {to}, which is not encrypted")]
    Downgrade {
        /// The URL that redirects.
        from: String,
        /// The target of the redirect.
        to: String,
    },
    /// A redirect to another host, where the response must come from this one.
    #[error("{from} redirects to another host, {to}")]
    OtherOrigin {
        /// The URL that redirects.
        from: String,
        /// The target of the redirect.
        to: String,
    },
    /// The server cannot be reached.
    #[error("cannot reach {url}: {reason}")]
    Connect {
        /// The requested URL.
        url: String,
        /// The innermost cause.
        reason: String,
    },
    /// The server sent no response in time.
    #[error("{url} did not answer within {} s", within.as_secs())]
    NoAnswer {
        /// The requested URL.
        url: String,
        /// The time that the server had.
        within: Duration,
    },
    /// More than `MAX_REDIRECTS` redirects.
    #[error("{url} redirects too often")]
    Redirects {
        /// The first URL.
        url: String,
    },
    /// A redirect without a valid target.
    #[error("{url} redirects to an invalid address")]
    BadRedirect {
        /// The URL that redirects.
        url: String,
    },
    /// The server returned a status other than success.
    #[error("{} answered {}{}", .0.url, .0.status, .0.message.as_ref().map(|m| format!(" ({m})")).unwrap_or_default())]
    Status(Box<ErrorResponse>),
    /// The server sent another range than the requested one.
    #[error("{url} did not send the requested range")]
    WrongRange {
        /// The requested URL.
        url: String,
    },
    /// The server paused for too long within the body.
    #[error("{url} sent no data for {} s", after.as_secs())]
    Stalled {
        /// The requested URL.
        url: String,
        /// The length of the pause.
        after: Duration,
    },
    /// The body is shorter than announced.
    #[error("the connection to {url} ended before the end of the body")]
    Cut {
        /// The requested URL.
        url: String,
        /// The error of the connection; none if the server closed it.
        source: Option<reqwest::Error>,
    },
    /// The body is longer than announced or allowed.
    #[error("{url} sent more data than announced or allowed")]
    TooLong {
        /// The requested URL.
        url: String,
    },
    /// The body is not JSON of the expected form.
    #[error("{url} sent an invalid response: {source}")]
    Json {
        /// The requested URL.
        url: String,
        /// The error of the parser.
        source: serde_json::Error,
    },
}

#[cfg(test)]
impl HttpError {
    /// The error of a response with the status 429.
    pub(crate) fn too_many_requests(retry_after: Option<Duration>) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let url = "http://hub.test/".to_owned();
        Self::Status(Box::new(ErrorResponse { url, status, code: None, message: None, retry_after }))
    }
}

impl HttpError {
    /// The error of a response to a request for `url` that is not JSON of the expected form.
    pub(crate) fn json(url: &Url, source: serde_json::Error) -> Self {
        Self::Json { url: without_secrets(url), source }
    }

    pub(super) fn setup(error: reqwest::Error) -> Self {
        Self::Setup(error.without_url())
    }

    pub(super) fn from_sending(url: &Url, error: reqwest::Error) -> Self {
        let error = error.without_url();
        if let Some(refused) = refused(&error) {
            return Self::Address { url: without_secrets(url), refused: refused.clone() };
        }
        if error.is_timeout() {
            return Self::NoAnswer { url: without_secrets(url), within: CONNECT_WITHIN };
        }
        Self::Connect { url: without_secrets(url), reason: innermost(&error) }
    }

    /// The response of the server, if the error is a status.
    pub fn error_response(&self) -> Option<&ErrorResponse> {
        match self {
            Self::Status(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The status of the response, if the error is a status.
    pub fn status(&self) -> Option<StatusCode> {
        self.error_response().map(|refusal| refusal.status)
    }

    /// Whether an entry in `network.allow_private_hosts` would permit the request.
    pub fn is_private_host(&self) -> bool {
        matches!(self, Self::Address { refused, .. } if refused.scope == Scope::Private)
    }

    /// Whether the same request may succeed later: the connection failed, or the server is faulty or overloaded.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::NoAnswer { .. } | Self::Stalled { .. } | Self::Cut { .. } => true,
            Self::Status(refusal) => {
                refusal.status.is_server_error()
                    || matches!(refusal.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            Self::Setup(_)
            | Self::EnvironmentProxy
            | Self::NotHttp { .. }
            | Self::Address { .. }
            | Self::Downgrade { .. }
            | Self::OtherOrigin { .. }
            | Self::Redirects { .. }
            | Self::BadRedirect { .. }
            | Self::WrongRange { .. }
            | Self::TooLong { .. }
            | Self::Json { .. } => false,
        }
    }
}

/// The error of [`super::names::CheckedResolver`] among the causes of an error.
fn refused<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a RefusedAddress> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|cause| cause.downcast_ref())
}

/// The text of the innermost cause of an error. The outer causes only repeat that the request failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Reads the error response of a server.
pub(super) async fn read_error(response: reqwest::Response, url: Url) -> HttpError {
    let (status, headers) = (response.status(), response.headers().clone());
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let message = match text("x-error-message") {
        Some(message) => Some(message),
        None => read_message(response).await,
    };
    HttpError::Status(Box::new(ErrorResponse {
        url: without_secrets(&url),
        status,
        code: text("x-error-code"),
        message: message.map(|text| one_line(&text)).filter(|text| !text.is_empty()),
        retry_after: headers::retry_after(&headers),
    }))
}

/// Reads the message of a JSON body, as hubs and LFS servers send it. None for other bodies, such as HTML.
async fn read_message(mut response: reqwest::Response) -> Option<String> {
    let read = async {
        let mut all = Vec::new();
        while let Some(bytes) = response.chunk().await.ok()? {
            all.extend_from_slice(&bytes);
            if all.len() > MAX_MESSAGE {
                return None;
            }
        }
        Some(all)
    };
    let body = tokio::time::timeout(ANSWER_WITHIN, read).await.ok()??;
    let value: serde_json::Value = serde_json::from_slice(&body).ok()?;
    let message = ["error", "message"].iter().find_map(|key| value.get(key)?.as_str())?;
    Some(message.to_owned())
}

fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    crate::model::text::clean(line.trim()).chars().take(SHOWN_MESSAGE).collect()
}
