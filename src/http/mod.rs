//! HTTP for what stands beside the swarm: hubs, git and LFS servers, and web seeds.
//!
//! What always holds:
//! - Redirects are followed here, not by the library below, and a credential goes to the origin it was given for and to no
//!   other ([`Auth`]).
//! - Each hop of a request, redirects included, goes only to addresses that the rule allows: link-local and metadata
//!   addresses never, private ones only for hosts that the user configured ([`Client::knowing`]). The address that is
//!   checked is the address that is connected to ([`Names`]). Names that a proxy resolves are left to the proxy.
//! - Every wait has a deadline: for a connection, for an answer, for the next bytes of a body.
//! - All bodies of a client and its clones share one rate limit.
//! - What is shown of an address has no user, password or query, for these may be secrets.

mod address;
mod auth;
mod body;
mod error;
mod headers;
mod limit;
mod names;
mod proxies;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use address::{Refused, Scope, metadata_ranges, scope, shown};
pub use auth::{Auth, Token, TokenError};
pub use body::Body;
pub use error::{HttpError, Refusal};
pub use headers::next_page;
pub use names::{Names, SystemNames};
pub use proxies::EnvironmentProxies;
pub use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
pub use reqwest::{Method, Url};

use crate::config::{NetworkConfig, Proxy, ProxyKind};
use headers::ContentRange;
use limit::RateLimit;
use names::{Hosts, Resolver, Rule};

/// How long a connection, with TLS, may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// How long a server may think before it answers.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// As many redirects as browsers follow at least; a hub makes one or two.
const MAX_REDIRECTS: usize = 8;
/// Headers that may follow a redirect to another origin: they describe the request and hold no credential.
const HARMLESS: [HeaderName; 3] =
    [reqwest::header::ACCEPT, reqwest::header::CONTENT_TYPE, reqwest::header::USER_AGENT];

/// Speaks HTTP. Clones share connections and the rate limit.
#[derive(Debug, Clone)]
pub struct Client {
    /// For hosts that the user configured. Connections are not shared with `strict`, which has other rules.
    open: reqwest::Client,
    /// For all other hosts.
    strict: reqwest::Client,
    /// The hosts that the user configured.
    hosts: Hosts,
    rule: Arc<Rule>,
    names: Arc<dyn Names>,
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
    /// How long the server may take for the headers of its answer, and for each next part of the body.
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
            patience: ANSWER_WITHIN,
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
    /// download rate. Fails where TLS cannot be set up.
    pub fn new(network: &NetworkConfig) -> Result<Self, HttpError> {
        Self::with_names(network, Arc::new(SystemNames))
    }

    /// [`Self::new`] with the proxies of the environment of another process.
    pub fn for_process(network: &NetworkConfig, environment: &EnvironmentProxies) -> Result<Self, HttpError> {
        Self::with(network, Arc::new(SystemNames), environment)
    }

    /// [`Self::new`] with another resolver of names.
    pub fn with_names(network: &NetworkConfig, names: Arc<dyn Names>) -> Result<Self, HttpError> {
        Self::with(network, names, &EnvironmentProxies::of_this_process())
    }

