//! Refuses requests before a route handles them.
//!
//! Loopback is shared by all users and browsers of a machine. A web page can make a browser send requests there, and can
//! make a name of its own resolve to loopback (DNS rebinding). So the header `Host` must name the endpoint itself, and
//! requests that another site has caused are refused.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest as _, Sha256};

use super::HubError;
use crate::http::Token;

/// The rules of one listening address.
#[derive(Debug, Clone)]
pub struct Guard {
    /// The address in use.
    pub address: SocketAddr,
    /// The token that every request must have; none if no token is needed.
    pub token: Option<Token>,
}

/// Whether only programs of this machine reach an address.
pub fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
    }
}

impl Guard {
    /// Checks the origin of a request: `Host` on loopback, and that no other site has caused it.
    pub fn check_origin(&self, headers: &HeaderMap) -> Result<(), HubError> {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        // Programs differ in which of several hosts they use.
        if headers.get_all(header::HOST).iter().nth(1).is_some() {
            return Err(HubError::new(StatusCode::BAD_REQUEST, "the request has more than one Host header"));
        }
        if is_loopback(self.address.ip()) {
            let host = text(header::HOST.as_str()).unwrap_or_default();
            if !self.is_own_host(host) {
                return Err(HubError::new(
                    StatusCode::MISDIRECTED_REQUEST,
                    format!("the Host header is not {} or localhost", self.address),
                ));
            }
        }
        let other_site = text("sec-fetch-site").is_some_and(|site| !matches!(site, "none" | "same-origin"));
        let own = |origin: &str| origin.strip_prefix("http://").is_some_and(|host| self.is_own_host(host));
        if other_site || text(header::ORIGIN.as_str()).is_some_and(|origin| !own(origin)) {
            return Err(HubError::new(
                StatusCode::FORBIDDEN,
                "a web page of another site has sent this request",
            ));
        }
        Ok(())
    }

    /// Checks the token. Returns the client's own token for the hub, if the endpoint needs none itself.
    pub fn check_token(&self, headers: &HeaderMap) -> Result<Option<Token>, HubError> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| Token::new(token).ok())?
        });
        match &self.token {
            None => Ok(given),
            // Hashes are compared, so that the time does not depend on the first different byte.
            Some(token) if given.as_ref().is_some_and(|given| hash(given) == hash(token)) => Ok(None),
            Some(_) => Err(HubError::new(
                StatusCode::UNAUTHORIZED,
                "this endpoint needs its own token: set HF_TOKEN to `serve.token` of its configuration",
            )),
        }
    }

    /// Whether a host with its port is the listening address or localhost.
    fn is_own_host(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            // Not a colon inside of an IPv6 address.
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !port.is_empty() => {
                (name, port.parse().ok())
            }
            _ => (host, Some(80)),
        };
        let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_own = name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip == self.address.ip());
        is_own && port == Some(self.address.port())
    }
}

fn hash(token: &Token) -> [u8; 32] {
    Sha256::digest(token.secret()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(address: &str, token: Option<&str>) -> Guard {
        Guard { address: address.parse().unwrap(), token: token.map(|text| Token::new(text).unwrap()) }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn loopback_accepts_only_its_own_host() {
        let four = guard("127.0.0.1:8910", None);
        for host in ["127.0.0.1:8910", "localhost:8910", "LOCALHOST:8910"] {
            assert!(four.check_origin(&headers(&[("host", host)])).is_ok(), "{host}");
        }
        for host in
            ["evil.example:8910", "127.0.0.1", "127.0.0.1:80", "127.0.0.2:8910", "", "localhost.evil:8910"]
        {
            let error = four.check_origin(&headers(&[("host", host)])).unwrap_err();
            assert_eq!(error.status, StatusCode::MISDIRECTED_REQUEST, "{host}");
        }
        assert!(four.check_origin(&HeaderMap::new()).is_err());
        let six = guard("[::1]:8910", None);
        assert!(six.check_origin(&headers(&[("host", "[::1]:8910")])).is_ok());
        assert!(six.check_origin(&headers(&[("host", "::1")])).is_err());
        let mut two = headers(&[("host", "127.0.0.1:8910")]);
        two.append("host", "evil.example".parse().unwrap());
        assert_eq!(four.check_origin(&two).unwrap_err().status, StatusCode::BAD_REQUEST);
        let open = guard("0.0.0.0:8910", None);
        assert!(open.check_origin(&headers(&[("host", "node7.rack:8910")])).is_ok());
    }

    #[test]
    fn requests_of_other_sites_are_refused() {
        let guard = guard("127.0.0.1:8910", None);
        let own = ("host", "127.0.0.1:8910");
        for (name, value) in
            [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"), ("origin", "null")]
        {
            assert!(guard.check_origin(&headers(&[own, (name, value)])).is_err(), "{name}: {value}");
        }
        for (name, value) in [("origin", "http://127.0.0.1:8910"), ("sec-fetch-site", "none")] {
            assert!(guard.check_origin(&headers(&[own, (name, value)])).is_ok(), "{name}: {value}");
        }
    }

    #[test]
    fn token_of_the_endpoint_is_not_a_token_of_the_hub() {
        let plain = guard("127.0.0.1:8910", None);
        let theirs = plain.check_token(&headers(&[("authorization", "Bearer hf_x")])).unwrap();
        assert_eq!(theirs, Some(Token::new("hf_x").unwrap()));
        assert_eq!(plain.check_token(&HeaderMap::new()).unwrap(), None);
        let closed = guard("10.0.0.1:8910", Some("secret"));
        assert_eq!(closed.check_token(&headers(&[("authorization", "bearer secret")])).unwrap(), None);
        for wrong in [&[][..], &[("authorization", "Bearer secre")], &[("authorization", "Basic secret")]] {
            assert_eq!(closed.check_token(&headers(wrong)).unwrap_err().status, StatusCode::UNAUTHORIZED);
        }
    }
}
