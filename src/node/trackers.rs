//! Trackers of a magnet link or an old manifest. They are untrusted, and the rules for addresses apply to them.
//!
//! The engine resolves names itself, and follows redirects of HTTP trackers. So it receives only trackers that cannot
//! lead to another address later: UDP trackers, with the checked address instead of the name. The HTTP client of the
//! node asks HTTP trackers. With a proxy, the proxy resolves the names of UDP trackers.

mod announce;

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use url::{Host, Url};

use crate::http::{HttpClient, HttpError, without_secrets};
use crate::model::InfoHash;
use announce::Announce;

/// The most trackers of one link that are used.
const MAX_TRACKERS: usize = 20;
/// The most addresses of one tracker: one of each family, and a few to choose from.
const MAX_ADDRESSES: usize = 4;
/// The pause after a failure of a tracker.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// The trackers of one torrent, checked.
#[derive(Debug, Default)]
pub(super) struct Trackers {
    /// For the engine.
    pub engine: Vec<String>,
    /// For [`Self::ask`].
    http: Vec<Url>,
}

impl Trackers {
    /// Checks untrusted trackers. Refused or invalid ones are logged and left out.
    pub async fn of(named: &[String], client: &HttpClient, proxied: bool) -> Self {
        let checks = named.iter().take(MAX_TRACKERS).map(async |tracker| {
            let checked = check(tracker, client, proxied).await;
            checked
                .inspect_err(|why| tracing::info!(reason = %why, "a tracker is not used"))
                .unwrap_or_default()
        });
        let mut all = Self::default();
        for checked in join_all(checks).await {
            all.engine.extend(checked.engine);
            all.http.extend(checked.http);
        }
        all
    }

    /// Asks the HTTP trackers, each again at its interval, and reports the peers that they name. Never ends.
    pub async fn ask(
        &self,
        client: &HttpClient,
        info_hash: InfoHash,
        port: u16,
        found: impl Fn(SocketAddr),
    ) -> Infallible {
        let announce = Announce::new(info_hash, port);
        let asking = self.http.iter().map(async |tracker| {
            loop {
                let pause = match announce.send(client, tracker).await {
                    Ok(reply) => {
                        reply.peers.into_iter().for_each(&found);
                        reply.interval
                    }
                    Err(error) => {
                        tracing::info!(tracker = without_secrets(tracker), %error, "a tracker failed");
                        AFTER_FAILURE
                    }
                };
                tokio::time::sleep(pause).await;
            }
        });
        let _: Vec<()> = join_all(asking).await;
        std::future::pending().await
    }
}

/// The reason why a tracker is not used.
#[derive(Debug)]
enum TrackerError {
    /// Not a URL of a tracker.
    Shape(String),
    /// Its host is refused, or has no address.
    Http(HttpError),
}

impl fmt::Display for TrackerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(text) => write!(f, "{text:?} is not the address of a tracker"),
            Self::Http(error) => error.fmt(f),
        }
    }
}

impl From<HttpError> for TrackerError {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

async fn check(tracker: &str, client: &HttpClient, proxied: bool) -> Result<Trackers, TrackerError> {
    let shape = || TrackerError::Shape(tracker.chars().take(100).collect());
    let url: Url = tracker.trim().parse().map_err(|_| shape())?;
    if matches!(url.scheme(), "http" | "https") {
        // The client checks the host of each hop.
        return Ok(Trackers { engine: vec![], http: vec![url] });
    }
    let (host, port) = (url.host_str().filter(|_| url.scheme() == "udp"), url.port());
    let (host, port) = host.zip(port).filter(|(_, port)| *port > 0).ok_or_else(shape)?;
    // The parser normalises addresses only for http and https, and an address has many spellings.
    let host = Host::parse(host).map_err(|_| shape())?;
    let borrowed = match &host {
        Host::Domain(name) => Host::Domain(name.as_str()),
        Host::Ipv4(ip) => Host::Ipv4(*ip),
        Host::Ipv6(ip) => Host::Ipv6(*ip),
    };
    let rest = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    if proxied {
        client
            .check_host(&borrowed)
            .map_err(|refused| HttpError::Address { url: without_secrets(&url), refused })?;
        return Ok(Trackers { engine: vec![format!("udp://{host}:{port}{rest}")], http: vec![] });
    }
    let found = client.addresses(&borrowed).await?;
    let address = |ip: IpAddr| format!("udp://{}{rest}", SocketAddr::new(ip.to_canonical(), port));
    Ok(Trackers { engine: found.into_iter().take(MAX_ADDRESSES).map(address).collect(), http: vec![] })
}

#[cfg(test)]
mod tests;
