//! What goes wrong, and what of it passes by itself.

use std::time::Duration;

use reqwest::{StatusCode, Url};

use super::address::{Refused, Scope, shown};
use super::headers;

/// The longest error text that is read, in bytes.
const MAX_MESSAGE: usize = 64 << 10;
/// How much of it is shown, in characters.
const SHOWN_MESSAGE: usize = 200;

/// A status other than success.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Who refused.
    pub url: String,
    /// The status.
    pub status: StatusCode,
    /// `X-Error-Code`, in which the hub says more than the status does.
    pub code: Option<String>,
    /// What the server says, one line cleaned for a terminal.
    pub message: Option<String>,
    /// How long to wait before asking again, by `Retry-After` or `RateLimit`.
    pub retry_after: Option<Duration>,
}

/// Why there is no answer, or no whole one. Addresses in the texts are without secrets.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The client could not be made.
    #[error("HTTP cannot be used: {0}")]
    Setup(#[source] reqwest::Error),
    /// A variable of the environment names a proxy that is no address.
    #[error("the environment names a proxy that is no address")]
    EnvironmentProxy,
    /// The address is not one of HTTP.
    #[error("{url} is not an http or https address")]
    NotHttp {
        /// The address.
        url: String,
    },
    /// The host has no address that may be contacted.
    #[error("{url} is refused: {refused}")]
    Address {
        /// The URL.
        url: String,
        /// Why.
        refused: Refused,
    },
    /// A redirect leads out of an encrypted connection.
    #[error("{from} redirects to {to}, which is not encrypted")]
    Downgrade {
        /// The URL that redirects.
        from: String,
        /// Where it redirects to.
        to: String,
    },
    /// The server cannot be reached.
    #[error("cannot reach {url}: {reason}")]
    Connect {
        /// The address.
        url: String,
        /// Why, with causes.
        reason: String,
    },
    /// The server took too long to answer.
    #[error("{url} did not answer within {} s", within.as_secs())]
    NoAnswer {
        /// The address.
        url: String,
        /// How long it had.
        within: Duration,
    },
    /// It redirected without end.
    #[error("{url} redirects too often")]
    Redirects {
        /// The first address.
        url: String,
    },
    /// It redirected to something that is no address.
    #[error("{url} redirects to something that is no address")]
    BadRedirect {
        /// The address that did.
        url: String,
    },
    /// The server refused.
    #[error("{} answered {}{}", .0.url, .0.status, .0.message.as_ref().map(|m| format!(" ({m})")).unwrap_or_default())]
    Refused(Box<Refusal>),
    /// Other bytes were sent than were asked for.
    #[error("{url} sent another range than it was asked for")]
    WrongRange {
        /// The address.
        url: String,
    },
    /// The body stalled.
    #[error("{url} sent nothing more for {} s", after.as_secs())]
    Stalled {
        /// The address.
        url: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The body ended before its time.
    #[error("the connection to {url} ended in the middle")]
    Cut {
        /// The address.
        url: String,
        /// What the connection said.
        source: Option<reqwest::Error>,
    },
    /// More bytes came than were announced or allowed.
    #[error("{url} sent more than it may")]
    TooLong {
        /// The address.
        url: String,
    },
    /// What should be JSON is not, or not of the right shape.
    #[error("{url} sent something that cannot be read: {source}")]
    Json {
        /// The address.
        url: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl HttpError {
    pub(super) fn setup(error: reqwest::Error) -> Self {
        Self::Setup(error.without_url())
    }

    pub(super) fn from_sending(url: &Url, error: reqwest::Error) -> Self {
        let error = error.without_url();
        if let Some(refused) = refused(&error) {
            return Self::Address { url: shown(url), refused: refused.clone() };
        }
        if error.is_timeout() {
            return Self::NoAnswer { url: shown(url), within: super::CONNECT_WITHIN };
        }
        Self::Connect { url: shown(url), reason: innermost(&error) }
    }

    /// What the server refused with.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The status that the server refused with.
    pub fn status(&self) -> Option<StatusCode> {
        self.refusal().map(|refusal| refusal.status)
    }

    /// Whether `network.allow_private_hosts` would allow the host.
    pub fn is_private_host(&self) -> bool {
        matches!(self, Self::Address { refused, .. } if refused.scope == Scope::Private)
    }

    /// Whether asking again may help: the connection failed, or the server has trouble or too much to do.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::NoAnswer { .. } | Self::Stalled { .. } | Self::Cut { .. } => true,
            Self::Refused(refusal) => {
                refusal.status.is_server_error()
                    || matches!(refusal.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            Self::Setup(_)
            | Self::EnvironmentProxy
            | Self::NotHttp { .. }
            | Self::Address { .. }
            | Self::Downgrade { .. }
            | Self::Redirects { .. }
            | Self::BadRedirect { .. }
            | Self::WrongRange { .. }
            | Self::TooLong { .. }
            | Self::Json { .. } => false,
        }
    }
}

/// The refusal of our resolver, among the causes of an error.
fn refused<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Refused> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|cause| cause.downcast_ref())
}

/// The last cause of an error, which says what happened; those above it repeat that something did.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Reads what a server says with a status other than success.
pub(super) async fn refusal(response: reqwest::Response, url: Url) -> HttpError {
    let (status, headers) = (response.status(), response.headers().clone());
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let told = match text("x-error-message") {
        Some(told) => Some(told),
        None => message(response).await,
    };
    HttpError::Refused(Box::new(Refusal {
        url: shown(&url),
        status,
        code: text("x-error-code"),
        message: told.map(|told| one_line(&told)).filter(|told| !told.is_empty()),
        retry_after: headers::retry_after(&headers),
    }))
}

/// The message in a JSON body, as hubs and LFS servers send it; pages for people are left out.
async fn message(mut response: reqwest::Response) -> Option<String> {
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
    let body = tokio::time::timeout(super::ANSWER_WITHIN, read).await.ok()??;
    let value: serde_json::Value = serde_json::from_slice(&body).ok()?;
    let told = ["error", "message"].iter().find_map(|key| value.get(key)?.as_str())?;
    Some(told.to_owned())
}

fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    crate::model::text::clean(line.trim()).chars().take(SHOWN_MESSAGE).collect()
}
