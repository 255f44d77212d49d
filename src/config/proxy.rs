//! The address of a proxy.

use std::fmt;
use std::str::FromStr;

/// The protocols a proxy can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// SOCKS version 5 (RFC 1928).
    Socks5,
    /// HTTP CONNECT.
    Http,
}

/// A proxy: `socks5://[user:password@]host:port` or `http://[user:password@]host:port`. `Display` leaves the
/// password out.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name and password.
    pub login: Option<(String, String)>,
}

/// Why a string is not a proxy address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Another scheme, or none.
    #[error("it must start with socks5:// or http://")]
    Scheme,
    /// No host.
    #[error("it has no host")]
    Host,
    /// No port.
    #[error("it has no port from 1 to 65535")]
    Port,
    /// A user without a password.
    #[error("what stands before '@' must be user:password")]
    Login,
}

impl FromStr for Proxy {
    type Err = ProxyError;

    fn from_str(s: &str) -> Result<Self, ProxyError> {
        let (kind, rest) = match s.split_once("://") {
            Some(("socks5", rest)) => (ProxyKind::Socks5, rest),
            Some(("http", rest)) => (ProxyKind::Http, rest),
            _ => return Err(ProxyError::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // A password may hold '@'; a host cannot.
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => {
                let (user, password) = login.split_once(':').ok_or(ProxyError::Login)?;
                if user.is_empty() {
                    return Err(ProxyError::Login);
                }
                (Some((user.to_owned(), password.to_owned())), address)
            }
            None => (None, rest),
        };
        let (host, port) = address.rsplit_once(':').ok_or(ProxyError::Port)?;
        let port = port.parse().ok().filter(|&port| port > 0).ok_or(ProxyError::Port)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.contains(['/', '?', '#']) || host.contains(char::is_whitespace) {
            return Err(ProxyError::Host);
        }
        Ok(Self { kind, host: host.to_owned(), port, login })
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
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
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
    fn addresses_are_taken_apart_and_shown_without_the_password() {
        let proxy: Proxy = "socks5://me:p@ss:w@[::1]:1080".parse().unwrap();
        assert_eq!(proxy.login, Some(("me".into(), "p@ss:w".into())));
        assert_eq!((proxy.host.as_str(), proxy.port, proxy.kind), ("::1", 1080, ProxyKind::Socks5));
        assert_eq!(proxy.to_string(), "socks5://me:***@[::1]:1080");
        assert_eq!(format!("{proxy:?}"), "socks5://me:***@[::1]:1080");
        assert_eq!("http://squid:3128/".parse::<Proxy>().unwrap().to_string(), "http://squid:3128");
    }

    #[test]
    fn what_is_no_proxy_is_refused() {
        for (text, why) in [
            ("squid:3128", ProxyError::Scheme),
            ("ftp://squid:3128", ProxyError::Scheme),
            ("http://squid", ProxyError::Port),
            ("http://squid:0", ProxyError::Port),
            ("http://:3128", ProxyError::Host),
            ("http://a/b:3128", ProxyError::Host),
            ("http://me@squid:3128", ProxyError::Login),
        ] {
            assert_eq!(text.parse::<Proxy>(), Err(why), "{text}");
        }
    }
}
