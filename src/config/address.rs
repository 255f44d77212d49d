//! Addresses of hosts and of proxies.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use url::Host;

/// A host and a port: `name:port`, `address:port`, or `[address]:port` for IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an address.
    pub host: Host,
    /// From 1 to 65535.
    pub port: u16,
}

impl HostPort {
    /// The host as text, an IPv6 address without brackets.
    pub fn host_text(&self) -> String {
        self.ip().map_or_else(|| self.host.to_string(), |ip| ip.to_string())
    }

    /// The host's address; none for a name.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.host {
            Host::Domain(_) => None,
            Host::Ipv4(ip) => Some(ip.into()),
            Host::Ipv6(ip) => Some(ip.into()),
        }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        let host = match address.ip() {
            IpAddr::V4(ip) => Host::Ipv4(ip),
            IpAddr::V6(ip) => Host::Ipv6(ip),
        };
        Self { host, port: address.port() }
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::Port)?;
        let port = port.parse().ok().filter(|&port| port > 0).ok_or(AddressError::Port)?;
        Ok(Self { host: Host::parse(host).map_err(|_| AddressError::Host)?, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The protocol of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// SOCKS version 5 (RFC 1928).
    Socks5,
    /// HTTP CONNECT.
    Http,
}

/// A proxy: `socks5://[user:password@]host:port` or `http://[user:password@]host:port`. `Display` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// The protocol.
    pub kind: ProxyKind,
    /// Host and TCP port.
    pub address: HostPort,
    /// User name and password.
    pub login: Option<(String, String)>,
}

/// The error for a text that is not the address of a host or a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The scheme is unknown or absent.
    #[error("it must start with socks5:// or http://")]
    Scheme,
    /// The host is absent or has invalid characters.
    #[error("it has no host name or IP address before the port")]
    Host,
    /// The port is absent or invalid.
    #[error("it has no port from 1 to 65535")]
    Port,
    /// The user or the password is absent.
    #[error("the text before '@' must be user:password")]
    Login,
}

impl FromStr for Proxy {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (kind, rest) = match text.split_once("://") {
            Some(("socks5", rest)) => (ProxyKind::Socks5, rest),
            Some(("http", rest)) => (ProxyKind::Http, rest),
            _ => return Err(AddressError::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // A password may contain '@', but a host cannot.
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => {
                let (user, password) = login.split_once(':').ok_or(AddressError::Login)?;
                if user.is_empty() {
                    return Err(AddressError::Login);
                }
                (Some((user.to_owned(), password.to_owned())), address)
            }
            None => (None, rest),
        };
        Ok(Self { kind, address: address.parse()?, login })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ProxyKind::Socks5 => "socks5://",
            ProxyKind::Http => "http://",
        })?;
        if let Some((user, _)) = &self.login {
            write!(f, "{user}:***@")?;
        }
        self.address.fmt(f)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_is_shown_without_its_password() {
        let proxy: Proxy = "socks5://me:p@ss:w@[::1]:1080".parse().unwrap();
        assert_eq!(proxy.login, Some(("me".into(), "p@ss:w".into())));
        assert_eq!((proxy.address.host_text().as_str(), proxy.address.port), ("::1", 1080));
        assert_eq!(proxy.kind, ProxyKind::Socks5);
        assert_eq!(proxy.to_string(), "socks5://me:***@[::1]:1080");
        assert_eq!(format!("{proxy:?}"), "socks5://me:***@[::1]:1080");
        assert_eq!("http://squid:3128/".parse::<Proxy>().unwrap().to_string(), "http://squid:3128");
    }

    #[test]
    fn malformed_proxies_are_refused() {
        for (text, why) in [
            ("squid:3128", AddressError::Scheme),
            ("ftp://squid:3128", AddressError::Scheme),
            ("http://squid", AddressError::Port),
            ("http://squid:0", AddressError::Port),
            ("http://squid:70000", AddressError::Port),
            ("http://:3128", AddressError::Host),
            ("http://::1:3128", AddressError::Host),
            ("http://a/b:3128", AddressError::Host),
            ("http://me@squid:3128", AddressError::Login),
            ("http://:pw@squid:3128", AddressError::Login),
        ] {
            assert_eq!(text.parse::<Proxy>(), Err(why), "{text}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for (text, host, ip) in [
            ("dht.example:6881", "dht.example", None),
            ("10.0.0.1:5", "10.0.0.1", Some("10.0.0.1")),
            ("[fd00::1]:6", "fd00::1", Some("fd00::1")),
        ] {
            let node: HostPort = text.parse().unwrap();
            assert_eq!((node.host_text().as_str(), node.ip()), (host, ip.map(|ip| ip.parse().unwrap())));
            assert_eq!(node.to_string(), text);
        }
        for bad in
            ["", "dht.example", ":1", "host:port", "host:0", "host:70000", "a b:1", "::1:5", "me@host:1"]
        {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }
}
