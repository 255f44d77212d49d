//! Credentials, which are never shown and never sent to anybody else.

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

/// Why a text is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing in it.
    #[error("the token is empty")]
    Empty,
    /// A character that cannot be in a header.
    #[error("the token has characters that no token has")]
    Characters,
}

impl Token {
    /// Takes a token, with white space around it cut off.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        match text {
            "" => Err(TokenError::Empty),
            _ if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(Self(text.to_owned())),
            _ => Err(TokenError::Characters),
        }
    }

    /// The token itself.
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
        // Tokens are graphic ASCII, and so is base64.
        let mut header = HeaderValue::from_str(header).expect("a credential is plain ASCII");
        header.set_sensitive(true);
        Self { origin: at.origin(), header }
    }

    /// Whether it is for this address.
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
    fn a_token_is_never_shown() {
        let token = Token::new(" hf_secret\n").unwrap();
        let auth = Auth::bearer(&"https://h.example/x".parse().unwrap(), &token);
        for text in [format!("{token:?}"), format!("{auth:?}"), format!("{:?}", auth.header())] {
            assert!(!text.contains("secret"), "{text}");
        }
        assert_eq!(token.secret(), "hf_secret");
    }

    #[test]
    fn what_no_header_can_carry_is_no_token() {
        assert_eq!(Token::new(" "), Err(TokenError::Empty));
        for bad in ["a b", "a\nb", "ä"] {
            assert_eq!(Token::new(bad), Err(TokenError::Characters));
        }
        assert!(serde_json::from_str::<Token>("\"a\\r\\nX: y\"").is_err());
    }

    #[test]
    fn a_credential_is_for_one_origin() {
        let auth = Auth::basic(&"https://h.example/x".parse().unwrap(), "me", "pw");
        assert!(auth.is_for(&"https://h.example:443/other".parse().unwrap()));
        for other in ["http://h.example/", "https://h.example:444/", "https://cdn.h.example/"] {
            assert!(!auth.is_for(&other.parse().unwrap()), "{other}");
        }
    }
}
