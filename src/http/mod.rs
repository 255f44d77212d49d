//! HTTP client for servers outside the swarm: hubs, git and LFS servers, and web seeds.
//!
//! These rules always hold:
//! - This module follows redirects, not reqwest. A credential is sent only to its own origin ([`Auth`]).
//! - Each request and each redirect goes only to permitted addresses: never to link-local and metadata addresses, and to
//!   private addresses only for hosts that the user configured ([`HttpClient::allowing_private`]). The client connects to the
//!   same address that was checked ([`NameLookup`]). Names that a proxy resolves are not checked.
//! - Every wait has a deadline: for a connection, for a response, for the next bytes of a body.
//! - All bodies of a client and its clones share one rate limit.
//! - A printed URL has no user, password or query, because these may be secrets.

mod address;
mod auth;
mod body;
mod counts;
mod error;
mod headers;
mod limit;
mod names;
mod proxies;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use crate::config::Token;
pub(crate) use crate::config::TokenError;
pub use address::Scope;
pub(crate) use address::{RefusedAddress, metadata_ranges, scope, without_secrets};
pub use auth::Auth;
pub(crate) use body::Body;
pub(crate) use counts::RequestCounts;
pub use error::HttpError;
pub use headers::next_page;
pub use names::NameLookup;
pub(crate) use names::SystemLookup;
pub(crate) use proxies::EnvironmentProxies;
pub(crate) use reqwest::Method;
pub use reqwest::Url;
pub(crate) use reqwest::header::HeaderName;
pub use reqwest::header::{HeaderMap, HeaderValue};

use crate::config::{NetworkConfig, Proxy, ProxyKind};
use error::{ANSWER_WITHIN, CONNECT_WITHIN};
use headers::ContentRange;
use limit::RateLimit;
use names::{AddressRule, CheckedResolver, PrivateHosts};

/// Longest chain of redirects. A hub makes one or two.
const MAX_REDIRECTS: usize = 8;
/// Headers that are also sent to another origin after a redirect: they describe the request and contain no credential.
const HARMLESS: [HeaderName; 3] =
    [reqwest::header::ACCEPT, reqwest::header::CONTENT_TYPE, reqwest::header::USER_AGENT];

/// An HTTP client. Clones share connections and the rate limit.
#[derive(Debug, Clone)]
pub struct HttpClient {
    /// Client for hosts that may have private addresses. It does not share connections with `strict`.
    open: reqwest::Client,
    /// Client for all other hosts.
    strict: reqwest::Client,
    /// The hosts that may have private addresses.
    hosts: PrivateHosts,
    rule: Arc<AddressRule>,
    names: Arc<dyn NameLookup>,
    limit: Arc<RateLimit>,
    counts: Arc<RequestCounts>,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `GET`, `HEAD` or `POST`.
    pub method: Method,
    /// The first URL, before redirects.
    pub url: Url,
    /// A credential, sent only to its own origin.
    pub auth: Option<&'a Auth>,
    /// Headers for the URL and for redirects within its origin.
    pub headers: HeaderMap,
    /// The body of a `POST`.
    pub body: Option<Vec<u8>>,
    /// The requested bytes: offset of the first, and the exclusive end or none for the end of the file.
    pub range: Option<(u64, Option<u64>)>,
    /// The entity tag that the range belongs to. If the file has another tag, the server sends the whole file.
    pub if_range: Option<&'a str>,
    /// Whether redirects to other origins are refused.
    pub within_origin: bool,
    /// Time within which the server must send the headers, and longest pause within the body.
    pub patience: Duration,
}

impl<'a> Request<'a> {
    /// A plain `GET`.
    pub fn get(url: Url) -> Self {
        Self {
            method: Method::GET,
            url,
            auth: None,
            headers: HeaderMap::new(),
            body: None,
            range: None,
            if_range: None,
            within_origin: false,
            patience: ANSWER_WITHIN,
        }
    }

    /// Adds a credential.
    #[must_use]
    pub fn auth(self, auth: Option<&'a Auth>) -> Self {
        Self { auth, ..self }
    }

    /// Refuses redirects to other origins.
    #[must_use]
    pub fn within_origin(self) -> Self {
        Self { within_origin: true, ..self }
    }

    /// Requests only the bytes `from..to`, or all bytes from `from` on if `to` is none.
    #[must_use]
    pub fn range(self, from: u64, to: Option<u64>) -> Self {
        Self { range: Some((from, to)), ..self }
    }
}

/// A successful response.
#[derive(Debug)]
pub struct HttpResponse {
    /// The URL after all redirects.
    pub url: Url,
    /// Headers of the last response.
    pub headers: HeaderMap,
    /// Offset of the body's first byte in the file: 0 unless the server sent the requested range.
    pub start: u64,
    /// Length of the whole file in bytes, if the server reports it.
    pub total: Option<u64>,
    /// The bytes from `start` on.
    pub body: Body,
}

