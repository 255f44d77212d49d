//! Credentials. They are never printed, and are sent only to the origin that they are for.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};

/// An access token. `Debug` does not show it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Token(String);

/// The error for a text that cannot be a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is empty or white space.
    #[error("the token is empty")]
    Empty,
    /// The text has a character that is not printable ASCII.
    #[error("the token has characters that a token cannot have")]
    Characters,
}

impl Token {
    /// Makes a token of a text, without white space at its ends.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        match text {
            "" => Err(TokenError::Empty),
            _ if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(Self(text.to_owned())),
            _ => Err(TokenError::Characters),
        }
    }

    /// The token in plain text.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Token {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        Self::new(&text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

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
    fn texts_that_a_header_cannot_have_are_refused() {
        assert_eq!(Token::new(" "), Err(TokenError::Empty));
        for bad in ["a b", "a\nb", "ä"] {
            assert_eq!(Token::new(bad), Err(TokenError::Characters));
        }
        assert!(serde_json::from_str::<Token>("\"a\\r\\nX: y\"").is_err());
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
