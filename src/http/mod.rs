//! HTTP for what stands beside the swarm: hubs, git and LFS servers, and web seeds.
//!
//! What always holds:
//! - Redirects are followed here, not by the library below, and a credential goes to the origin it was given for and to no
//!   other ([`Auth`]).
//! - An address that a stranger named never leads from the internet into the local network ([`NamedBy`]).
//! - Every wait has a deadline: for a connection, for an answer, for the next bytes of a body.
//! - All bodies of a client and its clones share one rate limit.
//! - What is shown of an address has no user, password or query, for these may be secrets.

mod address;
mod auth;
mod body;
mod error;
mod headers;
mod limit;

use std::sync::Arc;
use std::time::Duration;

pub use address::{NamedBy, shown};
pub use auth::{Auth, Token, TokenError};
pub use body::Body;
pub use error::{HttpError, Refusal};
pub use headers::next_page;
pub use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
pub use reqwest::{Method, Url};

use crate::config::{NetworkConfig, Proxy, ProxyKind};
use headers::ContentRange;
use limit::RateLimit;

/// How long a connection, with TLS, may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// How long a server may think before it answers.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// As many redirects as browsers follow at least; a hub makes one or two.
const MAX_REDIRECTS: usize = 8;

/// Speaks HTTP. Clones share connections and the rate limit.
#[derive(Debug, Clone)]
pub struct Client {
    inner: reqwest::Client,
    limit: Arc<RateLimit>,
}

/// What to ask for.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `GET`, `HEAD` or `POST`.
    pub method: Method,
    /// Where.
    pub url: Url,
    /// A credential, sent to its own origin only.
    pub auth: Option<&'a Auth>,
    /// Headers for the first address and those it redirects to within its origin.
    pub headers: HeaderMap,
    /// Sent with `POST`.
    pub body: Option<Vec<u8>>,
    /// Bytes wanted, from the first to before the last; without a last, all that follow.
    pub range: Option<(u64, Option<u64>)>,
    /// The entity tag that the range is of: another state is sent whole.
    pub if_range: Option<&'a str>,
    /// Who named the address.
    pub named_by: NamedBy,
}

impl<'a> Request<'a> {
    /// A plain `GET` of an address that the user named.
    pub fn get(url: Url) -> Self {
        Self {
            method: Method::GET,
            url,
            auth: None,
            headers: HeaderMap::new(),
            body: None,
            range: None,
            if_range: None,
            named_by: NamedBy::User,
        }
    }

    /// With a credential.
    #[must_use]
    pub fn auth(self, auth: Option<&'a Auth>) -> Self {
        Self { auth, ..self }
    }

    /// For bytes `from..to` only; without a `to`, for all from there on.
    #[must_use]
    pub fn range(self, from: u64, to: Option<u64>) -> Self {
        Self { range: Some((from, to)), ..self }
    }
}

/// A successful answer.
#[derive(Debug)]
pub struct Answer {
    /// Where it came from in the end.
    pub url: Url,
    /// Its headers.
    pub headers: HeaderMap,
    /// Headers of the first answer, where that was a redirect: a hub tells there what it redirects to.
    pub first_headers: HeaderMap,
    /// Offset of the body's first byte in the whole: 0 unless a range was asked for and is what was sent.
    pub start: u64,
    /// Length of the whole in bytes, where the server says it.
    pub total: Option<u64>,
    /// The bytes.
    pub body: Body,
}

impl Answer {
    /// The entity tag, if it is a strong one, fit for `If-Range`.
    pub fn etag(&self) -> Option<&str> {
        headers::strong_etag(&self.headers)
    }
}

impl Client {
    /// A client that uses the configured proxy (without one, that of the environment) and keeps to the configured
    /// download rate. Fails where TLS cannot be set up or the proxy's address is no use.
    pub fn new(network: &NetworkConfig) -> Result<Self, HttpError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("silmaril/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_WITHIN)
            .referer(false);
        if let Some(address) = &network.proxy {
            let proxy: Proxy = address.parse().map_err(|e| HttpError::Proxy(format!("{e}")))?;
            builder = builder.proxy(through(&proxy)?);
        }
        let inner = builder.build().map_err(HttpError::setup)?;
        Ok(Self { inner, limit: Arc::new(RateLimit::new(network.download_rate_limit)) })
    }