impl HttpResponse {
    /// The entity tag if it is a strong one, which `If-Range` needs.
    pub fn etag(&self) -> Option<&str> {
        headers::strong_etag(&self.headers)
    }
}

/// The target of a redirect. None if the response has no `Location`.
fn location(response: &reqwest::Response, from: &Url) -> Result<Option<Url>, HttpError> {
    let Some(location) = response.headers().get(reqwest::header::LOCATION) else { return Ok(None) };
    let target = location.to_str().ok().and_then(|text| from.join(text).ok());
    target.map(Some).ok_or_else(|| HttpError::BadRedirect { url: without_secrets(from) })
}

impl HttpClient {
    /// A client with the configured proxy (otherwise the proxy of the environment) and the configured download rate. Fails
    /// if TLS cannot be set up or the proxy is invalid.
    pub fn new(network: &NetworkConfig) -> Result<Self, HttpError> {
        Self::with_lookup(network, Arc::new(SystemLookup))
    }

    /// [`Self::new`] with the proxies of another process's environment.
    pub fn for_process(network: &NetworkConfig, environment: &EnvironmentProxies) -> Result<Self, HttpError> {
        Self::with(network, Arc::new(SystemLookup), environment)
    }

    /// [`Self::new`] with another lookup of names, for tests.
    pub fn with_lookup(network: &NetworkConfig, names: Arc<dyn NameLookup>) -> Result<Self, HttpError> {
        Self::with(network, names, &EnvironmentProxies::of_this_process())
    }

