//! Credentials. They are never printed, and are sent only to the origin that they are for.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::config::Token;

/// A credential for one origin (scheme, host and port).
#[derive(Clone)]
pub struct Auth {
    origin: url::Origin,
    header: HeaderValue,
}

impl Auth {
    /// `Authorization: Bearer` (RFC 6750) for the origin of an address.
    pub fn bearer(at: &Url, token: &Token) -> Self {
        Self::new(at, &format!("Bearer {}", token.secret()))
    }

    /// `Authorization: Basic` (RFC 7617) for the origin of an address.
    pub fn basic(at: &Url, user: &str, password: &str) -> Self {
        Self::new(at, &format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }

    fn new(at: &Url, header: &str) -> Self {
        // Tokens and base64 are printable ASCII.
        let mut header = HeaderValue::from_str(header).expect("a credential is plain ASCII");
        header.set_sensitive(true);
        Self { origin: at.origin(), header }
    }

    /// Whether the credential may be sent to this URL.
    pub fn is_for(&self, url: &Url) -> bool {
        url.origin() == self.origin
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Auth({})", self.origin.ascii_serialization())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_tokens() {
        let token = Token::new(" hf_secret\n").unwrap();
        let auth = Auth::bearer(&"https://h.example/x".parse().unwrap(), &token);
        for text in [format!("{token:?}"), format!("{auth:?}"), format!("{:?}", auth.header())] {
            assert!(!text.contains("secret"), "{text}");
        }
        assert_eq!(token.secret(), "hf_secret");
    }

    #[test]
    fn credential_is_for_one_origin() {
        let auth = Auth::basic(&"https://h.example/x".parse().unwrap(), "me", "pw");
        assert!(auth.is_for(&"https://h.example:443/other".parse().unwrap()));
        for other in ["http://h.example/", "https://h.example:444/", "https://cdn.h.example/"] {
            assert!(!auth.is_for(&other.parse().unwrap()), "{other}");
        }
    }
}