    /// Asks, and follows redirects. Statuses other than success are errors. Where a range was asked for, the answer's
    /// `start` is its beginning, or 0 where the server sends all; another range than the one asked for is an error.
    pub async fn send(&self, request: Request<'_>) -> Result<Answer, HttpError> {
        let mut url = request.url.clone();
        address::check(&url, request.named_by)?;
        let mut first_headers = None;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(&request, &url).await?;
            if response.status().is_redirection()
                && let Some(target) = headers::location(&response, &url)?
            {
                address::check_redirect(&url, &target, request.named_by).await?;
                first_headers.get_or_insert_with(|| response.headers().clone());
                url = target;
                continue;
            }
            return self.answer(&request, response, url, first_headers.unwrap_or_default()).await;
        }
        Err(HttpError::Redirects { url: shown(&request.url) })
    }

    async fn send_once(&self, request: &Request<'_>, url: &Url) -> Result<reqwest::Response, HttpError> {
        let mut headers = HeaderMap::new();
        if url.origin() == request.url.origin() {
            headers.extend(request.headers.clone());
        }
        if let Some(auth) = request.auth.filter(|auth| auth.is_for(url)) {
            headers.insert(reqwest::header::AUTHORIZATION, auth.header());
        }
        if let Some((from, to)) = request.range {
            headers.insert(reqwest::header::RANGE, headers::range(from, to));
            if let Some(tag) = request.if_range.and_then(|tag| HeaderValue::from_str(tag).ok()) {
                headers.insert(reqwest::header::IF_RANGE, tag);
            }
        }
        let mut builder = self.inner.request(request.method.clone(), url.clone()).headers(headers);
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        match tokio::time::timeout(ANSWER_WITHIN + CONNECT_WITHIN, builder.send()).await {
            Ok(sent) => sent.map_err(|e| HttpError::from_sending(url, e)),
            Err(_) => Err(HttpError::NoAnswer { url: shown(url), within: ANSWER_WITHIN + CONNECT_WITHIN }),
        }
    }

    async fn answer(
        &self,
        request: &Request<'_>,
        response: reqwest::Response,
        url: Url,
        first_headers: HeaderMap,
    ) -> Result<Answer, HttpError> {
        if !response.status().is_success() {
            return Err(error::refusal(response, url).await);
        }
        let partial = response.status() == reqwest::StatusCode::PARTIAL_CONTENT;
        let headers = response.headers().clone();
        let length = response.content_length();
        let (start, total, expected) = match request.range {
            Some((from, to)) if partial => {
                let sent = ContentRange::of(&headers).filter(|sent| sent.answers(from, to));
                let sent = sent.ok_or_else(|| HttpError::WrongRange { url: shown(&url) })?;
                (sent.first, sent.total, Some(sent.len()))
            }
            None if partial => return Err(HttpError::WrongRange { url: shown(&url) }),
            _ if request.method == Method::HEAD => (0, length, None),
            _ => (0, length, length),
        };
        let body = Body::new(response, shown(&url), expected, self.limit.clone());
        Ok(Answer { url, headers, first_headers, start, total, body })
    }
}

fn through(proxy: &Proxy) -> Result<reqwest::Proxy, HttpError> {
    let scheme = match proxy.kind {
        // Names are resolved by the proxy, as for peers.
        ProxyKind::Socks5 => "socks5h",
        ProxyKind::Http => "http",
    };
    let host = if proxy.host.contains(':') { format!("[{}]", proxy.host) } else { proxy.host.clone() };
    let made = reqwest::Proxy::all(format!("{scheme}://{host}:{}", proxy.port)).map_err(HttpError::setup)?;
    Ok(match &proxy.login {
        Some((user, password)) => made.basic_auth(user, password),
        None => made,
    })
}

#[cfg(test)]
mod tests;