    fn with(
        network: &NetworkConfig,
        names: Arc<dyn NameLookup>,
        environment: &EnvironmentProxies,
    ) -> Result<Self, HttpError> {
        let hosts = PrivateHosts::new(network.allow_private_hosts.iter().cloned());
        let proxies = match &network.proxy {
            Some(proxy) => [address::plain_name(&proxy.address.host_text())].into(),
            None => environment.names(),
        };
        let rule = AddressRule::new(&hosts, proxies);
        let build = |rule: AddressRule| {
            let mut builder = reqwest::Client::builder()
                .user_agent(concat!("silmaril/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .connect_timeout(CONNECT_WITHIN)
                .dns_resolver(CheckedResolver { names: names.clone(), rule })
                .referer(false);
            builder = match &network.proxy {
                Some(proxy) => builder.proxy(reqwest_proxy(proxy)?),
                None => environment.apply(builder)?,
            };
            builder.build().map_err(HttpError::setup)
        };
        Ok(Self {
            open: build(rule.for_configured())?,
            strict: build(rule.clone())?,
            hosts,
            rule: Arc::new(rule),
            names,
            limit: Arc::new(RateLimit::new(network.download_rate_limit)),
            counts: Arc::default(),
        })
    }

    /// Counters of the requests of this client and its clones.
    pub fn counts(&self) -> &Arc<RequestCounts> {
        &self.counts
    }

    /// This client, with the counters of another one.
    #[must_use]
    pub fn counting_with(self, other: &Self) -> Self {
        Self { counts: other.counts.clone(), ..self }
    }

    /// A clone of this client that may contact the host of `url` at a private address, because the user named that host.
    #[must_use]
    pub fn allowing_private(&self, url: &Url) -> Self {
        match url.host() {
            Some(host) => Self { hosts: self.hosts.with(&host), ..self.clone() },
            None => self.clone(),
        }
    }

    /// The permitted addresses of a host, by the same rule as for requests. For protocols other than HTTP. Waits at most
    /// 15 s.
    pub async fn addresses(&self, host: &url::Host<&str>) -> Result<Vec<IpAddr>, HttpError> {
        let refused = |refused| HttpError::Address { url: host.to_string(), refused };
        let unknown = |reason: String| HttpError::Connect { url: host.to_string(), reason };
        self.check_host(host).map_err(refused)?;
        let name = match host {
            url::Host::Ipv4(ip) => return Ok(vec![(*ip).into()]),
            url::Host::Ipv6(ip) => return Ok(vec![(*ip).into()]),
            url::Host::Domain(name) => *name,
        };
        let found = tokio::time::timeout(CONNECT_WITHIN, self.names.addresses(name)).await;
        let found = found.map_err(|_| unknown("its name was not resolved in time".to_owned()))?;
        let found = found.map_err(|e| unknown(e.to_string()))?;
        let rule =
            if self.hosts.has(host) { self.rule.for_configured() } else { AddressRule::clone(&self.rule) };
        rule.filter(name, found).map_err(refused)
    }

    /// Checks a host by its text alone. A name is checked again when it is resolved.
    pub fn check_host(&self, host: &url::Host<&str>) -> Result<(), RefusedAddress> {
        let known = self.hosts.has(host);
        let (scope, address) = match address::literal(host) {
            // The proxy itself may be contacted only if the user named it.
            None if self.rule.is_proxy(host) => (Scope::Private, None),
            None => (Scope::Public, None),
            Some(literal) => literal,
        };
        match scope {
            Scope::Public => Ok(()),
            Scope::Private if known => Ok(()),
            Scope::Private | Scope::Forbidden => {
                Err(RefusedAddress { host: host.to_string(), address, scope })
            }
        }
    }

    /// The client for one request or redirect. Fails if the text of the URL is enough to refuse it.
    fn client_for(&self, url: &Url) -> Result<&reqwest::Client, HttpError> {
        let host = url.host().filter(|_| matches!(url.scheme(), "http" | "https"));
        let host = host.ok_or_else(|| HttpError::NotHttp { url: without_secrets(url) })?;
        self.check_host(&host)
            .map_err(|refused| HttpError::Address { url: without_secrets(url), refused })?;
        Ok(if self.hosts.has(&host) { &self.open } else { &self.strict })
    }

    /// Sends a request and follows redirects. A status other than success is an error. If a range was requested, `start` of
    /// the response is the start of the range, or 0 if the server sends the whole file; any other range is an error.
    pub async fn send(&self, request: Request<'_>) -> Result<HttpResponse, HttpError> {
        let mut url = request.url.clone();
        // After a redirect to another origin no later request gets the credential, because that origin chooses the target.
        let mut same_origin = true;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(&request, &url, same_origin).await?;
            if response.status().is_redirection()
                && let Some(target) = location(&response, &url)?
            {
                if url.scheme() == "https" && target.scheme() != "https" {
                    return Err(HttpError::Downgrade {
                        from: without_secrets(&url),
                        to: without_secrets(&target),
                    });
                }
                if request.within_origin && target.origin() != request.url.origin() {
                    return Err(HttpError::OtherOrigin {
                        from: without_secrets(&url),
                        to: without_secrets(&target),
                    });
                }
                same_origin &= target.origin() == request.url.origin();
                url = target;
                continue;
            }
            return self.answer(&request, response, url).await;
        }
        Err(HttpError::Redirects { url: without_secrets(&request.url) })
    }

    async fn send_once(
        &self,
        request: &Request<'_>,
        url: &Url,
        same_origin: bool,
    ) -> Result<reqwest::Response, HttpError> {
        let client = self.client_for(url)?;
        let mut headers = request.headers.clone();
        if !same_origin {
            headers =
                HARMLESS.into_iter().filter_map(|name| Some((name.clone(), headers.remove(name)?))).collect();
        }
        if let Some(auth) = request.auth.filter(|auth| same_origin && auth.is_for(url)) {
            headers.insert(reqwest::header::AUTHORIZATION, auth.header());
        }
        if let Some((from, to)) = request.range {
            headers.insert(reqwest::header::RANGE, headers::range(from, to));
            if let Some(tag) = request.if_range.and_then(|tag| HeaderValue::from_str(tag).ok()) {
                headers.insert(reqwest::header::IF_RANGE, tag);
            }
        }
        let mut builder = client.request(request.method.clone(), url.clone()).headers(headers);
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        let within = request.patience + CONNECT_WITHIN;
        let sent = match tokio::time::timeout(within, builder.send()).await {
            Ok(sent) => sent.map_err(|e| HttpError::from_sending(url, e)),
            Err(_) => Err(HttpError::NoAnswer { url: without_secrets(url), within }),
        };
        self.counts.count(sent.as_ref().ok().map(reqwest::Response::status));
        sent
    }

    async fn answer(
        &self,
        request: &Request<'_>,
        response: reqwest::Response,
        url: Url,
    ) -> Result<HttpResponse, HttpError> {
        if !response.status().is_success() {
            return Err(error::read_error(response, url).await);
        }
        let partial = response.status() == reqwest::StatusCode::PARTIAL_CONTENT;
        let headers = response.headers().clone();
        let length = response.content_length();
        let (start, total, expected) = match request.range {
            Some((from, to)) if partial => {
                let sent = ContentRange::of(&headers).filter(|sent| sent.answers(from, to));
                let sent = sent.ok_or_else(|| HttpError::WrongRange { url: without_secrets(&url) })?;
                (sent.first, sent.total, Some(sent.len()))
            }
            None if partial => return Err(HttpError::WrongRange { url: without_secrets(&url) }),
            _ if request.method == Method::HEAD => (0, length, None),
            _ => (0, length, length),
        };
        let body = Body::new(response, without_secrets(&url), expected, request.patience, self.limit.clone());
        Ok(HttpResponse { url, headers, start, total, body })
    }
}

fn reqwest_proxy(proxy: &Proxy) -> Result<reqwest::Proxy, HttpError> {
    let scheme = match proxy.kind {
        // The proxy resolves names, as it does for peers.
        ProxyKind::Socks5 => "socks5h",
        ProxyKind::Http => "http",
    };
    let all = reqwest::Proxy::all(format!("{scheme}://{}", proxy.address)).map_err(HttpError::setup)?;
    Ok(match &proxy.login {
        Some((user, password)) => all.basic_auth(user, password),
        None => all,
    })
}

#[cfg(test)]
mod tests;