    fn with(
        network: &NetworkConfig,
        names: Arc<dyn Names>,
        environment: &EnvironmentProxies,
    ) -> Result<Self, HttpError> {
        let hosts = Hosts::new(network.allow_private_hosts.iter().cloned());
        let proxies = match &network.proxy {
            Some(proxy) => [address::plain_name(&proxy.address.host_text())].into(),
            None => environment.names(),
        };
        let rule = Rule::new(&hosts, proxies);
        let build = |rule: Rule| {
            let mut builder = reqwest::Client::builder()
                .user_agent(concat!("silmaril/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .connect_timeout(CONNECT_WITHIN)
                .dns_resolver(Resolver { names: names.clone(), rule })
                .referer(false);
            builder = match &network.proxy {
                Some(proxy) => builder.proxy(through(proxy)?),
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
        })
    }

    /// This client for requests that the user caused by naming the host of `url`: that host may have a private address.
    #[must_use]
    pub fn knowing(&self, url: &Url) -> Self {
        match url.host() {
            Some(host) => Self { hosts: self.hosts.with(&host), ..self.clone() },
            None => self.clone(),
        }
    }

    /// The addresses of a host that may be contacted: the rule for requests, for protocols other than HTTP. Blocks no
    /// longer than a connection may take.
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
        let rule = if self.hosts.has(host) { self.rule.for_configured() } else { Rule::clone(&self.rule) };
        rule.filter(name, found).map_err(refused)
    }

    /// Checks what the text of a host tells. A name is checked when it is resolved.
    pub fn check_host(&self, host: &url::Host<&str>) -> Result<(), Refused> {
        let known = self.hosts.has(host);
        let (scope, address) = match address::literal(host) {
            // Only requests that the user caused go to the proxy itself.
            None if self.rule.is_proxy(host) => (Scope::Private, None),
            None => (Scope::Public, None),
            Some(literal) => literal,
        };
        match scope {
            Scope::Public => Ok(()),
            Scope::Private if known => Ok(()),
            Scope::Private | Scope::Forbidden => Err(Refused { host: host.to_string(), address, scope }),
        }
    }

    /// The connections to use for one hop, which is refused where its URL alone tells that it must be.
    fn connections(&self, url: &Url) -> Result<&reqwest::Client, HttpError> {
        let host = url.host().filter(|_| matches!(url.scheme(), "http" | "https"));
        let host = host.ok_or_else(|| HttpError::NotHttp { url: shown(url) })?;
        self.check_host(&host).map_err(|refused| HttpError::Address { url: shown(url), refused })?;
        Ok(if self.hosts.has(&host) { &self.open } else { &self.strict })
    }

    /// Sends a request and follows redirects. Statuses other than success are errors. Where a range was asked for, the
    /// answer's `start` is its beginning, or 0 where the server sends all; another range than the one asked for is an error.
    pub async fn send(&self, request: Request<'_>) -> Result<Answer, HttpError> {
        let mut url = request.url.clone();
        let mut first_headers = None;
        // Once a redirect has led to another origin, no later hop receives a credential: where it leads is decided there.
        let mut at_home = true;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(&request, &url, at_home).await?;
            if response.status().is_redirection()
                && let Some(target) = headers::location(&response, &url)?
            {
                if url.scheme() == "https" && target.scheme() != "https" {
                    return Err(HttpError::Downgrade { from: shown(&url), to: shown(&target) });
                }
                first_headers.get_or_insert_with(|| response.headers().clone());
                at_home &= target.origin() == request.url.origin();
                url = target;
                continue;
            }
            return self.answer(&request, response, url, first_headers.unwrap_or_default()).await;
        }
        Err(HttpError::Redirects { url: shown(&request.url) })
    }

    async fn send_once(
        &self,
        request: &Request<'_>,
        url: &Url,
        at_home: bool,
    ) -> Result<reqwest::Response, HttpError> {
        let connections = self.connections(url)?;
        let mut headers = request.headers.clone();
        if !at_home {
            headers =
                HARMLESS.into_iter().filter_map(|name| Some((name.clone(), headers.remove(name)?))).collect();
        }
        if let Some(auth) = request.auth.filter(|auth| at_home && auth.is_for(url)) {
            headers.insert(reqwest::header::AUTHORIZATION, auth.header());
        }
        if let Some((from, to)) = request.range {
            headers.insert(reqwest::header::RANGE, headers::range(from, to));
            if let Some(tag) = request.if_range.and_then(|tag| HeaderValue::from_str(tag).ok()) {
                headers.insert(reqwest::header::IF_RANGE, tag);
            }
        }
        let mut builder = connections.request(request.method.clone(), url.clone()).headers(headers);
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        let within = request.patience + CONNECT_WITHIN;
        match tokio::time::timeout(within, builder.send()).await {
            Ok(sent) => sent.map_err(|e| HttpError::from_sending(url, e)),
            Err(_) => Err(HttpError::NoAnswer { url: shown(url), within }),
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
        let body = Body::new(response, shown(&url), expected, request.patience, self.limit.clone());
        Ok(Answer { url, headers, first_headers, start, total, body })
    }
}

fn through(proxy: &Proxy) -> Result<reqwest::Proxy, HttpError> {
    let scheme = match proxy.kind {
        // Names are resolved by the proxy, as for peers.
        ProxyKind::Socks5 => "socks5h",
        ProxyKind::Http => "http",
    };
    let made = reqwest::Proxy::all(format!("{scheme}://{}", proxy.address)).map_err(HttpError::setup)?;
    Ok(match &proxy.login {
        Some((user, password)) => made.basic_auth(user, password),
        None => made,
    })
}

#[cfg(test)]
mod tests;
